/*
 * Single checks. A kind is a row: how it starts once there is a socket.
 */
#include "proxy/attempt.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/bytes.h"
#include "grpc/health.pb-c.h"
#include "mesh/grpc_client.h"
#include "mesh/pb.h"
#include "mesh/plain_conn.h"
#include "mesh/tls_conn.h"
#include "proto/http1.h"

enum { REQUEST_MAX = 64 * 1024, GRPC_MESSAGE_MAX = 4096, WHY_LEN = 160 };

struct attempt {
	struct loop *loop;
	const struct kind *kind;
	const Outrigger__Health__Check *check;
	struct ip_port at;
	uint32_t timeout_ms;
	struct tls_ctx *tls_ctx;	/* only while it starts */
	struct timer timer;
	bool connected;
	struct plain_conn *conn;
	struct tls_conn *tls;
	struct http1 http;
	struct grpc_client *grpc;
	struct defer end;
	enum attempt_result result;
	char why[WHY_LEN];
	attempt_fn *fn;
	void *data;
};

struct kind {
	const char *name;
	int (*start)(struct attempt *a, int fd);	/* takes @fd over */
};

static void hang_up(struct attempt *a)
{
	timer_cancel(&a->timer);
	a->conn = plain_conn_free(a->conn);
	a->tls = tls_conn_free(a->tls);
	a->grpc = grpc_client_free(a->grpc);
}

struct attempt *attempt_free(struct attempt *a)
{
	if (!a)
		return NULL;
	hang_up(a);
	defer_cancel(&a->end);
	http1_deinit(&a->http);
	free(a);
	return NULL;
}

static int on_end(struct defer *d)
{
	struct attempt *a = container_of(d, struct attempt, end);
	attempt_fn *fn = a->fn;
	void *data = a->data;
	enum attempt_result result = a->result;
	char why[WHY_LEN];

	memcpy(why, a->why, sizeof(why));
	attempt_free(a);
	fn(data, result, why);
	return 0;
}

/* Said once: nothing is heard of the connection after it. */
static void finish(struct attempt *a, enum attempt_result result, const char *why)
{
	a->result = result;
	snprintf(a->why, sizeof(a->why), "%s", why);	/* may be the connection's: before that goes */
	hang_up(a);
	loop_defer(a->loop, &a->end, on_end);
}

static int on_timeout(struct timer *t)
{
	struct attempt *a = container_of(t, struct attempt, timer);
	bool connected = a->connected || (a->tls && tls_conn_connected(a->tls));
	char why[WHY_LEN];

	snprintf(why, sizeof(why), connected ? "connected, but no answer within %u ms" : "no answer to a SYN within %u ms", a->timeout_ms);
	finish(a, connected ? ATTEMPT_REFUSED : ATTEMPT_SILENT, why);
	return 0;
}

static bool nobody_there(int r)
{
	return r == -ETIMEDOUT || r == -EHOSTUNREACH || r == -ENETUNREACH;
}

static void closed(struct attempt *a, int r, const char *text)
{
	if (a->connected)
		finish(a, ATTEMPT_REFUSED, r ? text : "it closed the connection without an answer");
	else
		finish(a, nobody_there(r) ? ATTEMPT_SILENT : ATTEMPT_REFUSED, text);
}

static void on_closed(struct plain_conn *c, void *data, int r, const char *text)
{
	(void)c;
	closed(data, r, text);
}

static void on_nothing(struct plain_conn *c, void *data)
{
	(void)c;
	(void)data;
}

/* --- tcp --- */

static void on_tcp_opened(struct plain_conn *c, void *data)
{
	(void)c;
	finish(data, ATTEMPT_OK, "");
}

static void on_tcp_received(struct plain_conn *c, void *data, const uint8_t *bytes, size_t len)
{
	(void)c;
	(void)data;
	(void)bytes;
	(void)len;
}

static int start_tcp(struct attempt *a, int fd)
{
	static const struct plain_conn_ops ops = {
		.opened = on_tcp_opened, .received = on_tcp_received, .drained = on_nothing, .closed = on_closed,
	};

	return plain_conn_new(a->loop, fd, true, a->timeout_ms, &ops, a, &a->conn);
}

/* --- http --- */

