/*
 * The controller's discovery, over real streams, as a script: what it serves
 * changes while three clients ask for it. The first is our own proxy's state
 * machine (mesh/xds.h), the second a client of delta ADS that asks for anything
 * in any order and remembers what it was told, the third one of state of the
 * world. In the end each of them has what it wants: all that there is of it, as
 * it is, and nothing else. What that is, is worked out here anew, from the rules
 * in control/ads.h.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "loopback.h"
#include "base/log.h"
#include "base/wire.h"
#include "control/ads.h"
#include "mesh/grpc_client.h"
#include "mesh/pb.h"
#include "mesh/xds.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { N_NAMES = 8, N_TYPES = 3, MAX_TURNS = 5000, NO_VERSION = 0, EMPTY = -1 };

static const enum resource_type types_of[N_TYPES] = { RESOURCE_ADDRESS, RESOURCE_AUTHORIZATION, RESOURCE_ENDPOINTS };
static char *urls[] = {
	(char[]){ "type.googleapis.com/istio.workload.Address" }, (char[]){ "type.googleapis.com/istio.security.Authorization" },
	(char[]){ "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment" }, (char[]){ "type.googleapis.com/other" },
};
static char *const names[N_NAMES] = {
	(char[]){ "r0" }, (char[]){ "r1" }, (char[]){ "r2" }, (char[]){ "r3" }, (char[]){ "r4" }, (char[]){ "r5" }, (char[]){ "r6" }, (char[]){ "r7" },
};
static char *const aliases[N_NAMES] = {	/* the last is the clients' own address */
	(char[]){ "n/0" }, (char[]){ "n/1" }, (char[]){ "n/2" }, (char[]){ "n/3" }, (char[]){ "n/4" }, (char[]){ "n/5" }, (char[]){ "n/6" }, (char[]){ "n/10.0.0.1" },
};
static char star[] = "*", barrier[] = "barrier", own_node[] = "node:m";

/* --- what is there --- */

struct thing {
	int version;			/* NO_VERSION: it is not there */
	uint8_t aliases, parents;	/* bits: of @aliases; of @names, the last one stands for @own_node */
};

static struct thing things[N_TYPES][N_NAMES];

/* --- a client, as it sees itself --- */

struct view {
	struct grpc_call *call;
	bool delta, begun[N_TYPES + 1], all[N_TYPES], lied;
	uint8_t by_name[N_TYPES], by_alias[N_TYPES];
	int has[N_TYPES][N_NAMES];	/* versions; NO_VERSION, EMPTY */
	unsigned n_barriers, n_answers;
	char nonce[32];
};

static struct view raw, world, ours;
static struct xds *xds;
static struct ads *ads;
static struct resources resources;
static struct loop *loop;
static struct grpc_server *server;
static struct grpc_client *client;
static struct issuer *issuer;
static struct config *config;
static struct ip_port address;
static struct authn authn = { .trust_domain = "t.mesh" };
static char dir[] = "/tmp/fuzz-ads-XXXXXX", target[IP_PORT_TEXT_LEN], *bearer;
static unsigned n_lost;

static bool by_self(const struct view *v, int type, int i)
{
	uint8_t own = 1 << (N_NAMES - 1);

	return v->by_name[type] & 1 << i || things[type][i].aliases & (v->by_alias[type] | own);
}

static bool wants(const struct view *v, int type, int i)
{
	const struct thing *t = &things[type][i];

	if (v->all[type] || by_self(v, type, i) || t->parents >> (N_NAMES - 1))
		return true;
	for (int p = 0; p < N_NAMES - 1; p++)
		if (t->parents & 1 << p && things[type][p].version && by_self(v, type, p))
			return true;
	return false;
}

static int name_number(const char *name)
{
	for (int i = 0; i < N_NAMES; i++)
		if (!strcmp(name, names[i]))
			return i;
	return -1;
}

