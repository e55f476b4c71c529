#pragma once
#include "base/list.h"
#include "base/map.h"
#include "discover/engine.h"
#include "discover/ipfrag.h"
#include "discover/protocol.h"
#include "discover/reasm.h"

/*
 * The inside of the engine, shared by its two halves: engine.c has the ports,
 * the guests and the way of a packet; engine_flow.c the connections.
 */
enum {
	MAX_PROTOCOLS = 8,
	MAX_LEARNT = 4096,
	TICK_MS = 1000,
	CLOSED_FLOW_MS = 60 * 1000,	/* remembered, so that a late copy of its packets is nothing new */
};

struct guest_key {
	uint64_t id;
	struct ip address;	/* none with an id */
};

struct guest {
	struct map_link link;
	struct guest_key key;
	struct list recent;	/* in engine.guests_by_use */
	struct ip address;	/* to report */
	struct reasm_budget budget;
	struct list flows;	/* the one in use last is last */
	struct list streams;	/* struct engine_stream */
	size_t n_flows;
	size_t held;		/* by all of them */
	struct discover_decoded decoded;
	void *states[MAX_PROTOCOLS];
};

struct flow_key {
	uint64_t id;
	struct ip_port client;
	struct ip_port server;
	uint32_t pad;		/* the key is hashed as bytes */
};
_Static_assert(sizeof(struct flow_key) == 8 + 18 + 18 + 4, "a key without holes");

struct flow {
	struct map_link link;
	struct flow_key key;
	struct list of_guest;
	struct engine *engine;
	struct guest *guest;
	const struct discover_protocol *protocol;
	void *stream;		/* NULL: nothing more to learn */
	size_t held;		/* by the stream */
	struct reasm reasm;
	uint64_t last_ns;
	uint64_t frame;
};

struct engine_stream {
	struct list of_guest;
	struct engine *engine;
	struct guest *guest;	/* NULL: forgotten */
	const struct discover_protocol *protocol;
	void *stream;
	size_t held;
	bool ended[2];
};

struct learnt {			/* which IPv4 address a MAC has */
	struct map_link link;
	uint8_t mac[6];
	struct ip address;
};

struct ports {
	uint16_t udp[ENGINE_MAX_PORTS];
	uint16_t tcp[ENGINE_MAX_PORTS];
};

struct engine {
	struct engine_limits limits;
	observation_fn *emit;
	void *emit_data;
	struct ports ports[MAX_PROTOCOLS];
	struct map guests;
	struct list guests_by_use;
	struct map flows;
	struct map learnt;
	struct ipfrag fragments;	/* of frames: engine_packet() gets whole packets */
	struct reasm_budget budget;
	size_t held;
	struct reasm_counts counts;
	struct engine_stats stats;
	struct ip_prefix only;
	bool has_only;
	bool may_lack_requests;
	bool learning;		/* the first pass over a file: engine_learn() */
	uint64_t tick_ns;
	uint64_t now_ns;
	uint64_t frame;
};

struct discover_ctx engine_context(struct engine *e, struct guest *g, uint64_t frame, uint64_t time_ns);
const struct discover_protocol *engine_protocol_of_port(const struct engine *e, uint8_t ip_proto, uint16_t port);
/* The guest's record, made when there is none; NULL: no memory. */
struct guest *engine_guest_get(struct engine *e, const struct engine_guest *who);
/* The protocol's state for the guest; NULL: it has none, or no memory. */
void *engine_guest_state(struct guest *g, const struct discover_protocol *protocol);

void flow_take(struct engine *e, const struct engine_packet *p, const struct engine_guest *who,
	       const struct discover_protocol *protocol, enum discover_dir dir);
void flow_tick(struct flow *f, uint64_t frame, uint64_t time_ns);
void flow_flush(struct flow *f);
void flow_free(struct flow *f);
/* The stream lives on without its guest, and swallows what it is fed. */
void engine_stream_orphan(struct engine_stream *s);
