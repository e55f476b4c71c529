/*
 * Observer of DNS: which services a guest looks up, and what it is told.
 *
 * A user's lookup is several queries: A and AAAA (and HTTPS), each name of the
 * search list, a repetition over TCP, another server. They are gathered into
 * one `struct lookup`, and one discover is made of it, when an answer tells
 * which name it was, or when it is clear that none will. Rules for users:
 * docs/decode.md.
 */
#include "discover/dns.h"

#include <string.h>
#include "base/bytes.h"
#include "base/list.h"
#include "base/map.h"
#include "discover/dnssd.h"
#include "proto/dns.h"

enum {
	MAX_LOOKUPS = 128,		/* remembered, each guest */
	MAX_QUERIES = 256,		/* waiting for their answer */
	MAX_HELD = 128,			/* SRV answers waiting for their target's address */
	MAX_SEEN = 64,			/* instances in the answers of a lookup */
	MAX_ALIASES = 8,		/* CNAMEs in a row */

	PAIR_MS = 1000,			/* A and AAAA of one lookup begin within */
	SEARCH_MS = 200,		/* the next name of a search list comes so soon after a refusal */
	SETTLE_MS = 1000,		/* after a refusal: there was no next name */
	UNANSWERED_MS = 5000,
	HELD_MS = 3000,
	REMEMBER_MS = 60000,		/* a lookup that the same socket may repeat */
};

enum { ASKED_A = 1, ASKED_AAAA = 2, ASKED_SRV = 4, ASKED_HTTPS = 8, ASKED_SVCB = 16, ASKED_PTR = 32, ASKED_ANY = 64 };

struct lookup {
	struct list link;
	struct dns_name name;		/* lower-case, but for instances */
	struct ip_port client;
	struct ip_port server;
	uint64_t first_ns;
	uint64_t last_ns;		/* query or response */
	uint64_t frame;			/* of the first query; of the first name, in a search */
	unsigned head;			/* labels that the user gave: all, but for names of a search */
	uint8_t asked;			/* ASKED_* */
	uint8_t settled;		/* of those, answered for good or ill */
	uint8_t rcode;			/* of the last refusal */
	bool refused;			/* some name or type is not there */
	bool found;
	bool reported;			/* or not to be: superseded by the next name of the search, or of a target */
	size_t n_seen;
	uint64_t seen[MAX_SEEN];	/* hashes of instances that were reported */
};

struct query {
	struct list link;
	struct lookup *lookup;
	struct ip_port client;
	struct ip_port server;
	uint16_t id;
	uint8_t asked;
};

/* An SRV answer whose target's address is not known yet. */
struct held {
	struct list link;
	struct dns_name owner;
	struct dns_name target;
	struct ip_port server;
	uint16_t port;
	uint32_t ttl_s;
	uint64_t frame;
	uint64_t time_ns;
	bool resolved;
};

struct dns_guest {
	struct list lookups;		/* newest last */
	struct list queries;
	struct list held;
	size_t n_lookups, n_queries, n_held;
};

struct exchange {			/* one message and what it belongs to */
	struct dns_guest *guest;
	struct dns_message *message;
	struct ip_port client;
	struct ip_port server;
	const struct discover_ctx *ctx;
	struct lookup *lookup;
};

static uint64_t ms_since(uint64_t now_ns, uint64_t then_ns)
{
	return now_ns > then_ns ? (now_ns - then_ns) / 1000000 : 0;
}

static bool same_peer(const struct ip_port *a, const struct ip_port *b)
{
	return a->port == b->port && ip_equal(&a->ip, &b->ip);
}

static uint8_t asked_of(uint16_t type)
{
	switch (type) {
	case DNS_TYPE_A:
		return ASKED_A;
	case DNS_TYPE_AAAA:
		return ASKED_AAAA;
	case DNS_TYPE_SRV:
		return ASKED_SRV;
	case DNS_TYPE_HTTPS:
		return ASKED_HTTPS;
	case DNS_TYPE_SVCB:
		return ASKED_SVCB;
	case DNS_TYPE_PTR:
		return ASKED_PTR;
	case DNS_TYPE_ANY:
		return ASKED_ANY;
	default:
		return 0;	/* no question for a service */
	}
}

/* ---- what is reported ---- */

