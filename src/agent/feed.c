/*
 * From the capture ring, and from the streams that the proxies copy, to the
 * engine; and from its observations to the catalog.
 */
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "agent/member.h"
#include "agent/sighting.h"
#include "agent/worker.h"
#include "base/clock.h"
#include "base/log.h"
#include "discover/protocol.h"
#include "proto/packet.h"

enum { MAX_TEES = 4096, MAX_TEES_OF_GUEST = 256, OBSERVATIONS_BURST_MS = 2000, BEHIND = 1 };	/* engine ids are even; the odd one next to it is what is behind the guest */

static struct pace_rate observation_rate(const struct worker *w)
{
	return (struct pace_rate){ .per_s = w->conf->limits.observations_per_s, .burst_ms = OBSERVATIONS_BURST_MS };
}

/* --- ports --- */

static int add_configured_ports(struct worker *w)
{
	for (size_t i = 0; i < n_discover_protocols && i < CONFIG_MAX_PROTOCOLS; i++) {
		const struct conf_uints *more = &w->conf->discovery.ports[i];

		for (size_t j = 0; j < more->n; j++) {
			int r = engine_add_port(w->engine, discover_protocols[i]->name, (uint16_t)more->v[j]);

			if (r < 0 && r != -EEXIST)
				return r;
		}
	}
	return 0;
}

int feed_set_ports(struct worker *w)
{
	struct monitor_sniff sniff[MONITOR_MAX_SNIFF];
	size_t n = 0;
	int r = add_configured_ports(w);

	if (r < 0)
		return r;
	for (uint32_t port = 1; port < 65536; port++)
		for (int udp = 0; udp < 2; udp++)
			if (engine_wants_port(w->engine, udp ? IPPROTO_UDP : IPPROTO_TCP, (uint16_t)port) && n < ELEMENTS(sniff)) {
				sniff[n++] = (struct monitor_sniff){ .port = (uint16_t)port, .udp = udp };
				if (!udp && w->n_tee_ports < ELEMENTS(w->tee_ports))
					w->tee_ports[w->n_tee_ports++] = port;
			}
	return monitor_sniff_set(w->monitor, sniff, n);
}

/* --- who --- */

static void learn(struct worker *w, struct guest_sighting *s, const struct place *p)
{
	struct guest *g;
	int r;

	snprintf(s->link.port, sizeof(s->link.port), "%s", p->port);
	s->link.vlan = p->vlan;
	/* A broadcast acknowledgement of DHCP comes out of every port. */
	if (s->source == GUEST_BY_DHCP && !guest_by_link(&w->guests, &s->link))
		return;
	w->n_sightings++;
	r = guest_learn(&w->guests, s, clock_mono_ms(), &g);
	if (r == GUEST_E_CONFLICT)
		LOG_LIMITED(LOG_L_WARN, "a guest claims an address that is another's", log_str("guest", g ? g->id : p->port), log_ip("address", &s->ip));
	else if (r == GUEST_E_REFUSED && g)
		LOG_LIMITED(LOG_L_WARN, "a guest claims an address that it may not have", log_str("guest", g->id), log_ip("address", &s->ip));
	else if (r == GUEST_E_FULL || r < 0)
		LOG_LIMITED(LOG_L_WARN, "no room for another guest or address", log_str("port", p->port), log_errno(r < 0 ? r : 0));
}

/* The guest that sent the packet, or that it is for. NULL: not to be told, or not to be looked at. */
static struct guest *guest_of(struct worker *w, const struct place *p, const struct capture_record *r, const struct ip *ip)
{
	struct guest_link link = { .vlan = p->vlan };
	struct guest *g;

	snprintf(link.port, sizeof(link.port), "%s", p->port);
	memcpy(link.mac, r->direction == CAPTURE_FROM_VM ? r->src_mac : r->dst_mac, 6);
	g = guest_by_link(&w->guests, &link);
	if (r->direction == CAPTURE_FROM_VM && (!g || (!guest_owns(g, ip) && !node_has_behind(nodes_find(w->nodes, g->id), ip)))) {
		struct guest_sighting s = { .link = link, .ip = *ip, .source = GUEST_BY_TRAFFIC };

		learn(w, &s, p);
		g = guest_by_link(&w->guests, &link);
	}
	if (!g || !member_of(g) || member_of(g)->policy->mode == POLICY_OFF)
		return NULL;
	if (r->direction == CAPTURE_FROM_VM && guest_owns(g, ip))
		guest_touch(&w->guests, g, clock_mono_ms());
	return g;
}

