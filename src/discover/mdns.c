/*
 * Observer of multicast DNS (RFC 6762) and the DNS-SD in it (RFC 6763): which
 * services a guest announces, withdraws and asks for.
 *
 * An instance is known by its SRV record; PTR, TXT and the target's addresses
 * may come in other packets, over either family, several times. A register is
 * made once the instance is complete, and again only when something in it has
 * changed. Rules for users: docs/decode.md.
 */
#include "discover/mdns.h"

#include <string.h>
#include "base/bytes.h"
#include "base/list.h"
#include "base/map.h"
#include "discover/dnssd.h"
#include "discover/mdns_host.h"
#include "proto/dns.h"

enum {
	MDNS_PORT = 5353,
	MAX_INSTANCES = 256,		/* each guest; of its own and of its peers */
	MAX_QUESTIONS = 256,
	MAX_TXT = 8900,			/* bytes of TXT that are kept: more than fits a packet is none, RFC 6763, 6.1 */

	PATIENCE_MS = 1000,		/* for TXT and address to come after an SRV */
	REPEAT_S = 3600,		/* a browser repeats its question for as long: RFC 6762, 5.2 */
	GONE_MS = 10000,		/* in which the goodbye's copies come */
};

enum instance_state { UNKNOWN, OFFERED, GONE };

struct instance {
	struct list link;
	struct dns_name name;
	struct dns_name target;
	bool own;			/* announced by the guest; else heard by it */
	bool has_srv;
	bool has_txt;
	bool fresh;			/* seen in this packet */
	bool probed;			/* the guest asked whether the name is free, and has not announced it since */
	uint16_t port;
	uint32_t ttl_s;
	uint8_t *txt;
	size_t n_txt;
	uint64_t since_ns;		/* the SRV came first, or changed: what is missing is waited for */
	uint64_t frame;

	enum instance_state state;	/* what was reported */
	uint16_t told_port;
	struct ip told_address;
	uint64_t told_txt;		/* hash */
	uint64_t told_ns;
};

struct question {
	struct list link;
	struct dns_name name;
	uint64_t time_ns;
};

struct mdns_guest {
	struct mdns_hosts hosts;
	struct list instances, questions;
	size_t n_instances, n_questions;
};

struct packet_ctx {
	struct mdns_guest *guest;
	struct dns_message *message;
	const struct datagram *datagram;
	const struct discover_ctx *ctx;
};

/* ---- instances ---- */

static struct instance *instance_find(const struct mdns_guest *g, const struct dns_name *name, bool own)
{
	list_for_each(i, &g->instances) {
		struct instance *in = list_entry(i, struct instance, link);

		if (in->own == own && dns_name_equal(&in->name, name))
			return in;
	}
	return NULL;
}

static void instance_drop(struct mdns_guest *g, struct instance *in)
{
	list_unlink(&in->link);
	g->n_instances--;
	free(in->txt);
	free(in);
}

static struct instance *instance_get(struct packet_ctx *p, const struct dns_name *name)
{
	struct mdns_guest *g = p->guest;
	struct instance *in = instance_find(g, name, p->datagram->from_guest);
	unsigned at = 0;

	if (in)
		return in;
	if (!dns_name_service(name, &at) || at == 0)
		return NULL;
	if (g->n_instances == MAX_INSTANCES)
		instance_drop(g, list_entry(g->instances.next, struct instance, link));
	in = calloc(1, sizeof(*in));
	if (!in)
		return NULL;
	in->name = *name;
	in->own = p->datagram->from_guest;
	list_append(&g->instances, &in->link);
	g->n_instances++;
	return in;
}

/* For a record that announces it: what was probed for is there now, the last of those that are. */
static struct instance *instance_announced(struct packet_ctx *p, const struct dns_name *name)
{
	struct instance *in = instance_get(p, name);

	if (in && in->probed) {
		in->probed = false;
		list_unlink(&in->link);
		list_append(&p->guest->instances, &in->link);
	}
	return in;
}

static struct ip instance_address(const struct mdns_guest *g, const struct instance *in, const struct ip *guest)
{
	const struct mdns_host *h = mdns_host_find(&g->hosts, &in->target);
	struct ip a;

	if (in->state == OFFERED && mdns_host_has(h, &in->told_address))
		return in->told_address;	/* still one of its addresses: no change */
	a = mdns_host_address(h, guest);
	return ip_is_none(&a) && in->own ? *guest : a;
}

static uint64_t txt_hash(const struct instance *in)
{
	return in->n_txt ? map_hash(in->txt, in->n_txt) : 0;
}

