/*
 * Queries of a VM: answered by the mesh, or not.
 */
#include "proxy/dns_broker.h"

#include <stdlib.h>
#include <string.h>

#include "proxy/dns_subject.h"

enum { TICK_MS = 100 };

/* What waits. @message is the query in mode answer, in mode fill the server's answer, once it has come. */
struct pending {
	struct list link;
	struct dns_way way;
	uint64_t until_ms;
	bool is_fill;
	bool answered;			/* on a connection, while the server was silent: what it says now is too late */
	struct dns_query query;
	struct dns_subject subject;
	size_t len;
	uint8_t *message;
};

/* --- what goes out --- */

static void forward(struct dns_broker *b, const struct dns_way *way, const void *message, size_t len)
{
	b->count.forwarded++;
	b->ops->to_server(b->data, way, message, len);
}

static void answer(struct dns_broker *b, const struct dns_way *way, const struct dns_reply *r)
{
	b->count.answered++;
	b->ops->to_vm(b->data, way, r->data, r->len);
}

/* An address has no name but those that are answered for: who asks back gets an answer. */
static bool is_told(const struct dns_broker *b, const struct snap_service *s)
{
	char key[DNS_NAMES_KEY_LEN];
	struct dns_name name;

	return dns_name_parse(snap_def_hostname(s->def), &name) &&
	       dns_names_key(&name, b->put->namespace_, b->put->dns_domains, b->put->n_dns_domains, key) && !strcmp(key, snap_def_key(s->def));
}

/* DNS_FOUND: @ret_reply is the mesh's answer. */
static enum dns_found look_up(struct dns_broker *b, const struct dns_subject *subject, const struct dns_query *q, struct dns_reply *ret_reply)
{
	const struct snap_service *s;
	enum dns_found found;

	if (!subject->key[0]) {
		s = b->names.ops->service_at(b->names.data, &subject->ip);
		return s && is_told(b, s) && dns_subject_answer_host(q, snap_def_hostname(s->def), ret_reply) ? DNS_FOUND : DNS_FOUND_NOTHING;
	}
	found = dns_names_find(&b->names, subject->key, loop_now_ms(b->loop), &s);
	if (found == DNS_FOUND && !dns_subject_answer(subject, q, s, b->turn++, ret_reply))
		return DNS_FOUND_NOTHING;
	return found;
}

/* --- what waits --- */

static void pending_free(struct dns_broker *b, struct pending *p)
{
	list_unlink(&p->link);
	b->n_pending--;
	free(p->message);
	free(p);
}

static int on_timer(struct timer *t);

static bool keep_message(struct pending *p, const void *message, size_t len)
{
	p->message = malloc(len ? len : 1);
	if (!p->message)
		return false;
	memcpy(p->message, message, len);
	p->len = len;
	return true;
}

/* @message: see there; may be NULL. false: over the budget, or out of memory. */
static bool pending_new(struct dns_broker *b, const struct dns_way *way, const struct dns_query *q, const struct dns_subject *subject, bool is_fill,
			const void *message, size_t len)
{
	struct pending *p = b->n_pending < VM_DNS_PENDING_MAX ? calloc(1, sizeof(*p)) : NULL;

	if (!p || (message && !keep_message(p, message, len)) ||
	    (!b->n_pending && timer_arm(b->loop, &b->timer, TICK_MS, on_timer) < 0)) {
		if (p)
			free(p->message);
		free(p);
		b->count.over_budget++;
		return false;
	}
	p->way = *way;
	p->is_fill = is_fill;
	p->query = *q;
	p->subject = *subject;
	p->until_ms = loop_now_ms(b->loop) + (message ? VM_DNS_WAIT_MS : VM_DNS_FILL_MS);
	list_append(&b->pending, &p->link);
	b->n_pending++;
	return true;
}

