/*
 * process.h - a part of the server in a forked process, which runs a step of it whenever it is given a turn.
 *
 * Used by --isolation=fork-per-request.  The child has a copy of everything that its parent has in memory; it keeps no
 * descriptor but the standard ones, those named to process_keep(), and its end of the pair that turns are given over.
 */
#ifndef HTTPD_PROCESS_H
#define HTTPD_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct process {
	pid_t pid;      /* 0: none */
	int turns;      /* our end of the pair; -1 once the process has ended */
	int status;     /* once it has ended: as waitpid() says */
	bool timed_out; /* it was killed because its turn took too long */
};

/* Is what this needs there (close_range(), Linux 5.9)? */
bool process_supported(void);
/* Names a descriptor that children keep.  At most 4. */
void process_keep(int fd);
/* In a child of the process `parent`: closes all descriptors but the kept ones and fd, and has the child killed when its
 * parent ends. */
void process_separate(int fd, pid_t parent);

/* Forks and gives the first turn.  run(arg) is one turn: it returns true when there is nothing more to do, and the child
 * then ends.  0, or -1 with errno. */
int process_start(struct process *process, bool (*run)(void *arg), void *arg);
/* Gives another turn and waits for its end, 30 seconds at most.  0, or -1 with errno. */
int process_turn(struct process *process);
static inline bool process_ended(const struct process *process)
{
	return process->turns == -1;
}
/* Ends it if it has not ended. */
void process_end(struct process *process);
/* What a status of waitpid() means, in words.  Returns false if the process ended as it should, with status 0. */
bool process_failed(int status, char *out, size_t room);

#endif
