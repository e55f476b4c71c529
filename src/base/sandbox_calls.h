#pragma once
#include <seccomp.h>
#include <stddef.h>

/*
 * The table of system calls, for sandbox.c: a row is allowed to every process
 * that has one of its groups (enum sandbox_group). What has no row is refused.
 */
struct sandbox_call {
	unsigned groups;
	int nr;
};

struct sandbox_condition {		/* allowed only with one argument as it is said here */
	unsigned groups;
	int nr;
	struct scmp_arg_cmp arg;
};

extern const struct sandbox_call sandbox_calls[], sandbox_attacks[];
extern const struct sandbox_condition sandbox_conditions[];
extern const size_t sandbox_n_calls, sandbox_n_attacks, sandbox_n_conditions;
