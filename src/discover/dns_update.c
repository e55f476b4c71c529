/*
 * Dynamic updates: the services and hosts that a guest writes into DNS.
 *
 * A record of type SRV is an instance, and so is an address of a name. Records
 * are remembered, so that what is written again is a renewal, and so that a
 * later update can name what it takes away.
 */
#include "discover/dns_update.h"

#include <stdlib.h>
#include <string.h>
#include "base/defs.h"
#include "base/map.h"
#include "discover/dnssd.h"

struct update {
	struct list link;
	struct ip_port client;
	struct ip_port server;
	uint16_t id;
	uint64_t hash;		/* of the whole message: the same one again is a retransmission */
	size_t len;		/* 0: answered */
	uint8_t *data;
};

struct written {
	struct list link;
	struct dns_name name;	/* lower-case, but for instances */
	uint16_t type;		/* A, AAAA or SRV */
	struct ip ip;		/* A, AAAA */
	uint16_t port;		/* SRV */
	struct dns_name target;
	uint32_t ttl_s;

	bool told;
	struct ip told_ip;
	uint64_t told_text;	/* hash of the TXT record */

	bool touched;		/* by the update at hand */
	bool leaving;
};

struct applying {		/* one update that was accepted */
	struct dns_updates *updates;
	struct dns_message m;
	struct ip_port server;
	const struct discover_ctx *ctx;
};

void dns_updates_init(struct dns_updates *u)
{
	*u = (struct dns_updates){};
	list_init(&u->updates);
	list_init(&u->written);
}

static void update_answered(struct dns_updates *u, struct update *p)
{
	u->n_bytes -= p->len;
	p->len = 0;
	free(p->data);
	p->data = NULL;
}

static void update_drop(struct dns_updates *u, struct update *p)
{
	update_answered(u, p);
	list_unlink(&p->link);
	u->n_updates--;
	free(p);
}

static void written_drop(struct dns_updates *u, struct written *w)
{
	list_unlink(&w->link);
	u->n_written--;
	free(w);
}

void dns_updates_deinit(struct dns_updates *u)
{
	list_for_each_safe(i, &u->updates)
		update_drop(u, list_entry(i, struct update, link));
	list_for_each_safe(i, &u->written)
		written_drop(u, list_entry(i, struct written, link));
}

/* ---- pairing ---- */

static struct update *update_find(struct dns_updates *u, uint16_t id, const struct ip_port *client, const struct ip_port *server)
{
	for (struct list *i = u->updates.prev; i != &u->updates; i = i->prev) {
		struct update *p = list_entry(i, struct update, link);

		if (p->id == id && p->client.port == client->port && ip_equal(&p->client.ip, &client->ip) &&
		    p->server.port == server->port && ip_equal(&p->server.ip, &server->ip))
			return p;
	}
	return NULL;
}

void dns_take_update(struct dns_updates *u, const struct dns_message *m, const struct ip_port *client,
		     const struct ip_port *server)
{
	uint64_t hash = map_hash(m->data, m->size);
	struct update *p = update_find(u, m->header.id, client, server);

	if (m->size > MAX_UPDATE_BYTES || (p && p->hash == hash))
		return;
	if (p)
		update_drop(u, p);
	while (u->n_updates == MAX_UPDATES || (u->n_updates && u->n_bytes + m->size > MAX_UPDATE_BYTES))
		update_drop(u, list_entry(u->updates.next, struct update, link));
	p = calloc(1, sizeof(*p));
	if (!p)
		return;
	*p = (struct update){ .client = *client, .server = *server, .id = m->header.id, .hash = hash, .data = malloc(m->size) };
	if (!p->data) {
		free(p);
		return;
	}
	memcpy(p->data, m->data, m->size);
	p->len = m->size;
	u->n_bytes += m->size;
	list_append(&u->updates, &p->link);
	u->n_updates++;
}

/* ---- records ---- */

/* Names compare without case; they are shown lower-case, but for what a person wrote: instances. */
static void show(struct dns_name *name)
{
	unsigned at = 0;

	if (!dns_name_service(name, &at) || at == 0)
		dns_name_lower(name);
}

/* What of @r is remembered; false: it is of no interest. */
static bool read_record(const struct dns_message *m, const struct dns_record *r, struct written *ret_w)
{
	struct written w = { .name = r->name, .type = r->type, .ttl_s = r->ttl_s };
	struct dns_srv srv;

	if (dnssd_is_housekeeping(&r->name))
		return false;
	show(&w.name);
	switch (r->type) {
	case DNS_TYPE_A:
	case DNS_TYPE_AAAA:
		if (!dns_address(r, &w.ip))
			return false;
		break;
	case DNS_TYPE_SRV:
		if (!dns_srv(m, r, &srv) || dns_name_is_root(&srv.target))	/* ".": decidedly not here, RFC 2782 */
			return false;
		w.port = srv.port;
		w.target = srv.target;
		dns_name_lower(&w.target);
		break;
	default:
		return false;
	}
	*ret_w = w;
	return true;
}