static struct observation new_observation(enum observation_kind kind, const struct dnssd_name *d, const struct ip_port *server,
					  const struct discover_ctx *ctx)
{
	return (struct observation){
		.kind = kind, .protocol = "dns", .service = d->service, .instance = d->instance[0] ? d->instance : NULL,
		.transport = d->transport, .app_protocol = d->app_protocol,
		.guest = ctx->guest, .registry = *server, .frame = ctx->frame, .time_ns = ctx->time_ns,
	};
}

static const char *rcode_name(uint8_t rcode)
{
	switch (rcode) {
	case DNS_RCODE_NOERROR:
		return "NODATA";
	case DNS_RCODE_SERVFAIL:
		return "SERVFAIL";
	case DNS_RCODE_NXDOMAIN:
		return "NXDOMAIN";
	case DNS_RCODE_REFUSED:
		return "REFUSED";
	default:
		return "ERROR";
	}
}

static void report_discover(struct lookup *l, const struct discover_ctx *ctx)
{
	struct observation_meta meta = { "rcode", rcode_name(l->rcode) };
	struct dnssd_name d;
	struct observation o;

	if (l->reported)
		return;
	l->reported = true;
	dnssd_describe(&l->name, &d);
	o = new_observation(OBS_DISCOVER, &d, &l->server, ctx);
	o.frame = l->frame;
	o.time_ns = l->first_ns;
	if (!l->found) {
		if (!d.instance[0])
			dns_name_head_text(&l->name, l->head, d.service);
		o.metadata = &meta;
		o.n_metadata = l->refused;
	}
	ctx->emit(&o, ctx->emit_data);
}

/* One line for each instance that a lookup finds, however often its answer is repeated. */
static bool is_news(struct lookup *l, const struct observation *o)
{
	struct { struct ip address; uint16_t port; uint64_t instance; } key;
	uint64_t hash;

	memset(&key, 0, sizeof(key));
	key.address = o->address;
	key.port = o->port;
	key.instance = o->instance ? map_hash(o->instance, strlen(o->instance)) : 0;
	hash = map_hash(&key, sizeof(key));
	for (size_t i = 0; i < l->n_seen; i++)
		if (l->seen[i] == hash)
			return false;
	if (l->n_seen == MAX_SEEN)
		return false;
	l->seen[l->n_seen++] = hash;
	return true;
}

static void report_answer(struct exchange *x, const struct observation *o)
{
	if (!is_news(x->lookup, o))
		return;
	report_discover(x->lookup, x->ctx);
	x->ctx->emit(o, x->ctx->emit_data);
}

/* ---- lookups ---- */

static void query_drop(struct dns_guest *g, struct query *q)
{
	list_unlink(&q->link);
	g->n_queries--;
	free(q);
}

static void lookup_drop(struct dns_guest *g, struct lookup *l)
{
	list_for_each_safe(i, &g->queries) {
		struct query *q = list_entry(i, struct query, link);

		if (q->lookup == l)
			query_drop(g, q);
	}
	list_unlink(&l->link);
	g->n_lookups--;
	free(l);
}

/* Does a query for the name of @l belong to it? Another socket's does while its types are gathered. */
static bool is_of_lookup(const struct lookup *l, uint8_t asked, uint64_t now_ns)
{
	if (!(l->asked & asked))
		return ms_since(now_ns, l->first_ns) <= PAIR_MS;
	return !(l->settled & asked) && ms_since(now_ns, l->last_ns) <= 2 * UNANSWERED_MS;	/* another server; TCP */
}

static struct lookup *lookup_find(const struct exchange *x, const struct dns_name *name, uint8_t asked)
{
	struct lookup *newest = NULL;

	for (struct list *i = x->guest->lookups.prev; i != &x->guest->lookups; i = i->prev) {
		struct lookup *l = list_entry(i, struct lookup, link);

		if (!dns_name_equal(&l->name, name))
			continue;
		if (same_peer(&l->client, &x->client))	/* its other types; a retransmission; a poll */
			return l;
		if (!newest)
			newest = l;
	}
	return newest && is_of_lookup(newest, asked, x->ctx->time_ns) ? newest : NULL;
}

/* "_sip._udp.x" and "_sip._tcp.x" share a label and are still no search. */
static unsigned fewest_common(const struct dns_name *name)
{
	unsigned at;

	return dns_name_service(name, &at) ? at + 3 : 1;
}