static int type_number(const char *url)
{
	for (int t = 0; t < N_TYPES; t++)
		if (!strcmp(url, urls[t]))
			return t;
	abort();
}

/* Contents are "NAME VERSION"; else it is a ClusterLoadAssignment with a name only. */
static int version_in(const uint8_t *data, size_t len, int *ret_name)
{
	char text[32] = "", name[8];
	int version;

	memcpy(text, data, MIN(len, sizeof(text) - 1));
	if (text[0] == 'r' && sscanf(text, "%7s %d", name, &version) == 2) {
		*ret_name = name_number(name);
		if (*ret_name < 0)
			abort();
		return version;
	}
	if (len < 2 || text[0] != 10 || (size_t)text[1] != len - 2)
		abort();
	*ret_name = name_number(text + 2);
	return EMPTY;
}

/* --- the xds client --- */

static int ours_put(struct view *v, int type, const struct xds_resource *r, struct diag *reterr_diag)
{
	int i, version = version_in(r->value, r->len, &i);

	if (strcmp(r->name, names[i]) != 0)
		abort();
	if (version % 8 == 7)
		return diag_set(reterr_diag, "refused");
	v->has[type][i] = version;
	return 0;
}

static int put_address(void *data, const struct xds_resource *r, struct diag *reterr_diag)
{
	return ours_put(data, 0, r, reterr_diag);
}

static int put_authorization(void *data, const struct xds_resource *r, struct diag *reterr_diag)
{
	return ours_put(data, 1, r, reterr_diag);
}

static void ours_gone(struct view *v, int type, const char *name)
{
	int i = name_number(name);

	if (i >= 0)
		v->has[type][i] = NO_VERSION;
}

static void gone_address(void *data, const char *name)
{
	ours_gone(data, 0, name);
}

static void gone_authorization(void *data, const char *name)
{
	ours_gone(data, 1, name);
}

static struct xds_type xds_types[] = {
	{ .on_demand = true, .put = put_address, .gone = gone_address },
	{ .put = put_authorization, .gone = gone_authorization },
};

/* --- answers --- */

static void take_delta(struct view *v, const Envoy__Service__Discovery__V3__DeltaDiscoveryResponse *m)
{
	int type = type_number(m->type_url), i;

	snprintf(v->nonce, sizeof(v->nonce), "%s", m->nonce);
	for (size_t k = 0; k < m->n_resources; k++) {
		const Envoy__Service__Discovery__V3__Resource *r = m->resources[k];
		int version = version_in(r->resource->value.data, r->resource->value.len, &i);

		if (strcmp(r->resource->type_url, m->type_url) != 0 || !*r->version)
			abort();
		if (i >= 0 && strcmp(r->name, names[i]) != 0)
			abort();
		if (i >= 0)
			v->has[type][i] = version;
	}
	for (size_t k = 0; k < m->n_removed_resources; k++) {
		i = name_number(m->removed_resources[k]);
		if (i >= 0)
			v->has[type][i] = NO_VERSION;
		v->n_barriers += !strcmp(m->removed_resources[k], barrier);
	}
}

static void take_world(struct view *v, const Envoy__Service__Discovery__V3__DiscoveryResponse *m)
{
	int type = type_number(m->type_url), i;

	snprintf(v->nonce, sizeof(v->nonce), "%s", m->nonce);
	if (types_of[type] != RESOURCE_ENDPOINTS)
		memset(v->has[type], 0, sizeof(v->has[type]));
	for (size_t k = 0; k < m->n_resources; k++) {
		int version = version_in(m->resources[k]->value.data, m->resources[k]->value.len, &i);

		if (i >= 0)
			v->has[type][i] = version;
	}
}

