/*
 * One connection of the small HTTP server: bytes in, requests to handlers,
 * replies out.
 *
 * One request at a time. While a handler owes the reply, reading stops; what
 * had been read already waits in @in. Nothing is freed inside a callback of
 * the same object: the end of a connection is deferred.
 */
#include "mesh/httpd_conn.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/secret.h"

enum {
	MAX_OUT = 64 << 20,
	MAX_IN = 64 << 10,
	READ_SIZE = 16 << 10,
	LINGER_MS = 2000,
};

static void conn_input(struct httpd_conn *c, const uint8_t *data, size_t len);

static struct httpd_conn *conn_of(struct httpd_request *req)
{
	return container_of(req, struct httpd_conn, req);
}

/* --- the end --- */

void httpd_conn_free(struct httpd_conn *c)
{
	struct httpd_listener *l = c->listener;

	if (c->busy && c->gone)
		c->gone(&c->req, c->gone_data);
	timer_cancel(&c->idle);
	defer_cancel(&c->resume);
	defer_cancel(&c->dead);
	watch_remove(&c->watch);
	close_fd(c->fd);
	tls_conn_free(c->tls);
	http1_deinit(&c->parser);
	bytes_deinit(&c->in);
	bytes_deinit(&c->body);
	bytes_deinit(&c->out);
	httpd_params_free(&c->req);
	secret_free(c->head);
	list_unlink(&c->link);
	free(c);
	l->n_conns--;
	httpd_accept_more(l);
}

static int on_dead(struct defer *d)
{
	httpd_conn_free(container_of(d, struct httpd_conn, dead));
	return 0;
}

static void conn_end(struct httpd_conn *c)
{
	c->ended = true;
	loop_defer(c->httpd->loop, &c->dead, on_dead);
}

static int on_idle(struct timer *t)
{
	struct httpd_conn *c = container_of(t, struct httpd_conn, idle);

	if (!c->busy)		/* a handler may take its time */
		conn_end(c);
	return 0;
}

/* Not for each byte of a request: one that trickles in would never end. */
static void touch(struct httpd_conn *c)
{
	list_unlink(&c->link);
	list_append(&c->httpd->conns, &c->link);
	if (timer_arm(c->httpd->loop, &c->idle, c->httpd->options.idle_timeout_ms, on_idle) < 0)
		conn_end(c);
}

/* --- out --- */

static void linger(struct httpd_conn *c)
{
	c->lingering = true;
	if (shutdown(c->fd, SHUT_WR) < 0 || timer_arm(c->httpd->loop, &c->idle, LINGER_MS, on_idle) < 0)
		conn_end(c);
}

static void set_reading(struct httpd_conn *c)
{
	bool read = (!c->busy && !c->closing) || c->lingering;
	uint32_t events = (read ? EPOLLIN : c->busy ? EPOLLRDHUP : 0) | (c->out.len ? EPOLLOUT : 0);

	if (c->tls)
		tls_conn_pause(c->tls, !read);
	else if (c->watch.loop && c->watch.events != events && watch_modify(&c->watch, events) < 0)
		conn_end(c);
}

static void flush(struct httpd_conn *c)
{
	while (c->out.len && c->fd >= 0) {
		ssize_t n = send(c->fd, c->out.data, c->out.len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EAGAIN) {
			conn_end(c);
			return;
		}
		if (n < 0)
			break;
		bytes_consume(&c->out, (size_t)n);
	}
	if (!c->out.len && c->closing && !c->lingering && c->fd >= 0)
		linger(c);
}

static void send_bytes(struct httpd_conn *c, const void *data, size_t len)
{
	int r = c->tls ? tls_conn_write(c->tls, data, len) : bytes_append(&c->out, data, len);

	if (r < 0)
		conn_end(c);
}

static const char *reason(int status)
{
	static const struct { int status; const char *text; } reasons[] = {
		{ 200, "OK" }, { 201, "Created" }, { 202, "Accepted" }, { 204, "No Content" },
		{ 400, "Bad Request" }, { 401, "Unauthorized" }, { 403, "Forbidden" }, { 404, "Not Found" },
		{ 405, "Method Not Allowed" }, { 409, "Conflict" }, { 413, "Content Too Large" },
		{ 421, "Misdirected Request" }, { 429, "Too Many Requests" }, { 431, "Request Header Fields Too Large" },
		{ 500, "Internal Server Error" }, { 501, "Not Implemented" }, { 503, "Service Unavailable" },
		{ 504, "Gateway Timeout" }, { 507, "Insufficient Storage" },
	};

	for (size_t i = 0; i < ELEMENTS(reasons); i++)
		if (reasons[i].status == status)
			return reasons[i].text;
	return "Unknown";
}