static bool same_record(const struct written *a, const struct written *b)
{
	return a->type == b->type && a->port == b->port && ip_equal(&a->ip, &b->ip) && dns_name_equal(&a->name, &b->name) &&
	       (a->type != DNS_TYPE_SRV || dns_name_equal(&a->target, &b->target));
}

static bool is_address(const struct written *w)
{
	return w->type != DNS_TYPE_SRV;
}

/* An address of @name that is there to stay: IPv4 if there is one. */
static const struct written *address_of(const struct dns_updates *u, const struct dns_name *name)
{
	const struct written *best = NULL;

	list_for_each(i, &u->written) {
		const struct written *w = list_entry(i, struct written, link);

		if (is_address(w) && !w->leaving && (!best || w->type < best->type) && dns_name_equal(&w->name, name))
			best = w;
	}
	return best;
}

/* ---- what is told ---- */

static bool next_text(struct applying *a, const struct dns_name *name, struct dns_record *ret_r)
{
	dns_rewind(&a->m);
	while (dns_next(&a->m, ret_r))
		if (ret_r->section == DNS_AUTHORITY && ret_r->class_ == DNS_CLASS_IN && ret_r->type == DNS_TYPE_TXT &&
		    dns_name_equal(&ret_r->name, name))
			return true;
	return false;
}

static struct ip place_of(const struct applying *a, const struct written *w)
{
	const struct written *at = is_address(w) ? w : address_of(a->updates, &w->target);

	return at ? at->ip : (struct ip){};
}

static void tell(struct applying *a, const struct written *w, enum observation_kind kind)
{
	char target[DNS_NAME_TEXT_LEN] = "";
	struct dnssd_text text = {};
	struct dns_record txt;
	struct dnssd_name d;
	struct observation o;

	dnssd_describe(&w->name, &d);
	if (!is_address(w))
		dns_name_text(&w->target, target);
	if (!is_address(w) && kind != OBS_DEREGISTER && next_text(a, &w->name, &txt))
		dnssd_text_decode(&text, txt.rdata);
	if (d.instance[0])
		dnssd_text_add(&text, "type", d.type);
	o = (struct observation){
		.kind = kind, .protocol = "dns", .service = d.service, .instance = d.instance[0] ? d.instance : *target ? target : NULL,
		.address = kind == OBS_DEREGISTER && w->told ? w->told_ip : place_of(a, w), .port = w->port,
		.transport = d.transport, .app_protocol = d.app_protocol, .ttl_s = kind == OBS_DEREGISTER ? 0 : w->ttl_s,
		.metadata = text.meta, .n_metadata = text.n_meta,
		.guest = a->ctx->guest, .registry = a->server, .frame = a->ctx->frame, .time_ns = a->ctx->time_ns,
	};
	if (ip_is_none(&o.address) && *target)
		o.host = target;
	a->ctx->emit(&o, a->ctx->emit_data);
}

/* The name alone is known, not what there was. */
static void tell_name_gone(const struct applying *a, const struct dns_name *name)
{
	struct dns_name shown = *name;
	struct dnssd_name d;
	struct observation o;

	show(&shown);
	dnssd_describe(&shown, &d);
	o = (struct observation){
		.kind = OBS_DEREGISTER, .protocol = "dns", .service = d.service, .instance = d.instance[0] ? d.instance : NULL,
		.transport = d.transport, .app_protocol = d.app_protocol, .guest = a->ctx->guest, .registry = a->server,
		.frame = a->ctx->frame, .time_ns = a->ctx->time_ns,
	};
	a->ctx->emit(&o, a->ctx->emit_data);
}

/* ---- an update, record by record: RFC 2136, section 3.4.2 ---- */

/* Section 2.5.1: add to an RRset */
static void on_add(struct applying *a, const struct written *record)
{
	struct dns_updates *u = a->updates;
	struct written *w;

	list_for_each(i, &u->written) {
		w = list_entry(i, struct written, link);
		if (same_record(w, record)) {
			w->ttl_s = record->ttl_s;
			w->touched = true;
			w->leaving = false;
			return;
		}
	}
	if (u->n_written == MAX_WRITTEN)
		written_drop(u, list_entry(u->written.next, struct written, link));
	w = malloc(sizeof(*w));
	if (!w)
		return;
	*w = *record;
	w->touched = true;
	list_append(&u->written, &w->link);
	u->n_written++;
}

