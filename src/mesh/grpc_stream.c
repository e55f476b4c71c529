/*
 * What nghttp2 tells about streams, and what it asks for. A stream's user data
 * is its call, or NULL once the call is over.
 */
#include "mesh/grpc_conn.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/secret.h"
#include "proto/grpc_frame.h"

enum {
	IN_BYTES_MAX = 32 << 20,	/* held by all calls of a connection */
	STRANGER_MAX = 4608 << 10,	/* the same, of a peer that has not shown who it is: a message of 4 MiB and its call */
	MAX_SETTINGS = 32,		/* entries in one frame: a flood otherwise */
};

static const uint8_t PING_DRAIN[8] = { 'd', 'r', 'a', 'i', 'n' };

static struct grpc_call *call_of(nghttp2_session *session, int32_t stream_id)
{
	return nghttp2_session_get_stream_user_data(session, stream_id);
}

/* --- heads --- */

/* Is there room for so much more of this peer's? A stranger may leave little with us, and all of them together not much more. */
static bool has_room(struct grpc_conn *c, size_t n)
{
	if (c->in_bytes + n > (c->known ? IN_BYTES_MAX : STRANGER_MAX))
		return false;
	if (c->known || !c->conf.held || *c->conf.held + n <= GRPC_STRANGERS_MAX)
		return true;
	if (c->ops->crowded)
		c->ops->crowded(c, c->owner);
	return *c->conf.held + n <= GRPC_STRANGERS_MAX;
}

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user_data)
{
	struct grpc_conn *c = user_data;
	struct grpc_call *call;

	if (!c->conf.server || frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
		return 0;
	if (!has_room(c, sizeof(*call)) || grpc_call_new(c, &call) < 0)
		return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
	call->stream_id = frame->hd.stream_id;
	nghttp2_session_set_stream_user_data(session, call->stream_id, call);
	return 0;
}

static bool name_is(const uint8_t *name, size_t len, const char *what)
{
	return len == strlen(what) && !memcmp(name, what, len);
}

/* "application/grpc", also with "+proto" or ";..." */
static bool is_grpc(const uint8_t *value, size_t len)
{
	static const char type[] = "application/grpc";
	size_t n = sizeof(type) - 1;

	return len >= n && !memcmp(value, type, n) && (len == n || value[n] == '+' || value[n] == ';');
}

static void take_status(struct grpc_call *call, const uint8_t *value, size_t len)
{
	unsigned code = 0;

	call->has_status = true;
	for (size_t i = 0; i < len; i++)
		code = value[i] >= '0' && value[i] <= '9' && code < 100 ? code * 10 + (value[i] - '0') : 100;
	call->status.code = len && code < _GRPC_CODE_N ? (enum grpc_code)code : GRPC_UNKNOWN;
}

/* What is no number, "-1" (never) among it, is the longest that we wait. */
static uint32_t take_pushback(const uint8_t *value, size_t len)
{
	enum { LONGEST_MS = 3600000 };
	uint32_t ms = 0;

	for (size_t i = 0; i < len; i++)
		ms = value[i] >= '0' && value[i] <= '9' && ms < LONGEST_MS ? ms * 10 + (value[i] - '0') : LONGEST_MS;
	return MIN(ms, (uint32_t)LONGEST_MS);
}

static void remember(struct grpc_call *call, const uint8_t *name, size_t namelen, const uint8_t *value, size_t valuelen)
{
	size_t before = call->meta.len;

	/* RFC 9113, section 6.5.2: a field counts 32 bytes more than it is long. */
	if (call->meta.len + namelen + valuelen + 32 > call->meta.max ||
	    bytes_append(&call->meta, name, namelen) < 0 || bytes_append(&call->meta, "", 1) < 0 ||
	    bytes_append(&call->meta, value, valuelen) < 0 || bytes_append(&call->meta, "", 1) < 0)
		call->meta_overflow = true;
	grpc_call_hold(call, call->meta.len - before);
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t namelen, const uint8_t *value,
		     size_t valuelen, uint8_t flags, void *user_data)
{
	struct grpc_conn *c = user_data;
	struct grpc_call *call = call_of(session, frame->hd.stream_id);

	(void)flags;
	if (!call)
		return 0;
	if (!c->conf.server && name_is(name, namelen, "grpc-status"))
		take_status(call, value, valuelen);
	else if (!c->conf.server && name_is(name, namelen, "grpc-message"))
		grpc_message_decode((const char *)value, valuelen, call->status.message, sizeof(call->status.message));
	else if (!c->conf.server && name_is(name, namelen, "grpc-retry-pushback-ms"))
		call->status.retry_ms = take_pushback(value, valuelen);
	else if (name_is(name, namelen, ":status"))
		call->http_status = (unsigned)strtoul((const char *)value, NULL, 10);	/* nghttp2 has checked the digits and ends it with zero */
	else if (name_is(name, namelen, "content-type"))
		call->is_grpc = is_grpc(value, valuelen);
	if (!call->responding && !call->meta_overflow)
		remember(call, name, namelen, value, valuelen);
	return 0;
}

/* --- requests --- */

static const char *refusal_below_grpc(const struct grpc_call *call)
{
	const char *method = grpc_call_metadata(call, ":method");

	if (!method || strcmp(method, "POST") != 0)
		return "405";
	return call->is_grpc ? NULL : "415";
}

static void take_request(struct grpc_conn *c, struct grpc_call *call)
{
	const char *encoding = grpc_call_metadata(call, "grpc-encoding");
	const char *timeout = grpc_call_metadata(call, "grpc-timeout");
	const char *path = grpc_call_metadata(call, ":path");
	const char *refusal = call->meta_overflow ? NULL : refusal_below_grpc(call);
	uint32_t ms = 0;

	if (refusal) {
		grpc_call_http_error(call, refusal);
		return;
	}
	if (!call->meta_overflow && path)
		call->path = strdup(path);
	if (call->meta_overflow)
		grpc_call_finish(call, GRPC_RESOURCE_EXHAUSTED, "metadata is larger than %zu bytes", c->conf.max_header_list);
	else if (!call->path)
		grpc_call_finish(call, GRPC_INTERNAL, "out of memory");
	else if (encoding && strcmp(encoding, "identity") != 0)
		grpc_call_finish(call, GRPC_UNIMPLEMENTED, "compression %s is not supported", encoding);
	else if (timeout && grpc_timeout_decode(timeout, strlen(timeout), &ms) < 0)
		grpc_call_finish(call, GRPC_INTERNAL, "grpc-timeout is malformed");
	else if (timeout && grpc_call_arm_deadline(call, ms) < 0)
		grpc_call_finish(call, GRPC_INTERNAL, "out of memory");
	else
		c->ops->request(c, c->owner, call);
}

static void take_response(struct grpc_call *call, const nghttp2_frame *frame)
{
	if (call->http_status >= 100 && call->http_status < 200) {
		call->http_status = 0;		/* RFC 9110, section 15.2: the final one is to come */
		bytes_clear(&call->meta);
		return;
	}
	call->responding = true;
	if (!(frame->hd.flags & NGHTTP2_FLAG_END_STREAM) && call->http_status == 200 && !call->is_grpc)
		grpc_call_abort(call, GRPC_UNKNOWN, "the server's answer is not gRPC");
}

static void take_headers(struct grpc_conn *c, struct grpc_call *call, const nghttp2_frame *frame)
{
	if (c->conf.server && frame->headers.cat == NGHTTP2_HCAT_REQUEST)
		take_request(c, call);
	else if (!c->conf.server && !call->responding)
		take_response(call, frame);
}

static int on_goaway(struct grpc_conn *c)
{
	if (c->conf.server || c->going_away)
		return 0;
	c->going_away = true;
	if (!c->ended && c->ops->going_away)
		c->ops->going_away(c, c->owner);
	return 0;
}

static void on_ping(nghttp2_session *session, struct grpc_conn *c, const nghttp2_frame *frame)
{
	if (!(frame->hd.flags & NGHTTP2_FLAG_ACK) || memcmp(frame->ping.opaque_data, PING_DRAIN, sizeof(PING_DRAIN)) != 0)
		return;
	if (!c->conf.server || !c->going_away || c->goaway_sent)
		return;
	c->goaway_sent = true;
	nghttp2_submit_goaway(session, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(session), NGHTTP2_NO_ERROR, NULL, 0);
}

static int on_frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *user_data)
{
	struct grpc_conn *c = user_data;
	struct grpc_call *call;

	if (frame->hd.type == NGHTTP2_SETTINGS)
		c->settings_seen = true;
	if (frame->hd.type == NGHTTP2_GOAWAY)
		on_goaway(c);
	if (frame->hd.type == NGHTTP2_PING)
		on_ping(session, c, frame);
	if (frame->hd.type == NGHTTP2_HEADERS && !c->zombie) {
		call = call_of(session, frame->hd.stream_id);
		if (call && !call->gone)
			take_headers(c, call, frame);
	}
	if ((frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA) && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) &&
	    !c->zombie) {
		call = call_of(session, frame->hd.stream_id);	/* anew: the head's callback may have ended it */
		if (call && !call->gone) {
			call->peer_closed = true;
			grpc_call_deliver(call);
		}
	}
	return c->zombie ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