static void report(struct mdns_guest *g, struct instance *in, enum observation_kind kind, const struct discover_ctx *ctx)
{
	struct dnssd_text text;
	struct dnssd_name d;
	struct observation o;

	text.n_meta = 0;
	text.used = 0;
	dnssd_describe(&in->name, &d);
	if (in->n_txt)
		dnssd_text_decode(&text, wire_init(in->txt, in->n_txt));
	dnssd_text_add(&text, "type", d.type);
	o = (struct observation){
		.kind = kind, .protocol = "mdns", .service = d.service, .instance = d.instance,
		.address = instance_address(g, in, &ctx->guest), .port = in->port,
		.transport = d.transport, .app_protocol = d.app_protocol,
		.ttl_s = kind == OBS_DEREGISTER ? 0 : in->ttl_s,
		.metadata = text.meta, .n_metadata = text.n_meta,
		.guest = ctx->guest, .frame = in->frame, .time_ns = ctx->time_ns,
	};
	in->told_port = in->port;
	in->told_address = o.address;
	in->told_txt = txt_hash(in);
	in->told_ns = ctx->time_ns;
	in->state = kind == OBS_DEREGISTER ? GONE : OFFERED;
	ctx->emit(&o, ctx->emit_data);
}

static bool was_asked_for(const struct mdns_guest *g, const struct instance *in)
{
	struct dns_name type;
	unsigned at = 0;

	dns_name_service(&in->name, &at);
	dns_name_tail(&in->name, at, &type);
	list_for_each(i, &g->questions) {
		const struct question *q = list_entry(i, struct question, link);
		struct dns_name tail;

		if (dns_name_equal(&q->name, &type) || dns_name_equal(&q->name, &in->name))
			return true;
		/* "_printer._sub._http._tcp.local", RFC 6763, section 7.1 */
		dns_name_tail(&q->name, 2, &tail);
		if (dns_name_equal(&tail, &type))
			return true;
	}
	return false;
}

static bool has_changed(const struct mdns_guest *g, const struct instance *in, const struct ip *guest)
{
	struct ip a = instance_address(g, in, guest);

	return in->state != OFFERED || in->port != in->told_port || txt_hash(in) != in->told_txt || !ip_equal(&a, &in->told_address);
}

/* Is there an address of the family that the guest is known by? */
static bool is_complete(const struct mdns_guest *g, const struct instance *in, const struct ip *guest)
{
	struct ip a = mdns_host_address(mdns_host_find(&g->hosts, &in->target), guest);

	if (!in->has_txt || ip_is_none(&a))
		return false;
	return !in->own || ip_is_v4(&a) || !ip_is_v4(guest);
}

enum settle_when { AT_PACKET, AT_TICK, AT_END };

/* Reports what there is to report of an instance whose records have been seen. */
static void settle(struct mdns_guest *g, struct instance *in, const struct discover_ctx *ctx, enum settle_when when)
{
	bool may_wait = when != AT_END && in->state != OFFERED && mdns_ms_since(ctx->time_ns, in->since_ns) < PATIENCE_MS;

	if (!in->has_srv || !in->port)	/* port 0: a placeholder, which offers nothing */
		return;
	if (!in->own && !was_asked_for(g, in))
		return;
	if (when == AT_PACKET)
		in->frame = ctx->frame;
	if (!has_changed(g, in, &ctx->guest)) {
		if (in->own && in->fresh && mdns_ms_since(ctx->time_ns, in->told_ns) >= in->ttl_s * 500ull)
			report(g, in, OBS_RENEW, ctx);
		return;
	}
	if (!may_wait || is_complete(g, in, &ctx->guest))
		report(g, in, in->own ? OBS_REGISTER : OBS_ANSWER, ctx);
}

static void settle_all(struct mdns_guest *g, const struct discover_ctx *ctx, enum settle_when when)
{
	list_for_each(i, &g->instances) {
		struct instance *in = list_entry(i, struct instance, link);

		settle(g, in, ctx, when);
		in->fresh = false;
	}
}

/* RFC 6762, section 10.1: TTL 0. Copies follow, and the SRV's goodbye follows the PTR's. */
static void goodbye(struct packet_ctx *p, struct instance *in)
{
	bool again = in->state == GONE && mdns_ms_since(p->ctx->time_ns, in->told_ns) < GONE_MS;
	bool never_was = in->state != OFFERED && in->probed;	/* given up before it was announced: jmDNS says goodbye even so */

	in->frame = p->ctx->frame;
	if (in->own && !again && !never_was)
		report(p->guest, in, OBS_DEREGISTER, p->ctx);
	in->state = GONE;
	in->has_srv = in->has_txt = false;
}