static int write_request(const struct attempt *a, struct bytes *out)
{
	const Outrigger__Health__Check *c = a->check;
	char at[IP_PORT_TEXT_LEN];
	int r = bytes_appendf(out, "GET %s%s HTTP/1.1\r\nHost: %s\r\nUser-Agent: outrigger/%s\r\nAccept: */*\r\nConnection: close\r\n",
			      c->path[0] == '/' ? "" : "/", c->path, c->host[0] ? c->host : ip_port_format(&a->at, at), OUTRIGGER_VERSION);

	for (size_t i = 0; i < c->n_headers && r == 0; i++)
		r = bytes_appendf(out, "%s: %s\r\n", c->headers[i]->name, c->headers[i]->value);
	return r < 0 ? r : bytes_append_str(out, "\r\n");
}

static void http_opened(struct attempt *a)
{
	struct bytes out;
	int r;

	a->connected = true;
	bytes_init(&out, REQUEST_MAX);
	r = write_request(a, &out);
	if (r == 0)
		r = a->tls ? tls_conn_write(a->tls, out.data, out.len) : plain_conn_write(a->conn, out.data, out.len);
	bytes_deinit(&out);
	if (r < 0)
		finish(a, ATTEMPT_REFUSED, strerror(-r));
}

static void judge_status(struct attempt *a, unsigned status)
{
	char why[WHY_LEN];

	snprintf(why, sizeof(why), "HTTP status %u", status);
	if (status >= 200 && status < 400)
		finish(a, ATTEMPT_OK, "");
	else
		finish(a, ATTEMPT_REFUSED, why);
}

static void http_received(struct attempt *a, const uint8_t *bytes, size_t len)
{
	while (len) {
		struct http1_event event;
		size_t used = 0;
		int r = http1_parse(&a->http, bytes, len, &used, &event);

		if (r) {
			finish(a, ATTEMPT_REFUSED, r < 0 ? strerror(-r) : "its answer is not HTTP/1");
			return;
		}
		if (event.type == HTTP1_HEAD && a->http.head.status >= 200) {
			judge_status(a, a->http.head.status);
			return;
		}
		bytes += used;
		len -= used;
	}
}

static void on_http_opened(struct plain_conn *c, void *data)
{
	(void)c;
	http_opened(data);
}

static void on_http_received(struct plain_conn *c, void *data, const uint8_t *bytes, size_t len)
{
	(void)c;
	http_received(data, bytes, len);
}

static int start_http(struct attempt *a, int fd)
{
	static const struct plain_conn_ops ops = {
		.opened = on_http_opened, .received = on_http_received, .drained = on_nothing, .closed = on_closed,
	};

	return plain_conn_new(a->loop, fd, true, a->timeout_ms, &ops, a, &a->conn);
}

/* --- https --- */

int attempt_tls_new(struct tls_ctx **ret_tls)
{
	static const char *const alpn[] = { "http/1.1", NULL };
	const struct tls_config config = { .role = TLS_CLIENT, .verify = TLS_VERIFY_NOTHING, .alpn = alpn, .allow_tls12 = true };
	struct diag d = {};

	return tls_ctx_new(&config, ret_tls, &d);
}

static void on_https_opened(struct tls_conn *c, void *data)
{
	(void)c;
	http_opened(data);
}

static void on_https_received(struct tls_conn *c, void *data, const uint8_t *bytes, size_t len)
{
	(void)c;
	http_received(data, bytes, len);
}

static void on_https_closed(struct tls_conn *c, void *data, int r, const char *text)
{
	(void)c;
	closed(data, r, text);
}

static int start_https(struct attempt *a, int fd)
{
	static const struct tls_conn_ops ops = { .opened = on_https_opened, .received = on_https_received, .closed = on_https_closed };
	const struct tls_conn_options options = { .open_timeout_ms = 2 * a->timeout_ms };	/* ours comes first, and knows more */
	const char *host = a->check->host;
	const struct tls_expect expect = { .server_name = host[0] && !strchr(host, ':') ? host : NULL };

	return tls_conn_connecting(a->loop, fd, &a->at, a->tls_ctx, &expect, &options, &ops, a, &a->tls);
}

/* --- grpc: PROTOCOL and health/v1/health.proto of the gRPC project --- */

static void on_grpc_opened(struct grpc_client *client, void *data)
{
	struct attempt *a = data;

	(void)client;
	a->connected = true;
}

