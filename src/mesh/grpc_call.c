/*
 * A call: its messages in and out, its end.
 */
#include "mesh/grpc.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/secret.h"
#include "mesh/grpc_conn.h"
#include "proto/grpc_frame.h"

static const char *const code_names[] = {
	[GRPC_OK] = "OK", [GRPC_CANCELLED] = "CANCELLED", [GRPC_UNKNOWN] = "UNKNOWN",
	[GRPC_INVALID_ARGUMENT] = "INVALID_ARGUMENT", [GRPC_DEADLINE_EXCEEDED] = "DEADLINE_EXCEEDED",
	[GRPC_NOT_FOUND] = "NOT_FOUND", [GRPC_ALREADY_EXISTS] = "ALREADY_EXISTS", [GRPC_PERMISSION_DENIED] = "PERMISSION_DENIED",
	[GRPC_RESOURCE_EXHAUSTED] = "RESOURCE_EXHAUSTED", [GRPC_FAILED_PRECONDITION] = "FAILED_PRECONDITION",
	[GRPC_ABORTED] = "ABORTED", [GRPC_OUT_OF_RANGE] = "OUT_OF_RANGE", [GRPC_UNIMPLEMENTED] = "UNIMPLEMENTED",
	[GRPC_INTERNAL] = "INTERNAL", [GRPC_UNAVAILABLE] = "UNAVAILABLE", [GRPC_DATA_LOSS] = "DATA_LOSS",
	[GRPC_UNAUTHENTICATED] = "UNAUTHENTICATED",
};
_Static_assert(ELEMENTS(code_names) == _GRPC_CODE_N, "every code has a name");

const char *grpc_code_name(enum grpc_code code)
{
	return (size_t)code < ELEMENTS(code_names) ? code_names[code] : "UNKNOWN";
}

struct grpc_status grpc_status_of(enum grpc_code code, const char *text)
{
	struct grpc_status status = { .code = code };

	snprintf(status.message, sizeof(status.message), "%s", text);
	return status;
}

/* --- life --- */

void grpc_call_hold(struct grpc_call *call, size_t n)
{
	call->held += n;
	call->conn->in_bytes += n;
	if (call->conn->conf.held)
		*call->conn->conf.held += n;
}

static void release(struct grpc_call *call, size_t n)
{
	call->held -= n;
	call->conn->in_bytes -= n;
	if (call->conn->conf.held)
		*call->conn->conf.held -= n;
}

int grpc_call_new(struct grpc_conn *c, struct grpc_call **ret_call)
{
	struct grpc_call *call = calloc(1, sizeof(*call));

	if (!call)
		return -ENOMEM;
	call->conn = c;
	bytes_init(&call->meta, c->conf.max_header_list);
	bytes_init(&call->in, c->conf.max_message + GRPC_FRAME_HEADER_LEN + c->conf.window);
	bytes_init(&call->out, MAX(c->conf.max_queued, c->conf.max_message) + GRPC_FRAME_HEADER_LEN);
	bytes_init(&call->reply, c->conf.max_message);
	call->meta.secret = call->in.secret = call->out.secret = call->reply.secret = true;
	list_append(&c->calls, &call->link);
	c->n_calls++;
	grpc_call_hold(call, sizeof(*call));
	*ret_call = call;
	return 0;
}

void grpc_call_free(struct grpc_call *call)
{
	list_unlink(&call->link);
	timer_cancel(&call->deadline);
	release(call, call->held);
	bytes_deinit(&call->meta);
	bytes_deinit(&call->in);
	bytes_deinit(&call->out);
	bytes_deinit(&call->reply);
	free(call->path);
	free(call);
}

/* Out of the living; its memory goes when nothing can point at it any more. */
static void retire(struct grpc_call *call, uint32_t reset)
{
	struct grpc_conn *c = call->conn;

	call->gone = true;
	timer_cancel(&call->deadline);
	list_unlink(&call->link);
	list_append(&c->graveyard, &call->link);
	c->n_calls--;
	if (!call->stream_gone && call->stream_id > 0) {
		nghttp2_session_set_stream_user_data(c->session, call->stream_id, NULL);
		nghttp2_submit_rst_stream(c->session, NGHTTP2_FLAG_NONE, call->stream_id, reset);
	}
	grpc_conn_kick(c);
}