/* --- how much of one guest --- */

/* At most so many observations; what they come out of is not taken in before. False: counted, and budgets.c says whose. */
static bool may_observe(struct worker *w, struct guest *g)
{
	struct member *m = member_of(g);

	if (pace_left(&m->observations, observation_rate(w), clock_mono_ms()))
		return true;
	m->budgets.over[GUEST_B_OBSERVATIONS]++;
	return false;
}

/* --- packets --- */

static struct ip reported(const struct guest *g, const struct ip *ip)
{
	struct ip v4 = guest_primary_ip(g, false);

	return ip_is_v4(ip) || ip_is_none(&v4) ? *ip : v4;
}

static bool is_teed(const struct worker *w, const struct capture_record *r, bool from_guest);

static void give(struct worker *w, const struct capture_record *r, struct guest *g, const uint8_t *data, size_t len, size_t wire_len)
{
	bool from_guest = r->direction == CAPTURE_FROM_VM;
	const struct ip *ip = from_guest ? &r->src.ip : &r->dst.ip;
	bool first = r->offset == 0, last = r->offset + r->len >= r->total;
	bool behind = !guest_owns(g, ip);
	struct engine_packet p = {
		.src = r->src, .dst = r->dst,
		.ip_proto = r->kind == CAPTURE_UDP ? IPPROTO_UDP : IPPROTO_TCP,
		.tcp_seq = r->seq + r->offset, .tcp_ack = r->ack, .tcp_flags = r->tcp_flags,
		.payload = data, .len = len, .wire_len = wire_len,
		.guest = { .id = member_of(g)->engine_id + (behind ? BEHIND : 0), .address = behind ? *ip : reported(g, ip) },
		.from_guest = from_guest, .frame = w->frame, .time_ns = r->time_ns,
	};

	if ((r->tcp_flags & PACKET_TCP_SYN) && !first) {
		p.tcp_flags &= (uint8_t)~PACKET_TCP_SYN;
		p.tcp_seq++;
	}
	if (!last)
		p.tcp_flags &= (uint8_t)~PACKET_TCP_FIN;
	w->current = g;
	engine_packet(w->engine, &p);
	w->current = NULL;
}

/* A long datagram comes in pieces, one directly after the other. */
static void give_datagram(struct worker *w, const struct capture_record *r, struct guest *g)
{
	if (r->offset == 0 && r->len >= r->total) {
		give(w, r, g, r->data, r->len, r->total);
		return;
	}
	if (r->offset == 0)
		w->n_datagram = 0;
	if (r->offset != w->n_datagram || r->len > sizeof(w->datagram) - w->n_datagram)
		return;
	memcpy(w->datagram + w->n_datagram, r->data, r->len);
	w->n_datagram += r->len;
	if (w->n_datagram >= r->total || w->n_datagram == sizeof(w->datagram) || (r->flags & CAPTURE_CUT))
		give(w, r, g, w->datagram, w->n_datagram, MAX((size_t)r->total, w->n_datagram));
}

int feed_record(const struct capture_record *r, void *data)
{
	struct worker *w = data;
	struct place *p = places_by_slot(&w->places, r->vm);
	bool from_guest = r->direction == CAPTURE_FROM_VM;
	struct guest_sighting s;
	struct guest *g;

	if (!p || !p->up) {
		w->n_unplaced++;
		return 0;
	}
	if (r->kind == CAPTURE_LEARN) {
		if (sighting_decode(r->data, r->len, from_guest, &s) == 0)
			learn(w, &s, p);
		return 0;
	}
	if (r->offset == 0)
		w->frame++;
	/* What others multicast is heard on their own ports. */
	if (!from_guest && ip_is_multicast(&r->dst.ip))
		return 0;
	g = guest_of(w, p, r, from_guest ? &r->src.ip : &r->dst.ip);
	if (!g) {
		w->n_unplaced++;
		return 0;
	}
	if (!may_observe(w, g))
		return 0;
	if (r->kind == CAPTURE_UDP)
		give_datagram(w, r, g);
	else if (!is_teed(w, r, from_guest))
		give(w, r, g, r->data, r->len, r->flags & CAPTURE_CUT ? r->total - r->offset : r->len);
	return 0;
}

/* --- streams that a proxy copies --- */

