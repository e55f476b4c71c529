/*
 * Requests to the Kubernetes API.
 */
#include "control/kube_client.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "control/kube_config.h"

enum {
	TIMEOUT_MS = 10000,
	ANSWER_MAX = 64 << 20,		/* a page of a list */
	LINE_MAX_BYTES = 8 << 20,	/* etcd holds objects of 1.5 MiB */
	WATCH_SILENCE_S = 150,		/* bookmarks come about every minute */
	TEXT_LEN = 900,
};

struct kube_client {
	struct loop *loop;
	struct http_client *http;
	char *kubeconfig;
	char *context;
	uint32_t timeout_ms;
	struct kube_config config;	/* the last good one */
	struct list calls;
};

struct kube_call {
	struct list link;
	struct kube_client *client;
	struct http_call *http;
	struct kube_request q;		/* @what is ours */
	char *what;
	struct bytes in;
	struct defer refuse;		/* the credentials cannot be read */
	char refusal[TEXT_LEN];
	int status;
};

static void call_free(struct kube_call *call)
{
	defer_cancel(&call->refuse);
	http_cancel(call->http);
	bytes_deinit(&call->in);
	list_unlink(&call->link);
	free(call->what);
	free(call);
}

struct kube_call *kube_cancel(struct kube_call *call)
{
	if (call)
		call_free(call);
	return NULL;
}

/* --- the answer --- */

static const struct {
	int status;
	enum kube_error error;
	const char *text;
} statuses[] = {
	{ 401, KUBE_CREDENTIALS, "our credentials are refused (expired or revoked?)" },
	{ 403, KUBE_FORBIDDEN, "not permitted" },
	{ 404, KUBE_NOT_FOUND, "not found" },
	{ 409, KUBE_CONFLICT, "conflict" },
	{ 410, KUBE_GONE, "too old a version" },
	{ 429, KUBE_TOO_MANY, "too many requests" },
};

static enum kube_error classify(int status, const char **ret_text)
{
	for (size_t i = 0; i < ELEMENTS(statuses); i++)
		if (statuses[i].status == status) {
			*ret_text = statuses[i].text;
			return statuses[i].error;
		}
	*ret_text = status >= 500 ? "the API server failed" : "the API server refuses it";
	return status >= 500 ? KUBE_SERVER : KUBE_INVALID;
}

/* The message of a Status object. */
static const char *status_message(const json_t *json)
{
	const char *text = json ? json_string_value(json_object_get(json, "message")) : NULL;

	return text ? text : "";
}

static void end(struct kube_call *call, const struct kube_answer *answer)
{
	list_unlink(&call->link);
	list_init(&call->link);
	call->http = NULL;
	call->q.done(call, call->q.data, answer);
	call_free(call);
}

static void on_done(struct http_call *http, void *data, const struct http_result *result)
{
	struct kube_call *call = data;
	struct kube_answer a = { .status = result->status, .text = "", .retry_after_s = result->retry_after_s };
	char text[TEXT_LEN];
	const char *words;

	(void)http;
	if (result->status && !result->error[0] && (!call->q.line || result->status >= 300) && call->in.len)
		a.json = json_loadb((const char *)call->in.data, call->in.len, 0, NULL);
	if (!result->status || (result->error[0] && result->status < 300)) {
		a.error = KUBE_UNREACHABLE;
		snprintf(text, sizeof(text), "%s: %s: %s", call->what, call->client->config.server,
			 result->timed_out ? "no answer in time" : result->error);
		a.text = text;
	} else if (result->status >= 300) {
		a.error = classify(result->status, &words);
		snprintf(text, sizeof(text), "%s: %s: %.600s", call->what, words, a.json ? status_message(a.json) : "");
		a.text = text;
	} else if (!a.json && !call->q.line) {
		a.error = KUBE_SERVER;
		snprintf(text, sizeof(text), "%s: the answer is not JSON", call->what);
		a.text = text;
	}
	end(call, &a);
	json_decref(a.json);
}

/* --- as it comes --- */

static void on_head(struct http_call *http, void *data, int status)
{
	struct kube_call *call = data;

	(void)http;
	if (status < 300 && call->q.opened)
		call->q.opened(call, call->q.data);
}

/* Whole lines of a watch. */
static int take_lines(struct kube_call *call)
{
	uint8_t *newline;

	while (call->in.len && (newline = memchr(call->in.data, '\n', call->in.len))) {
		size_t n = (size_t)(newline - call->in.data) + 1;
		json_t *object = json_loadb((const char *)call->in.data, n, 0, NULL);
		int r = object ? call->q.line(call, call->q.data, object) : -EBADMSG;

		json_decref(object);
		if (r < 0)
			return r;
		bytes_consume(&call->in, n);
	}
	return 0;
}

