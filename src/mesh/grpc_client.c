/*
 * The client: from a target to an open connection, and calls from our side.
 */
#include "mesh/grpc_client.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "mesh/grpc_conn.h"
#include "mesh/resolve.h"

enum {
	CONNECT_TIMEOUT_MS = 10000,
	KEEPALIVE_MS = 30000,
	KEEPALIVE_TIMEOUT_MS = 20000,
	MAX_MESSAGE = 16 << 20,
	MAX_QUEUED = 4 << 20,
	WINDOW = 1 << 20,
	MAX_HEADER_LIST = 64 * 1024,
	METADATA_MAX = 16,
	METADATA_VALUE_MAX = 32 * 1024,
};

struct grpc_client {
	struct grpc_conn conn;
	struct loop *loop;
	char *target;
	char *host;			/* of @target, without brackets */
	char *authority;
	char *user_agent;
	struct tls_ctx *tls;

	struct tls_expect expect;	/* copies */
	char *server_name;
	char *trust_domain;
	char **ids;

	struct resolve *resolve;
	struct ip_port addrs[RESOLVE_MAX];
	size_t n_addrs;
	size_t at_addr;
	uint64_t give_up_ms;		/* monotonic */
	int socket;			/* to be used instead of dialling; -1: none, or used */
	struct defer start;

	const struct grpc_client_ops *ops;
	void *data;
};

/* --- connecting --- */

static int dial(struct grpc_client *client)
{
	uint64_t now = clock_mono_ms();
	uint32_t left = now < client->give_up_ms ? (uint32_t)(client->give_up_ms - now) : 1;

	if (client->socket >= 0)
		return grpc_link_connecting(client->loop, steal_fd(&client->socket), left, &grpc_conn_link_ops, &client->conn, &client->conn.link);
	return grpc_link_dial(client->loop, &client->addrs[client->at_addr], client->tls, &client->expect, left, &grpc_conn_link_ops,
			      &client->conn, &client->conn.link);
}

/* Tries the addresses from @at_addr on, until one takes the attempt. */
static void dial_next(struct grpc_client *client, int r, const char *text)
{
	for (; client->at_addr < client->n_addrs && clock_mono_ms() < client->give_up_ms; client->at_addr++) {
		r = dial(client);
		if (r == 0)
			return;
		text = strerror(-r);
	}
	grpc_conn_enter(&client->conn);
	grpc_conn_end(&client->conn, r, text);
	grpc_conn_leave(&client->conn);
}

static void on_resolved(struct resolve *query, void *data, int r, const char *text, const struct ip_port *addrs, size_t n_addrs)
{
	struct grpc_client *client = data;

	if (r == 0)
		memcpy(client->addrs, addrs, n_addrs * sizeof(*addrs));
	client->n_addrs = n_addrs;
	client->resolve = resolve_free(query);
	dial_next(client, r, text);
}

/* On a turn of its own, so that nothing fails inside grpc_client_new(). */
static int on_start(struct defer *d)
{
	struct grpc_client *client = container_of(d, struct grpc_client, start);

	if (client->n_addrs) {
		dial_next(client, 0, "");
		return 0;
	}
	int r = resolve_start(client->loop, client->target, on_resolved, client, &client->resolve);
	if (r < 0)
		dial_next(client, r, strerror(-r));
	return 0;
}

static int on_retry(struct defer *d)
{
	struct grpc_client *client = container_of(d, struct grpc_client, start);

	client->conn.link = grpc_link_free(client->conn.link);
	client->at_addr++;
	dial_next(client, -ETIMEDOUT, "connecting took too long");
	return 0;
}

static bool may_retry(struct grpc_conn *c, void *owner)
{
	struct grpc_client *client = owner;

	(void)c;
	if (client->at_addr + 1 >= client->n_addrs || clock_mono_ms() >= client->give_up_ms)
		return false;
	loop_defer(client->loop, &client->start, on_retry);
	return true;
}

/* --- the connection's events --- */

static void on_opened(struct grpc_conn *c, void *owner)
{
	struct grpc_client *client = owner;

	(void)c;
	if (client->ops->opened)
		client->ops->opened(client, client->data);
}

static void on_going_away(struct grpc_conn *c, void *owner)
{
	struct grpc_client *client = owner;

	(void)c;
	if (client->ops->going_away)
		client->ops->going_away(client, client->data);
}

static void on_closed(struct grpc_conn *c, void *owner, int r, const char *text)
{
	struct grpc_client *client = owner;

	(void)c;
	client->ops->closed(client, client->data, r, text);
}