struct tee {
	struct map_link by_addr;	/* worker.tees */
	struct list of_guest;		/* member.tees */
	struct ip_port ends[2];		/* client, server: the key */
	uint64_t conn_id;
	struct guest *guest;
	struct engine_stream *stream;	/* NULL: nothing more to learn */
	bool is_late;			/* its beginning was not copied: the agent is newer, or there was no room for it */
};

static bool is_teed(const struct worker *w, const struct capture_record *r, bool from_guest)
{
	struct ip_port ends[2] = { from_guest ? r->src : r->dst, from_guest ? r->dst : r->src };

	return map_find(&w->tees, ends, sizeof(ends));
}

static void tee_close(struct worker *w, struct tee *t)
{
	w->current = t->guest;
	if (t->stream)
		engine_stream_close(t->stream, w->frame, clock_mono_ns());
	w->current = NULL;
	map_remove(&w->tees, &t->by_addr);
	list_unlink(&t->of_guest);
	member_of(t->guest)->n_tees--;
	free(t);
}

/* Of one guest the stalest makes room, as captured connections do. */
static bool tee_has_room(struct worker *w, struct member *m)
{
	if (m->n_tees == MAX_TEES_OF_GUEST) {
		m->budgets.over[GUEST_B_OBSERVATIONS]++;
		tee_close(w, list_first(&m->tees, struct tee, of_guest));
	}
	return w->tees.n < MAX_TEES;
}

static void tee_is_late(struct tee *t, const Outrigger__Ipc__Tee *m)
{
	bool more = true;

	t->is_late = true;
	for (int dir = 0; t->stream && more && dir < 2; dir++)
		more = engine_stream_gap(t->stream, (enum discover_dir)dir, 0, 0, m->mono_ns);
	if (!more)
		t->stream = engine_stream_close(t->stream, 0, m->mono_ns);
}

static struct tee *tee_open(struct worker *w, const Outrigger__Ipc__Tee *m, struct guest *g)
{
	struct tee *t;
	int r;

	if (!tee_has_room(w, member_of(g)))
		return NULL;
	t = calloc(1, sizeof(*t));
	if (!t)
		return NULL;
	t->conn_id = m->conn_id;
	t->guest = g;
	r = ip_port_parse(m->client, &t->ends[0]);
	if (r == 0)
		r = ip_port_parse(m->server, &t->ends[1]);
	if (r == 0)
		r = map_add(&w->tees, &t->by_addr, t->ends, sizeof(t->ends));
	if (r < 0) {
		free(t);
		return NULL;
	}
	list_append(&member_of(g)->tees, &t->of_guest);
	member_of(g)->n_tees++;
	struct engine_guest who = { .id = member_of(g)->engine_id, .address = reported(g, &t->ends[0].ip) };
	if (engine_stream_open(w->engine, &who, &t->ends[0], &t->ends[1], &t->stream) < 0)
		t->stream = NULL;
	if (!m->open)
		tee_is_late(t, m);
	return t;
}

static struct tee *tee_find(struct worker *w, const Outrigger__Ipc__Tee *m)
{
	struct ip_port ends[2];
	struct map_link *l;

	if (ip_port_parse(m->client, &ends[0]) < 0 || ip_port_parse(m->server, &ends[1]) < 0)
		return NULL;
	l = map_find(&w->tees, ends, sizeof(ends));
	return l ? container_of(l, struct tee, by_addr) : NULL;
}

/* What was not copied, and what there is no time for, are holes that nobody will fill. */
static void tee_take(struct worker *w, struct tee *t, const Outrigger__Ipc__Tee *m, enum discover_dir dir)
{
	bool more = true, skip = m->data.len && !may_observe(w, t->guest);
	uint64_t hole = m->lost + (skip ? m->data.len : 0);

	if (t->stream && hole)
		more = engine_stream_gap(t->stream, dir, hole, w->frame, m->mono_ns);
	if (t->stream && more && m->data.len && !skip)
		more = engine_stream_data(t->stream, dir, m->data.data, m->data.len, w->frame, m->mono_ns);
	if (t->stream && !more)
		t->stream = engine_stream_close(t->stream, w->frame, m->mono_ns);
}

