#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/diag.h"
#include "base/loop.h"
#include "proxy/flow_report.h"

/*
 * One line for each connection that has ended, with ztunnel's keys, as text or
 * JSON. Lines wait in a bounded buffer for a slow reader (a pipe); those that
 * do not fit are dropped and counted.
 */
struct access_log;

enum { ACCESS_LOG_BUFFER_MAX = 1024 * 1024 };

/* @target: a file's path, "stderr", or "": nothing is written. -EINVAL with a reason. */
MUST_CHECK int access_log_new(struct loop *loop, const char *target, bool json, struct access_log **ret_log, struct diag *reterr_diag);
/*
 * From now on into @fd (taken over, non-blocking; -1: nothing is written),
 * which others may have open as well: no line of ours is torn by theirs, as
 * long as it is open for appending and, if it is a pipe, the line has at most
 * PIPE_BUF bytes.
 */
void access_log_change(struct access_log *a, int fd);
struct access_log *access_log_free(struct access_log *a);	/* writes what it can without waiting */

struct access_log_self {		/* our VM; strings are not NULL */
	const char *workload;
	const char *namespace;
	const char *identity;
	const char *canonical_name;
	const char *canonical_revision;	/* "": latest */
	const char *service;		/* inbound: host name of the service; "" */
};

void access_log_write(struct access_log *a, const struct flow_report *r, const struct access_log_self *self);
uint64_t access_log_dropped(const struct access_log *a);	/* lines */
