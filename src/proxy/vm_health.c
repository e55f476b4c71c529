/*
 * Checks of a VM's ports, each with a timer of its own.
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
	uint16_t port;
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
	struct ip address;
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
	const struct ip_port at = { h->address, row->port };
	const struct ip_port source = { .ip = row->own_source ? (struct ip){} : ip_spare(&h->address) };
	int fd = upstream_open(h->pool, UPSTREAM_TO_VM, &source, &at);
	int r;

	if (fd == -EAGAIN) {
		arm(row, NO_SOCKET_MS);
		return 0;
	}
	r = fd < 0 ? fd : attempt_start(h->loop, fd, &at, h->check, h->rule.timeout_ms, on_result, row, &row->attempt);
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

/* --- which ports --- */

static struct row *find(const struct vm_health *h, uint16_t port)
{
	for (size_t i = 0; i < h->n_rows; i++)
		if (h->rows[i]->port == port)
			return h->rows[i];
	return NULL;
}

static int add(struct vm_health *h, uint32_t port)
{
	struct row *row;

	if (!port || port > 65535 || find(h, (uint16_t)port) || h->n_rows == VM_HEALTH_MAX_PORTS)
		return 0;
	row = calloc(1, sizeof(*row));
	if (!row)
		return -ENOMEM;
	row->owner = h;
	row->port = (uint16_t)port;
	health_init(&row->health, clock_wall_ms());
	h->rows[h->n_rows++] = row;
	arm(row, h->rule.initial_delay_ms);
	return 0;
}

static bool is_wanted(const struct vm_health *h, const Outrigger__Ipc__VmPut *put, uint16_t port)
{
	if (!h->check)
		return false;
	if (h->check->port)
		return h->check->port == port;
	for (size_t i = 0; i < put->n_ports; i++)
		if (put->ports[i]->target_port == port)
			return true;
	return false;
}

static void drop_unwanted(struct vm_health *h, const Outrigger__Ipc__VmPut *put)
{
	for (size_t i = h->n_rows; i-- > 0;)
		if (!is_wanted(h, put, h->rows[i]->port)) {
			row_free(h->rows[i]);
			h->rows[i] = h->rows[--h->n_rows];
		}
}

static int add_wanted(struct vm_health *h, const Outrigger__Ipc__VmPut *put)
{
	int r = 0;

	if (h->check && h->check->port)
		return add(h, h->check->port);
	for (size_t i = 0; h->check && i < put->n_ports && r == 0; i++)
		r = add(h, put->ports[i]->target_port);
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
	int r = good ? ip_parse(put->addresses[0], &h->address) : 0;

	if (r == 0)
		r = set_check(h, good ? put->health : NULL);
	drop_unwanted(h, put);
	if (r == 0)
		r = add_wanted(h, put);
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

	return (struct vm_health_port){ .port = row->port, .health = &row->health, .n_ok = row->n_ok, .n_failed = row->n_failed };
}

enum health_state vm_health_sum(const struct vm_health *h, char reason[static VM_HEALTH_REASON_LEN])
{
	static const enum health_state worst[] = { HEALTH_DOWN, HEALTH_WAITING };

	reason[0] = '\0';
	for (size_t w = 0; w < ELEMENTS(worst); w++)
		for (size_t i = 0; i < h->n_rows; i++)
			if (h->rows[i]->health.state == worst[w]) {
				snprintf(reason, VM_HEALTH_REASON_LEN, "port %u: %s", h->rows[i]->port, h->rows[i]->health.reason);
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
	free(h);
	return NULL;
}