/*
 * The resolver tries the user's name with one domain of the search list after
 * the other: the names begin with the same labels, and each is asked for as
 * soon as the one before was refused.
 */
static void join_search(struct dns_guest *g, struct lookup *l, uint64_t now_ns)
{
	for (struct list *i = g->lookups.prev; i != &g->lookups; i = i->prev) {
		struct lookup *before = list_entry(i, struct lookup, link);
		unsigned common;

		if (before == l || !before->refused || before->found || before->reported ||
		    ms_since(now_ns, before->last_ns) > SEARCH_MS)
			continue;
		common = MIN(before->head, dns_name_common_head(&before->name, &l->name));
		if (common < fewest_common(&l->name))
			continue;
		before->reported = true;
		l->head = common;
		l->frame = before->frame;
		l->first_ns = now_ns;
		return;
	}
}

/* Is it the target of an SRV answer that came without its address? Then it is the same lookup still. */
static bool is_target(const struct dns_guest *g, const struct dns_name *name)
{
	list_for_each(i, &g->held)
		if (dns_name_equal(&list_entry(i, struct held, link)->target, name))
			return true;
	return false;
}

static struct lookup *lookup_new(const struct exchange *x, const struct dns_name *name)
{
	struct dns_guest *g = x->guest;
	struct lookup *l;

	if (g->n_lookups == MAX_LOOKUPS) {
		struct lookup *oldest = list_entry(g->lookups.next, struct lookup, link);

		report_discover(oldest, x->ctx);
		lookup_drop(g, oldest);
	}
	l = calloc(1, sizeof(*l));
	if (!l)
		return NULL;
	*l = (struct lookup){
		.name = *name, .client = x->client, .server = x->server,
		.first_ns = x->ctx->time_ns, .last_ns = x->ctx->time_ns, .frame = x->ctx->frame,
		.head = dns_name_labels(name),
	};
	list_append(&g->lookups, &l->link);
	g->n_lookups++;
	if (is_target(g, name))
		l->reported = true;
	else
		join_search(g, l, x->ctx->time_ns);
	return l;
}

static void query_add(struct exchange *x, uint16_t id, uint8_t asked)
{
	struct dns_guest *g = x->guest;
	struct query *q;

	list_for_each(i, &g->queries) {
		q = list_entry(i, struct query, link);
		if (q->id == id && q->asked == asked && q->lookup == x->lookup &&
		    same_peer(&q->client, &x->client) && same_peer(&q->server, &x->server))
			return;		/* the same packet again */
	}
	if (g->n_queries == MAX_QUERIES)
		query_drop(g, list_entry(g->queries.next, struct query, link));
	q = calloc(1, sizeof(*q));
	if (!q)
		return;
	*q = (struct query){ .lookup = x->lookup, .client = x->client, .server = x->server, .id = id, .asked = asked };
	list_append(&g->queries, &q->link);
	g->n_queries++;
}

static bool take_question(struct dns_message *m, struct dns_record *ret_question)
{
	return m->header.counts[DNS_QUESTION] == 1 && dns_next(m, ret_question) && ret_question->class_ == DNS_CLASS_IN;
}

static bool is_of_interest(const struct dns_record *question, uint8_t asked)
{
	unsigned at;

	if (!asked || dnssd_is_housekeeping(&question->name))
		return false;
	return asked != ASKED_PTR || dns_name_service(&question->name, &at);
}

static void take_query(struct exchange *x)
{
	struct dns_record question;
	uint8_t asked;
	unsigned at = 0;

	if (!take_question(x->message, &question))
		return;
	asked = asked_of(question.type);
	if (!is_of_interest(&question, asked))
		return;
	if (!dns_name_service(&question.name, &at) || at == 0)
		dns_name_lower(&question.name);
	x->lookup = lookup_find(x, &question.name, asked);
	if (!x->lookup)
		x->lookup = lookup_new(x, &question.name);
	if (!x->lookup)
		return;
	x->lookup->last_ns = x->ctx->time_ns;
	x->lookup->asked |= asked;
	query_add(x, x->message->header.id, asked);
}

/* ---- answers ---- */