static void destroy(struct grpc_conn *c, void *owner)
{
	struct grpc_client *client = owner;

	(void)c;
	tls_ctx_unref(client->tls);
	for (size_t i = 0; client->ids && i < client->expect.n_ids; i++)
		free(client->ids[i]);
	free(client->ids);
	free(client->server_name);
	free(client->trust_domain);
	free(client->user_agent);
	free(client->authority);
	free(client->host);
	close_fd(client->socket);
	free(client->target);
	free(client);
}

static const struct grpc_conn_ops conn_ops = {
	.may_retry = may_retry, .opened = on_opened, .going_away = on_going_away, .closed = on_closed, .destroy = destroy,
};

/* --- life --- */

static int parse_target(struct grpc_client *client, const char *target)
{
	const char *colon = strrchr(target, ':');
	char ip[IP_TEXT_LEN];

	client->target = strdup(target);
	if (!client->target)
		return -ENOMEM;
	if (ip_port_parse(target, &client->addrs[0]) == 0) {
		client->n_addrs = 1;
		client->host = strdup(ip_format(&client->addrs[0].ip, ip));
	} else if (colon && colon > target && target[0] != '[') {
		client->host = strndup(target, (size_t)(colon - target));
	} else {
		return -EINVAL;
	}
	return client->host ? 0 : -ENOMEM;
}

static int copy_ids(struct grpc_client *client, const struct tls_expect *expect)
{
	if (!expect->n_ids)
		return 0;
	client->ids = calloc(expect->n_ids, sizeof(*client->ids));
	if (!client->ids)
		return -ENOMEM;
	client->expect.n_ids = expect->n_ids;
	client->expect.ids = (const char *const *)client->ids;
	for (size_t i = 0; i < expect->n_ids; i++) {
		client->ids[i] = strdup(expect->ids[i]);
		if (!client->ids[i])
			return -ENOMEM;
	}
	return 0;
}

static int copy_expect(struct grpc_client *client, const struct grpc_client_options *o)
{
	const char *server_name = o->expect ? o->expect->server_name : NULL;
	const char *trust_domain = o->expect ? o->expect->trust_domain : NULL;

	if (!server_name && !o->any_server_name)
		server_name = client->host;
	if (server_name && !(client->server_name = strdup(server_name)))
		return -ENOMEM;
	if (trust_domain && !(client->trust_domain = strdup(trust_domain)))
		return -ENOMEM;
	client->expect.server_name = client->server_name;
	client->expect.trust_domain = client->trust_domain;
	return o->expect ? copy_ids(client, o->expect) : 0;
}

static int copy_options(struct grpc_client *client, const struct grpc_client_options *o)
{
	int r = parse_target(client, o->target);

	if (r == 0)
		r = copy_expect(client, o);
	if (r < 0)
		return r;
	client->authority = strdup(o->authority ?: o->target);
	client->user_agent = strdup(o->user_agent ?: "outrigger/" OUTRIGGER_VERSION);
	client->tls = o->tls ? tls_ctx_ref(o->tls) : NULL;
	return client->authority && client->user_agent ? 0 : -ENOMEM;
}

int grpc_client_new(struct loop *loop, const struct grpc_client_options *o, const struct grpc_client_ops *ops, void *data,
		    struct grpc_client **ret_client)
{
	struct grpc_conn_config conf = {
		.max_message = o->max_message ?: MAX_MESSAGE,
		.max_queued = o->max_queued ?: MAX_QUEUED,
		.window = o->window ?: WINDOW,
		.max_header_list = MAX_HEADER_LIST,
		.keepalive_ms = o->keepalive_ms ?: KEEPALIVE_MS,
		.keepalive_timeout_ms = o->keepalive_timeout_ms ?: KEEPALIVE_TIMEOUT_MS,
	};
	struct grpc_client *client = calloc(1, sizeof(*client));

	if (!client) {
		close_fd(o->socket ? *o->socket : -1);
		return -ENOMEM;
	}
	client->socket = o->socket ? *o->socket : -1;
	client->loop = loop;
	client->ops = ops;
	client->data = data;
	client->give_up_ms = clock_mono_ms() + (o->connect_timeout_ms ?: CONNECT_TIMEOUT_MS);
	int r = copy_options(client, o);
	if (r == 0)
		r = grpc_conn_init(&client->conn, loop, &conf, &conn_ops, client);
	if (r < 0) {
		destroy(NULL, client);
		return r;
	}
	loop_defer(loop, &client->start, on_start);
	*ret_client = client;
	return 0;
}

struct grpc_client *grpc_client_free(struct grpc_client *client)
{
	if (!client)
		return NULL;
	defer_cancel(&client->start);
	client->resolve = resolve_free(client->resolve);
	grpc_conn_deinit(&client->conn);
	return NULL;
}

