#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>
#include "base/bytes.h"
#include "base/defs.h"
#include "base/list.h"
#include "proto/h2_frame.h"
#include "proto/h2_headers.h"

/*
 * One HTTP/2 connection (RFC 9113), client or server, without I/O: what a
 * tunnel of HBONE needs. Frames come in through h2_recv(); what we send is put
 * into a buffer that the owner lends and drains (struct h2_out).
 *
 * Payload is never copied here. Incoming DATA is handed on where it lies.
 * Outgoing DATA is read from its socket straight behind a gap that is left for
 * the frame header (h2_data_begin(), h2_data_end()).
 *
 * Flow control is real: the peer gets credit when the owner says that bytes
 * have left our memory (h2_consume()).
 *
 * What a peer can do to keep us busy for nothing (PING, SETTINGS, empty
 * frames, streams opened and reset or made us reset, WINDOW_UPDATEs for data
 * that we never sent, endless CONTINUATION) is counted and bounded; over the
 * bound the connection ends with ENHANCE_YOUR_CALM.
 *
 * Streams are the owner's, embedded in its own objects. The connection keeps
 * those that are not closed in a table; a stream leaves it when both sides
 * have ended or one has reset it, before the callback that says so.
 */
struct h2;
struct h2_stream;

enum {
	_H2_E_SUCCESS,

	H2_E_FAILED,		/* a connection error: @error and @error_code say what; a GOAWAY has been written */
};

struct h2_out {			/* lent by the owner */
	uint8_t *data;
	size_t len;		/* written */
	size_t size;
};

struct h2_ops {
	/*
	 * Make room for @n more bytes in h->out (by sending what is there, or by
	 * lending another buffer). false: there is none, which fails the connection.
	 */
	bool (*room)(struct h2 *h, size_t n);

	/*
	 * Server: a request came. The owner calls h2_accept() for it from within,
	 * else it is refused, and answers with h2_respond() or h2_reset(), now or
	 * later. @end: without body.
	 */
	void (*request)(struct h2 *h, const struct h2_message *m, bool end);

	/* Client: the final response's header. */
	void (*response)(struct h2 *h, struct h2_stream *s, const struct h2_message *m, bool end);

	/* Bytes of the stream; @end: the peer has ended its direction (@len may be 0). */
	void (*data)(struct h2 *h, struct h2_stream *s, const uint8_t *data, size_t len, bool end);

	/* The stream is gone: reset by the peer, refused by a GOAWAY, or malformed (then by us, and @losing says so). */
	void (*reset)(struct h2 *h, struct h2_stream *s, uint32_t code);

	/* A stream that found its window shut (h2_data_begin() gave no room) may send again. */
	void (*writable)(struct h2 *h, struct h2_stream *s);

	/* The peer will take no new streams. Those that it has not seen were reset. */
	void (*goaway)(struct h2 *h, uint32_t code);

	/* The answer to h2_ping(). */
	void (*pong)(struct h2 *h);
};

struct h2_stream {
	struct h2_stream *next;		/* in the table */
	struct list blocked;		/* among those that wait for a window */
	uint32_t id;			/* 0: in no connection */
	int32_t send_window;
	int32_t recv_window;		/* what the peer may still send */
	uint32_t taken;			/* bytes consumed that the peer has not been told of */
	bool local_end : 1;		/* we have ended our direction */
	bool remote_end : 1;
	bool headers_seen : 1;		/* client: the final response has come */
	bool answered : 1;		/* server: h2_respond() was called */
};

struct h2_settings {			/* of ours */
	uint32_t max_streams;		/* that the peer may open */
	uint32_t stream_window;
	uint32_t connection_window;
	uint32_t max_frame_size;
};

extern const struct h2_settings h2_settings_default;

struct h2 {
	/* fixed */
	const struct h2_ops *ops;
	struct h2_settings settings;
	bool server;

	/* changes */
	struct h2_out out;
	nghttp2_hd_inflater *inflater;
	nghttp2_hd_deflater *deflater;
	struct h2_stream **slots;	/* table by id */
	uint32_t spread;		/* odd; nobody else knows it */
	uint32_t n_slots;		/* a power of two */
	uint32_t n_streams;
	struct list blocked;

	int64_t send_window;
	int64_t recv_window;
	uint32_t taken;

	uint32_t next_id;		/* of our next stream */
	uint32_t last_id;		/* highest that the peer has opened */
	uint32_t goaway_id;		/* of the GOAWAY that we sent: streams above it are not served */

	uint32_t peer_max_streams;
	uint32_t peer_window;		/* initial, of streams */
	uint32_t peer_frame_size;

	/* the frame that is coming in */
	struct bytes part;		/* its payload where it has to be whole */
	uint8_t small[24];		/* what is no longer (its header, the preface, most control frames): takes no memory */
	uint32_t n_small;
	struct h2_frame frame;
	uint32_t left;			/* payload bytes of a DATA or skipped frame still to come */
	uint32_t padding;		/* of these, at the end */
	uint8_t state;			/* of the input */

