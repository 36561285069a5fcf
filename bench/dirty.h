/*
 * dirty.h - the body of an sthread that writes to eight pages: two of global data, two of the heap, one of thread-local
 * storage, three of its stack.  Each page but the stack's holds a mark from before sthread_init(), which a life must find
 * as it was.
 */
#ifndef BENCH_DIRTY_H
#define BENCH_DIRTY_H

enum {
	DIRTY_PAGES = 8
};

/* Preconditions: before sthread_init().  Ends the program if there is no memory. */
void dirty_prepare(void);

/* For use inside an sthread.  Returns the number of pages on which it found anything that a former life left. */
unsigned dirty_pages(void);

#endif