static void answer_pending(struct dns_broker *b, struct pending *p, const struct dns_reply *r)
{
	b->count.filled += p->is_fill;
	answer(b, &p->way, r);
	if (p->way.conn && p->is_fill && !p->message)
		p->answered = true;
	else
		pending_free(b, p);
}

/* The mesh has nothing for it: it becomes what it would have without us. */
static void let_go(struct dns_broker *b, struct pending *p)
{
	if (p->message && p->is_fill)
		b->ops->to_vm(b->data, &p->way, p->message, p->len);
	else if (p->message)
		forward(b, &p->way, p->message, p->len);
	pending_free(b, p);
}

static int on_timer(struct timer *t)
{
	struct dns_broker *b = container_of(t, struct dns_broker, timer);
	uint64_t now_ms = loop_now_ms(b->loop);

	list_for_each_safe(l, &b->pending) {
		struct pending *p = list_entry(l, struct pending, link);
		struct dns_reply r;

		if (p->answered || now_ms < p->until_ms)
			continue;
		if (look_up(b, &p->subject, &p->query, &r) == DNS_FOUND)
			answer_pending(b, p, &r);
		else
			let_go(b, p);
	}
	return b->n_pending ? timer_arm(b->loop, &b->timer, TICK_MS, on_timer) : 0;
}

static void answer_all(struct dns_broker *b, const char *key)
{
	list_for_each_safe(l, &b->pending) {
		struct pending *p = list_entry(l, struct pending, link);
		struct dns_reply r;

		if (!p->message || strcmp(p->subject.key, key) != 0)	/* without one it waits for its server */
			continue;
		if (look_up(b, &p->subject, &p->query, &r) == DNS_FOUND)
			answer_pending(b, p, &r);
		else
			let_go(b, p);
	}
}

void dns_broker_review(struct dns_broker *b)
{
	const char *key;

	while ((key = dns_names_next_told(&b->names)))
		answer_all(b, key);
}

/* --- queries and answers that come --- */

static bool subject_of(const struct dns_broker *b, const struct dns_query *q, struct dns_subject *ret_subject)
{
	return b->put && b->put->dns != OUTRIGGER__IPC__DNS_MODE__DNS_OBSERVE &&
	       dns_subject_of(q, b->put->namespace_, b->put->dns_domains, b->put->n_dns_domains, ret_subject);
}

/* On a connection there is more room than we ever take. */
static void widen(const struct dns_way *way, struct dns_query *q)
{
	if (way->conn)
		q->udp_max = DNS_UDP_MAX;
}

void dns_broker_query(struct dns_broker *b, const struct dns_way *way, const void *message, size_t len)
{
	struct dns_subject subject;
	enum dns_found found;
	struct dns_query q;
	struct dns_reply r;

	b->count.queries++;
	if (!dns_query_decode(message, len, &q)) {
		b->count.malformed++;
		forward(b, way, message, len);
		return;
	}
	widen(way, &q);
	if (!subject_of(b, &q, &subject)) {
		forward(b, way, message, len);
		return;
	}
	found = look_up(b, &subject, &q, &r);	/* in mode fill the mesh is asked at the same time */
	if (b->put->dns == OUTRIGGER__IPC__DNS_MODE__DNS_FILL) {
		(void)!pending_new(b, way, &q, &subject, true, NULL, 0);
		forward(b, way, message, len);
	} else if (found == DNS_FOUND) {
		answer(b, way, &r);
	} else if (found == DNS_FOUND_NOTHING || !pending_new(b, way, &q, &subject, false, message, len)) {
		forward(b, way, message, len);
	}
}

static bool is_same_way(const struct dns_way *a, const struct dns_way *b)
{
	return a->conn == b->conn && a->client.port == b->client.port && ip_equal(&a->client.ip, &b->client.ip) && ip_equal(&a->server, &b->server);
}

