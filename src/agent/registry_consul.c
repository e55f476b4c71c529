/*
 * Lookups in Consul: GET /v1/health/service/NAME, which has the node, the
 * service and its checks in one answer. libcurl's multi interface on our loop.
 */
#include "agent/registry_backend.h"

#include <curl/curl.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "agent/signs.h"
#include "base/bytes.h"
#include "proto/consul.h"
#include "proto/json_body.h"

enum { N_SOCKETS = 4 };			/* one is used; libcurl may open another before it closes the first */

struct lookup {
	struct registry_lookup *l;
	CURLM *multi;
	CURL *easy;
	struct curl_slist *headers;
	struct bytes body;
	struct timer timer;
	struct {
		struct watch watch;
		struct lookup *of;
	} sockets[N_SOCKETS];
};

static const char *sign_of(const struct consul_instance *i)
{
	const char *sign = i->node ? sign_of_node(i->node) : NULL;
	const char *key;
	json_t *value;

	if (!sign && i->meta)
		json_object_foreach((json_t *)(uintptr_t)i->meta, key, value)
			if (json_is_string(value) && (sign = sign_of_meta(key, json_string_value(value))))
				break;
	for (size_t n = 0; n < json_array_size(i->tags) && !sign; n++) {
		const char *tag = json_string_value(json_array_get(i->tags, n));

		if (tag && strcmp(tag, "k8s") == 0)
			sign = "it has the tag k8s: synchronised from Kubernetes";
	}
	return sign;
}

static void on_body(struct lookup *c)
{
	json_t *list = json_body_parse(c->body.data, c->body.len);
	struct consul_instance i;

	if (!json_is_array(list)) {
		registry_finish(c->l, REGISTRY_UNREACHABLE, "what answers at %s is no Consul: its answer is no JSON list", c->l->where);
	} else {
		for (size_t n = 0; n < json_array_size(list); n++)
			if (consul_instance_health(json_array_get(list, n), &i))
				registry_add(c->l, i.id, i.address, i.port, sign_of(&i));
		registry_finish_counted(c->l, "Consul");
	}
	json_decref(list);
}

static void on_done(struct lookup *c, CURLcode code)
{
	long status = 0;

	curl_easy_getinfo(c->easy, CURLINFO_RESPONSE_CODE, &status);
	if (code != CURLE_OK)
		registry_finish(c->l, REGISTRY_UNREACHABLE, "Consul at %s: %s", c->l->where, curl_easy_strerror(code));
	else if (status == 401 || status == 403)
		registry_finish(c->l, REGISTRY_REFUSED, "Consul at %s refuses to tell (HTTP status %ld)", c->l->where, status);
	else if (status != 200)
		registry_finish(c->l, REGISTRY_UNREACHABLE, "Consul at %s answers with HTTP status %ld", c->l->where, status);
	else
		on_body(c);
}

static void step(struct lookup *c, curl_socket_t fd, int events)
{
	int running, left;
	CURLMsg *m;

	curl_multi_socket_action(c->multi, fd, events, &running);
	while ((m = curl_multi_info_read(c->multi, &left)))
		if (m->msg == CURLMSG_DONE)
			on_done(c, m->data.result);
}