static int on_resume(struct defer *d)
{
	struct httpd_conn *c = container_of(d, struct httpd_conn, resume);

	if (c->ended)
		return 0;
	struct bytes in = c->in;		/* conn_input() may put the rest back */
	bytes_init(&c->in, MAX_IN);
	conn_input(c, in.data, in.len);
	bytes_deinit(&in);
	return 0;
}

void httpd_reply(struct httpd_request *req, int status, const char *content_type, const void *body, size_t n_body)
{
	struct httpd_conn *c = conn_of(req);
	char head[512];

	if (!c->busy)
		return;
	c->busy = false;
	c->gone = NULL;
	int len = snprintf(head, sizeof(head), "HTTP/1.1 %d %s\r\nContent-Length: %zu\r\n%s%s%sCache-Control: no-store\r\n"
			   "X-Content-Type-Options: nosniff\r\n%s\r\n", status, reason(status), n_body,
			   content_type ? "Content-Type: " : "", content_type ? content_type : "", content_type ? "\r\n" : "",
			   c->keep_alive ? "" : "Connection: close\r\n");
	send_bytes(c, head, MIN((size_t)len, sizeof(head) - 1));
	if (!c->is_head && n_body && !c->ended)
		send_bytes(c, body, n_body);
	if (c->ended)
		return;
	c->closing = !c->keep_alive;
	if (c->tls && c->closing)
		tls_conn_shutdown(c->tls);
	touch(c);
	if (c->in_input)
		return;			/* conn_input() goes on */
	flush(c);
	set_reading(c);
	if (!c->closing && c->in.len)
		loop_defer(c->httpd->loop, &c->resume, on_resume);
}

void httpd_hold(struct httpd_request *req, httpd_gone *gone, void *data)
{
	struct httpd_conn *c = conn_of(req);

	c->gone = gone;
	c->gone_data = data;
}

/* --- in --- */

static char *put(char **at, const char *p, size_t len)
{
	char *start = *at;

	if (len)
		memcpy(start, p, len);
	start[len] = 0;
	*at += len + 1;
	return start;
}

/* Copies what handlers want of the head, since the parser drops it when the body comes. */
static int take_head(struct httpd_conn *c)
{
	const struct http1_head *h = &c->parser.head;
	struct http1_str authorization = {}, content_type = {}, host = {}, origin = {};
	const char *mark = memchr(h->target.p, '?', h->target.len);
	size_t n_path = mark ? (size_t)(mark - h->target.p) : h->target.len;

	http1_header(h, "authorization", &authorization);
	http1_header(h, "content-type", &content_type);
	http1_header(h, "host", &host);
	http1_header(h, "origin", &origin);

	httpd_params_free(&c->req);
	secret_free(c->head);
	c->head = malloc(h->method.len + h->target.len + authorization.len + content_type.len + host.len + origin.len + 16);
	if (!c->head)
		return -ENOMEM;
	char *at = c->head;
	c->req.method = put(&at, h->method.p, h->method.len);
	c->req.path = put(&at, h->target.p, n_path);
	c->req.query = mark ? put(&at, mark + 1, h->target.len - n_path - 1) : "";
	c->req.authorization = put(&at, authorization.p, authorization.len);
	c->req.content_type = put(&at, content_type.p, content_type.len);
	c->req.host = put(&at, host.p, host.len);
	c->req.origin = put(&at, origin.p, origin.len);
	c->req.data = c->httpd->options.data;
	c->keep_alive = h->keep_alive;
	c->is_head = !strcmp(c->req.method, "HEAD");
	c->too_large = h->has_length && h->length > c->httpd->options.max_body;
	bytes_clear(&c->body);
	return 0;
}

