/*
 * account.h - what the lives of policies with a name come to.
 *
 * A policy carries the number of its account, not the name.  Accounts are never given back: there is a bounded number.
 * Caller holds the supervisor lock.
 */
#ifndef STHREAD_ACCOUNT_H
#define STHREAD_ACCOUNT_H

#include "compartment.h"

enum {
	ACCOUNTS = 256
};

/* The name of a policy; "" if it has none. */
const char *account_name(const struct policy *policy);
/* A life of the compartment has begun, and ends. */
void account_begin(const struct compartment *compartment);
void account_end(const struct compartment *compartment);
/* The same in sums that somebody else keeps, and brings to the account of a policy, if it has one, later. */
void account_count_begin(struct sthread_policy_statistics *sums, const struct sthread_info *info);
void account_count_end(struct sthread_policy_statistics *sums, const struct sthread_info *info);
void account_merge(const struct policy *policy, const struct sthread_policy_statistics *sums);

#endif
