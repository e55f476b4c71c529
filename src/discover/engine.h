#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/ip.h"
#include "discover/observation.h"
#include "discover/protocol.h"

/*
 * The capture engine: packets in, observations out.
 *
 * It keeps guests, their flows and the state of each protocol for them, puts
 * TCP streams together, and feeds the observers of the protocol table. The
 * agent gives it records from the BPF ring buffer and copies of proxied
 * streams; `outrigger decode` gives it the frames of a file.
 *
 * A guest is looked at as a client of a registry, or as a peer in multicast
 * DNS. Packets of a guest that is itself the registry are not looked at: the
 * same packets are seen on the port of its client. So a frame that is captured
 * on two ports counts once.
 *
 * Everything is bounded by struct engine_limits; what had to be dropped for it
 * is counted. Not thread-safe; no I/O; time is what the packets and
 * engine_tick() say.
 */
struct engine;
struct engine_stream;

struct engine_limits {		/* 0: the default */
	size_t max_guests;		/* the one quiet for longest is forgotten */
	size_t max_flows_per_guest;
	size_t max_flow_bytes;		/* waiting for what is missing before them, each direction */
	size_t max_guest_bytes;		/* the same, over all flows of a guest */
	size_t max_total_bytes;		/* the same, over all guests */
	size_t max_guest_held;		/* what observers of a guest's connections hold of unfinished messages */
	size_t max_total_held;		/* the same, over all guests: whose hold most make room */
};

struct engine_stats {
	uint64_t packets;		/* given to the engine */
	uint64_t malformed;		/* frames that are no good IP, UDP, TCP or ARP */
	uint64_t fragments;		/* of IP */
	uint64_t put_together;		/* UDP and TCP packets that were made of them */
	uint64_t ignored;		/* of no protocol, or not of a guest as a client */
	uint64_t datagrams;		/* given to an observer */
	uint64_t senseless;		/* datagrams and messages that are none of their protocol */
	uint64_t streams_slept;		/* connections given up by their observer: of another protocol, TLS, malformed */
	uint64_t datagrams_cut;		/* not whole in the capture: given only to observers that can do with a part */
	uint64_t segments;		/* of TCP, with data */
	uint64_t duplicates;		/* segments that held nothing new */
	uint64_t reordered;		/* segments that had to wait */
	uint64_t out_of_window;		/* segments too far off to belong to the stream */
	uint64_t gaps;			/* holes given up */
	uint64_t gap_bytes;
	uint64_t no_room;		/* segments dropped because of the limits, or without memory */
	uint64_t flows;			/* opened */
	uint64_t flows_evicted;		/* closed for max_flows_per_guest */
	uint64_t guests_evicted;
	uint64_t streams_crowded;	/* given up for max_guest_held, or max_total_held */
	uint64_t no_memory;		/* dropped because an allocation failed */
	uint64_t observations;
	size_t n_guests;		/* now */
	size_t n_flows;
	size_t buffered_bytes;
};

/* @emit is called from within the calls below, never from elsewhere; it must not call the engine. */
MUST_CHECK int engine_new(const struct engine_limits *limits, observation_fn *emit, void *emit_data, struct engine **ret_engine);
struct engine *engine_free(struct engine *e);	/* does not flush */

/*
 * Replaces the ports of @protocol, for UDP and TCP alike as far as it speaks
 * them. -ENOENT: no such protocol; -E2BIG: more than ENGINE_MAX_PORTS. For
 * conversations that start afterwards.
 */
enum { ENGINE_MAX_PORTS = 16 };
MUST_CHECK int engine_set_ports(struct engine *e, const char *protocol, const uint16_t *ports, size_t n_ports);
MUST_CHECK int engine_add_port(struct engine *e, const char *protocol, uint16_t port);	/* beside those it has; the same errors */
/* Is it a port that a protocol listens on? For whoever sets up the capture. */
bool engine_wants_port(const struct engine *e, uint8_t ip_proto, uint16_t port);