static bool is_literal_or_localhost(const char *host)
{
	char name[256];
	struct ip_port with_port;
	struct ip ip;

	if (!ip_port_parse(host, &with_port) || !ip_parse(host, &ip))
		return true;
	snprintf(name, sizeof(name), "%.*s", (int)MIN(strcspn(host, ":"), sizeof(name) - 1), host);
	return !strcmp(name, "localhost") || host[0] == '[';
}

/*
 * A page in a browser on this machine can reach a loopback port. It cannot
 * hide its origin, and a name that was rebound to 127.0.0.1 shows in Host.
 */
static int refuse_browsers(const struct httpd_conn *c)
{
	const char *slashes = strstr(c->req.origin, "//");

	if (c->listener->loopback && *c->req.host && !is_literal_or_localhost(c->req.host))
		return 421;
	if (*c->req.origin && (!slashes || strcmp(slashes + 2, c->req.host) != 0))
		return 403;
	return 0;
}

/* 0, or the status with which it is refused. */
static int admit(const struct httpd_conn *c)
{
	const struct httpd_options *o = &c->httpd->options;
	int status = refuse_browsers(c);

	return !status && o->admit ? o->admit(&c->req) : status;
}

static const char *words_of(int status)
{
	return status == 401 ? "a valid bearer token is needed" : "not allowed";
}

static void dispatch(struct httpd_conn *c)
{
	const struct httpd_route *route;
	int status;

	c->busy = true;
	if (bytes_append(&c->body, "", 1) < 0) {
		httpd_reply_error(&c->req, 503, "out of memory");
		return;
	}
	c->req.body = (const char *)c->body.data;
	c->req.n_body = c->body.len - 1;
	status = admit(c);
	if (status) {
		httpd_reply_error(&c->req, status, "%s", words_of(status));
		return;
	}
	route = httpd_route_find(c->httpd, &c->req);
	if (route)
		route->handler(&c->req);
}

static void refuse_message(struct httpd_conn *c, int status, const char *why)
{
	c->busy = true;
	c->keep_alive = false;
	c->is_head = false;
	httpd_reply_error(&c->req, status, "%s", why);
}

/* A body is only read from who may send one. */
static int on_head(struct httpd_conn *c)
{
	const struct http1_head *h = &c->parser.head;
	int r = take_head(c);
	int status;

	if (r < 0 || (!h->chunked && !(h->has_length && h->length)))
		return r;
	if (c->too_large)
		return -EMSGSIZE;
	status = admit(c);
	if (status)
		refuse_message(c, status, words_of(status));
	else if (h->expect_continue)
		send_bytes(c, "HTTP/1.1 100 Continue\r\n\r\n", 25);
	return 0;
}

static int take_body(struct httpd_conn *c, const struct http1_event *e)
{
	if (c->too_large || c->body.len + e->len > c->httpd->options.max_body)
		return -EMSGSIZE;
	return bytes_append(&c->body, e->data, e->len);
}

static void on_event(struct httpd_conn *c, const struct http1_event *e)
{
	int r = 0;

	switch (e->type) {
	case HTTP1_HEAD:
		r = on_head(c);
		break;
	case HTTP1_BODY:
		r = take_body(c, e);
		break;
	case HTTP1_END:
		dispatch(c);
		break;
	case HTTP1_TUNNEL:
		r = -EINVAL;
		break;
	case HTTP1_NEED_MORE:
		break;
	}
	if (r == -EMSGSIZE || r == -ENOBUFS)
		refuse_message(c, 413, "the body is too large");
	else if (r == -EINVAL)
		refuse_message(c, 400, "no other protocol is spoken here");
	else if (r < 0)
		conn_end(c);
}

static void conn_input(struct httpd_conn *c, const uint8_t *data, size_t len)
{
	bool more = true;	/* the end of a message takes no bytes */

	c->in_input = true;
	while (more && !c->busy && !c->closing && !c->ended) {
		struct http1_event e = {};
		size_t used = 0;
		int r = http1_parse(&c->parser, data, len, &used, &e);

		more = e.type != HTTP1_NEED_MORE;

		if (r < 0)
			conn_end(c);
		else if (r == HTTP1_E_TOO_LARGE)
			refuse_message(c, 431, "the head is too large");
		else if (r)
			refuse_message(c, 400, "not HTTP/1.1");
		else
			on_event(c, &e);
		data += used;
		len -= used;
	}
	c->in_input = false;
	if (c->ended)
		return;
	if (len && !c->closing && bytes_append(&c->in, data, len) < 0) {
		conn_end(c);
		return;
	}
	flush(c);
	set_reading(c);
}