struct aliases {		/* the question's name and what CNAMEs make of it */
	struct dns_name names[MAX_ALIASES + 1];
	size_t n;
	uint32_t ttl_s;		/* the least of the CNAMEs' */
};

static bool is_alias(const struct aliases *a, const struct dns_name *name)
{
	for (size_t i = 0; i < a->n; i++)
		if (dns_name_equal(&a->names[i], name))
			return true;
	return false;
}

/* One more CNAME of the chain; false: there is none. */
static bool follow_alias(struct dns_message *m, struct aliases *a)
{
	struct dns_record r;
	struct dns_name target;

	dns_rewind(m);
	while (dns_next(m, &r)) {
		if (r.section != DNS_ANSWER || r.type != DNS_TYPE_CNAME || !dns_name_equal(&a->names[a->n - 1], &r.name))
			continue;
		if (!dns_target(m, &r, &target) || is_alias(a, &target))
			return false;
		a->names[a->n++] = target;
		a->ttl_s = MIN(a->ttl_s, r.ttl_s);
		return true;
	}
	return false;
}

static void find_aliases(struct exchange *x, struct aliases *a)
{
	*a = (struct aliases){ .names = { x->lookup->name }, .n = 1, .ttl_s = UINT32_MAX };
	while (a->n <= MAX_ALIASES && follow_alias(x->message, a))
		;
}

static void answer_address(struct exchange *x, const struct aliases *a, const struct dns_record *r)
{
	struct dnssd_name d;
	struct observation o;
	char alias[DNS_NAME_TEXT_LEN];
	struct observation_meta meta = { "cname", alias };

	dnssd_describe(&x->lookup->name, &d);
	o = new_observation(OBS_ANSWER, &d, &x->server, x->ctx);
	if (!dns_address(r, &o.address))
		return;
	o.ttl_s = MIN(r->ttl_s, a->ttl_s);
	if (a->n > 1) {
		dns_name_text(&a->names[a->n - 1], alias);
		o.metadata = &meta;
		o.n_metadata = 1;
	}
	report_answer(x, &o);
}

/* Do IPv4 addresses of @target come with the message, or any at all? */
static bool has_address(struct dns_message m, const struct dns_name *target, uint16_t type)
{
	struct dns_record r;

	dns_rewind(&m);
	while (dns_next(&m, &r))
		if (r.section != DNS_QUESTION && r.type == type && dns_name_equal(&r.name, target))
			return true;
	return false;
}

static void hold(struct exchange *x, const struct dns_record *r, const struct dns_srv *srv)
{
	struct dns_guest *g = x->guest;
	struct held *h;

	if (g->n_held == MAX_HELD)
		return;
	list_for_each(i, &g->held) {
		h = list_entry(i, struct held, link);
		if (h->port == srv->port && dns_name_equal(&h->target, &srv->target) && dns_name_equal(&h->owner, &r->name)) {
			h->time_ns = x->ctx->time_ns;
			return;
		}
	}
	h = calloc(1, sizeof(*h));
	if (!h)
		return;
	*h = (struct held){
		.owner = r->name, .target = srv->target, .server = x->server, .port = srv->port, .ttl_s = r->ttl_s,
		.frame = x->ctx->frame, .time_ns = x->ctx->time_ns,
	};
	list_append(&g->held, &h->link);
	g->n_held++;
}

static void held_drop(struct dns_guest *g, struct held *h)
{
	list_unlink(&h->link);
	g->n_held--;
	free(h);
}

static struct observation srv_observation(const struct dnssd_name *d, const char *target, const struct ip_port *server,
					  const struct discover_ctx *ctx)
{
	struct observation o = new_observation(OBS_ANSWER, d, server, ctx);

	if (!o.instance)
		o.instance = target;
	return o;
}