static void on_message(struct grpc_call *call, void *data, const uint8_t *bytes, size_t len)
{
	struct view *v = data;
	ProtobufCMessage *m;

	(void)call;
	v->n_answers++;
	if (v == &ours) {
		if (xds_receive(xds, bytes, len) < 0 || xds_flush(xds) < 0)
			abort();
		return;
	}
	if (pb_unpack(v->delta ? &envoy__service__discovery__v3__delta_discovery_response__descriptor :
				 &envoy__service__discovery__v3__discovery_response__descriptor, bytes, len, 0, &m) < 0)
		abort();
	if (v->delta)
		take_delta(v, (const Envoy__Service__Discovery__V3__DeltaDiscoveryResponse *)m);
	else
		take_world(v, (const Envoy__Service__Discovery__V3__DiscoveryResponse *)m);
	pb_free(m);
}

static void on_closed(struct grpc_call *call, void *data, const struct grpc_status *status)
{
	struct view *v = data;

	(void)call;
	if (status->code != GRPC_INVALID_ARGUMENT && status->code != GRPC_RESOURCE_EXHAUSTED && status->code != GRPC_PERMISSION_DENIED)
		abort();
	v->call = NULL;
	if (v == &ours)
		abort();		/* ours does nothing that deserves it */
}

static void open_call(struct view *v)
{
	static const struct grpc_call_ops ops = { .message = on_message, .closed = on_closed };
	const struct grpc_metadata metadata = { "authorization", bearer };
	const struct grpc_call_options o = { .path = v->delta ? ADS_DELTA_PATH : ADS_SOTW_PATH, .metadata = &metadata, .n_metadata = 1 };

	if (grpc_client_stream(client, &o, &ops, v, &v->call) < 0)
		abort();
}

/* What a client keeps is its own; a stream that begins knows nothing of the one before. */
static void forget_stream(struct view *v)
{
	grpc_call_cancel(v->call);
	v->call = NULL;
	memset(v->begun, 0, sizeof(v->begun));
	memset(v->all, 0, sizeof(v->all));
	memset(v->by_name, 0, sizeof(v->by_name));
	memset(v->by_alias, 0, sizeof(v->by_alias));
	v->lied = false;
	v->nonce[0] = 0;
}

static const Envoy__Config__Core__V3__Node *node(void)
{
	static Google__Protobuf__Value value;
	static Google__Protobuf__Struct__FieldsEntry entry, *entries[] = { &entry };
	static Google__Protobuf__Struct metadata;
	static Envoy__Config__Core__V3__Node n;

	google__protobuf__value__init(&value);
	value.kind_case = GOOGLE__PROTOBUF__VALUE__KIND_STRING_VALUE;
	value.string_value = own_node + 5;
	google__protobuf__struct__fields_entry__init(&entry);
	entry.key = (char *)(uintptr_t)"NODE_NAME";
	entry.value = &value;
	google__protobuf__struct__init(&metadata);
	metadata.fields = entries;
	metadata.n_fields = 1;
	envoy__config__core__v3__node__init(&n);
	n.id = (char *)(uintptr_t)"ztunnel~10.0.0.1~z.ns~ns.svc.local";
	n.metadata = &metadata;
	return &n;
}

static int ours_send(void *data, const Envoy__Service__Discovery__V3__DeltaDiscoveryRequest *request)
{
	(void)data;
	if (ours.call && grpc_call_send_pb(ours.call, &request->base) < 0)
		abort();
	return 0;
}

static void ours_open(void)
{
	uint8_t by_name = ours.by_name[0], by_alias = ours.by_alias[0];

	forget_stream(&ours);
	ours.by_name[0] = by_name;
	ours.by_alias[0] = by_alias;
	ours.all[1] = true;
	open_call(&ours);
	if (xds_begin(xds, node(), ours_send, NULL) < 0)
		abort();
}

/* --- requests --- */

static size_t list(char **out, uint8_t bits, char *const *from)
{
	size_t n = 0;

	for (int i = 0; i < N_NAMES; i++)
		if (bits & 1 << i)
			out[n++] = from[i];
	return n;
}

struct versions {
	Envoy__Service__Discovery__V3__DeltaDiscoveryRequest__InitialResourceVersionsEntry v[N_NAMES], *p[N_NAMES];
	char text[N_NAMES][RESOURCE_VERSION_LEN];
};