static void read_socket(struct httpd_conn *c)
{
	uint8_t buf[READ_SIZE];
	ssize_t n = recv(c->fd, buf, sizeof(buf), 0);

	if (n > 0 && !c->lingering)
		conn_input(c, buf, (size_t)n);
	else if (n == 0 && c->out.len)	/* half closed: it still wants the reply */
		c->closing = true;
	else if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		conn_end(c);
}

static int on_socket(struct watch *w, uint32_t events)
{
	struct httpd_conn *c = container_of(w, struct httpd_conn, watch);

	if (!c->ended && events & EPOLLOUT) {
		touch(c);
		flush(c);
	}
	if (c->ended)
		return 0;
	if ((!c->busy && !c->closing) || c->lingering)
		read_socket(c);
	else if (events & (EPOLLHUP | EPOLLERR | (c->busy ? EPOLLRDHUP : 0)))
		conn_end(c);
	if (!c->ended)
		set_reading(c);
	return 0;
}

static void on_tls_opened(struct tls_conn *t, void *data)
{
	struct httpd_conn *c = data;

	c->req.tls_id = tls_peer_id(tls_conn_session(t));
	touch(c);
}

static void on_tls_received(struct tls_conn *t, void *data, const uint8_t *bytes, size_t len)
{
	struct httpd_conn *c = data;

	(void)t;
	if (c->ended)
		return;
	if (!c->busy)
		conn_input(c, bytes, len);
	else if (bytes_append(&c->in, bytes, len) < 0)
		conn_end(c);
}

static void on_tls_closed(struct tls_conn *t, void *data, int r, const char *text)
{
	(void)t;
	(void)r;
	(void)text;
	conn_end(data);
}

static const struct tls_conn_ops tls_ops = {
	.opened = on_tls_opened,
	.received = on_tls_received,
	.closed = on_tls_closed,
};

static void learn_peer(struct httpd_conn *c, const struct httpd_listener *l)
{
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);
	struct ucred cred;
	socklen_t n_cred = sizeof(cred);

	c->req.peer.is_unix = l->is_unix;
	c->req.peer.uid = (uid_t)-1;
	c->req.peer.gid = (gid_t)-1;
	if (l->is_unix && !getsockopt(c->fd, SOL_SOCKET, SO_PEERCRED, &cred, &n_cred)) {
		c->req.peer.uid = cred.uid;
		c->req.peer.gid = cred.gid;
		c->req.peer.pid = cred.pid;
	}
	if (!l->is_unix && (getpeername(c->fd, (struct sockaddr *)&sa, &len) < 0 || ip_port_from_sockaddr(&sa, &c->req.peer.addr) < 0))
		c->req.peer.addr = (struct ip_port){};
}

int httpd_conn_new(struct httpd_listener *l, int fd)
{
	static const struct tls_conn_options tls_options = { .max_queued = MAX_OUT };
	struct httpd *h = l->httpd;
	struct httpd_conn *c = calloc(1, sizeof(*c));
	int r;

	if (!c) {
		close_fd(fd);
		return -ENOMEM;
	}
	c->httpd = h;
	c->fd = fd;
	c->listener = l;
	http1_init(&c->parser, HTTP1_REQUEST, true);
	bytes_init(&c->in, MAX_IN);
	bytes_init(&c->body, h->options.max_body + 1);
	bytes_init(&c->out, MAX_OUT);
	c->in.secret = c->body.secret = c->out.secret = true;
	list_append(&h->conns, &c->link);
	l->n_conns++;
	learn_peer(c, l);

	if (l->tls)
		r = tls_conn_new(h->loop, steal_fd(&c->fd), l->tls, NULL, &tls_options, &tls_ops, c, &c->tls);
	else
		r = watch_add(h->loop, &c->watch, fd, EPOLLIN, false, on_socket);
	if (r == 0)
		r = timer_arm(h->loop, &c->idle, h->options.idle_timeout_ms, on_idle);
	if (r < 0)
		httpd_conn_free(c);
	return r;
}