/*
 * Who the guest is. @id is the caller's name for the guest that owns a port,
 * never 0, and stays the same while its addresses change; 0 in a record leaves
 * it to the engine: the client of the conversation, the sender of multicast
 * DNS. @address is the address to report, IPv4 if the guest has one.
 */
struct engine_guest {
	uint64_t id;
	struct ip address;
};

/* A packet whose headers are parsed already. */
struct engine_packet {
	struct ip_port src;
	struct ip_port dst;
	uint8_t ip_proto;		/* IPPROTO_UDP, IPPROTO_TCP; others are ignored */
	uint8_t tcp_flags;		/* PACKET_TCP_* */
	uint32_t tcp_seq;
	uint32_t tcp_ack;
	const uint8_t *payload;		/* valid for the call */
	size_t len;
	size_t wire_len;		/* what it had on the wire: >= @len. The rest is a gap */
	struct engine_guest guest;
	bool from_guest;		/* only with guest.id: sent by it, not to it */
	uint64_t frame;			/* from 1, rising */
	uint64_t time_ns;
};

/* A super-segment may be given in pieces, each with its own tcp_seq; SYN with the first, FIN with the last. */
void engine_packet(struct engine *e, const struct engine_packet *p);

/*
 * A whole frame of a capture. Learns which IPv4 address goes with which MAC,
 * so that a guest that speaks both families is one guest. Returns 0 or
 * PACKET_E_MALFORMED (counted, and nothing else happened).
 */
struct engine_frame {
	const uint8_t *data;
	size_t len;
	size_t wire_len;
	uint8_t link;			/* enum packet_link */
	uint64_t frame;
	uint64_t time_ns;
};
MUST_CHECK int engine_frame(struct engine *e, const struct engine_frame *f);

/*
 * The capture may lack requests whose answers it has: an answer of DNS that fits
 * no question then speaks for both, as long as no question contradicts it.
 * For files. On a guest's port all packets are seen, and such an answer is
 * somebody's lie, which the guest will not believe either.
 */
void engine_allow_missing_requests(struct engine *e);

/* The first pass over a file, which only learns addresses: optional, makes the reported ones stable. */
void engine_learn(struct engine *e, const struct engine_frame *f);

/* For engine_frame(): only conversations of guests in @prefix; a packet between two such is of the client. */
void engine_only_guest(struct engine *e, const struct ip_prefix *prefix);

/*
 * A TCP connection that is proxied instead of captured: bytes in order, both
 * directions. -ENOENT: no protocol has the server's port; -ENOMEM. The stream
 * must be closed before the engine is freed; closing is the end of both directions.
 */
MUST_CHECK int engine_stream_open(struct engine *e, const struct engine_guest *guest, const struct ip_port *client,
				  const struct ip_port *server, struct engine_stream **ret_stream);
/* false: nothing more to learn from this connection, stop copying. @frame counts chunks. */
bool engine_stream_data(struct engine_stream *s, enum discover_dir dir, const void *data, size_t len,
			uint64_t frame, uint64_t time_ns);
/* @len bytes of that direction were not copied. The same answer. */
bool engine_stream_gap(struct engine_stream *s, enum discover_dir dir, size_t len, uint64_t frame, uint64_t time_ns);
void engine_stream_end(struct engine_stream *s, enum discover_dir dir, uint64_t frame, uint64_t time_ns);
struct engine_stream *engine_stream_close(struct engine_stream *s, uint64_t frame, uint64_t time_ns);

/* About once a second: expires what is pending. engine_frame() does so by itself. */
void engine_tick(struct engine *e, uint64_t frame, uint64_t time_ns);

/* The end of the capture: gives up on holes, and lets every observer say what it still holds back. */
void engine_flush(struct engine *e);

/* The guest is gone: its flows, streams and state go; its open engine_streams swallow what they are fed. */
void engine_forget_guest(struct engine *e, uint64_t id);

/* As of now; valid until the next call. */
const struct engine_stats *engine_stats(struct engine *e);
