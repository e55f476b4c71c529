/*
 * Guests, ports, and the way of a packet to the observer of its protocol.
 */
#include "discover/engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/defs.h"
#include "discover/engine_state.h"
#include "proto/packet.h"

static const struct engine_limits default_limits = {
	.max_guests = 1024,
	.max_flows_per_guest = 128,
	.max_flow_bytes = 256 << 10,
	.max_guest_bytes = 2 << 20,
	.max_total_bytes = 64 << 20,
	.max_guest_held = 8 << 20,
	.max_total_held = 64 << 20,
};

static void count_and_emit(const struct observation *o, void *data)
{
	struct engine *e = data;

	e->stats.observations++;
	e->emit(o, e->emit_data);
}

struct discover_ctx engine_context(struct engine *e, struct guest *g, uint64_t frame, uint64_t time_ns)
{
	return (struct discover_ctx){
		.guest = g->address, .frame = frame, .time_ns = time_ns, .emit = count_and_emit, .emit_data = e,
		.senseless = &e->stats.senseless, .decoded = &g->decoded, .may_lack_requests = e->may_lack_requests,
	};
}

static unsigned row_of(const struct discover_protocol *protocol)
{
	for (unsigned i = 0; i < n_discover_protocols; i++)
		if (discover_protocols[i] == protocol)
			return i;
	abort();	/* protocols come from the table only */
}

/* ---- ports ---- */

static uint16_t *ports_of(struct ports *p, uint8_t ip_proto)
{
	return ip_proto == IPPROTO_UDP ? p->udp : p->tcp;
}

static bool has_port(const uint16_t ports[static ENGINE_MAX_PORTS], uint16_t port)
{
	for (size_t i = 0; port && i < ENGINE_MAX_PORTS; i++)
		if (ports[i] == port)
			return true;
	return false;
}

const struct discover_protocol *engine_protocol_of_port(const struct engine *e, uint8_t ip_proto, uint16_t port)
{
	for (size_t i = 0; i < n_discover_protocols; i++)
		if (has_port(ip_proto == IPPROTO_UDP ? e->ports[i].udp : e->ports[i].tcp, port))
			return discover_protocols[i];
	return NULL;
}

static bool speaks(const struct discover_protocol *p, uint8_t ip_proto)
{
	return ip_proto == IPPROTO_UDP ? p->datagram != NULL : p->stream_new != NULL;
}

bool engine_wants_port(const struct engine *e, uint8_t ip_proto, uint16_t port)
{
	return engine_protocol_of_port(e, ip_proto, port);
}

int engine_add_port(struct engine *e, const char *protocol, uint16_t port)
{
	static const uint8_t ip_protos[] = { IPPROTO_UDP, IPPROTO_TCP };
	const struct discover_protocol *p = discover_protocol_by_name(protocol);

	if (!p)
		return -ENOENT;
	for (size_t i = 0; i < ELEMENTS(ip_protos); i++) {
		uint16_t *ports = ports_of(&e->ports[row_of(p)], ip_protos[i]);
		size_t n = 0;

		if (!speaks(p, ip_protos[i]) || has_port(ports, port))
			continue;
		while (n < ENGINE_MAX_PORTS && ports[n])
			n++;
		if (n == ENGINE_MAX_PORTS)
			return -E2BIG;
		ports[n] = port;
	}
	return 0;
}