/* What it has from an earlier stream; or what it may like to say. */
static size_t list_versions(struct versions *x, int type, bool lie)
{
	size_t n = 0;

	for (int i = 0; i < N_NAMES; i++) {
		const struct resource *r = resources_find(&resources, types_of[type], names[i]);

		if (!raw.has[type][i] && !lie)
			continue;
		envoy__service__discovery__v3__delta_discovery_request__initial_resource_versions_entry__init(&x->v[n]);
		/* It has to be what the server calls that version, which only the present one's name is known of. */
		snprintf(x->text[n], sizeof(x->text[n]), "%s", r && (lie || raw.has[type][i] == things[type][i].version) ? r->version : "old");
		x->v[n].key = names[i];
		x->v[n].value = x->text[n];
		x->p[n] = &x->v[n];
		n++;
	}
	return n;
}

static void note_wanted(struct view *v, int type, uint8_t names_on, uint8_t aliases_on, uint8_t off)
{
	v->by_name[type] = (uint8_t)((v->by_name[type] | names_on) & ~off);
	v->by_alias[type] = (uint8_t)((v->by_alias[type] | aliases_on) & ~off);
	for (int i = 0; i < N_NAMES; i++)
		if (off & 1 << i)
			v->has[type][i] = NO_VERSION;	/* it drops what it does not want: the server says it again if it is wanted all the same */
}

enum { HOW_NODE = 0x08, HOW_STAR = 0x10, HOW_STAR_OFF = 0x20, HOW_NACK = 0x40, HOW_VERSIONS = 0x80 };

/* Until all that it asked for is answered. */
static void raw_settle(void)
{
	Envoy__Service__Discovery__V3__DeltaDiscoveryRequest q = ENVOY__SERVICE__DISCOVERY__V3__DELTA_DISCOVERY_REQUEST__INIT;
	char *list_of_one[] = { barrier };

	if (!raw.call || raw.lied)
		return;
	q.type_url = urls[0];
	q.node = (Envoy__Config__Core__V3__Node *)(uintptr_t)node();
	q.resource_names_subscribe = list_of_one;
	q.n_resource_names_subscribe = 1;
	if (grpc_call_send_pb(raw.call, &q.base) < 0)
		abort();
	raw.begun[0] = raw.begun[N_TYPES] = true;
	raw.n_barriers = 0;
	for (int i = 0; raw.call && !raw.n_barriers; i++)
		if (i == MAX_TURNS || n_lost || loop_turn(loop, 10) < 0)
			abort();
}

/* @how: type in the lowest two bits, a nonce or none in the next. */
static void raw_request(uint8_t how, uint8_t names_on, uint8_t aliases_on, uint8_t off)
{
	Envoy__Service__Discovery__V3__DeltaDiscoveryRequest q = ENVOY__SERVICE__DISCOVERY__V3__DELTA_DISCOVERY_REQUEST__INIT;
	Google__Rpc__Status error = GOOGLE__RPC__STATUS__INIT;
	char *on_list[2 * N_NAMES + 1], *off_list[2 * N_NAMES + 1];
	int type = how & 3;
	bool named = raw.begun[N_TYPES] || how & HOW_NODE, first = type < N_TYPES && !raw.begun[type];
	struct versions versions;

	off &= (uint8_t)~(names_on | aliases_on);	/* which of the two counts is the server's choice */
	q.type_url = urls[type];
	q.response_nonce = how & 4 ? raw.nonce : (char *)(uintptr_t)"";
	q.node = how & HOW_NODE ? (Envoy__Config__Core__V3__Node *)(uintptr_t)node() : NULL;
	q.error_detail = how & HOW_NACK ? &error : NULL;
	q.resource_names_subscribe = on_list;
	q.n_resource_names_subscribe = list(on_list, names_on, names);
	q.n_resource_names_subscribe += list(on_list + q.n_resource_names_subscribe, aliases_on, aliases);
	if (how & HOW_STAR)
		on_list[q.n_resource_names_subscribe++] = star;
	q.resource_names_unsubscribe = off_list;
	q.n_resource_names_unsubscribe = list(off_list, off, names);
	q.n_resource_names_unsubscribe += list(off_list + q.n_resource_names_unsubscribe, off, aliases);
	if (how & HOW_STAR_OFF)
		off_list[q.n_resource_names_unsubscribe++] = star;
	if (type < N_TYPES && first) {		/* later ones do not count */
		q.initial_resource_versions = versions.p;
		q.n_initial_resource_versions = list_versions(&versions, type, how & HOW_VERSIONS);
		raw.lied |= (how & HOW_VERSIONS) != 0;
	}
	if (grpc_call_send_pb(raw.call, &q.base) < 0)
		abort();
	if (!named || type == N_TYPES) {
		raw.begun[N_TYPES] |= named;
		return;
	}
	if (how & HOW_STAR_OFF)
		raw.all[type] = false;
	else if (how & HOW_STAR || (first && !q.n_resource_names_subscribe))
		raw.all[type] = true;
	raw.begun[N_TYPES] = raw.begun[type] = true;
	note_wanted(&raw, type, names_on, aliases_on, off);
}