void feed_tee(struct proxy_vm *vm, const Outrigger__Ipc__Tee *m, void *data)
{
	struct worker *w = data;
	struct guest *g = guest_by_id(&w->guests, vm->id);
	enum discover_dir dir = m->from_server ? DISCOVER_FROM_REGISTRY : DISCOVER_TO_REGISTRY;
	struct tee *t = tee_find(w, m);

	if (!g || !member_of(g))
		return;
	if (t && (t->conn_id != m->conn_id || t->guest != g)) {
		tee_close(w, t);	/* the ports were used again */
		t = NULL;
	}
	w->frame++;
	if (!t && (m->open || m->data.len))
		t = tee_open(w, m, g);
	if (!t)
		return;
	w->current = g;
	tee_take(w, t, m, dir);
	if (t->stream && m->fin)
		engine_stream_end(t->stream, dir, w->frame, m->mono_ns);
	w->current = NULL;
	if (m->fin && (m->from_server || t->is_late))
		tee_close(w, t);
}

void feed_forget(struct worker *w, const struct guest *g)
{
	map_for_each(l, &w->tees) {
		struct tee *t = container_of(l, struct tee, by_addr);

		if (t->guest == g)
			tee_close(w, t);
	}
	engine_forget_guest(w->engine, member_of(g)->engine_id);
	engine_forget_guest(w->engine, member_of(g)->engine_id + BEHIND);
}

/* --- observations --- */

static void note_first(struct member *m, const struct observation *o)
{
	if (m->packet_ns)
		return;
	m->packet_ns = o->time_ns;
	m->found_ns = clock_mono_ns();
	m->first_frame = o->frame;
	snprintf(m->first_protocol, sizeof(m->first_protocol), "%s", o->protocol);
}

/*
 * Has our kernel ask who has the address: the answer, which comes by the guest's
 * port, is what is waited for. Discard (RFC 863) is nobody's service. A guest
 * cannot have us ask more than once a second, nor keep us from asking for another.
 */
static void ask_who_has(struct member *m, const struct ip *address)
{
	enum { DISCARD = 9, ASK_NS = 1000000000 };
	const struct ip_port at = { .ip = *address, .port = DISCARD };
	int family = ip_is_v4(address) ? AF_INET : AF_INET6;
	uint64_t now_ns = clock_mono_ns();
	struct sockaddr_storage sa;
	socklen_t len = ip_port_to_sockaddr(&at, family, &sa);
	CLEANUP_FD int fd = -1;

	if (now_ns - m->asked_ns < ASK_NS)
		return;
	m->asked_ns = now_ns;
	fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd >= 0 && sendto(fd, "", 0, 0, (const struct sockaddr *)&sa, len) < 0)
		log_debug("nobody can be asked who has it", log_ip("address", address), log_errno(-errno));
}

void feed_observation(const struct observation *o, void *data)
{
	struct worker *w = data;
	struct guest *g = w->current ? w->current : guest_by_ip(&w->guests, &o->guest);
	int r;

	if (!g || !member_of(g))
		return;
	log_debug("observed", log_str("kind", observation_kind_name(o->kind)), log_str("protocol", o->protocol),
		  log_str("service", o->service ? o->service : ""), log_str("guest", g->id));
	pace_take(&member_of(g)->observations, observation_rate(w), 1, clock_mono_ms());
	r = catalog_observe(&w->catalog, g, o, clock_mono_ns());
	switch (r) {
	case 0:
		note_first(member_of(g), o);
		break;
	case CATALOG_E_REFUSED:
		w->n_claims_refused++;
		LOG_LIMITED(LOG_L_INFO, "a registration is no claim", log_str("guest", g->id), log_str("service", o->service ? o->service : ""),
			    log_ip("address", &o->address));
		break;
	case CATALOG_E_UNPROVEN:
		w->n_claims_refused++;
		LOG_LIMITED(LOG_L_INFO, "a registration waits until the guest is seen with its address", log_str("guest", g->id), log_str("service", o->service),
			    log_ip("address", &o->address));
		ask_who_has(member_of(g), &o->address);
		break;
	case CATALOG_E_FULL:
		w->n_claims_full++;	/* budgets.c says whose */
		break;
	case CATALOG_E_PACED:
		break;
	case CATALOG_E_SHORT:
		LOG_LIMITED(LOG_L_ERROR, "no memory for a registration: it is tried again", log_str("guest", g->id), log_str("service", o->service));
		break;
	case CATALOG_E_IGNORED:
		break;
	default:
		LOG_LIMITED(LOG_L_ERROR, "an observation is lost", log_errno(r));
	}
}