int engine_set_ports(struct engine *e, const char *protocol, const uint16_t *ports, size_t n_ports)
{
	const struct discover_protocol *p = discover_protocol_by_name(protocol);

	if (!p)
		return -ENOENT;
	if (n_ports > ENGINE_MAX_PORTS)
		return -E2BIG;
	e->ports[row_of(p)] = (struct ports){};
	for (size_t i = 0; i < n_ports; i++) {
		int r = engine_add_port(e, protocol, ports[i]);

		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- guests ---- */

static void guest_free(struct engine *e, struct guest *g)
{
	list_for_each_safe(l, &g->flows)
		flow_free(list_entry(l, struct flow, of_guest));
	list_for_each_safe(l, &g->streams)
		engine_stream_orphan(list_entry(l, struct engine_stream, of_guest));
	for (size_t i = 0; i < n_discover_protocols; i++)
		if (g->states[i])
			discover_protocols[i]->guest_free(g->states[i]);
	map_remove(&e->guests, &g->link);
	list_unlink(&g->recent);
	free(g);
}

static struct guest *guest_new(struct engine *e, const struct guest_key *key)
{
	struct guest *g;

	if (e->guests.n >= e->limits.max_guests) {
		guest_free(e, list_first(&e->guests_by_use, struct guest, recent));
		e->stats.guests_evicted++;
	}
	g = calloc(1, sizeof(*g));
	if (!g)
		return NULL;
	g->key = *key;
	if (map_add(&e->guests, &g->link, &g->key, sizeof(g->key)) < 0) {
		free(g);
		return NULL;
	}
	g->budget = (struct reasm_budget){ .parent = &e->budget, .max = e->limits.max_guest_bytes };
	list_init(&g->flows);
	list_init(&g->streams);
	list_append(&e->guests_by_use, &g->recent);
	return g;
}

struct guest *engine_guest_get(struct engine *e, const struct engine_guest *who)
{
	struct guest_key key = { .id = who->id };
	struct map_link *l;
	struct guest *g;

	if (!who->id)
		key.address = who->address;
	l = map_find(&e->guests, &key, sizeof(key));
	g = l ? container_of(l, struct guest, link) : guest_new(e, &key);
	if (!g) {
		e->stats.no_memory++;
		return NULL;
	}
	g->address = who->address;
	list_unlink(&g->recent);
	list_append(&e->guests_by_use, &g->recent);
	return g;
}

void *engine_guest_state(struct guest *g, const struct discover_protocol *protocol)
{
	unsigned row = row_of(protocol);

	if (!g->states[row] && protocol->guest_new)
		g->states[row] = protocol->guest_new();
	return g->states[row];
}

/* ---- UDP ---- */

static void take_udp(struct engine *e, const struct engine_packet *p, const struct engine_guest *who,
		     const struct discover_protocol *protocol, enum discover_dir dir, bool from_guest)
{
	struct datagram d = {
		.src = p->src, .dst = p->dst, .dir = dir, .from_guest = from_guest, .data = p->payload, .len = p->len,
		.cut = p->wire_len > p->len,
	};
	struct discover_ctx ctx;
	struct guest *g;
	void *state;

	e->stats.datagrams_cut += d.cut;
	if (d.cut && !protocol->takes_cut)
		return;
	g = engine_guest_get(e, who);
	state = g ? engine_guest_state(g, protocol) : NULL;
	if (!state) {
		e->stats.no_memory += !!g;
		return;
	}
	e->stats.datagrams++;
	ctx = engine_context(e, g, p->frame, p->time_ns);
	protocol->datagram(state, &d, &ctx);
}

/* ---- who is the guest ---- */

static bool is_only(const struct engine *e, const struct ip *a)
{
	return !e->has_only || ip_in_prefix(a, &e->only);
}

/*
 * Peers: the sender speaks for itself. What others send is of interest to a
 * guest that the caller named.
 */
static bool choose_peer(const struct engine *e, const struct engine_packet *p, struct engine_guest *who, bool *from_guest)
{
	*who = p->guest;
	*from_guest = p->from_guest;
	if (who->id)
		return true;
	*from_guest = true;
	if (ip_is_none(&who->address))
		who->address = p->src.ip;
	if (is_only(e, &who->address) || is_only(e, &p->src.ip))
		return true;
	*from_guest = false;
	who->address = e->only.ip;
	return e->only.len == 128;
}

static bool choose_client(const struct engine *e, const struct engine_packet *p, enum discover_dir dir, struct engine_guest *who)
{
	*who = p->guest;
	if (who->id)
		return p->from_guest == (dir == DISCOVER_TO_REGISTRY);
	who->address = dir == DISCOVER_TO_REGISTRY ? p->src.ip : p->dst.ip;
	return is_only(e, &who->address);
}

/* By the ports; where both are of the protocol, by who opens the connection. */
static const struct discover_protocol *choose_protocol(const struct engine *e, const struct engine_packet *p, enum discover_dir *dir)
{
	const struct discover_protocol *to = engine_protocol_of_port(e, p->ip_proto, p->dst.port);
	const struct discover_protocol *from = engine_protocol_of_port(e, p->ip_proto, p->src.port);
	bool answers_syn = p->ip_proto == IPPROTO_TCP && p->tcp_flags & PACKET_TCP_SYN && p->tcp_flags & PACKET_TCP_ACK;

	if (to && from && p->ip_proto == IPPROTO_TCP) {
		struct flow_key key = { .id = p->guest.id, .client = p->dst, .server = p->src };

		if (answers_syn || map_find(&e->flows, &key, sizeof(key)))
			to = NULL;
	}
	*dir = to ? DISCOVER_TO_REGISTRY : DISCOVER_FROM_REGISTRY;
	return to ? to : from;
}

void engine_packet(struct engine *e, const struct engine_packet *p)
{
	const struct discover_protocol *protocol = NULL;
	struct engine_guest who;
	enum discover_dir dir = DISCOVER_TO_REGISTRY;
	bool from_guest, is_udp = p->ip_proto == IPPROTO_UDP;

	e->stats.packets++;
	e->frame = p->frame;
	e->now_ns = MAX(e->now_ns, p->time_ns);
	if (is_udp || p->ip_proto == IPPROTO_TCP)
		protocol = choose_protocol(e, p, &dir);
	if (!protocol) {
		e->stats.ignored++;
		return;
	}
	if (protocol->is_peer_to_peer) {
		if (is_udp && choose_peer(e, p, &who, &from_guest))
			take_udp(e, p, &who, protocol, dir, from_guest);
		else
			e->stats.ignored++;
		return;
	}
	if (!choose_client(e, p, dir, &who)) {
		e->stats.ignored++;
		return;
	}
	if (is_udp)
		take_udp(e, p, &who, protocol, dir, dir == DISCOVER_TO_REGISTRY);
	else
		flow_take(e, p, &who, protocol, dir);
}

/* ---- frames ---- */

static struct ip *learnt_address(struct engine *e, const uint8_t mac[static 6])
{
	struct map_link *l = map_find(&e->learnt, mac, 6);

	return l ? &container_of(l, struct learnt, link)->address : NULL;
}

/* Peers speak on their link only, also when they answer one of them alone (RFC 6762, section 11). */
static bool is_between_peers(const struct engine *e, const struct packet *p)
{
	const struct discover_protocol *from = p->kind == PACKET_UDP ? engine_protocol_of_port(e, IPPROTO_UDP, p->src_port) : NULL;

	return from && from->is_peer_to_peer;
}

/* ARP, and what no router passes on: there the MAC is the sender's own. */
static void learn(struct engine *e, const struct packet *p)
{
	bool is_local = p->kind == PACKET_ARP || (p->kind != PACKET_OTHER && ip_is_v4(&p->dst) && ip_is_multicast(&p->dst)) ||
			is_between_peers(e, p);
	static const uint8_t zero[4];
	struct learnt *l;

	if (!p->has_mac || !is_local || !ip_is_v4(&p->src) || !memcmp(p->src.b + 12, zero, 4))
		return;
	if (e->learnt.n >= MAX_LEARNT || learnt_address(e, p->src_mac))
		return;
	l = calloc(1, sizeof(*l));
	if (!l)
		return;
	memcpy(l->mac, p->src_mac, 6);
	l->address = p->src;
	if (map_add(&e->learnt, &l->link, l->mac, 6) < 0)
		free(l);
}

/* A frame, or the packet that it completes. The outcomes are those of packet_decode(). */
static int decode_frame(struct engine *e, const struct engine_frame *f, struct packet *ret_p)
{
	int r = packet_decode(f->link, f->data, f->len, f->wire_len, ret_p);

	if (r)
		return r;
	if (ret_p->kind == PACKET_FRAGMENT) {
		e->stats.fragments += !e->learning;
		e->stats.put_together += ipfrag_add(&e->fragments, ret_p, f->time_ns, ret_p) && !e->learning;
	}
	return 0;
}

void engine_learn(struct engine *e, const struct engine_frame *f)
{
	struct packet p;

	e->learning = true;
	if (decode_frame(e, f, &p) == 0)
		learn(e, &p);
}

/* The second pass begins with what it reads, not with what the first one ended with. */
static void learnt_all(struct engine *e)
{
	e->learning = false;
	ipfrag_deinit(&e->fragments);
	ipfrag_init(&e->fragments);
}

void engine_only_guest(struct engine *e, const struct ip_prefix *prefix)
{
	e->only = *prefix;
	e->has_only = true;
}

void engine_allow_missing_requests(struct engine *e)
{
	e->may_lack_requests = true;
}

static void frame_packet(struct engine *e, const struct engine_frame *f, const struct packet *p)
{
	const struct ip *v4 = p->has_mac ? learnt_address(e, p->src_mac) : NULL;
	struct engine_packet ep = {
		.src = { p->src, p->src_port }, .dst = { p->dst, p->dst_port }, .ip_proto = p->ip_proto,
		.tcp_flags = p->tcp_flags, .tcp_seq = p->tcp_seq, .tcp_ack = p->tcp_ack,
		.payload = p->payload, .len = p->len, .wire_len = p->wire_len,
		.frame = f->frame, .time_ns = f->time_ns,
	};

	/* Only a peer's packets are sure to come from the MAC's owner; choose_client() does not look. */
	if (v4 && !ip_is_v4(&p->src))
		ep.guest.address = *v4;
	engine_packet(e, &ep);
}

int engine_frame(struct engine *e, const struct engine_frame *f)
{
	struct packet p;
	int r;

	if (e->learning)
		learnt_all(e);
	r = decode_frame(e, f, &p);
	if (!e->tick_ns)
		e->tick_ns = f->time_ns;
	if (f->time_ns >= e->tick_ns + TICK_MS * 1000000ull)
		engine_tick(e, f->frame, f->time_ns);
	if (r) {
		e->stats.packets++;
		e->stats.malformed++;
		return r;
	}
	learn(e, &p);
	if (p.kind == PACKET_UDP || p.kind == PACKET_TCP) {
		frame_packet(e, f, &p);
	} else {
		e->stats.packets++;
		e->stats.ignored++;
	}
	return 0;
}

/* ---- time ---- */

void engine_tick(struct engine *e, uint64_t frame, uint64_t time_ns)
{
	e->tick_ns = time_ns;
	e->now_ns = MAX(e->now_ns, time_ns);
	list_for_each_safe(l, &e->guests_by_use) {
		struct guest *g = list_entry(l, struct guest, recent);
		struct discover_ctx ctx = engine_context(e, g, frame, time_ns);

		list_for_each_safe(fl, &g->flows)
			flow_tick(list_entry(fl, struct flow, of_guest), frame, time_ns);
		for (size_t i = 0; i < n_discover_protocols; i++)
			if (g->states[i] && discover_protocols[i]->tick)
				discover_protocols[i]->tick(g->states[i], &ctx);
	}
}

void engine_flush(struct engine *e)
{
	list_for_each_safe(l, &e->guests_by_use) {
		struct guest *g = list_entry(l, struct guest, recent);
		struct discover_ctx ctx = engine_context(e, g, e->frame, e->now_ns);

		list_for_each_safe(fl, &g->flows)
			flow_flush(list_entry(fl, struct flow, of_guest));
		for (size_t i = 0; i < n_discover_protocols; i++)
			if (g->states[i] && discover_protocols[i]->flush)
				discover_protocols[i]->flush(g->states[i], &ctx);
	}
}

/* ---- life ---- */

void engine_forget_guest(struct engine *e, uint64_t id)
{
	struct guest_key key = { .id = id };
	struct map_link *l = map_find(&e->guests, &key, sizeof(key));

	if (l)
		guest_free(e, container_of(l, struct guest, link));
}

const struct engine_stats *engine_stats(struct engine *e)
{
	struct engine_stats *s = &e->stats;

	s->duplicates = e->counts.duplicates;
	s->reordered = e->counts.reordered;
	s->out_of_window = e->counts.out_of_window;
	s->gaps = e->counts.gaps;
	s->gap_bytes = e->counts.gap_bytes;
	s->no_room = e->counts.no_memory;
	s->n_guests = e->guests.n;
	s->n_flows = e->flows.n;
	s->buffered_bytes = e->budget.used;
	return s;
}

static size_t or_default(size_t value, size_t by_default)
{
	return value ? value : by_default;
}

static void set_limits(struct engine *e, const struct engine_limits *l)
{
	const struct engine_limits *d = &default_limits;

	if (!l)
		l = d;
	e->limits = (struct engine_limits){
		.max_guests = or_default(l->max_guests, d->max_guests),
		.max_flows_per_guest = or_default(l->max_flows_per_guest, d->max_flows_per_guest),
		.max_flow_bytes = or_default(l->max_flow_bytes, d->max_flow_bytes),
		.max_guest_bytes = or_default(l->max_guest_bytes, d->max_guest_bytes),
		.max_total_bytes = or_default(l->max_total_bytes, d->max_total_bytes),
		.max_guest_held = or_default(l->max_guest_held, d->max_guest_held),
		.max_total_held = or_default(l->max_total_held, d->max_total_held),
	};
	e->budget.max = e->limits.max_total_bytes;
}

int engine_new(const struct engine_limits *limits, observation_fn *emit, void *emit_data, struct engine **ret_engine)
{
	struct engine *e = calloc(1, sizeof(*e));

	if (!e)
		return -ENOMEM;
	e->emit = emit;
	e->emit_data = emit_data;
	set_limits(e, limits);
	map_init(&e->guests);
	map_init(&e->flows);
	map_init(&e->learnt);
	list_init(&e->guests_by_use);
	ipfrag_init(&e->fragments);
	for (size_t i = 0; i < n_discover_protocols; i++) {
		const struct discover_protocol *p = discover_protocols[i];

		memcpy(e->ports[i].udp, p->udp_ports, sizeof(p->udp_ports));
		memcpy(e->ports[i].tcp, p->tcp_ports, sizeof(p->tcp_ports));
	}
	*ret_engine = e;
	return 0;
}

struct engine *engine_free(struct engine *e)
{
	if (!e)
		return NULL;
	list_for_each_safe(l, &e->guests_by_use)
		guest_free(e, list_entry(l, struct guest, recent));
	map_for_each(l, &e->learnt) {
		map_remove(&e->learnt, l);
		free(container_of(l, struct learnt, link));
	}
	map_deinit(&e->guests);
	map_deinit(&e->flows);
	map_deinit(&e->learnt);
	ipfrag_deinit(&e->fragments);
	free(e);
	return NULL;
}