static int on_socket_ready(struct watch *w, uint32_t events)
{
	struct lookup *c = container_of(w, __typeof__(((struct lookup *)0)->sockets[0]), watch)->of;
	int what = (events & EPOLLIN ? CURL_CSELECT_IN : 0) | (events & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
		   (events & (EPOLLERR | EPOLLHUP) ? CURL_CSELECT_ERR : 0);

	step(c, w->fd, what);
	return 0;
}

static int on_timer(struct timer *t)
{
	step(container_of(t, struct lookup, timer), CURL_SOCKET_TIMEOUT, 0);
	return 0;
}

/* libcurl wants another socket watched, in another way, or not any more. */
static int want_socket(CURL *easy, curl_socket_t fd, int what, void *data, void *socket_data)
{
	struct lookup *c = data;
	uint32_t events = (what & CURL_POLL_IN ? EPOLLIN : 0) | (what & CURL_POLL_OUT ? EPOLLOUT : 0);
	struct watch *free_one = NULL, *w = NULL;

	(void)easy;
	(void)socket_data;
	for (size_t i = 0; i < N_SOCKETS; i++) {
		struct watch *at = &c->sockets[i].watch;

		if (at->loop && at->fd == fd)
			w = at;
		else if (!at->loop)
			free_one = at;
	}
	if (what == CURL_POLL_REMOVE) {
		if (w)
			watch_remove(w);
		return 0;
	}
	if (w)
		return watch_modify(w, events) < 0 ? -1 : 0;
	return !free_one || watch_add(c->l->loop, free_one, fd, events, false, on_socket_ready) < 0 ? -1 : 0;
}

static int want_timer(CURLM *multi, long timeout_ms, void *data)
{
	struct lookup *c = data;

	(void)multi;
	if (timeout_ms < 0)
		timer_cancel(&c->timer);
	else if (timer_arm(c->l->loop, &c->timer, (uint64_t)timeout_ms, on_timer) < 0)
		return -1;
	return 0;
}

static size_t take_body(char *data, size_t size, size_t n, void *to)
{
	struct lookup *c = to;

	return bytes_append(&c->body, data, size * n) < 0 ? 0 : size * n;
}

static void stop(struct registry_lookup *l)
{
	struct lookup *c = l->impl;

	if (!c)
		return;
	if (c->multi && c->easy)
		curl_multi_remove_handle(c->multi, c->easy);
	curl_easy_cleanup(c->easy);
	curl_multi_cleanup(c->multi);
	curl_slist_free_all(c->headers);
	for (size_t i = 0; i < N_SOCKETS; i++)
		watch_remove(&c->sockets[i].watch);
	timer_cancel(&c->timer);
	bytes_deinit(&c->body);
	free(c);
	l->impl = NULL;
}

static bool set_headers(struct lookup *c)
{
	char line[512];

	if (!c->l->token)
		return true;
	if (snprintf(line, sizeof(line), "X-Consul-Token: %s", c->l->token) >= (int)sizeof(line))
		return false;
	c->headers = curl_slist_append(NULL, line);
	explicit_bzero(line, sizeof(line));
	return c->headers && curl_easy_setopt(c->easy, CURLOPT_HTTPHEADER, c->headers) == CURLE_OK;
}

static bool set_url(struct lookup *c)
{
	char *name = curl_easy_escape(c->easy, c->l->service, 0);
	char url[2048];
	bool ok;

	ok = name && snprintf(url, sizeof(url), "http://%s/v1/health/service/%s", c->l->where, name) < (int)sizeof(url) &&
	     curl_easy_setopt(c->easy, CURLOPT_URL, url) == CURLE_OK;
	curl_free(name);
	return ok;
}

static int start(struct registry_lookup *l)
{
	struct lookup *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	l->impl = c;
	c->l = l;
	bytes_init(&c->body, JSON_BODY_MAX);
	for (size_t i = 0; i < N_SOCKETS; i++)
		c->sockets[i].of = c;
	c->multi = curl_multi_init();
	c->easy = curl_easy_init();
	if (!c->multi || !c->easy || !set_url(c) || !set_headers(c))
		return -ENOMEM;
	curl_easy_setopt(c->easy, CURLOPT_WRITEFUNCTION, take_body);
	curl_easy_setopt(c->easy, CURLOPT_WRITEDATA, c);
	curl_easy_setopt(c->easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(c->easy, CURLOPT_PROXY, "");
	curl_easy_setopt(c->easy, CURLOPT_HTTP09_ALLOWED, 0L);
	curl_multi_setopt(c->multi, CURLMOPT_SOCKETFUNCTION, want_socket);
	curl_multi_setopt(c->multi, CURLMOPT_SOCKETDATA, c);
	curl_multi_setopt(c->multi, CURLMOPT_TIMERFUNCTION, want_timer);
	curl_multi_setopt(c->multi, CURLMOPT_TIMERDATA, c);
	return curl_multi_add_handle(c->multi, c->easy) == CURLM_OK ? 0 : -ENOMEM;
}

const struct registry_backend registry_consul = { .protocol = "consul", .start = start, .stop = stop };