static struct pending *pending_of(struct dns_broker *b, const struct dns_way *way, const struct dns_query *q)
{
	list_for_each(l, &b->pending) {
		struct pending *p = list_entry(l, struct pending, link);

		if (p->is_fill && !p->message && p->query.id == q->id && p->query.type == q->type && is_same_way(&p->way, way) &&
		    dns_name_equal(&p->query.name, &q->name))
			return p;
	}
	return NULL;
}

/* It has no such name, or it cannot find out: then it is as good as silent. */
static bool is_refusal(uint8_t rcode)
{
	return rcode == DNS_RCODE_NXDOMAIN || rcode == DNS_RCODE_SERVFAIL || rcode == DNS_RCODE_REFUSED;
}

/*
 * What was asked stands in the answer. So one whose query nobody remembers (it
 * was over the budget, or came to the process before this one) is filled, too,
 * where the mesh is known to have the name. It is not asked for its sake: anybody
 * could send any number of answers, and use up the names that the VM may have.
 */
static bool fill(struct dns_broker *b, const struct dns_way *way, const struct dns_query *q, bool was_asked, const void *message, size_t len)
{
	struct dns_subject subject;
	struct dns_reply r;

	if (!is_refusal(q->rcode) || !subject_of(b, q, &subject))
		return false;
	if (!was_asked && subject.key[0] && !b->names.ops->service(b->names.data, subject.key))
		return false;
	switch (look_up(b, &subject, q, &r)) {
	case DNS_FOUND:
		b->count.filled++;
		answer(b, way, &r);
		return true;
	case DNS_FOUND_LATER:
		return pending_new(b, way, q, &subject, true, message, len);
	case DNS_FOUND_NOTHING:
		break;
	}
	return false;
}

void dns_broker_response(struct dns_broker *b, const struct dns_way *way, const void *message, size_t len)
{
	struct dns_query q, asked;
	bool is_response = dns_response_decode(message, len, &q);
	struct pending *p = is_response ? pending_of(b, way, &q) : NULL;
	bool is_late = p && p->answered;

	asked = p ? p->query : q;	/* with what the asker takes: an answer has its server's size */
	asked.rcode = is_response ? q.rcode : 0;
	widen(way, &asked);
	if (!is_late && (!is_response || !fill(b, way, &asked, p, message, len)))
		b->ops->to_vm(b->data, way, message, len);
	if (p)
		pending_free(b, p);
}

/* --- connections --- */

void dns_broker_server_gone(struct dns_broker *b, const struct dns_conn *conn)
{
	list_for_each_safe(l, &b->pending) {
		struct pending *p = list_entry(l, struct pending, link);
		struct dns_reply r;

		if (p->way.conn != conn || !p->is_fill || p->message)
			continue;
		if (!p->answered && look_up(b, &p->subject, &p->query, &r) == DNS_FOUND) {
			b->count.filled++;
			answer(b, &p->way, &r);
		}
		pending_free(b, p);
	}
}

bool dns_broker_waits(const struct dns_broker *b, const struct dns_conn *conn)
{
	list_for_each(l, &b->pending) {
		const struct pending *p = list_entry(l, struct pending, link);

		if (p->way.conn == conn && !p->answered)
			return true;
	}
	return false;
}

void dns_broker_drop(struct dns_broker *b, const struct dns_conn *conn)
{
	list_for_each_safe(l, &b->pending) {
		struct pending *p = list_entry(l, struct pending, link);

		if (p->way.conn == conn)
			pending_free(b, p);
	}
}

/* --- life --- */

void dns_broker_init(struct dns_broker *b, struct loop *loop, const struct dns_broker_ops *ops, void *data, const struct dns_names_ops *names,
		     void *names_data)
{
	*b = (struct dns_broker){ .loop = loop, .ops = ops, .data = data };
	list_init(&b->pending);
	dns_names_init(&b->names, names, names_data);
}

void dns_broker_deinit(struct dns_broker *b)
{
	list_for_each_safe(l, &b->pending)
		pending_free(b, list_entry(l, struct pending, link));
	timer_cancel(&b->timer);
	dns_names_deinit(&b->names);
}