static void on_grpc_closed(struct grpc_client *client, void *data, int r, const char *text)
{
	(void)client;
	finish(data, nobody_there(r) ? ATTEMPT_SILENT : ATTEMPT_REFUSED, r ? text : "it closed the connection without an answer");
}

static void judge_answer(struct attempt *a, const uint8_t *bytes, size_t len)
{
	static const char *const names[] = { "it says UNKNOWN", "", "it says NOT_SERVING", "it says SERVICE_UNKNOWN" };
	ProtobufCMessage *m;
	unsigned status;

	if (pb_unpack(&grpc__health__v1__health_check_response__descriptor, bytes, len, 0, &m) < 0) {
		finish(a, ATTEMPT_REFUSED, "its answer is no HealthCheckResponse");
		return;
	}
	status = (unsigned)((const Grpc__Health__V1__HealthCheckResponse *)(const void *)m)->status;
	pb_free(m);
	if (status == GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING)
		finish(a, ATTEMPT_OK, "");
	else
		finish(a, ATTEMPT_REFUSED, status < ELEMENTS(names) ? names[status] : "it says a status that there is not");
}

static void on_grpc_answer(struct grpc_call *call, void *data, const struct grpc_status *status, const uint8_t *bytes, size_t len)
{
	struct attempt *a = data;
	char why[WHY_LEN];

	(void)call;
	if (status->code == GRPC_OK && bytes) {
		judge_answer(a, bytes, len);
		return;
	}
	if (!grpc_client_usable(a->grpc))
		return;		/* it ends with its connection: on_grpc_closed() knows more */
	snprintf(why, sizeof(why), "%s %.100s", grpc_code_name(status->code), status->message);
	finish(a, ATTEMPT_REFUSED, why);
}

static int start_grpc(struct attempt *a, int fd)
{
	static const struct grpc_client_ops ops = { .opened = on_grpc_opened, .closed = on_grpc_closed };
	const struct grpc_call_options call = { .path = "/grpc.health.v1.Health/Check" };
	Grpc__Health__V1__HealthCheckRequest request = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
	char target[IP_PORT_TEXT_LEN];
	const struct grpc_client_options options = {
		.socket = &fd, .target = ip_port_format(&a->at, target), .authority = a->check->host[0] ? a->check->host : NULL,
		.connect_timeout_ms = a->timeout_ms, .max_message = GRPC_MESSAGE_MAX, .max_queued = REQUEST_MAX,
	};
	struct grpc_call *unused;
	int r = grpc_client_new(a->loop, &options, &ops, a, &a->grpc);

	request.service = a->check->service;
	return r < 0 ? r : grpc_client_unary(a->grpc, &call, &request.base, on_grpc_answer, a, &unused);
}

/* --- all --- */

static const struct kind kinds[] = { { "tcp", start_tcp }, { "http", start_http }, { "https", start_https }, { "grpc", start_grpc } };

static const struct kind *kind_of(const char *name)
{
	for (size_t i = 0; i < ELEMENTS(kinds); i++)
		if (!strcmp(kinds[i].name, name))
			return &kinds[i];
	return NULL;
}

int attempt_start(struct loop *loop, int fd, const struct attempt_options *o, attempt_fn *fn, void *data, struct attempt **ret_attempt)
{
	const struct kind *kind = kind_of(o->check->kind);
	struct attempt *a = kind ? calloc(1, sizeof(*a)) : NULL;
	/* No FIN, no TIME_WAIT: the server sees a connection that was given up. */
	const struct linger reset = { .l_onoff = 1 };
	int r;

	if (!a) {
		close_fd(fd);
		return kind ? -ENOMEM : -EINVAL;
	}
	*a = (struct attempt){
		.loop = loop, .kind = kind, .check = o->check, .at = o->at, .timeout_ms = o->timeout_ms, .tls_ctx = o->tls, .fn = fn, .data = data,
	};
	http1_init(&a->http, HTTP1_RESPONSE, false);
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	r = kind->start(a, fd);
	a->tls_ctx = NULL;
	if (r == 0)
		r = timer_arm(loop, &a->timer, o->timeout_ms, on_timeout);
	if (r < 0) {
		attempt_free(a);
		return r;
	}
	*ret_attempt = a;
	return 0;
}
