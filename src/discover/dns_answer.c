/*
 * Responses of DNS: the lookups that they answer, and the instances in them.
 */
#include "discover/dns_lookup.h"

#include <stdlib.h>
#include <string.h>
#include "base/defs.h"

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
	o = dns_observation(OBS_ANSWER, &d, &x->server, x->ctx);
	if (!dns_address(r, &o.address))
		return;
	o.ttl_s = MIN(r->ttl_s, a->ttl_s);
	if (a->n > 1) {
		dns_name_text(&a->names[a->n - 1], alias);
		o.metadata = &meta;
		o.n_metadata = 1;
	}
	lookup_report_answer(x, &o);
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

void held_drop(struct dns_guest *g, struct held *h)
{
	list_unlink(&h->link);
	g->n_held--;
	free(h);
}

static struct observation srv_observation(const struct dnssd_name *d, const char *target, const struct ip_port *server,
					  const struct discover_ctx *ctx)
{
	struct observation o = dns_observation(OBS_ANSWER, d, server, ctx);

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
		lookup_report(x->lookup, x->ctx);
		hold(x, r, &srv);
		return;
	}
	dns_rewind(&m);
	while (dns_next(&m, &a))
		if (a.section != DNS_QUESTION && a.type == type && dns_name_equal(&a.name, &srv.target) && dns_address(&a, &o.address))
			lookup_report_answer(x, &o);
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
		if (!l || lookup_is_news(l, &o))
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
	lookup_report(x->lookup, x->ctx);
	dnssd_describe(&x->lookup->name, &d);
	o = dns_observation(OBS_ANSWER, &d, &x->server, x->ctx);
	o.port = svcb.port;
	o.ttl_s = r->ttl_s;
	o.metadata = &meta;
	o.n_metadata = svcb.alpn[0] != 0;
	for (size_t i = 0; i < svcb.n_hints; i++) {
		o.address = svcb.hints[i];
		lookup_report_answer(x, &o);
	}
	if (!svcb.n_hints && svcb.port)
		lookup_report_answer(x, &o);
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
	lookup_report(x->lookup, x->ctx);
	dns_rewind(&m);
	while (dns_next(&m, &srv))
		if (srv.section != DNS_QUESTION && srv.type == DNS_TYPE_SRV && dns_name_equal(&srv.name, &instance)) {
			answer_srv(x, &srv);
			return;
		}
	dnssd_describe(&instance, &d);
	o = dns_observation(OBS_ANSWER, &d, &x->server, x->ctx);
	o.ttl_s = r->ttl_s;
	lookup_report_answer(x, &o);
}

/* @r has a name of the chain; true: it answers the question. */
static bool answer_record(struct exchange *x, const struct aliases *a, const struct dns_record *r)
{
	switch (r->type) {
	case DNS_TYPE_A:
	case DNS_TYPE_AAAA:
		resolve_held(x, a, r);
		if (!dns_guest_is_target(x->guest, &x->lookup->name))
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
	x->lookup->found = true;	/* for lookup_report() */
	while (dns_next(&m, &r))
		if (r.section == DNS_ANSWER && r.class_ == DNS_CLASS_IN && is_alias(&a, &r.name))
			any |= answer_record(x, &a, &r);
	x->lookup->found = was_found || any;
	if (any)
		lookup_report(x->lookup, x->ctx);
	else
		x->lookup->refused = true;
}

/* RFC 5452, section 9.1: the answer to a question has its id, addresses, ports and name. */
static struct query *query_find(const struct exchange *x, const struct dns_record *question)
{
	list_for_each(i, &x->guest->queries) {
		struct query *q = list_entry(i, struct query, link);

		if (q->answered || q->id != x->message->header.id || !dns_same_peer(&q->client, &x->client) || !dns_same_peer(&q->server, &x->server))
			continue;
		if (!question || (q->asked == dns_asked_of(question->type) && dns_name_equal(&q->lookup->name, &question->name)))
			return q;
	}
	return NULL;
}

/* Finds what is answered, in @x and @ret_asked. */
static bool find_asked(struct exchange *x, uint8_t *ret_asked)
{
	bool has_question = x->message->header.counts[DNS_QUESTION] != 0;
	struct dns_record question;
	struct query *q;

	if (has_question && !dns_take_question(x->message, &question))
		return false;
	q = query_find(x, has_question ? &question : NULL);
	if (!q && has_question && x->ctx->may_lack_requests && !x->message->header.truncated)
		q = dns_adopt_question(x, &question);
	if (!q)
		return false;
	q->answered = true;
	*ret_asked = q->asked;
	x->lookup = q->lookup;
	return true;
}

void dns_take_response(struct exchange *x)
{
	struct dns_message *m = x->message;
	uint8_t asked;

	if (!find_asked(x, &asked))
		return;
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

void dns_expire_held(struct dns_guest *g, const struct discover_ctx *ctx, bool all)
{
	list_for_each_safe(i, &g->held) {
		struct held *h = list_entry(i, struct held, link);
		char target[DNS_NAME_TEXT_LEN];
		struct dnssd_name d;
		struct observation o;

		if (!all && dns_ms_since(ctx->time_ns, h->time_ns) < HELD_MS)
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
