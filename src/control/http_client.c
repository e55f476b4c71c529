/*
 * libcurl's sockets and timer on our loop.
 */
#include "control/http_client.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>

enum { CONNECT_TIMEOUT_MS = 5000, KEEPALIVE_S = 15 };

struct http_client {
	struct loop *loop;
	CURLM *multi;
	struct timer timer;
	struct defer turn;		/* starts and frees calls, outside of libcurl's callbacks */
	struct list calls;
	struct list dead_sockets;
};

enum call_state { CALL_NEW, CALL_RUNNING, CALL_OVER };

struct http_call {
	struct list link;
	struct http_client *client;
	enum call_state state;
	bool cancelled;
	CURL *easy;
	struct curl_slist *headers;
	struct http_ops ops;
	void *data;
	int body_error;
	char error[CURL_ERROR_SIZE];
};

struct http_socket {
	struct list link;		/* once it is dead */
	struct watch watch;
	struct http_client *client;
};

static int on_turn(struct defer *d);

static void call_free(struct http_call *call)
{
	if (call->easy && call->state == CALL_RUNNING)
		curl_multi_remove_handle(call->client->multi, call->easy);
	if (call->easy)
		curl_easy_cleanup(call->easy);
	curl_slist_free_all(call->headers);
	list_unlink(&call->link);
	free(call);
}

/* --- what has come to its end --- */

static void finish(struct http_call *call, CURLcode code)
{
	struct http_result result = { .error = "", .timed_out = code == CURLE_OPERATION_TIMEDOUT };
	curl_off_t retry_after = 0;
	long status = 0;

	curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
	result.status = (int)status;
	curl_easy_getinfo(call->easy, CURLINFO_RETRY_AFTER, &retry_after);
	result.retry_after_s = (uint32_t)MIN(MAX(retry_after, (curl_off_t)0), (curl_off_t)UINT32_MAX);
	if (call->body_error)
		result.error = strerror(-call->body_error);
	else if (code != CURLE_OK)
		result.error = call->error[0] ? call->error : curl_easy_strerror(code);
	call->ops.done(call, call->data, &result);
}

static void collect(struct http_client *c)
{
	CURLMsg *m;
	int left;

	while ((m = curl_multi_info_read(c->multi, &left))) {
		CURLcode code = m->data.result;
		struct http_call *call;
		char *private = NULL;

		if (m->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &private);
		call = (struct http_call *)(void *)private;
		curl_multi_remove_handle(c->multi, call->easy);
		call->state = CALL_OVER;
		if (!call->cancelled)
			finish(call, code);
		loop_defer(c->loop, &c->turn, on_turn);
	}
}

/* --- libcurl's sockets and timer --- */

static int on_ready(struct watch *w, uint32_t events)
{
	struct http_socket *s = container_of(w, struct http_socket, watch);
	struct http_client *c = s->client;
	int flags = 0, running;

	flags |= events & (EPOLLIN | EPOLLRDHUP) ? CURL_CSELECT_IN : 0;
	flags |= events & EPOLLOUT ? CURL_CSELECT_OUT : 0;
	flags |= events & (EPOLLERR | EPOLLHUP) ? CURL_CSELECT_ERR : 0;
	curl_multi_socket_action(c->multi, w->fd, flags, &running);
	collect(c);
	return 0;
}

static int on_timer(struct timer *t)
{
	struct http_client *c = container_of(t, struct http_client, timer);
	int running;

	curl_multi_socket_action(c->multi, CURL_SOCKET_TIMEOUT, 0, &running);
	collect(c);
	return 0;
}

static int want_timer(CURLM *multi, long ms, void *data)
{
	struct http_client *c = data;

	(void)multi;
	timer_cancel(&c->timer);
	return ms < 0 || timer_arm(c->loop, &c->timer, (uint64_t)ms, on_timer) == 0 ? 0 : -1;
}

static uint32_t wanted_events(int what)
{
	return (what & CURL_POLL_IN ? (uint32_t)EPOLLIN : 0) | (what & CURL_POLL_OUT ? (uint32_t)EPOLLOUT : 0);
}

static int want_socket(CURL *easy, curl_socket_t fd, int what, void *data, void *socket_data)
{
	struct http_client *c = data;
	struct http_socket *s = socket_data;

	(void)easy;
	if (what == CURL_POLL_REMOVE) {
		if (s) {
			watch_remove(&s->watch);
			list_append(&c->dead_sockets, &s->link);
			loop_defer(c->loop, &c->turn, on_turn);
		}
		return 0;
	}
	if (s)
		return watch_modify(&s->watch, wanted_events(what)) == 0 ? 0 : -1;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -1;
	list_init(&s->link);
	s->client = c;
	if (watch_add(c->loop, &s->watch, fd, wanted_events(what), false, on_ready) < 0) {
		free(s);
		return -1;
	}
	curl_multi_assign(c->multi, fd, s);
	return 0;
}

static size_t on_header(char *line, size_t size, size_t n, void *data)
{
	struct http_call *call = data;
	long status = 0;

	if (size * n == 2 && !memcmp(line, "\r\n", 2) && call->ops.head && !call->cancelled) {
		curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
		if (status >= 200)
			call->ops.head(call, call->data, (int)status);
	}
	return size * n;
}

static size_t on_body(char *bytes, size_t size, size_t n, void *data)
{
	struct http_call *call = data;
	long status = 0;

	if (call->cancelled)
		return CURL_WRITEFUNC_ERROR;
	curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
	call->body_error = call->ops.body(call, call->data, (int)status, bytes, size * n);
	return call->body_error < 0 ? CURL_WRITEFUNC_ERROR : size * n;
}

