/*
 * scrub.h - overwrites what free() has left behind.
 */
#ifndef STHREAD_SCRUB_H
#define STHREAD_SCRUB_H

/*
 * Overwrites the memory of freed blocks in the heap of libc with zeros, by allocating all of it, so that a copy of
 * the heap holds nothing that the program has freed.  Pages that hold nothing else are given back to the kernel.
 * The work is bounded by the size of the heap.
 *
 * It reaches the main arena, that is what a process of one thread has allocated.  Of the arenas of threads that
 * have ended only whole pages are cleared.  With an allocator other than glibc's it does nothing to what that one
 * keeps.
 *
 * Preconditions: the process has one thread, its first one.
 * Called from: host mode.
 * Errors: ENOMEM a memory limit has left some of the memory as it was.
 */
int heap_scrub(void) __attribute__((warn_unused_result));

#endif