/* --- data --- */

static int on_data(nghttp2_session *session, uint8_t flags, int32_t stream_id, const uint8_t *data, size_t len, void *user_data)
{
	struct grpc_conn *c = user_data;
	struct grpc_call *call = call_of(session, stream_id);
	int r;

	(void)flags;
	if (nghttp2_session_consume_connection(session, len) < 0)
		return NGHTTP2_ERR_CALLBACK_FAILURE;
	if (!call || call->gone || (c->conf.server && call->send_closed) || (!c->conf.server && call->http_status != 200)) {
		nghttp2_session_consume_stream(session, stream_id, len);	/* nobody wants it any more */
		return 0;
	}
	r = has_room(c, len) ? bytes_append(&call->in, data, len) : -ENOBUFS;
	if (r < 0) {
		grpc_call_abort(call, GRPC_RESOURCE_EXHAUSTED, r == -ENOMEM ? "out of memory" : "too much data is waiting");
		return 0;
	}
	grpc_call_hold(call, len);
	call->unacked += len;
	grpc_call_deliver(call);
	return c->zombie ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

static void add(struct grpc_trailers *t, const char *name, const char *value)
{
	t->nv[t->n++] = (nghttp2_nv){
		(uint8_t *)(uintptr_t)name, (uint8_t *)(uintptr_t)value, strlen(name), strlen(value), NGHTTP2_NV_FLAG_NONE,
	};
}

void grpc_trailers_make(const struct grpc_status *status, struct grpc_trailers *t)
{
	t->n = 0;
	snprintf(t->code, sizeof(t->code), "%d", (int)status->code);
	snprintf(t->retry_ms, sizeof(t->retry_ms), "%u", (unsigned)status->retry_ms);
	grpc_message_encode(status->message, t->message, sizeof(t->message));
	add(t, "grpc-status", t->code);
	if (t->message[0])
		add(t, "grpc-message", t->message);
	if (status->retry_ms)
		add(t, "grpc-retry-pushback-ms", t->retry_ms);
}

static void submit_trailers(nghttp2_session *session, struct grpc_call *call)
{
	struct grpc_trailers t;

	grpc_trailers_make(&call->status, &t);
	if (nghttp2_submit_trailer(session, call->stream_id, t.nv, t.n) < 0)
		nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, call->stream_id, NGHTTP2_INTERNAL_ERROR);
}