static void take_srv(struct packet_ctx *p, const struct dns_record *r)
{
	struct instance *in = r->ttl_s ? instance_announced(p, &r->name) : instance_get(p, &r->name);
	struct dns_srv srv;

	if (!in || !dns_srv(p->message, r, &srv))
		return;
	if (!in->has_srv || in->port != srv.port || !dns_name_equal(&in->target, &srv.target)) {
		in->since_ns = p->ctx->time_ns;
		in->frame = p->ctx->frame;
	}
	if (!r->ttl_s && !in->has_srv)
		in->port = srv.port, in->target = srv.target;
	if (!r->ttl_s) {
		goodbye(p, in);
		return;
	}
	in->has_srv = true;
	in->fresh = true;
	in->port = srv.port;
	in->target = srv.target;
	in->ttl_s = r->ttl_s;
	in->frame = p->ctx->frame;
}

static void take_txt(struct packet_ctx *p, const struct dns_record *r)
{
	struct instance *in = r->ttl_s ? instance_announced(p, &r->name) : NULL;
	size_t len = wire_left(&r->rdata);
	uint8_t *txt;

	if (!in || len > MAX_TXT)
		return;
	txt = malloc(len ? len : 1);
	if (!txt)
		return;
	memcpy(txt, r->rdata.pos, len);
	free(in->txt);
	in->txt = txt;
	in->n_txt = len;
	in->has_txt = true;
	in->frame = p->ctx->frame;
}

/* Only goodbyes: the SRV says that there is an instance. A subtype's goodbye says nothing of the instance. */
static void take_ptr(struct packet_ctx *p, const struct dns_record *r)
{
	struct dns_name name, type;
	struct instance *in;
	unsigned at = 0;

	if (r->ttl_s || !dns_target(p->message, r, &name) || !dns_name_service(&name, &at))
		return;
	dns_name_tail(&name, at, &type);
	in = dns_name_equal(&type, &r->name) ? instance_get(p, &name) : NULL;
	if (in)
		goodbye(p, in);
}

static void take_record(struct packet_ctx *p, const struct dns_record *r)
{
	if (r->class_ != DNS_CLASS_IN)
		return;
	switch (r->type) {
	case DNS_TYPE_A:
	case DNS_TYPE_AAAA:
		mdns_hosts_take(&p->guest->hosts, r, p->ctx->time_ns);
		break;
	case DNS_TYPE_SRV:
		take_srv(p, r);
		break;
	case DNS_TYPE_TXT:
		take_txt(p, r);
		break;
	case DNS_TYPE_PTR:
		take_ptr(p, r);
		break;
	default:
		break;
	}
}

/*
 * Addresses first, and their goodbyes last, so that what is said of an instance
 * in the same packet can name them; its SRV, which has the port, before its PTR.
 */
static unsigned turn_of(const struct dns_record *r)
{
	switch (r->type) {
	case DNS_TYPE_A:
	case DNS_TYPE_AAAA:
		return r->ttl_s ? 0 : 3;
	case DNS_TYPE_PTR:
		return 2;
	default:
		return 1;
	}
}

static void take_response(struct packet_ctx *p)
{
	struct dns_record r;

	for (unsigned turn = 0; turn < 4; turn++) {
		dns_rewind(p->message);
		while (dns_next(p->message, &r))
			if ((r.section == DNS_ANSWER || r.section == DNS_ADDITIONAL) && turn_of(&r) == turn)
				take_record(p, &r);
	}
	settle_all(p->guest, p->ctx, AT_PACKET);
}

/* ---- questions ---- */

static bool is_repeated(struct packet_ctx *p, const struct dns_name *name)
{
	struct mdns_guest *g = p->guest;
	struct question *q;

	list_for_each(i, &g->questions) {
		q = list_entry(i, struct question, link);
		if (dns_name_equal(&q->name, name)) {
			bool repeated = mdns_ms_since(p->ctx->time_ns, q->time_ns) < REPEAT_S * 1000ull;

			q->time_ns = p->ctx->time_ns;
			return repeated;
		}
	}
	if (g->n_questions == MAX_QUESTIONS) {
		q = list_entry(g->questions.next, struct question, link);
		list_unlink(&q->link);
	} else {
		q = malloc(sizeof(*q));
		if (!q)
			return false;
		g->n_questions++;
	}
	q->name = *name;
	q->time_ns = p->ctx->time_ns;
	list_init(&q->link);
	list_append(&g->questions, &q->link);
	return false;
}