static void world_request(uint8_t how, uint8_t names_on, uint8_t aliases_on)
{
	Envoy__Service__Discovery__V3__DiscoveryRequest q = ENVOY__SERVICE__DISCOVERY__V3__DISCOVERY_REQUEST__INIT;
	Google__Rpc__Status error = GOOGLE__RPC__STATUS__INIT;
	char *on_list[2 * N_NAMES + 1];
	int type = how & 3;
	bool named = world.begun[N_TYPES] || how & HOW_NODE, first = type < N_TYPES && !world.begun[type];

	q.type_url = urls[type];
	q.response_nonce = how & 4 ? world.nonce : (char *)(uintptr_t)"";
	q.node = how & HOW_NODE ? (Envoy__Config__Core__V3__Node *)(uintptr_t)node() : NULL;
	q.error_detail = how & HOW_NACK ? &error : NULL;
	q.resource_names = on_list;
	q.n_resource_names = list(on_list, names_on, names);
	q.n_resource_names += list(on_list + q.n_resource_names, aliases_on, aliases);
	if (how & HOW_STAR)
		on_list[q.n_resource_names++] = star;
	if (grpc_call_send_pb(world.call, &q.base) < 0)
		abort();
	world.begun[N_TYPES] |= named;
	if (!named || type == N_TYPES)
		return;
	world.begun[type] = true;
	/* Envoy's rule: no names after some are none; without any so far, they are all. */
	if (q.n_resource_names || first)
		world.all[type] = how & HOW_STAR || !q.n_resource_names;
	else if (world.by_name[type] || world.by_alias[type])
		world.all[type] = false;
	world.by_name[type] = names_on;
	world.by_alias[type] = aliases_on;
}

static void raw_bytes(struct wire *w, struct view *v)
{
	size_t len = MIN((size_t)wire_u8(w), (size_t)(w->end - w->pos));

	if (grpc_call_send(v->call, w->pos, len) < 0)
		abort();
	w->pos += len;
	v->lied = true;
}

/* --- what is served --- */

static void put_thing(int type, int i, uint8_t alias_bits, uint8_t parent_bits)
{
	static int n_versions;
	struct thing *t = &things[type][i];
	const char *alias_list[N_NAMES], *parent_list[N_NAMES];
	struct resource_content c = { .aliases = alias_list, .parents = parent_list };
	char text[32];

	parent_bits &= (uint8_t)~(1u << i);
	*t = (struct thing){ .version = ++n_versions, .aliases = alias_bits, .parents = parent_bits };
	for (int k = 0; k < N_NAMES; k++) {
		if (alias_bits & 1 << k)
			alias_list[c.n_aliases++] = aliases[k];
		if (parent_bits & 1 << k)
			parent_list[c.n_parents++] = k == N_NAMES - 1 ? own_node : names[k];
	}
	c.bytes = text;
	c.len = (size_t)snprintf(text, sizeof(text), "%s %d", names[i], t->version);
	if (resources_put(&resources, types_of[type], names[i], &c) < 0)
		abort();
}