/* --- calls --- */

static int on_turn(struct defer *d)
{
	struct http_client *c = container_of(d, struct http_client, turn);

	list_for_each_safe(l, &c->dead_sockets) {
		list_unlink(l);
		free(list_entry(l, struct http_socket, link));
	}
	list_for_each_safe(l, &c->calls) {
		struct http_call *call = list_entry(l, struct http_call, link);

		if (call->cancelled || call->state == CALL_OVER) {
			call_free(call);
		} else if (call->state == CALL_NEW && curl_multi_add_handle(c->multi, call->easy) == CURLM_OK) {
			call->state = CALL_RUNNING;
		} else if (call->state == CALL_NEW) {
			call->state = CALL_OVER;
			finish(call, CURLE_OUT_OF_MEMORY);
			loop_defer(c->loop, d, on_turn);
		}
	}
	return 0;
}

static CURLcode set_blob(CURL *e, CURLoption option, const char *pem)
{
	struct curl_blob blob = { .data = (void *)(uintptr_t)pem, .len = pem ? strlen(pem) : 0, .flags = CURL_BLOB_COPY };

	return pem ? curl_easy_setopt(e, option, &blob) : CURLE_OK;
}

static int set_up(struct http_call *call, const struct http_request *q)
{
	CURL *e = call->easy;
	int bad = 0;

	for (size_t i = 0; q->headers && q->headers[i]; i++) {
		struct curl_slist *more = curl_slist_append(call->headers, q->headers[i]);

		if (!more)
			return -ENOMEM;
		call->headers = more;
	}
	bad |= curl_easy_setopt(e, CURLOPT_URL, q->url) | curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
	bad |= curl_easy_setopt(e, CURLOPT_CUSTOMREQUEST, q->method) | curl_easy_setopt(e, CURLOPT_HTTPHEADER, call->headers);
	bad |= curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1) | curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
	bad |= curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_TIMEOUT_MS) | curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, (long)q->timeout_ms);
	bad |= curl_easy_setopt(e, CURLOPT_TCP_KEEPALIVE, 1L) | curl_easy_setopt(e, CURLOPT_TCP_KEEPIDLE, (long)KEEPALIVE_S);
	bad |= curl_easy_setopt(e, CURLOPT_TCP_KEEPINTVL, (long)KEEPALIVE_S) | curl_easy_setopt(e, CURLOPT_ERRORBUFFER, call->error);
	bad |= curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, on_header) | curl_easy_setopt(e, CURLOPT_HEADERDATA, call);
	bad |= curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body) | curl_easy_setopt(e, CURLOPT_WRITEDATA, call);
	bad |= curl_easy_setopt(e, CURLOPT_PRIVATE, call) | curl_easy_setopt(e, CURLOPT_PROXY, "");
	bad |= set_blob(e, CURLOPT_CAINFO_BLOB, q->ca_pem) | set_blob(e, CURLOPT_SSLCERT_BLOB, q->cert_pem) | set_blob(e, CURLOPT_SSLKEY_BLOB, q->key_pem);
	if (q->silence_timeout_s)
		bad |= curl_easy_setopt(e, CURLOPT_LOW_SPEED_LIMIT, 1L) | curl_easy_setopt(e, CURLOPT_LOW_SPEED_TIME, (long)q->silence_timeout_s);
	if (q->body)
		bad |= curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE, (long)q->n_body) | curl_easy_setopt(e, CURLOPT_COPYPOSTFIELDS, q->body);
	return bad ? -EINVAL : 0;
}

int http_start(struct http_client *c, const struct http_request *q, const struct http_ops *ops, struct http_call **ret_call)
{
	struct http_call *call = calloc(1, sizeof(*call));
	int r = -ENOMEM;

	if (!call)
		return r;
	call->client = c;
	call->ops = *ops;
	call->data = q->data;
	list_init(&call->link);
	call->easy = curl_easy_init();
	if (call->easy)
		r = set_up(call, q);
	if (r < 0) {
		call_free(call);
		return r;
	}
	list_append(&c->calls, &call->link);
	loop_defer(c->loop, &c->turn, on_turn);
	*ret_call = call;
	return 0;
}

struct http_call *http_cancel(struct http_call *call)
{
	if (call) {
		call->cancelled = true;
		loop_defer(call->client->loop, &call->client->turn, on_turn);
	}
	return NULL;
}

/* --- life --- */

int http_client_new(struct loop *loop, struct http_client **ret_client)
{
	struct http_client *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->loop = loop;
	list_init(&c->calls);
	list_init(&c->dead_sockets);
	c->multi = curl_multi_init();
	if (!c->multi) {
		free(c);
		return -ENOMEM;
	}
	curl_multi_setopt(c->multi, CURLMOPT_SOCKETFUNCTION, want_socket);
	curl_multi_setopt(c->multi, CURLMOPT_SOCKETDATA, c);
	curl_multi_setopt(c->multi, CURLMOPT_TIMERFUNCTION, want_timer);
	curl_multi_setopt(c->multi, CURLMOPT_TIMERDATA, c);
	*ret_client = c;
	return 0;
}

struct http_client *http_client_free(struct http_client *c)
{
	if (!c)
		return NULL;
	list_for_each_safe(l, &c->calls)
		call_free(list_entry(l, struct http_call, link));
	curl_multi_cleanup(c->multi);
	list_for_each_safe(l, &c->dead_sockets)
		free(list_entry(l, struct http_socket, link));
	defer_cancel(&c->turn);
	timer_cancel(&c->timer);
	free(c);
	return NULL;
}