void grpc_call_close(struct grpc_call *call, const struct grpc_status *status)
{
	struct grpc_status copy = *status;	/* it may be the call's own */

	if (call->gone)
		return;
	retire(call, NGHTTP2_CANCEL);
	if (call->done) {
		bool ok = copy.code == GRPC_OK && call->has_reply;

		if (copy.code == GRPC_OK && !ok)
			copy = grpc_status_of(GRPC_INTERNAL, "the server sent no message");
		call->done(call, call->data, &copy, ok ? (call->reply.data ?: (const uint8_t *)"") : NULL, ok ? call->reply.len : 0);
	} else if (call->ops) {
		call->ops->closed(call, call->data, &copy);
	}
}

void grpc_call_cancel(struct grpc_call *call)
{
	if (call && !call->gone)
		retire(call, NGHTTP2_CANCEL);
}

void grpc_call_abort(struct grpc_call *call, enum grpc_code code, const char *text)
{
	struct grpc_status status = grpc_status_of(code, text);

	if (call->conn->conf.server)
		grpc_call_finish(call, code, "%s", text);
	else
		grpc_call_close(call, &status);
}

static int on_deadline(struct timer *t)
{
	struct grpc_call *call = container_of(t, struct grpc_call, deadline);
	struct grpc_conn *c = call->conn;

	grpc_conn_enter(c);
	grpc_call_abort(call, GRPC_DEADLINE_EXCEEDED, "the deadline has passed");
	grpc_conn_leave(c);
	return 0;
}

int grpc_call_arm_deadline(struct grpc_call *call, uint32_t ms)
{
	return timer_arm(call->conn->loop, &call->deadline, ms, on_deadline);
}

/* --- in --- */

static void drop_input(struct grpc_call *call)
{
	release(call, call->in.len);
	bytes_clear(&call->in);
}

/* Gives the stream's window back what has been taken. */
static void acknowledge(struct grpc_call *call)
{
	if (!call->unacked)
		return;
	if (!call->stream_gone)
		nghttp2_session_consume_stream(call->conn->session, call->stream_id, call->unacked);
	call->unacked = 0;
	grpc_conn_kick(call->conn);
}

static const char *frame_error_text(int r)
{
	switch (r) {
	case GRPC_FRAME_E_COMPRESSED: return "compressed message without an agreement";
	case GRPC_FRAME_E_TOO_LARGE: return "message is too large";
	default: return "malformed message frame";
	}
}

static void abort_for_frame(struct grpc_call *call, int r)
{
	drop_input(call);
	grpc_call_abort(call, r == GRPC_FRAME_E_TOO_LARGE ? GRPC_RESOURCE_EXHAUSTED : GRPC_INTERNAL, frame_error_text(r));
}

/* One message to whoever is in charge. */
static void hand_over(struct grpc_call *call, const struct grpc_frame *frame)
{
	if (!call->done) {
		if (call->ops)
			call->ops->message(call, call->data, frame->message, frame->len);
	} else if (call->has_reply) {
		grpc_call_abort(call, GRPC_INTERNAL, "the server sent more than one message");
	} else if (bytes_append(&call->reply, frame->message, frame->len) < 0) {
		grpc_call_abort(call, GRPC_INTERNAL, "out of memory");
	} else {
		call->has_reply = true;
	}
}

/* A unary request waits for its end, since there must not be a second message. */
static void deliver_unary_request(struct grpc_call *call)
{
	struct grpc_frame frame;
	int r = grpc_frame_decode(call->in.data, call->in.len, call->conn->conf.max_message, &frame);

	if (r == GRPC_FRAME_E_MORE && !call->peer_closed)
		return;
	if (r == GRPC_FRAME_E_MORE || (r == 0 && frame.size != call->in.len)) {
		drop_input(call);
		grpc_call_finish(call, GRPC_INVALID_ARGUMENT, "a unary call takes exactly one message");
	} else if (r != 0) {
		abort_for_frame(call, r);
	} else if (call->peer_closed && !call->half_closed_told) {
		call->half_closed_told = true;
		timer_cancel(&call->deadline);
		call->method->unary(call, call->data, frame.message, frame.len);
		drop_input(call);
	}
}

static void deliver_messages(struct grpc_call *call)
{
	while (!call->gone && !call->paused && !(call->conn->conf.server && call->send_closed) && call->in.len) {
		struct grpc_frame frame;
		int r = grpc_frame_decode(call->in.data, call->in.len, call->conn->conf.max_message, &frame);

		if (r == GRPC_FRAME_E_MORE)
			return;
		if (r != 0) {
			abort_for_frame(call, r);
			return;
		}
		hand_over(call, &frame);
		if (!call->conn->zombie) {	/* else the connection takes it all */
			release(call, frame.size);
			bytes_consume(&call->in, frame.size);
		}
	}
}