static void remove_thing(int type, int i)
{
	things[type][i] = (struct thing){};
	resources_remove(&resources, types_of[type], names[i]);
}

static void turn(void)
{
	if (loop_turn(loop, 0) < 0)
		abort();
}

static void subscribe(uint8_t op, bool on)
{
	int i = op >> 4 & 7;
	const char *name = op & 0x80 ? aliases[i] : names[i];
	uint8_t *bits = op & 0x80 ? ours.by_alias : ours.by_name;

	if (!on)
		xds_unsubscribe(xds, 0, name);
	else if (xds_subscribe(xds, 0, name) < 0)
		abort();
	bits[0] = (uint8_t)(on ? bits[0] | 1 << i : bits[0] & ~(1 << i));
	if (xds_flush(xds) < 0)
		abort();
}

static void restart(struct view *v)
{
	if (v->lied)
		memset(v->has, 0, sizeof(v->has));
	forget_stream(v);
	open_call(v);
}

static void step(struct wire *w)
{
	uint8_t op = wire_u8(w), a, b, c;
	int type = (op >> 6) % N_TYPES, i = op >> 3 & 7;

	switch (op & 7) {
	case 0:
		a = wire_u8(w);
		put_thing(type, i, a, wire_u8(w));
		break;
	case 1:
		remove_thing(type, i);
		break;
	case 2:
		subscribe(op, true);
		break;
	case 3:
		subscribe(op, false);
		break;
	case 4:
		turn();
		turn();
		break;
	case 5:
		a = wire_u8(w);
		b = wire_u8(w);
		c = wire_u8(w);
		if (a & 0x10)
			raw_settle();		/* else it would be given what it has just given up */
		if (raw.call)
			raw_request((uint8_t)((op & 0xf8) | a >> 5), b, c, a & 0x10 ? wire_u8(w) : 0);
		break;
	case 6:
		a = wire_u8(w);
		b = wire_u8(w);
		if (world.call)
			world_request(op & 0x78, a, b);
		break;
	default:
		if (i == 0)
			ours_open();
		else if (i == 1)
			restart(&raw);
		else if (i == 2)
			restart(&world);
		else if (i == 3)
			resources_set_complete(&resources, op >> 6 & 1);
		else if (i == 4 && raw.call)
			raw_bytes(w, &raw);
		else if (i == 5 && world.call)
			raw_bytes(w, &world);
		else
			turn();
	}
}

/* --- in the end --- */

static void check(const struct view *v, int type)
{
	for (int i = 0; i < N_NAMES; i++) {
		int has = v->has[type][i], is = things[type][i].version;

		if (!wants(v, type, i))
			continue;		/* it may have it from before, or not any more */
		if (v == &ours && is % 8 == 7)
			continue;		/* refused: as it was */
		if (has != is && !(!is && has == EMPTY)) {
			fprintf(stderr, "%s: %s of type %d: there is %d, it has %d\n", v == &ours ? "ours" : v == &raw ? "raw" : "world", names[i], type,
				is, has);
			abort();
		}
	}
}

/* Requests are answered in order: behind the answer to the last is nothing. */
static void settle(void)
{
	resources_set_complete(&resources, true);
	turn();
	turn();
	if (xds_subscribe(xds, 0, barrier) < 0 || xds_flush(xds) < 0)
		abort();
	raw_settle();
	for (int i = 0; !xds_answered(xds, 0, barrier); i++)
		if (i == MAX_TURNS || n_lost || loop_turn(loop, 10) < 0)
			abort();
}