void grpc_client_shut(struct grpc_client *client, const char *text)
{
	grpc_conn_enter(&client->conn);
	grpc_conn_end(&client->conn, -ESHUTDOWN, text);
	grpc_conn_leave(&client->conn);
}

bool grpc_client_usable(const struct grpc_client *client)
{
	return !client->conn.ended && !client->conn.going_away;
}

size_t grpc_client_n_calls(const struct grpc_client *client)
{
	return client->conn.n_calls;
}

/* --- calls --- */

static nghttp2_nv field(const char *name, const char *value)
{
	return (nghttp2_nv){ (uint8_t *)(uintptr_t)name, (uint8_t *)(uintptr_t)value, strlen(name), strlen(value), NGHTTP2_NV_FLAG_NONE };
}

static bool metadata_valid(const struct grpc_metadata *m)
{
	size_t len = strnlen(m->value, METADATA_VALUE_MAX);

	if (len == METADATA_VALUE_MAX || m->name[0] == ':' || !strncmp(m->name, "grpc-", 5))
		return false;
	return nghttp2_check_header_name((const uint8_t *)m->name, strlen(m->name)) && nghttp2_check_header_value((const uint8_t *)m->value, len);
}

static int submit(struct grpc_client *client, const struct grpc_call_options *o, struct grpc_call *call)
{
	nghttp2_nv nv[9 + METADATA_MAX];
	char timeout[16];
	size_t n = 0;

	nv[n++] = field(":method", "POST");
	nv[n++] = field(":scheme", client->tls ? "https" : "http");
	nv[n++] = field(":path", o->path);
	nv[n++] = field(":authority", client->authority);
	nv[n++] = field("te", "trailers");
	if (o->deadline_ms) {
		/* At most 8 digits: over a day is told in seconds. */
		snprintf(timeout, sizeof(timeout), o->deadline_ms < 100000000 ? "%um" : "%uS",
			 o->deadline_ms < 100000000 ? o->deadline_ms : o->deadline_ms / 1000);
		nv[n++] = field("grpc-timeout", timeout);
	}
	nv[n++] = field("content-type", "application/grpc");
	nv[n++] = field("user-agent", client->user_agent);
	nv[n++] = field("grpc-accept-encoding", "identity");
	for (size_t i = 0; i < o->n_metadata; i++) {
		nv[n] = field(o->metadata[i].name, o->metadata[i].value);
		if (!strcmp(o->metadata[i].name, "authorization"))
			nv[n].flags = NGHTTP2_NV_FLAG_NO_INDEX;		/* RFC 7541, section 7.1.3: secrets stay out of the tables */
		n++;
	}
	call->stream_id = nghttp2_submit_request(client->conn.session, NULL, nv, n, &grpc_stream_body, call);
	grpc_conn_kick(&client->conn);
	return call->stream_id < 0 ? (call->stream_id == NGHTTP2_ERR_NOMEM ? -ENOMEM : -ECONNRESET) : 0;
}

static int new_call(struct grpc_client *client, const struct grpc_call_options *o, struct grpc_call **ret_call)
{
	struct grpc_call *call;
	int r;

	if (!grpc_client_usable(client))
		return -ECONNRESET;
	if (o->n_metadata > METADATA_MAX)
		return -EINVAL;
	for (size_t i = 0; i < o->n_metadata; i++)
		if (!metadata_valid(&o->metadata[i]))
			return -EINVAL;
	r = grpc_call_new(&client->conn, &call);
	if (r < 0)
		return r;
	call->path = strdup(o->path);
	r = call->path ? 0 : -ENOMEM;
	if (r == 0 && o->deadline_ms)
		r = grpc_call_arm_deadline(call, o->deadline_ms);
	if (r == 0)
		r = submit(client, o, call);
	if (r < 0) {
		client->conn.n_calls--;
		grpc_call_free(call);
		return r;
	}
	*ret_call = call;
	return 0;
}

int grpc_client_stream(struct grpc_client *client, const struct grpc_call_options *options, const struct grpc_call_ops *ops, void *data,
		       struct grpc_call **ret_call)
{
	struct grpc_call *call;
	int r = new_call(client, options, &call);

	if (r < 0)
		return r;
	grpc_call_set_ops(call, ops, data);
	*ret_call = call;
	return 0;
}

int grpc_client_unary(struct grpc_client *client, const struct grpc_call_options *options, const ProtobufCMessage *request,
		      grpc_unary_fn *done, void *data, struct grpc_call **ret_call)
{
	struct grpc_call *call;
	int r = new_call(client, options, &call);

	if (r < 0)
		return r;
	r = grpc_call_send_pb(call, request);
	if (r < 0) {
		grpc_call_cancel(call);
		return r;
	}
	call->done = done;
	call->data = data;
	grpc_call_half_close(call);
	*ret_call = call;
	return 0;
}
