/*
 * Checks of where a VM serves, each with a timer of its own.
 */
#include "proxy/vm_health.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/backoff.h"
#include "base/clock.h"
#include "mesh/health_check.h"
#include "mesh/pb.h"
#include "proxy/attempt.h"
#include "proxy/upstream.h"

enum { INTERVAL_MS = 10000, TIMEOUT_MS = 1000, FAILURES = 3, NO_SOCKET_MS = 20 };

struct row {
	struct vm_health *owner;
	struct health health;
	struct ip_port at;
	struct timer timer;
	struct attempt *attempt;	/* under way */
	bool answered;			/* somebody, once */
	bool own_source;		/* ask from the NIC's own address: a guest without a default route cannot answer a strange one */
	uint64_t n_ok, n_failed;
};

struct vm_health {
	struct loop *loop;
	struct sockd_pool *pool;
	Outrigger__Health__Check *check;	/* NULL: none */
	struct health_rule rule;
	struct tls_ctx *tls;		/* once it was wanted */
	struct row *rows[VM_HEALTH_MAX_PORTS];
	size_t n_rows;
	void (*changed)(void *data);
	void *data;
};

/* --- one port --- */

static int on_timer(struct timer *t);

static void arm(struct row *row, uint32_t ms)
{
	/* Without memory for a timer it stays what it is until the next VmPut. */
	if (timer_arm(row->owner->loop, &row->timer, backoff_jitter(ms, 10), on_timer) < 0)
		return;
}

static void note(struct row *row, bool ok, const char *why)
{
	struct vm_health *h = row->owner;

	row->n_ok += ok;
	row->n_failed += !ok;
	bool news = health_note(&row->health, &h->rule, ok, why, clock_wall_ms());
	arm(row, health_next_ms(&row->health, &h->rule));
	if (news)
		h->changed(h->data);
}

static void on_result(void *data, enum attempt_result result, const char *why)
{
	struct row *row = data;

	row->attempt = NULL;
	row->answered |= result != ATTEMPT_SILENT;
	if (!row->answered)
		row->own_source = !row->own_source;
	note(row, result == ATTEMPT_OK, why);
}

static int on_timer(struct timer *t)
{
	struct row *row = container_of(t, struct row, timer);
	struct vm_health *h = row->owner;
	const struct ip_port source = { .ip = row->own_source ? (struct ip){} : ip_spare(&row->at.ip) };
	const struct attempt_options options = { .at = row->at, .check = h->check, .tls = h->tls, .timeout_ms = h->rule.timeout_ms };
	int fd = upstream_open(h->pool, UPSTREAM_TO_VM, &source, &row->at);
	int r;

	if (fd == -EAGAIN) {
		arm(row, NO_SOCKET_MS);
		return 0;
	}
	r = fd < 0 ? fd : attempt_start(h->loop, fd, &options, on_result, row, &row->attempt);
	if (r == -ENOMEM || r == -EMFILE || r == -ENFILE || r == -EPIPE) {
		arm(row, h->rule.interval_ms);	/* our own trouble says nothing of the VM */
	} else if (r < 0) {
		row->own_source = !row->answered && !row->own_source;
		note(row, false, strerror(-r));
	}
	return 0;
}

static void row_free(struct row *row)
{
	timer_cancel(&row->timer);
	attempt_free(row->attempt);
	free(row);
}

/* --- where --- */

struct wanted {
	struct ip_port at[VM_HEALTH_MAX_PORTS];
	size_t n;
};

static bool is_wanted(const struct wanted *w, const struct ip_port *at)
{
	for (size_t i = 0; i < w->n; i++)
		if (ip_port_equal(&w->at[i], at))
			return true;
	return false;
}

static void want(struct wanted *w, const char *address, uint32_t port)
{
	struct ip_port at = { .port = (uint16_t)port };

	if (w->n < ELEMENTS(w->at) && port && port <= 65535 && ip_parse(address, &at.ip) == 0 && !is_wanted(w, &at))
		w->at[w->n++] = at;
}

/* Without targets, which older agents do not know: all at the first address. */
static void list_wanted(const struct vm_health *h, const Outrigger__Ipc__VmPut *put, struct wanted *w)
{
	for (size_t i = 0; i < put->n_health_targets; i++)
		want(w, put->health_targets[i]->address, put->health_targets[i]->port);
	if (put->n_health_targets)
		return;
	if (h->check->port)
		want(w, put->addresses[0], h->check->port);
	for (size_t i = 0; !h->check->port && i < put->n_ports; i++)
		want(w, put->addresses[0], put->ports[i]->target_port);
}

static bool has(const struct vm_health *h, const struct ip_port *at)
{
	for (size_t i = 0; i < h->n_rows; i++)
		if (ip_port_equal(&h->rows[i]->at, at))
			return true;
	return false;
}