static void check_all(void)
{
	settle();
	check(&ours, 0);
	check(&ours, 1);
	for (int type = 0; type < N_TYPES; type++)
		if (raw.call && !raw.lied && raw.begun[type])
			check(&raw, type);
	/* Its requests were before ours on the same connection. Endpoints go to it by name alone, as Envoy asks for them. */
	for (int type = 0; type < N_TYPES; type++)
		if (world.call && !world.lied && world.begun[type] && types_of[type] != RESOURCE_ENDPOINTS)
			check(&world, type);
}

/* --- life --- */

static void on_delta(struct grpc_call *call, void *data)
{
	(void)data;
	ads_open_delta(ads, call);
}

static void on_sotw(struct grpc_call *call, void *data)
{
	(void)data;
	ads_open_sotw(ads, call);
}

static const struct grpc_method methods[] = {
	{ .path = ADS_DELTA_PATH, .open = on_delta },
	{ .path = ADS_SOTW_PATH, .open = on_sotw },
};

static void on_lost(struct grpc_client *c, void *data, int r, const char *text)
{
	(void)c;
	(void)data;
	(void)r;
	(void)text;
	n_lost++;
}

static void on_settled(void *data, const char *uid)
{
	(void)data;
	if (name_number(uid) < 0)
		abort();
}

static void stop(void)
{
	char command[80];

	grpc_server_free(server);
	issuer_free(issuer);
	config_free(config);
	free(bearer);
	loop_free(loop);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	(void)!system(command);
}

static void start(void)
{
	const struct grpc_server_options options = { .methods = methods, .n_methods = ELEMENTS(methods) };
	const struct issuer_subject subject = { .namespace = "ns", .service_account = "sa", .ttl_s = 86400 };
	char yaml[128], *token;
	int64_t expires_at;
	struct diag d = {};

	log_change(LOG_L_ERROR, false);
	address.ip = ip_from_v4("\x7f\0\0\1");
	if (!mkdtemp(dir) || loop_new(&loop) < 0)
		abort();
	snprintf(yaml, sizeof(yaml), "{trust_domain: t.mesh, state_dir: %s}", dir);
	if (config_parse("c", yaml, strlen(yaml), &config, &d) < 0 || issuer_new(loop, config, &issuer, &d) < 0 ||
	    issuer_sign(issuer, &subject, &token, &expires_at) < 0 || asprintf(&bearer, "Bearer %s", token) < 0)
		abort();
	free(token);
	authn_init(&authn);
	authn.issuer = issuer;
	if (grpc_server_new(loop, &options, &server) < 0 || grpc_server_listen(server, &address, &address, &d) < 0)
		abort();
	ip_port_format(&address, target);
	xds_types[0].url = urls[0];
	xds_types[1].url = urls[1];
	atexit(stop);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct grpc_client_ops client_ops = { .closed = on_lost };
	static const struct ads_ops ads_ops = { .settled = on_settled };
	struct grpc_client_options options = { .target = target };
	int fd;
	struct wire w = wire_init(data, size);

	if (!loop)
		start();
	if (size > 4096)
		return 0;
	memset(things, 0, sizeof(things));
	raw = ours = (struct view){ .delta = true };
	world = (struct view){};
	n_lost = 0;
	fd = loopback_connect(&address);
	if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
		abort();
	options.socket = &fd;
	resources_init(&resources);
	if (ads_new(loop, &resources, &authn, "n", &ads_ops, NULL, &ads) < 0 || xds_new(xds_types, ELEMENTS(xds_types), &ours, &xds) < 0 ||
	    grpc_client_new(loop, &options, &client_ops, NULL, &client) < 0)
		abort();
	open_call(&raw);
	open_call(&world);
	ours_open();
	while (wire_more(&w))
		step(&w);
	check_all();
	xds_free(xds);
	grpc_client_free(client);
	ads = ads_free(ads);
	while (grpc_server_n_connections(server))
		turn();
	resources_deinit(&resources);
	return 0;
}