static int on_body(struct http_call *http, void *data, int status, const void *bytes, size_t len)
{
	struct kube_call *call = data;
	int r = bytes_append(&call->in, bytes, len);

	(void)http;
	return r < 0 || !call->q.line || status >= 300 ? r : take_lines(call);
}

/* --- requests --- */

static int on_refuse(struct defer *d)
{
	struct kube_call *call = container_of(d, struct kube_call, refuse);
	const struct kube_answer a = { .error = KUBE_CREDENTIALS, .text = call->refusal };

	end(call, &a);
	return 0;
}

/* Reads the credentials as they are now. */
static int refresh(struct kube_client *c, struct diag *d)
{
	struct kube_config now;
	int r = kube_config_load(c->kubeconfig, c->context, &now, d);

	if (r < 0)
		return r;
	kube_config_deinit(&c->config);
	c->config = now;
	return 0;
}

static int send_request(struct kube_call *call, const struct kube_request *q)
{
	static const struct http_ops ops = { .head = on_head, .body = on_body, .done = on_done };
	const struct kube_client *c = call->client;
	CLEANUP_FREE char *url = NULL, *authorization = NULL, *type = NULL, *body = NULL;
	const char *headers[4] = { "Accept: application/json" };
	size_t n = 1;

	if (asprintf(&url, "%s%s", c->config.server, q->path) < 0)
		url = NULL;
	if (asprintf(&type, "Content-Type: %s", q->content_type ? q->content_type : "application/json") < 0)
		type = NULL;
	if (c->config.token && asprintf(&authorization, "Authorization: Bearer %s", c->config.token) < 0)
		authorization = NULL;
	if (q->body)
		body = json_dumps(q->body, JSON_COMPACT);
	if (!url || !type || (c->config.token && !authorization) || (q->body && !body))
		return -ENOMEM;
	if (q->body)
		headers[n++] = type;
	if (authorization)
		headers[n++] = authorization;
	const struct http_request request = {
		.method = q->method, .url = url, .headers = headers, .body = body, .n_body = body ? strlen(body) : 0,
		.ca_pem = c->config.ca_pem, .cert_pem = c->config.cert_pem, .key_pem = c->config.key_pem,
		.timeout_ms = q->line ? 0 : c->timeout_ms, .silence_timeout_s = q->line ? WATCH_SILENCE_S : 0, .data = call,
	};
	return http_start(c->http, &request, &ops, &call->http);
}

int kube_start(struct kube_client *c, const struct kube_request *q, struct kube_call **ret_call)
{
	struct kube_call *call = calloc(1, sizeof(*call));
	char text[DIAG_TEXT_LEN];
	struct diag diag = {};
	int r;

	if (!call)
		return -ENOMEM;
	call->client = c;
	call->q = *q;
	call->what = strdup(q->what);
	bytes_init(&call->in, q->line ? LINE_MAX_BYTES : ANSWER_MAX);
	list_append(&c->calls, &call->link);
	r = call->what ? refresh(c, &diag) : -ENOMEM;
	if (r == 0)
		r = send_request(call, q);
	if (r < 0 && diag.msg[0]) {
		snprintf(call->refusal, sizeof(call->refusal), "%.60s: %s", call->what, diag_format(&diag, text));
		loop_defer(c->loop, &call->refuse, on_refuse);
		r = 0;
	}
	if (r < 0) {
		call_free(call);
		return r;
	}
	*ret_call = call;
	return 0;
}

/* --- life --- */

int kube_client_new(struct loop *loop, const struct kube_options *o, struct kube_client **ret_client, struct diag *reterr_diag)
{
	struct kube_client *c = calloc(1, sizeof(*c));
	int r = -ENOMEM;

	if (!c)
		return r;
	c->loop = loop;
	c->timeout_ms = o->timeout_ms ? o->timeout_ms : TIMEOUT_MS;
	list_init(&c->calls);
	c->kubeconfig = o->kubeconfig ? strdup(o->kubeconfig) : NULL;
	c->context = o->context ? strdup(o->context) : NULL;
	if (!o->kubeconfig == !c->kubeconfig && !o->context == !c->context)
		r = refresh(c, reterr_diag);
	if (r == 0)
		r = http_client_new(loop, &c->http);
	if (r < 0) {
		kube_client_free(c);
		return r;
	}
	*ret_client = c;
	return 0;
}

struct kube_client *kube_client_free(struct kube_client *c)
{
	if (!c)
		return NULL;
	list_for_each_safe(l, &c->calls)
		call_free(list_entry(l, struct kube_call, link));
	http_client_free(c->http);
	kube_config_deinit(&c->config);
	free(c->kubeconfig);
	free(c->context);
	free(c);
	return NULL;
}

const char *kube_client_server(const struct kube_client *c)
{
	return c->config.server;
}