static void answer_srv(struct exchange *x, const struct dns_record *r)
{
	struct dns_message m = *x->message;
	char target[DNS_NAME_TEXT_LEN];
	struct dns_record a;
	struct dns_srv srv;
	struct dnssd_name d;
	struct observation o;
	uint16_t type;

	if (!dns_srv(&m, r, &srv) || dns_name_is_root(&srv.target))	/* ".": decidedly not here, RFC 2782 */
		return;
	dnssd_describe(&r->name, &d);
	dns_name_lower(&srv.target);
	o = srv_observation(&d, dns_name_text(&srv.target, target), &x->server, x->ctx);
	o.port = srv.port;
	o.ttl_s = r->ttl_s;
	type = has_address(m, &srv.target, DNS_TYPE_A) ? DNS_TYPE_A : DNS_TYPE_AAAA;
	if (!has_address(m, &srv.target, type)) {
		report_discover(x->lookup, x->ctx);
		hold(x, r, &srv);
		return;
	}
	dns_rewind(&m);
	while (dns_next(&m, &a))
		if (a.section != DNS_QUESTION && a.type == type && dns_name_equal(&a.name, &srv.target) && dns_address(&a, &o.address))
			report_answer(x, &o);
}

static struct lookup *lookup_named(const struct dns_guest *g, const struct dns_name *name)
{
	for (struct list *i = g->lookups.prev; i != &g->lookups; i = i->prev) {
		struct lookup *l = list_entry(i, struct lookup, link);

		if (dns_name_equal(&l->name, name))
			return l;
	}
	return NULL;
}

/* The address of a target came: its SRV answers can be told. */
static void resolve_held(struct exchange *x, const struct aliases *a, const struct dns_record *r)
{
	list_for_each(i, &x->guest->held) {
		struct held *h = list_entry(i, struct held, link);
		char target[DNS_NAME_TEXT_LEN];
		struct dnssd_name d;
		struct observation o;
		struct lookup *l;

		if (h->resolved || !is_alias(a, &h->target))
			continue;
		dnssd_describe(&h->owner, &d);
		o = srv_observation(&d, dns_name_text(&h->target, target), &h->server, x->ctx);
		o.port = h->port;
		o.ttl_s = h->ttl_s;
		if (!dns_address(r, &o.address))
			return;
		h->resolved = true;
		l = lookup_named(x->guest, &h->owner);
		if (!l || is_news(l, &o))
			x->ctx->emit(&o, x->ctx->emit_data);
	}
}

static void answer_svcb(struct exchange *x, const struct dns_record *r)
{
	struct dns_svcb svcb;
	struct dnssd_name d;
	struct observation o;
	struct observation_meta meta = { "alpn", svcb.alpn };

	if (!dns_svcb(x->message, r, &svcb) || !svcb.priority)
		return;
	report_discover(x->lookup, x->ctx);
	dnssd_describe(&x->lookup->name, &d);
	o = new_observation(OBS_ANSWER, &d, &x->server, x->ctx);
	o.port = svcb.port;
	o.ttl_s = r->ttl_s;
	o.metadata = &meta;
	o.n_metadata = svcb.alpn[0] != 0;
	for (size_t i = 0; i < svcb.n_hints; i++) {
		o.address = svcb.hints[i];
		report_answer(x, &o);
	}
	if (!svcb.n_hints && svcb.port)
		report_answer(x, &o);
}

/* Browsing over unicast DNS, RFC 6763, section 4: names of instances. */
static void answer_ptr(struct exchange *x, const struct dns_record *r)
{
	struct dns_message m = *x->message;
	struct dns_name instance;
	struct dns_record srv;
	struct dnssd_name d;
	struct observation o;
	unsigned at = 0;

	if (!dns_target(&m, r, &instance) || !dns_name_service(&instance, &at) || at == 0)
		return;
	report_discover(x->lookup, x->ctx);
	dns_rewind(&m);
	while (dns_next(&m, &srv))
		if (srv.section != DNS_QUESTION && srv.type == DNS_TYPE_SRV && dns_name_equal(&srv.name, &instance)) {
			answer_srv(x, &srv);
			return;
		}
	dnssd_describe(&instance, &d);
	o = new_observation(OBS_ANSWER, &d, &x->server, x->ctx);
	o.ttl_s = r->ttl_s;
	report_answer(x, &o);
}

/* @r has a name of the chain; true: it answers the question. */
static bool answer_record(struct exchange *x, const struct aliases *a, const struct dns_record *r)
{
	switch (r->type) {
	case DNS_TYPE_A:
	case DNS_TYPE_AAAA:
		resolve_held(x, a, r);
		if (!is_target(x->guest, &x->lookup->name))
			answer_address(x, a, r);
		return true;
	case DNS_TYPE_SRV:
		answer_srv(x, r);
		return true;
	case DNS_TYPE_HTTPS:
	case DNS_TYPE_SVCB:
		answer_svcb(x, r);
		return true;
	case DNS_TYPE_PTR:
		answer_ptr(x, r);
		return true;
	default:
		return false;
	}
}