/* Sections 2.5.2 and 2.5.3: delete an RRset, or all of a name */
static void on_delete_set(struct applying *a, const struct dns_record *r)
{
	list_for_each(i, &a->updates->written) {
		struct written *w = list_entry(i, struct written, link);

		if ((r->type == DNS_TYPE_ANY || r->type == w->type) && dns_name_equal(&w->name, &r->name))
			w->leaving = true;
	}
}

/* Section 2.5.4: delete one record. One that was written before the capture is told at once: its value is in the request. */
static void on_delete(struct applying *a, const struct written *record)
{
	list_for_each(i, &a->updates->written) {
		struct written *w = list_entry(i, struct written, link);

		if (same_record(w, record)) {
			w->leaving = true;
			return;
		}
	}
	tell(a, record, OBS_DEREGISTER);
}

static bool next_change(struct dns_message *m, struct dns_record *r)
{
	while (dns_next(m, r))
		if (r->section == DNS_AUTHORITY)
			return true;
	return false;
}

static void apply_records(struct applying *a)
{
	struct dns_record r;
	struct written w;

	dns_rewind(&a->m);
	for (unsigned n = 0; n < MAX_UPDATE_RECORDS && next_change(&a->m, &r); n++) {
		struct dns_message at = a->m;

		if (r.class_ == DNS_CLASS_ANY)
			on_delete_set(a, &r);
		else if (read_record(&a->m, &r, &w) && r.class_ == DNS_CLASS_NONE)
			on_delete(a, &w);
		else if (r.class_ == DNS_CLASS_IN && read_record(&a->m, &r, &w))
			on_add(a, &w);
		a->m = at;
	}
}

static bool knows_name(const struct dns_updates *u, const struct dns_name *name)
{
	list_for_each(i, &u->written)
		if (dns_name_equal(&list_entry(i, struct written, link)->name, name))
			return true;
	return false;
}

static bool takes_names_away(const struct dns_record *r)
{
	return r->class_ == DNS_CLASS_ANY && !dnssd_is_housekeeping(&r->name) &&
	       (r->type == DNS_TYPE_ANY || r->type == DNS_TYPE_A || r->type == DNS_TYPE_AAAA || r->type == DNS_TYPE_SRV);
}

/* Names of which all is deleted, and nothing is known: they were written before the capture began. Once each. */
static void tell_unknown_gone(struct applying *a)
{
	struct dns_name last = {};
	struct dns_record r;

	dns_rewind(&a->m);
	for (unsigned n = 0; n < MAX_UPDATE_RECORDS && next_change(&a->m, &r); n++) {
		if (!takes_names_away(&r) || knows_name(a->updates, &r.name) || (last.len && dns_name_equal(&last, &r.name)))
			continue;
		last = r.name;
		tell_name_gone(a, &r.name);
	}
}

static void tell_gone(struct applying *a)
{
	list_for_each(i, &a->updates->written) {
		const struct written *w = list_entry(i, struct written, link);

		if (w->leaving && w->told)
			tell(a, w, OBS_DEREGISTER);
	}
}

static void tell_written(struct applying *a, struct written *w)
{
	struct ip place = place_of(a, w);
	struct dns_record txt;
	uint64_t text = w->told_text;
	bool changed;

	/* The second family of a name is no second instance. */
	if (!w->touched || (w->type == DNS_TYPE_AAAA && address_of(a->updates, &w->name)->type == DNS_TYPE_A))
		return;
	if (!is_address(w) && next_text(a, &w->name, &txt))
		text = map_hash(txt.rdata.pos, wire_left(&txt.rdata));
	changed = !w->told || text != w->told_text || !ip_equal(&place, &w->told_ip);
	tell(a, w, changed ? OBS_REGISTER : OBS_RENEW);
	w->told = true;
	w->told_ip = place;
	w->told_text = text;
}

/* What was there and goes is told first, as it is when something moves. */
static void take_accepted(struct applying *a)
{
	struct dns_updates *u = a->updates;

	apply_records(a);
	tell_unknown_gone(a);
	tell_gone(a);
	list_for_each_safe(i, &u->written)
		if (list_entry(i, struct written, link)->leaving)
			written_drop(u, list_entry(i, struct written, link));
	list_for_each(i, &u->written)
		tell_written(a, list_entry(i, struct written, link));
	list_for_each(i, &u->written)
		list_entry(i, struct written, link)->touched = false;
}

void dns_take_update_response(struct dns_updates *u, const struct dns_message *m, const struct ip_port *client,
			      const struct ip_port *server, const struct discover_ctx *ctx)
{
	struct update *p = update_find(u, m->header.id, client, server);
	struct applying a = { .updates = u, .server = *server, .ctx = ctx };

	if (!p || !p->len)
		return;
	if (m->header.rcode == DNS_RCODE_NOERROR && dns_open(&a.m, p->data, p->len))
		take_accepted(&a);
	update_answered(u, p);
}