static int add(struct vm_health *h, const struct ip_port *at)
{
	struct row *row = calloc(1, sizeof(*row));

	if (!row)
		return -ENOMEM;
	row->owner = h;
	row->at = *at;
	health_init(&row->health, clock_wall_ms());
	h->rows[h->n_rows++] = row;
	arm(row, h->rule.initial_delay_ms);
	return 0;
}

static int set_rows(struct vm_health *h, const struct wanted *w)
{
	int r = 0;

	for (size_t i = h->n_rows; i-- > 0;)
		if (!is_wanted(w, &h->rows[i]->at)) {
			row_free(h->rows[i]);
			h->rows[i] = h->rows[--h->n_rows];
		}
	for (size_t i = 0; i < w->n && r == 0; i++)
		if (!has(h, &w->at[i]))
			r = add(h, &w->at[i]);
	return r;
}

/* --- what is checked, and how --- */

static bool same_check(const Outrigger__Health__Check *a, const Outrigger__Health__Check *b)
{
	return a && b ? pb_equal(&a->base, &b->base) : a == b;
}

static void set_rule(struct vm_health *h)
{
	const Outrigger__Health__Check *c = h->check;

	h->rule = (struct health_rule){
		.initial_delay_ms = c->initial_delay_ms, .interval_ms = c->interval_ms ?: INTERVAL_MS, .timeout_ms = c->timeout_ms ?: TIMEOUT_MS,
		.successes = c->successes ?: 1, .failures = c->failures ?: FAILURES,
	};
}

static int set_check(struct vm_health *h, const Outrigger__Health__Check *check)
{
	Outrigger__Health__Check *copy = NULL;

	if (same_check(h->check, check))
		return 0;
	if (check && !strcmp(check->kind, "https") && !h->tls) {
		int r = attempt_tls_new(&h->tls);

		if (r < 0)
			return r;
	}
	if (check) {
		copy = pb_copy(&check->base);
		if (!copy)
			return -ENOMEM;
	}
	for (size_t i = 0; i < h->n_rows; i++) {
		h->rows[i]->attempt = attempt_free(h->rows[i]->attempt);	/* it borrows the old one */
		h->rows[i]->health.n_run = 0;
		arm(h->rows[i], 0);
	}
	pb_free(h->check);
	h->check = copy;
	if (h->check)
		set_rule(h);
	return 0;
}

int vm_health_set(struct vm_health *h, const Outrigger__Ipc__VmPut *put)
{
	struct diag d = {};
	bool good = put->health && put->n_addresses && health_check_valid(put->health, &d) == 0;
	struct wanted wanted = {};
	int r = set_check(h, good ? put->health : NULL);

	if (r == 0 && h->check)
		list_wanted(h, put, &wanted);
	if (r == 0)
		r = set_rows(h, &wanted);
	h->changed(h->data);
	return r < 0 ? r : d.msg[0] ? -EINVAL : 0;
}

/* --- for others --- */

size_t vm_health_n_ports(const struct vm_health *h)
{
	return h->n_rows;
}

struct vm_health_port vm_health_port(const struct vm_health *h, size_t i)
{
	const struct row *row = h->rows[i];

	return (struct vm_health_port){ .at = row->at, .health = &row->health, .n_ok = row->n_ok, .n_failed = row->n_failed };
}

enum health_state vm_health_sum(const struct vm_health *h, char reason[static VM_HEALTH_REASON_LEN])
{
	static const enum health_state worst[] = { HEALTH_DOWN, HEALTH_WAITING };

	reason[0] = '\0';
	for (size_t w = 0; w < ELEMENTS(worst); w++)
		for (size_t i = 0; i < h->n_rows; i++)
			if (h->rows[i]->health.state == worst[w]) {
				snprintf(reason, VM_HEALTH_REASON_LEN, "port %u: %s", h->rows[i]->at.port, h->rows[i]->health.reason);
				return worst[w];
			}
	return HEALTH_UP;
}

/* --- life --- */

int vm_health_new(struct loop *loop, struct sockd_pool *pool, void (*changed)(void *data), void *data, struct vm_health **ret_health)
{
	struct vm_health *h = calloc(1, sizeof(*h));

	if (!h)
		return -ENOMEM;
	*h = (struct vm_health){ .loop = loop, .pool = pool, .changed = changed, .data = data };
	*ret_health = h;
	return 0;
}

struct vm_health *vm_health_free(struct vm_health *h)
{
	if (!h)
		return NULL;
	while (h->n_rows)
		row_free(h->rows[--h->n_rows]);
	pb_free(h->check);
	tls_ctx_unref(h->tls);
	free(h);
	return NULL;
}
