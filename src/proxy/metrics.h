#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/bytes.h"
#include "base/defs.h"
#include "proxy/flow_report.h"

/*
 * Istio's TCP metrics by their labels, and the connections that are open, from
 * the workers' reports; written as Prometheus text. Main thread only.
 *
 * Names, labels and their defaults: istio_stats of Istio's proxy. "sent" is what
 * the server sent, "received" what it got. At most METRICS_SERIES_MAX series;
 * what comes later is counted under "_other".
 */
struct metrics;

enum { METRICS_SERIES_MAX = 4096, METRICS_OPEN_MAX = 65536, METRICS_TEXT_MAX = 16 * 1024 * 1024 };

/* Our VM's own end of its connections. Borrowed for the call; strings are not NULL. */
struct metrics_self {
	const char *workload;
	const char *namespace;
	const char *identity;
	const char *canonical_name;
	const char *canonical_revision;
	const char *app;
	const char *version;
	const char *cluster;
	const char *service_host;	/* inbound: the service whose port it is; "" when none */
	const char *service_name;
	const char *service_namespace;
};

MUST_CHECK int metrics_new(struct metrics **ret_metrics);
struct metrics *metrics_free(struct metrics *m);

/* Counts; nothing is kept of @r. */
void metrics_report(struct metrics *m, const struct flow_report *r, const struct metrics_self *self);

/* "unknown" and the like where there is nothing. Appends the text. -ENOBUFS, -ENOMEM. */
MUST_CHECK int metrics_write(const struct metrics *m, struct bytes *out);
/* A line of Prometheus text with one label, its value escaped; @type NULL: no TYPE line. For other counters. */
MUST_CHECK int metrics_line(struct bytes *out, const char *name, const char *type, const char *label, const char *value, uint64_t v);

size_t metrics_n_open(const struct metrics *m);
/* Open connections, at most @max. NULL: no memory. */
json_t *metrics_connections(const struct metrics *m, size_t max, int64_t now_ms);
