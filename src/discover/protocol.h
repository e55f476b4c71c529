#pragma once
#include "discover/observation.h"

/*
 * The seam between the engine (packets, flows, reassembly) and a discovery
 * protocol. Adding a protocol is one file with one `const struct
 * discover_protocol` and one row in protocols.c.
 *
 * An observer keeps state of one conversation (a TCP connection) or of one
 * guest (datagrams), is fed bytes in order, and emits observations. It does no
 * I/O and keeps no more than its stated limits; bytes that make no sense put
 * it to sleep or are skipped, never crash it.
 */
/*
 * What observers may decompress of a guest's connections: what is sniffed has
 * its budget by the byte, and compressed it is two hundred times that.
 */
enum { DISCOVER_DECODE_PER_S = 4 << 20, DISCOVER_DECODE_BURST = 16 << 20 };

struct discover_decoded {	/* zeroed: nothing yet */
	uint64_t since_ns;
	uint64_t bytes;		/* since then, less what has been forgiven */
};

struct discover_ctx {		/* of the engine, read-only for the observer, valid for the call */
	struct ip guest;
	uint64_t frame;
	uint64_t time_ns;
	observation_fn *emit;
	void *emit_data;
	uint64_t *senseless;	/* may be NULL */
	struct discover_decoded *decoded;	/* of the guest; NULL: without limit */
	bool may_lack_requests;	/* engine_allow_missing_requests() */
};

/* Counts a message that claims to be of the protocol and cannot be read. */
static inline void discover_senseless(const struct discover_ctx *ctx)
{
	if (ctx->senseless)
		++*ctx->senseless;
}

static inline bool discover_may_decode(const struct discover_ctx *ctx)
{
	struct discover_decoded *d = ctx->decoded;
	uint64_t ms;

	if (!d)
		return true;
	ms = ctx->time_ns > d->since_ns ? (ctx->time_ns - d->since_ns) / 1000000 : 0;
	if (ms) {
		uint64_t forgiven = ms > 1000000 ? d->bytes : ms * (DISCOVER_DECODE_PER_S / 1000);

		d->bytes -= forgiven < d->bytes ? forgiven : d->bytes;
		d->since_ns = ctx->time_ns;
	}
	return d->bytes < DISCOVER_DECODE_BURST;
}

static inline void discover_note_decoded(const struct discover_ctx *ctx, size_t n)
{
	if (ctx->decoded)
		ctx->decoded->bytes += n;
}

enum discover_dir { DISCOVER_TO_REGISTRY, DISCOVER_FROM_REGISTRY };

struct datagram {
	struct ip_port src;
	struct ip_port dst;
	enum discover_dir dir;	/* by the ports: to the protocol's port, or from it */
	bool from_guest;	/* sent by the guest (else to it) */
	bool cut;		/* the capture left out its end; only where takes_cut is set */
	const uint8_t *data;
	size_t len;
};

struct discover_protocol {
	const char *name;
	uint16_t udp_ports[4];	/* default ports, 0 ends the list */
	uint16_t tcp_ports[4];
	bool takes_cut;		/* makes sense of datagrams whose end is missing */
	bool is_peer_to_peer;	/* no registry in between: who sends a datagram speaks for itself */

	/* Datagrams. State per guest; NULL functions when the protocol has none over UDP. */
	void *(*guest_new)(void);
	void (*guest_free)(void *guest);
	void (*datagram)(void *guest, const struct datagram *d, const struct discover_ctx *ctx);

	/*
	 * TCP. @guest is the per-guest state of guest_new() (so that, say, a
	 * ZooKeeper session outlives its connection) or NULL.
	 */
	void *(*stream_new)(void *guest, const struct ip_port *client, const struct ip_port *server);
	void (*stream_free)(void *stream);
	/* Bytes in order. false: nothing more to learn from this connection (TLS, not the protocol): stop feeding. */
	bool (*stream_data)(void *stream, enum discover_dir dir, const uint8_t *data, size_t len, const struct discover_ctx *ctx);
	/*
	 * @len bytes of @dir were lost for good: resynchronise, or return false to
	 * give up. 0 bytes: the capture began in the middle of the connection, it
	 * is not known what came before.
	 *
	 * A direction's bytes are held back until the bytes that their sender had
	 * acknowledged were fed, or given up: an answer never overtakes its request.
	 */
	bool (*stream_gap)(void *stream, enum discover_dir dir, size_t len, const struct discover_ctx *ctx);
	void (*stream_end)(void *stream, enum discover_dir dir, const struct discover_ctx *ctx);	/* FIN or RST of that direction */
	/* Bytes that wait in it for what comes next: the engine has a budget for them. NULL: next to none. */
	size_t (*stream_held)(const void *stream);

	/* Time passes: expire what a silent guest leaves behind. Called about once a second of ctx->time_ns. */
	void (*tick)(void *guest, const struct discover_ctx *ctx);
	/* The capture is over: say now what was held back for more evidence. May be NULL, like tick. */
	void (*flush)(void *guest, const struct discover_ctx *ctx);
};

/* The table, in protocols.c. */
extern const struct discover_protocol *const discover_protocols[];
extern const size_t n_discover_protocols;
const struct discover_protocol *discover_protocol_by_name(const char *name);
