/*
 * families.h - system calls that grant the same: an older one and the newer ones that replaced it.
 */
#ifndef STHREAD_FAMILIES_H
#define STHREAD_FAMILIES_H

/* The calls that sc_sys_add() of this one grants as well, itself among them, ended by -1; NULL if it is alone.
 * Which of them a program makes is its C library's choice. */
const int *system_call_family(int number);

#endif