	/* the header block that is coming in */
	struct bytes block;
	uint32_t block_stream;		/* 0: none */
	uint8_t block_flags;
	uint8_t n_continuations;
	uint32_t incoming_id;		/* while @ops->request() runs and nobody has accepted */
	bool incoming_end;

	/* bounds */
	uint64_t now_ms;
	uint64_t calm_until_ms;		/* the window in which these are counted */
	uint32_t n_nuisances;
	uint32_t n_rapid_resets;
	uint32_t update_credit;		/* WINDOW_UPDATEs that what we sent may cause */
	uint32_t late_credit;		/* frames that may still come for streams that we have reset */

	bool settings_seen : 1;
	bool goaway_sent : 1;		/* the final one */
	bool draining : 1;		/* h2_shutdown() was called */
	bool goaway_seen : 1;
	bool ping_out : 1;
	bool failed : 1;
	bool losing : 1;		/* during @ops->reset(): it is we who reset, for the peer has broken the protocol on this stream */
	uint32_t error_code;
	const char *error;		/* constant text, after H2_E_FAILED */
	uint32_t n_frames;		/* that have come: what they cost beside their bytes; wraps */
	uint64_t bytes_in;		/* payload of DATA, both ways */
	uint64_t bytes_out;
};

/*
 * Writes our preface and SETTINGS into h->out, which @ops->room() is asked for.
 * @settings may be NULL. -ENOMEM.
 */
MUST_CHECK int h2_init(struct h2 *h, bool server, const struct h2_settings *settings, const struct h2_ops *ops);
/* The streams still open are forgotten without a callback. Harmless on a zeroed @h. */
void h2_deinit(struct h2 *h);

/*
 * Bytes from the peer, any number of them, at @now_ms (monotonic). Callbacks
 * come from within, and may call anything here but h2_deinit() and h2_recv().
 * 0, H2_E_FAILED (for good), -ENOMEM (the same).
 */
MUST_CHECK int h2_recv(struct h2 *h, const uint8_t *data, size_t len, uint64_t now_ms);

/* --- streams --- */

/* May a client open another stream? No after a GOAWAY, at the peer's limit, or when the ids are used up. */
bool h2_can_open(const struct h2 *h);
/*
 * Client: opens @s, which is zeroed, with a request. @headers are the pseudo
 * fields first. -EAGAIN when h2_can_open() says no; -E2BIG, -EINVAL, -ENOMEM.
 */
MUST_CHECK int h2_open(struct h2 *h, struct h2_stream *s, const struct h2_header *headers, size_t n, bool end);
/* Server, from @ops->request(): @s shall carry the request. -ENOMEM: it will be refused. */
MUST_CHECK int h2_accept(struct h2 *h, struct h2_stream *s);
/* Server: the response's header. */
MUST_CHECK int h2_respond(struct h2 *h, struct h2_stream *s, unsigned status, const struct h2_header *headers, size_t n, bool end);
/* Ends the stream at once; nothing more is called for it. Harmless when it is in no connection. */
void h2_reset(struct h2 *h, struct h2_stream *s, uint32_t code);
static inline bool h2_is_open(const struct h2_stream *s)	/* still in its connection */
{
	return s->id != 0;
}

enum { H2_PARTS = 16 };

/*
 * Room for at most @want bytes of payload in h->out: up to H2_PARTS stretches,
 * each with a gap for a frame header before it. Returns the bytes there is room
 * for; 0 when a window is shut (@ops->writable() will be called) or, with
 * h->failed, when there is no memory. Fill them in order and call
 * h2_data_end() before anything else is done with @h.
 */
size_t h2_data_begin(struct h2 *h, struct h2_stream *s, size_t want, struct iovec ret_iov[static H2_PARTS], size_t *ret_n);
/* @len bytes were filled in. @end: they are the last. With 0 bytes and without @end nothing is sent. */
void h2_data_end(struct h2 *h, struct h2_stream *s, size_t len, bool end);
/* Ends our direction without more data. */
void h2_end(struct h2 *h, struct h2_stream *s);

/*
 * @len bytes given to @ops->data() have left our memory: the peer may send as
 * many again. @s may be NULL or out of the connection: then only the
 * connection's window is meant. Every byte has to be consumed, also those of
 * streams that were reset.
 */
void h2_consume(struct h2 *h, struct h2_stream *s, size_t len);

/* --- the connection --- */

/* One at a time; @ops->pong() when it is answered. */
void h2_ping(struct h2 *h);
/*
 * Graceful end of a server: a GOAWAY that lets streams on their way still in,
 * and when the peer has seen that, the final one. A client just opens no more.
 */
void h2_shutdown(struct h2 *h);
/* Ends the connection now, with GOAWAY. */
void h2_goaway(struct h2 *h, uint32_t code);

static inline uint32_t h2_n_streams(const struct h2 *h)
{
	return h->n_streams;
}
