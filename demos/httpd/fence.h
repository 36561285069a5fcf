/*
 * fence.h - takes the code of TLS, cryptography and HTTP parsing away from the main loop.
 *
 * Compartments run such code from the library's own mapping of the files; the process keeps its mapping, but may not
 * execute or read it any more.  Whatever calls into it in host mode ends the process at that instruction.
 */
#ifndef HTTPD_FENCE_H
#define HTTPD_FENCE_H

/*
 * Fences libssl, libcrypto and the HTTP parser in for the rest of the process's life.  Their exit handlers are out of
 * reach as well: the process must end by _exit().
 * Preconditions: compartments_init(ISOLATION_STHREAD) succeeded, and everything that needs them in host mode is done.
 * Returns NULL, or the name of the first library whose code cannot be told from other code, or cannot be protected
 * (errno).  The others are fenced all the same.
 */
const char *fence_libraries(void);

#endif
