/*
 * Lookups of DNS: which queries are of one, and when it is clear what the user
 * looked for.
 */
#include "discover/dns_lookup.h"

#include <stdlib.h>
#include <string.h>
#include "base/defs.h"
#include "base/map.h"

uint8_t dns_asked_of(uint16_t type)
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

struct observation dns_observation(enum observation_kind kind, const struct dnssd_name *d, const struct ip_port *server,
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

void lookup_report(struct lookup *l, const struct discover_ctx *ctx)
{
	struct observation_meta meta = { "rcode", rcode_name(l->rcode) };
	struct dnssd_name d;
	struct observation o;

	if (l->reported)
		return;
	l->reported = true;
	dnssd_describe(&l->name, &d);
	o = dns_observation(OBS_DISCOVER, &d, &l->server, ctx);
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

static bool make_room(struct lookup *l)
{
	size_t room = l->room ? 2 * l->room : 8;
	uint64_t *seen = room <= MAX_SEEN ? realloc(l->seen, room * sizeof(*seen)) : NULL;

	if (!seen)
		return false;
	l->seen = seen;
	l->room = room;
	return true;
}

/* One line for each instance that a lookup finds, however often its answer is repeated. */
bool lookup_is_news(struct lookup *l, const struct observation *o)
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
	if (l->n_seen == l->room && !make_room(l))
		return false;
	l->seen[l->n_seen++] = hash;
	return true;
}

void lookup_report_answer(struct exchange *x, const struct observation *o)
{
	if (!lookup_is_news(x->lookup, o))
		return;
	lookup_report(x->lookup, x->ctx);
	x->ctx->emit(o, x->ctx->emit_data);
}

static void query_drop(struct dns_guest *g, struct query *q)
{
	list_unlink(&q->link);
	g->n_queries--;
	free(q);
}

void lookup_drop(struct dns_guest *g, struct lookup *l)
{
	list_for_each_safe(i, &g->queries) {
		struct query *q = list_entry(i, struct query, link);

		if (q->lookup == l)
			query_drop(g, q);
	}
	list_unlink(&l->link);
	g->n_lookups--;
	free(l->seen);
	free(l);
}

/* Does a query for the name of @l belong to it? Another socket's does while its types are gathered. */
static bool is_of_lookup(const struct lookup *l, uint8_t asked, uint64_t now_ns)
{
	if (!(l->asked & asked))
		return dns_ms_since(now_ns, l->first_ns) <= PAIR_MS;
	return !(l->settled & asked) && dns_ms_since(now_ns, l->last_ns) <= 2 * UNANSWERED_MS;	/* another server; TCP */
}

static struct lookup *lookup_find(const struct exchange *x, const struct dns_name *name, uint8_t asked)
{
	struct lookup *newest = NULL;

	for (struct list *i = x->guest->lookups.prev; i != &x->guest->lookups; i = i->prev) {
		struct lookup *l = list_entry(i, struct lookup, link);

		if (!dns_name_equal(&l->name, name))
			continue;
		if (dns_same_peer(&l->client, &x->client))	/* its other types; a retransmission; a poll */
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
		    dns_ms_since(now_ns, before->last_ns) > SEARCH_MS)
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

bool dns_guest_is_target(const struct dns_guest *g, const struct dns_name *name)
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

		lookup_report(oldest, x->ctx);
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
	if (dns_guest_is_target(g, name))
		l->reported = true;
	else
		join_search(g, l, x->ctx->time_ns);
	return l;
}

static struct query *query_add(struct exchange *x, uint16_t id, uint8_t asked)
{
	struct dns_guest *g = x->guest;
	struct query *q;

	list_for_each(i, &g->queries) {
		q = list_entry(i, struct query, link);
		if (q->id == id && q->asked == asked && q->lookup == x->lookup &&
		    dns_same_peer(&q->client, &x->client) && dns_same_peer(&q->server, &x->server)) {
			q->answered = false;	/* the same packet again, or asked anew */
			return q;
		}
	}
	if (g->n_queries == MAX_QUERIES)
		query_drop(g, list_entry(g->queries.next, struct query, link));
	q = calloc(1, sizeof(*q));
	if (!q)
		return NULL;
	*q = (struct query){ .lookup = x->lookup, .client = x->client, .server = x->server, .id = id, .asked = asked };
	list_append(&g->queries, &q->link);
	g->n_queries++;
	return q;
}

bool dns_take_question(struct dns_message *m, struct dns_record *ret_question)
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

/* The lookup that @question belongs to, in @x; false: it is not of interest. */
static bool take_lookup(struct exchange *x, struct dns_record *question)
{
	uint8_t asked = dns_asked_of(question->type);
	unsigned at = 0;

	if (!is_of_interest(question, asked))
		return false;
	if (!dns_name_service(&question->name, &at) || at == 0)
		dns_name_lower(&question->name);
	x->lookup = lookup_find(x, &question->name, asked);
	if (!x->lookup)
		x->lookup = lookup_new(x, &question->name);
	if (!x->lookup)
		return false;
	x->lookup->last_ns = x->ctx->time_ns;
	x->lookup->asked |= asked;
	return true;
}

void dns_take_query(struct exchange *x)
{
	struct dns_record question;

	if (dns_take_question(x->message, &question) && take_lookup(x, &question))
		query_add(x, x->message->header.id, dns_asked_of(question.type));
}

/* Did this socket ask so? Then another answer is a late copy, or a lie. */
static bool was_asked(const struct exchange *x, const struct dns_record *question)
{
	list_for_each(i, &x->guest->queries) {
		const struct query *q = list_entry(i, struct query, link);

		if (q->asked == dns_asked_of(question->type) && dns_same_peer(&q->client, &x->client) &&
		    dns_name_equal(&q->lookup->name, &question->name))
			return true;
	}
	return false;
}

struct query *dns_adopt_question(struct exchange *x, struct dns_record *question)
{
	if (was_asked(x, question) || !take_lookup(x, question))
		return NULL;
	return query_add(x, x->message->header.id, dns_asked_of(question->type));
}
