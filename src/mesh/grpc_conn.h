#pragma once
#include <nghttp2/nghttp2.h>
#include "base/bytes.h"
#include "base/list.h"
#include "base/loop.h"
#include "mesh/grpc.h"
#include "mesh/grpc_client.h"
#include "mesh/grpc_link.h"
#include "mesh/grpc_server.h"

/*
 * The common half of client and server: an HTTP/2 session with its calls.
 * Private to grpc_*.c.
 *
 * Whatever comes in (bytes, timers, deferred work) enters and leaves by
 * grpc_conn_enter() and grpc_conn_leave(); callbacks of users run between the
 * two only. What a callback frees is marked and goes when the last one leaves.
 * Output is not sent where it arises but once a turn, by the deferred flush.
 */
struct grpc_conn;

struct grpc_conn_ops {
	/* The link failed before it was open: true when the owner will give us another one. May be NULL. */
	bool (*may_retry)(struct grpc_conn *c, void *owner);
	void (*opened)(struct grpc_conn *c, void *owner);
	void (*going_away)(struct grpc_conn *c, void *owner);		/* client: GOAWAY has come */
	void (*request)(struct grpc_conn *c, void *owner, struct grpc_call *call);	/* server: a valid head of a request */
	/* server: strangers hold too much all together; others of them may have to go. May be NULL. */
	void (*crowded)(struct grpc_conn *c, void *owner);
	void (*closed)(struct grpc_conn *c, void *owner, int r, const char *text);
	void (*destroy)(struct grpc_conn *c, void *owner);		/* behind grpc_conn_deinit(): free what embeds it */
};

struct grpc_conn_config {
	bool server;
	size_t max_message;
	size_t max_queued;
	uint32_t window;
	uint32_t max_streams;
	size_t max_header_list;
	uint32_t keepalive_ms;
	uint32_t keepalive_timeout_ms;
	size_t *held;			/* by all connections of a server; NULL: not counted */
};

struct grpc_conn {
	/* fixed */
	struct loop *loop;
	struct grpc_conn_config conf;
	const struct grpc_conn_ops *ops;
	void *owner;

	/* changes */
	struct grpc_link *link;		/* NULL until the client has dialled */
	nghttp2_session *session;
	struct list calls;
	struct list graveyard;		/* calls that are over: freed by the deferred work */
	size_t n_calls;
	size_t in_bytes;		/* held by all calls */
	bool known;			/* the peer has shown who it is: by its certificate, or to a method that let it open a stream */
	struct defer work;
	struct timer keepalive;
	uint64_t last_recv_ms;
	unsigned entered;
	bool open;			/* the link takes bytes */
	bool was_open;
	bool settings_seen;		/* the peer speaks HTTP/2 */
	bool ping_out;
	bool going_away;		/* no new calls */
	bool goaway_sent;
	bool shut;
	bool ended;			/* closed() was called, or we are being freed */
	bool zombie;			/* to be freed by grpc_conn_leave() */
};

struct grpc_call {
	struct list link;
	struct grpc_conn *conn;
	int32_t stream_id;
	char *path;
	const struct grpc_call_ops *ops;
	void *data;

	/* unary */
	const struct grpc_method *method;	/* server */
	grpc_unary_fn *done;			/* client */
	struct bytes reply;
	bool has_reply;

	struct bytes meta;		/* the peer's: name, zero, value, zero, ... */
	struct bytes in;		/* not delivered yet */
	size_t held;			/* what is counted for it: itself, and the two above */
	size_t unacked;			/* bytes that the stream's window has not got back */
	struct bytes out;		/* frames */
	struct timer deadline;
	struct grpc_status status;
	unsigned http_status;

	bool gone;			/* no callback any more */
	bool paused;
	bool resumed;			/* deliver in the deferred work */
	bool responding;		/* server: response headers are submitted; client: the final ones have come */
	bool is_grpc;			/* content type */
	bool meta_overflow;
	bool has_status;
	bool send_closed;		/* no more messages from us */
	bool send_done;			/* END_STREAM has been sent */
	bool peer_closed;		/* END_STREAM has come */
	bool half_closed_told;
	bool stream_gone;		/* the session has closed it */
	bool deferred;			/* the session waits for our data */
	bool want_writable;
};

/* grpc_conn.c */
MUST_CHECK int grpc_conn_init(struct grpc_conn *c, struct loop *loop, const struct grpc_conn_config *conf,
			      const struct grpc_conn_ops *ops, void *owner);
/* Cancels all calls and closes. Its memory is given to ops->destroy(), at once or when nothing of it is on the stack any more. */
void grpc_conn_deinit(struct grpc_conn *c);
extern const struct grpc_link_ops grpc_conn_link_ops;	/* data: the connection */
void grpc_conn_enter(struct grpc_conn *c);
void grpc_conn_leave(struct grpc_conn *c);
void grpc_conn_end(struct grpc_conn *c, int r, const char *text);
void grpc_conn_kick(struct grpc_conn *c);	/* there is deferred work */
void grpc_conn_drain(struct grpc_conn *c);	/* server: GOAWAY */

/* grpc_stream.c: the session's callbacks */
MUST_CHECK int grpc_stream_session_new(struct grpc_conn *c, nghttp2_session **ret_session);
extern const nghttp2_data_provider grpc_stream_body;
enum { GRPC_STRANGERS_MAX = 64 << 20 };		/* bytes held for all strangers of a server */

/* grpc_call.c */
MUST_CHECK int grpc_call_new(struct grpc_conn *c, struct grpc_call **ret_call);
void grpc_call_free(struct grpc_call *call);
void grpc_call_hold(struct grpc_call *call, size_t n);
void grpc_call_deliver(struct grpc_call *call);
/* Ends it for its owner. The stream is reset where it still lives. */

/* How a status is written. */
enum { GRPC_TRAILERS_MAX = 3 };
struct grpc_trailers {
	nghttp2_nv nv[GRPC_TRAILERS_MAX];	/* point into the rest */
	size_t n;
	char message[GRPC_MESSAGE_LEN * 3];
	char code[12];
	char retry_ms[12];
};
void grpc_trailers_make(const struct grpc_status *status, struct grpc_trailers *t);

void grpc_call_close(struct grpc_call *call, const struct grpc_status *status);
void grpc_call_abort(struct grpc_call *call, enum grpc_code code, const char *text);
MUST_CHECK int grpc_call_arm_deadline(struct grpc_call *call, uint32_t ms);
MUST_CHECK int grpc_call_respond(struct grpc_call *call);	/* server: submits the response headers */
void grpc_call_http_error(struct grpc_call *call, const char *status);	/* server: an answer below gRPC */
struct grpc_status grpc_status_of(enum grpc_code code, const char *text);
