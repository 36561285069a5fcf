/*
 * vdso.h - a vDSO for compartments.
 *
 * libc holds addresses of functions inside the kernel's vDSO, and those functions read the kernel's data pages
 * (vvar), which cannot be granted.  So a compartment finds, at the same address, a copy of the image whose
 * functions make plain system calls instead, which are served or refused like any other.
 *
 * Called from: host mode, any thread.
 */
#ifndef STHREAD_VDSO_H
#define STHREAD_VDSO_H

#include <stddef.h>
#include <stdint.h>

/* Says where the vDSO of this process is: *base, page aligned, and *size, a multiple of the page size.
 * Errors: ENOENT this process has no vDSO; ENOTSUP it is not a 64-bit ELF image. */
int vdso_find(const void **base, size_t *size) __attribute__((warn_unused_result));

/* Where functions go on; 0: they make the system call. */
struct vdso_routines {
	uint64_t time, clock_gettime, gettimeofday;
};

/*
 * Fills replacement with size bytes that are to be mapped, readable and executable, where the vDSO is.
 * At the place of every function that the image exports is code that makes the system call of that name (time,
 * gettimeofday, clock_gettime, clock_getres, getcpu, getrandom) or, for any other function, returns -ENOSYS.
 * Functions named in routines go on at their addresses instead, where they are answered with no system call.
 * Every other byte of the image's code is a breakpoint (0xcc); headers, symbols and unwind tables are kept.
 *
 * Preconditions: vdso and size as vdso_find() gave them; the two areas do not overlap.
 * Errors: ENOTSUP the image has no symbols or sections that can be understood, or a function is too small for
 * its replacement; ENOMEM.  What is in replacement after a failure must not be used.
 */
int vdso_make_replacement(const void *vdso, size_t size, void *replacement, const struct vdso_routines *routines)
	__attribute__((warn_unused_result));

#endif