static void deliver_end(struct grpc_call *call)
{
	/* The client's owner hears closed(), which waits for the stream's end. */
	bool ended = call->conn->conf.server ? call->peer_closed : call->stream_gone;

	if (!ended || call->half_closed_told)
		return;
	call->half_closed_told = true;
	if (!call->conn->conf.server) {
		struct grpc_status cut_off = grpc_status_of(GRPC_INTERNAL, "the last message is cut off");

		grpc_call_close(call, call->in.len && call->status.code == GRPC_OK ? &cut_off : &call->status);
	} else if (call->in.len) {
		drop_input(call);
		grpc_call_finish(call, GRPC_INTERNAL, "the last message is cut off");
	} else if (call->ops && call->ops->half_closed) {
		call->ops->half_closed(call, call->data);
	} else if (call->ops) {
		grpc_call_finish(call, GRPC_OK, NULL);
	}
}

void grpc_call_deliver(struct grpc_call *call)
{
	if (call->gone)
		return;
	if (call->conn->conf.server && call->send_closed)
		drop_input(call);
	else if (call->method && call->method->unary)
		deliver_unary_request(call);
	else
		deliver_messages(call);
	if (call->gone || call->paused)
		return;
	acknowledge(call);
	if (!(call->method && call->method->unary) && !(call->conn->conf.server && call->send_closed))
		deliver_end(call);
}

void grpc_call_pause(struct grpc_call *call, bool paused)
{
	if (call->gone)
		return;
	if (call->paused && !paused) {
		call->resumed = true;
		grpc_conn_kick(call->conn);
	}
	call->paused = paused;
}

/* --- out --- */

static void wake(struct grpc_call *call)
{
	if (call->deferred) {
		call->deferred = false;
		if (nghttp2_session_resume_data(call->conn->session, call->stream_id) < 0)
			return;		/* the stream is on its way out: on_stream_close() says so */
	}
	grpc_conn_kick(call->conn);
}

int grpc_call_respond(struct grpc_call *call)
{
	nghttp2_nv nv[] = {
		{ (uint8_t[]){ ":status" }, (uint8_t[]){ "200" }, 7, 3, NGHTTP2_NV_FLAG_NONE },
		{ (uint8_t[]){ "content-type" }, (uint8_t[]){ "application/grpc" }, 12, 16, NGHTTP2_NV_FLAG_NONE },
		{ (uint8_t[]){ "grpc-accept-encoding" }, (uint8_t[]){ "identity" }, 20, 8, NGHTTP2_NV_FLAG_NONE },
	};

	if (call->responding)
		return 0;
	call->responding = true;
	grpc_conn_kick(call->conn);
	return nghttp2_submit_response(call->conn->session, call->stream_id, nv, ELEMENTS(nv), &grpc_stream_body) < 0 ? -ENOMEM : 0;
}

int grpc_call_send(struct grpc_call *call, const void *bytes, size_t len)
{
	uint8_t header[GRPC_FRAME_HEADER_LEN];
	int r;

	if (call->gone || call->send_closed || call->stream_gone)
		return -EPIPE;
	if (len > call->conn->conf.max_message)
		return -EMSGSIZE;
	if (call->out.len && call->out.len + len > call->conn->conf.max_queued) {
		call->want_writable = true;
		return -ENOBUFS;
	}
	if (call->conn->conf.server) {
		r = grpc_call_respond(call);
		if (r < 0)
			return r;
	}
	if (!bytes_reserve(&call->out, len + sizeof(header)))
		return -ENOMEM;		/* nothing of it, rather than half */
	grpc_frame_header((uint32_t)len, header);
	r = bytes_append(&call->out, header, sizeof(header));
	if (r == 0)
		r = bytes_append(&call->out, bytes, len);
	wake(call);
	return r;
}

int grpc_call_send_pb(struct grpc_call *call, const ProtobufCMessage *message)
{
	size_t len = protobuf_c_message_get_packed_size(message);
	CLEANUP_SECRET uint8_t *bytes = malloc(len ? len : 1);

	if (!bytes)
		return -ENOMEM;
	protobuf_c_message_pack(message, bytes);
	return grpc_call_send(call, bytes, len);
}