static void take_answers(struct exchange *x)
{
	struct aliases a;
	struct dns_record r;
	struct dns_message m;
	bool was_found = x->lookup->found, any = false;

	find_aliases(x, &a);
	m = *x->message;
	dns_rewind(&m);
	x->lookup->found = true;	/* for report_discover() */
	while (dns_next(&m, &r))
		if (r.section == DNS_ANSWER && r.class_ == DNS_CLASS_IN && is_alias(&a, &r.name))
			any |= answer_record(x, &a, &r);
	x->lookup->found = was_found || any;
	if (any)
		report_discover(x->lookup, x->ctx);
	else
		x->lookup->refused = true;
}

/* RFC 5452, section 9.1: the answer to a question has its id, addresses, ports and name. */
static struct query *query_find(const struct exchange *x, const struct dns_record *question)
{
	list_for_each(i, &x->guest->queries) {
		struct query *q = list_entry(i, struct query, link);

		if (q->id != x->message->header.id || !same_peer(&q->client, &x->client) || !same_peer(&q->server, &x->server))
			continue;
		if (!question || (q->asked == asked_of(question->type) && dns_name_equal(&q->lookup->name, &question->name)))
			return q;
	}
	return NULL;
}

static void take_response(struct exchange *x)
{
	struct dns_message *m = x->message;
	bool has_question = m->header.counts[DNS_QUESTION] != 0;
	struct dns_record question;
	struct query *q;
	uint8_t asked;

	if (has_question && !take_question(m, &question))
		return;
	q = query_find(x, has_question ? &question : NULL);
	if (!q)
		return;
	asked = q->asked;
	x->lookup = q->lookup;
	query_drop(x->guest, q);
	x->lookup->last_ns = x->ctx->time_ns;
	if (m->header.truncated)
		return;		/* it will ask again, over TCP */
	x->lookup->server = x->server;
	if (m->header.rcode == DNS_RCODE_NOERROR) {
		x->lookup->settled |= asked;
		x->lookup->rcode = x->lookup->refused ? x->lookup->rcode : DNS_RCODE_NOERROR;
		take_answers(x);
		return;
	}
	x->lookup->refused = true;
	x->lookup->rcode = m->header.rcode;
	if (m->header.rcode == DNS_RCODE_NXDOMAIN)
		x->lookup->settled |= asked;
}

static void take_message(struct dns_guest *g, const uint8_t *data, size_t len, const struct ip_port *client,
			 const struct ip_port *server, bool to_server, const struct discover_ctx *ctx)
{
	struct dns_message m;
	struct exchange x = { .guest = g, .message = &m, .client = *client, .server = *server, .ctx = ctx };

	/* NOTIFY and UPDATE put other things into the same sections. */
	if (!dns_open(&m, data, len) || m.header.opcode != DNS_OPCODE_QUERY || m.header.response == to_server || !dns_check(&m))
		return;
	if (to_server)
		take_query(&x);
	else
		take_response(&x);
}

/* ---- the observer ---- */

static void expire_held(struct dns_guest *g, const struct discover_ctx *ctx, bool all)
{
	list_for_each_safe(i, &g->held) {
		struct held *h = list_entry(i, struct held, link);
		char target[DNS_NAME_TEXT_LEN];
		struct dnssd_name d;
		struct observation o;

		if (!all && ms_since(ctx->time_ns, h->time_ns) < HELD_MS)
			continue;
		if (!h->resolved) {
			dnssd_describe(&h->owner, &d);
			o = srv_observation(&d, dns_name_text(&h->target, target), &h->server, ctx);
			o.port = h->port;
			o.ttl_s = h->ttl_s;
			o.frame = h->frame;
			o.time_ns = h->time_ns;
			ctx->emit(&o, ctx->emit_data);
		}
		held_drop(g, h);
	}
}