/* Browsing (PTR), resolving (SRV), looking up a host (A, AAAA); TXT alone follows one of them. */
static bool is_discovery(const struct dns_record *r)
{
	unsigned at;

	if (r->class_ != DNS_CLASS_IN || dnssd_is_housekeeping(&r->name))
		return false;
	switch (r->type) {
	case DNS_TYPE_PTR:
		return dns_name_service(&r->name, &at) || dns_name_ends_with(&r->name, "_tcp.local") || dns_name_ends_with(&r->name, "_udp.local");
	case DNS_TYPE_SRV:
		return dns_name_service(&r->name, &at);
	case DNS_TYPE_A:
	case DNS_TYPE_AAAA:
		return true;
	default:	/* ANY is how names are probed for; not every prober says so in the authority section */
		return false;
	}
}

static void take_question(struct packet_ctx *p, const struct dns_record *r)
{
	struct dnssd_name d;
	struct observation o;

	if (!is_discovery(r) || is_repeated(p, &r->name))
		return;
	dnssd_describe(&r->name, &d);
	o = (struct observation){
		.kind = OBS_DISCOVER, .protocol = "mdns", .service = d.service, .instance = d.instance[0] ? d.instance : NULL,
		.transport = d.transport, .app_protocol = d.app_protocol,
		.guest = p->ctx->guest, .frame = p->ctx->frame, .time_ns = p->ctx->time_ns,
	};
	p->ctx->emit(&o, p->ctx->emit_data);
}

static void take_probe(struct packet_ctx *p)
{
	struct dns_record r;

	while (dns_next(p->message, &r)) {
		struct instance *in = NULL;

		if (r.section == DNS_AUTHORITY && r.type == DNS_TYPE_SRV)
			in = instance_get(p, &r.name);
		if (in && in->state != OFFERED && !in->has_srv)
			in->probed = true;
	}
}

/*
 * A query with records in its authority section is a probe for a name that the
 * guest wants for itself (RFC 6762, section 8.1), neither a question of
 * interest nor a registration yet. Records in the answer section are what the
 * asker has heard of others (section 7.1): no evidence.
 */
static void take_query(struct packet_ctx *p)
{
	struct dns_record r;

	if (!p->datagram->from_guest)
		return;
	if (p->message->header.counts[DNS_AUTHORITY]) {
		take_probe(p);
		return;
	}
	while (dns_next(p->message, &r) && r.section == DNS_QUESTION)
		take_question(p, &r);
}

/* ---- the observer ---- */

static void mdns_datagram(void *guest, const struct datagram *d, const struct discover_ctx *ctx)
{
	struct dns_message m;
	struct packet_ctx p = { .guest = guest, .message = &m, .datagram = d, .ctx = ctx };

	if (!dns_open(&m, d->data, d->len)) {
		discover_senseless(ctx);
		return;
	}
	/* RFC 6762, section 18: other opcodes and rcodes are ignored; and answers come from the port, section 6 */
	if (m.header.opcode != DNS_OPCODE_QUERY || m.header.rcode)
		return;
	if (!dns_check(&m)) {
		discover_senseless(ctx);
		return;
	}
	if (!m.header.response)
		take_query(&p);
	else if (d->dir == DISCOVER_FROM_REGISTRY || d->src.port == d->dst.port)
		take_response(&p);
}

static void mdns_tick(void *guest, const struct discover_ctx *ctx)
{
	settle_all(guest, ctx, AT_TICK);
}

static void mdns_flush(void *guest, const struct discover_ctx *ctx)
{
	settle_all(guest, ctx, AT_END);
}

static void *mdns_guest_new(void)
{
	struct mdns_guest *g = calloc(1, sizeof(*g));

	if (!g)
		return NULL;
	list_init(&g->instances);
	mdns_hosts_init(&g->hosts);
	list_init(&g->questions);
	return g;
}

static void mdns_guest_free(void *guest)
{
	struct mdns_guest *g = guest;

	list_for_each_safe(i, &g->instances)
		instance_drop(g, list_entry(i, struct instance, link));
	mdns_hosts_deinit(&g->hosts);
	list_for_each_safe(i, &g->questions)
		free(list_entry(i, struct question, link));
	free(g);
}

const struct discover_protocol discover_mdns = {
	.name = "mdns",
	.udp_ports = { MDNS_PORT },
	.is_peer_to_peer = true,
	.guest_new = mdns_guest_new,
	.guest_free = mdns_guest_free,
	.datagram = mdns_datagram,
	.tick = mdns_tick,
	.flush = mdns_flush,
};