static ssize_t read_body(nghttp2_session *session, int32_t stream_id, uint8_t *buf, size_t size, uint32_t *data_flags,
			 nghttp2_data_source *source, void *user_data)
{
	struct grpc_conn *c = user_data;
	struct grpc_call *call = call_of(session, stream_id);

	(void)source;
	if (!call)
		return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;

	size_t n = MIN(size, call->out.len);
	if (n) {
		memcpy(buf, call->out.data, n);
		bytes_consume(&call->out, n);
	}
	if (!call->out.len && call->send_closed) {
		*data_flags |= NGHTTP2_DATA_FLAG_EOF;
		if (c->conf.server) {
			*data_flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
			submit_trailers(session, call);
		}
	} else if (!n) {
		call->deferred = true;
		return NGHTTP2_ERR_DEFERRED;
	}
	return (ssize_t)n;
}

const nghttp2_data_provider grpc_stream_body = { .read_callback = read_body };

static int on_frame_send(nghttp2_session *session, const nghttp2_frame *frame, void *user_data)
{
	struct grpc_conn *c = user_data;
	struct grpc_call *call;

	if ((frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA) || !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
		return 0;
	call = call_of(session, frame->hd.stream_id);
	if (!call)
		return 0;
	call->send_done = true;
	/* RFC 9113, section 8.1: the answer is complete, the rest of the request is not wanted. */
	if (c->conf.server && !call->peer_closed)
		nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, call->stream_id, NGHTTP2_NO_ERROR);
	return 0;
}

/* --- ends --- */

/* "HTTP to gRPC status code mapping" and "Errors" of the gRPC project. */
static enum grpc_code code_of_http(unsigned status)
{
	switch (status) {
	case 400: return GRPC_INTERNAL;
	case 401: return GRPC_UNAUTHENTICATED;
	case 403: return GRPC_PERMISSION_DENIED;
	case 404: return GRPC_UNIMPLEMENTED;
	case 429:
	case 502:
	case 503:
	case 504: return GRPC_UNAVAILABLE;
	default: return GRPC_UNKNOWN;
	}
}