static void expire(void *guest, const struct discover_ctx *ctx, bool all)
{
	struct dns_guest *g = guest;

	list_for_each_safe(i, &g->lookups) {
		struct lookup *l = list_entry(i, struct lookup, link);
		uint64_t quiet_ms = ms_since(ctx->time_ns, l->last_ns);
		uint64_t patience_ms = l->refused && l->settled == l->asked ? SETTLE_MS : UNANSWERED_MS;

		if (all || quiet_ms >= patience_ms)
			report_discover(l, ctx);
		if (quiet_ms >= REMEMBER_MS)
			lookup_drop(g, l);
	}
	expire_held(g, ctx, all);
}

static void dns_tick(void *guest, const struct discover_ctx *ctx)
{
	expire(guest, ctx, false);
}

static void dns_flush(void *guest, const struct discover_ctx *ctx)
{
	expire(guest, ctx, true);
}

static void dns_datagram(void *guest, const struct datagram *d, const struct discover_ctx *ctx)
{
	bool to_server = d->dir == DISCOVER_TO_REGISTRY;

	take_message(guest, d->data, d->len, to_server ? &d->src : &d->dst, to_server ? &d->dst : &d->src, to_server, ctx);
}

static void *dns_guest_new(void)
{
	struct dns_guest *g = calloc(1, sizeof(*g));

	if (!g)
		return NULL;
	list_init(&g->lookups);
	list_init(&g->queries);
	list_init(&g->held);
	return g;
}

static void dns_guest_free(void *guest)
{
	struct dns_guest *g = guest;

	list_for_each_safe(i, &g->lookups)
		lookup_drop(g, list_entry(i, struct lookup, link));
	list_for_each_safe(i, &g->held)
		held_drop(g, list_entry(i, struct held, link));
	free(g);
}

/* RFC 7766: messages with their length in front. */
struct dns_stream {
	struct dns_guest *guest;
	struct ip_port client;
	struct ip_port server;
	struct bytes in[2];
};

static void *dns_stream_new(void *guest, const struct ip_port *client, const struct ip_port *server)
{
	struct dns_stream *s = guest ? calloc(1, sizeof(*s)) : NULL;

	if (!s)
		return NULL;
	s->guest = guest;
	s->client = *client;
	s->server = *server;
	for (unsigned i = 0; i < 2; i++)
		bytes_init(&s->in[i], 2 + UINT16_MAX);
	return s;
}

static void dns_stream_free(void *stream)
{
	struct dns_stream *s = stream;

	for (unsigned i = 0; i < 2; i++)
		bytes_deinit(&s->in[i]);
	free(s);
}

static bool stream_messages(struct dns_stream *s, enum discover_dir dir, const struct discover_ctx *ctx)
{
	struct bytes *in = &s->in[dir];

	while (in->len >= 2) {
		size_t len = (size_t)in->data[0] << 8 | in->data[1];

		if (len < DNS_HEADER_LEN)
			return false;
		if (in->len < 2 + len)
			break;
		take_message(s->guest, in->data + 2, len, &s->client, &s->server, dir == DISCOVER_TO_REGISTRY, ctx);
		bytes_consume(in, 2 + len);
	}
	return true;
}

static bool dns_stream_data(void *stream, enum discover_dir dir, const uint8_t *data, size_t len, const struct discover_ctx *ctx)
{
	struct dns_stream *s = stream;
	struct bytes *in = &s->in[dir];

	while (len) {
		size_t part = MIN(len, in->max - in->len);

		if (bytes_append(in, data, part) < 0 || !stream_messages(s, dir, ctx))
			return false;
		data += part;
		len -= part;
	}
	return true;
}

/* A message has no mark to find its beginning by. Joined late, the first segment is hoped to begin one. */
static bool dns_stream_gap(void *stream, enum discover_dir dir, size_t len, const struct discover_ctx *ctx)
{
	(void)stream;
	(void)dir;
	(void)ctx;
	return len == 0;
}

const struct discover_protocol discover_dns = {
	.name = "dns",
	.udp_ports = { 53, 8600 },
	.tcp_ports = { 53, 8600 },
	.guest_new = dns_guest_new,
	.guest_free = dns_guest_free,
	.datagram = dns_datagram,
	.stream_new = dns_stream_new,
	.stream_free = dns_stream_free,
	.stream_data = dns_stream_data,
	.stream_gap = dns_stream_gap,
	.tick = dns_tick,
	.flush = dns_flush,
};
