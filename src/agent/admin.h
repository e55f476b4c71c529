#pragma once
#include <jansson.h>
#include "base/defs.h"
#include "mesh/httpd.h"

/*
 * The agent's admin interface: JSON over HTTP on a unix socket for the
 * `outrigger` command, /metrics also on a TCP address. Contract: "Admin JSON"
 * in ARCHITECTURE.md.
 */
struct worker;
struct admin;

/* Errors of listening are in the log, with the address. */
MUST_CHECK int admin_new(struct worker *w, struct admin **ret_admin);
struct admin *admin_free(struct admin *a);

/* What it shows; NULL: no memory. show.c */
json_t *show_status(const struct worker *w);
json_t *show_guests(const struct worker *w);
json_t *show_services(const struct worker *w);
json_t *show_proxies(const struct worker *w);
json_t *show_processes(const struct worker *w);
/* explain.c; NULL also when nobody has claimed, asked for or been told of that name (@ret_unknown). */
json_t *show_explain(const struct worker *w, const char *service, bool *ret_unknown);
/* checkup.c */
json_t *show_check(struct worker *w);

/* The agent's own metrics, Prometheus text. metrics.c */
struct bytes;
MUST_CHECK int metrics_write(struct worker *w, struct bytes *out);
/* Answers @req with those of the agent and of all its proxies, when they have answered or been given up. */
void metrics_reply(struct worker *w, struct httpd_request *req);