static enum grpc_code code_of_reset(uint32_t error)
{
	switch (error) {
	case NGHTTP2_REFUSED_STREAM: return GRPC_UNAVAILABLE;
	case NGHTTP2_CANCEL: return GRPC_CANCELLED;
	case NGHTTP2_ENHANCE_YOUR_CALM: return GRPC_RESOURCE_EXHAUSTED;
	case NGHTTP2_INADEQUATE_SECURITY: return GRPC_PERMISSION_DENIED;
	default: return GRPC_INTERNAL;
	}
}

static struct grpc_status status_at_client(const struct grpc_call *call, uint32_t error)
{
	char text[80];

	if (call->has_status)
		return call->status;
	if (call->http_status && call->http_status != 200) {
		snprintf(text, sizeof(text), "the server answered HTTP status %u", call->http_status);
		return grpc_status_of(code_of_http(call->http_status), text);
	}
	if (error == NGHTTP2_NO_ERROR)
		return grpc_status_of(GRPC_INTERNAL, "the server ended the call without a status");
	snprintf(text, sizeof(text), "the server reset the call: %s", nghttp2_http2_strerror(error));
	return grpc_status_of(code_of_reset(error), text);
}

static int on_stream_close(nghttp2_session *session, int32_t stream_id, uint32_t error, void *user_data)
{
	struct grpc_conn *c = user_data;
	struct grpc_call *call = call_of(session, stream_id);

	if (!call || call->gone)
		return 0;
	call->stream_gone = true;
	nghttp2_session_set_stream_user_data(session, stream_id, NULL);
	if (c->conf.server) {
		struct grpc_status left = grpc_status_of(GRPC_CANCELLED, "the client has left");

		grpc_call_close(call, call->send_done ? &call->status : &left);
	} else {
		call->status = status_at_client(call, error);
		call->has_status = true;
		grpc_call_deliver(call);	/* what is left, then closed() */
	}
	return c->zombie ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

/* A request that never left: GOAWAY came first, or it was cancelled. */
static int on_frame_not_send(nghttp2_session *session, const nghttp2_frame *frame, int error, void *user_data)
{
	struct grpc_conn *c = user_data;

	if (c->conf.server || frame->hd.type != NGHTTP2_HEADERS)
		return 0;
	list_for_each(l, &c->calls) {
		struct grpc_call *call = list_entry(l, struct grpc_call, link);
		struct grpc_status status = grpc_status_of(GRPC_UNAVAILABLE, nghttp2_strerror(error));

		if (call->stream_id != frame->hd.stream_id)
			continue;
		call->stream_gone = true;
		nghttp2_session_set_stream_user_data(session, call->stream_id, NULL);
		grpc_call_close(call, &status);
		break;
	}
	return c->zombie ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

static void set_callbacks(nghttp2_session_callbacks *callbacks)
{
	nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
	nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
	nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame_recv);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
	nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_frame_send);
	nghttp2_session_callbacks_set_on_frame_not_send_callback(callbacks, on_frame_not_send);
	nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
}

/* The library's copies of heads have tokens in them. */
static void *mem_malloc(size_t size, void *data)
{
	(void)data;
	return malloc(size);
}

static void mem_free(void *p, void *data)
{
	(void)data;
	secret_free(p);
}

static void *mem_calloc(size_t n, size_t size, void *data)
{
	(void)data;
	return calloc(n, size);
}

static void *mem_realloc(void *p, size_t size, void *data)
{
	(void)data;
	return secret_realloc(p, size);
}

int grpc_stream_session_new(struct grpc_conn *c, nghttp2_session **ret_session)
{
	nghttp2_session_callbacks *callbacks = NULL;
	nghttp2_option *option = NULL;
	nghttp2_mem mem = { NULL, mem_malloc, mem_free, mem_calloc, mem_realloc };
	int r = NGHTTP2_ERR_NOMEM;

	if (nghttp2_session_callbacks_new(&callbacks) == 0 && nghttp2_option_new(&option) == 0) {
		set_callbacks(callbacks);
		nghttp2_option_set_no_auto_window_update(option, 1);
		nghttp2_option_set_no_closed_streams(option, 1);
		nghttp2_option_set_max_settings(option, MAX_SETTINGS);
		r = c->conf.server ? nghttp2_session_server_new3(ret_session, callbacks, c, option, &mem) :
				     nghttp2_session_client_new3(ret_session, callbacks, c, option, &mem);
	}
	nghttp2_option_del(option);
	nghttp2_session_callbacks_del(callbacks);
	return r < 0 ? -ENOMEM : 0;
}