size_t grpc_call_queued(const struct grpc_call *call)
{
	return call->out.len;
}

void grpc_call_half_close(struct grpc_call *call)
{
	if (call->gone || call->send_closed)
		return;
	call->send_closed = true;
	wake(call);
}

/* Trailers-Only: a status without anything before it. */
static void respond_status(struct grpc_call *call)
{
	struct grpc_trailers t;
	nghttp2_nv nv[3 + GRPC_TRAILERS_MAX] = {
		{ (uint8_t[]){ ":status" }, (uint8_t[]){ "200" }, 7, 3, NGHTTP2_NV_FLAG_NONE },
		{ (uint8_t[]){ "content-type" }, (uint8_t[]){ "application/grpc" }, 12, 16, NGHTTP2_NV_FLAG_NONE },
		{ (uint8_t[]){ "grpc-accept-encoding" }, (uint8_t[]){ "identity" }, 20, 8, NGHTTP2_NV_FLAG_NONE },
	};

	grpc_trailers_make(&call->status, &t);
	memcpy(nv + 3, t.nv, t.n * sizeof(*nv));
	call->responding = true;
	if (nghttp2_submit_response(call->conn->session, call->stream_id, nv, 3 + t.n, NULL) < 0)
		nghttp2_submit_rst_stream(call->conn->session, NGHTTP2_FLAG_NONE, call->stream_id, NGHTTP2_INTERNAL_ERROR);
	grpc_conn_kick(call->conn);
}

void grpc_call_retry_after(struct grpc_call *call, uint32_t ms)
{
	call->status.retry_ms = ms;
}

void grpc_call_finish(struct grpc_call *call, enum grpc_code code, const char *fmt, ...)
{
	va_list ap;

	if (call->gone || call->send_closed || call->stream_gone)
		return;
	call->send_closed = true;
	call->paused = false;
	timer_cancel(&call->deadline);
	call->status = (struct grpc_status){ .code = code, .retry_ms = call->status.retry_ms };
	if (fmt) {
		va_start(ap, fmt);
		vsnprintf(call->status.message, sizeof(call->status.message), fmt, ap);
		va_end(ap);
	}
	call->has_status = true;
	if (call->responding)
		wake(call);
	else
		respond_status(call);
}

void grpc_call_http_error(struct grpc_call *call, const char *status)
{
	nghttp2_nv nv = { (uint8_t[]){ ":status" }, (uint8_t *)(uintptr_t)status, 7, strlen(status), NGHTTP2_NV_FLAG_NONE };

	call->send_closed = call->responding = true;
	if (nghttp2_submit_response(call->conn->session, call->stream_id, &nv, 1, NULL) < 0)
		nghttp2_submit_rst_stream(call->conn->session, NGHTTP2_FLAG_NONE, call->stream_id, NGHTTP2_INTERNAL_ERROR);
	grpc_conn_kick(call->conn);
}

void grpc_call_reply_pb(struct grpc_call *call, const ProtobufCMessage *message)
{
	int r = grpc_call_send_pb(call, message);

	if (r < 0)
		grpc_call_finish(call, GRPC_INTERNAL, "%s", r == -EMSGSIZE ? "the answer is too large" : "out of memory");
	else
		grpc_call_finish(call, GRPC_OK, NULL);
}

/* --- facts --- */

void grpc_call_set_ops(struct grpc_call *call, const struct grpc_call_ops *ops, void *data)
{
	call->ops = ops;
	call->data = data;
}

const char *grpc_call_metadata(const struct grpc_call *call, const char *name)
{
	const char *p = (const char *)call->meta.data;
	const char *end = p + call->meta.len;

	while (p < end) {
		const char *value = p + strlen(p) + 1;

		if (!strcmp(p, name))
			return value;
		p = value + strlen(value) + 1;
	}
	return NULL;
}

const char *grpc_call_path(const struct grpc_call *call)
{
	return call->path;
}

const struct tls_session *grpc_call_session(const struct grpc_call *call)
{
	return call->conn->link ? grpc_link_session(call->conn->link) : NULL;
}

const char *grpc_call_peer_id(const struct grpc_call *call)
{
	const struct tls_session *tls = grpc_call_session(call);

	return tls ? tls_peer_id(tls) : NULL;
}

struct ip_port grpc_call_peer_addr(const struct grpc_call *call)
{
	return call->conn->link ? grpc_link_peer(call->conn->link) : (struct ip_port){};
}
