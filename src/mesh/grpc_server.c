/*
 * The server: listeners, connections, and the table of methods.
 */
#include "mesh/grpc_server.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "mesh/grpc_conn.h"
#include "mesh/identity.h"

enum {
	ACCEPTS_PER_TURN = 64,
	ACCEPT_PAUSE_MS = 100,		/* when descriptors are short */
	LISTENERS_MAX = 8,
	REQUEST_TIMEOUT_MS = 60000,	/* a unary request has to be there by then */

	MAX_CONNECTIONS = 4096,
	MAX_STREAMS = 1000,
	MAX_HEADER_LIST = 16 * 1024,
	MAX_MESSAGE = 4 << 20,
	MAX_QUEUED = 4 << 20,
	WINDOW = 256 << 10,
	HANDSHAKE_TIMEOUT_MS = 10000,
	KEEPALIVE_MS = 60000,
	KEEPALIVE_TIMEOUT_MS = 20000,
};

struct listener {
	struct watch watch;
	struct timer pause;
	struct grpc_server *server;
	int fd;
};

struct grpc_server {
	struct loop *loop;
	struct grpc_conn_config conf;
	struct grpc_server_options options;
	char *trust_domain;

	struct listener listeners[LISTENERS_MAX];
	size_t n_listeners;
	struct list conns;
	size_t n_conns;
	size_t held;			/* bytes of requests that are not whole */
	bool draining;
};

struct server_conn {
	struct grpc_conn conn;
	struct list link;
	struct grpc_server *server;	/* NULL once it is out of the list */
};

/* --- connections --- */

static void drop(struct server_conn *sc)
{
	list_unlink(&sc->link);
	sc->server->n_conns--;
	sc->server->held -= sc->conn.in_bytes;
	sc->server = NULL;
	sc->conn.conf.held = NULL;	/* the connection may be the last one to go */
	grpc_conn_deinit(&sc->conn);
}

static void on_opened(struct grpc_conn *c, void *owner)
{
	struct server_conn *sc = owner;
	const struct tls_session *tls = grpc_link_session(c->link);
	const char *id = tls ? tls_peer_id(tls) : NULL;
	struct identity peer;

	if (!id)
		return;
	c->known = true;
	if (sc->server->trust_domain && (identity_parse(id, &peer) < 0 || strcmp(peer.trust_domain, sc->server->trust_domain) != 0))
		grpc_conn_end(c, TLS_E_VERIFY, "the peer is of another trust domain");
}

static void on_closed(struct grpc_conn *c, void *owner, int r, const char *text)
{
	(void)c;
	(void)r;
	(void)text;
	drop(owner);
}

/* A stream lives long, and has said who it is: what it said it with need not. */
static void hide_authorization(struct grpc_call *call)
{
	char *value = (char *)(uintptr_t)grpc_call_metadata(call, "authorization");

	if (value)
		memset(value, 'x', strlen(value));
}

static void on_request(struct grpc_conn *c, void *owner, struct grpc_call *call)
{
	struct server_conn *sc = owner;
	const struct grpc_server_options *o = &sc->server->options;

	for (size_t i = 0; i < o->n_methods; i++) {
		if (strcmp(o->methods[i].path, call->path) != 0)
			continue;
		call->method = &o->methods[i];
		call->data = o->data;
		if (call->method->open)
			call->method->open(call, o->data);
		else if (!call->deadline.loop && grpc_call_arm_deadline(call, REQUEST_TIMEOUT_MS) < 0)
			grpc_call_finish(call, GRPC_INTERNAL, "out of memory");
		if (call->method->open)
			hide_authorization(call);
		if (call->method->open && !call->gone && !call->send_closed)
			c->known = true;
		/* Some clients wait for the head before they go on. */
		if (call->method->open && !call->gone && !call->send_closed && grpc_call_respond(call) < 0)
			grpc_call_cancel(call);
		return;
	}
	grpc_call_finish(call, GRPC_UNIMPLEMENTED, "unknown method %s", call->path);
}

static void end_conn(struct server_conn *sc)
{
	grpc_conn_enter(&sc->conn);
	grpc_conn_end(&sc->conn, -ECONNABORTED, "closed by the server");
	grpc_conn_leave(&sc->conn);
}

/* The stranger that has been here for longest, @but aside; only one that left bytes with us, if so wanted. NULL: there is none. */
static struct server_conn *oldest_stranger(struct grpc_server *server, const struct server_conn *but, bool with_bytes)
{
	list_for_each(l, &server->conns) {
		struct server_conn *sc = list_entry(l, struct server_conn, link);

		if (sc != but && !sc->conn.known && !sc->conn.ended && (!with_bytes || sc->conn.in_bytes))
			return sc;
	}
	return NULL;
}

/* Whose request comes whole is done with it at once: it is not the one that has waited for longest. */
static void on_crowded(struct grpc_conn *c, void *owner)
{
	struct server_conn *sc = owner, *oldest;

	(void)c;
	while (sc->server && sc->server->held > GRPC_STRANGERS_MAX / 2 && (oldest = oldest_stranger(sc->server, sc, true)))
		end_conn(oldest);
}

static void destroy(struct grpc_conn *c, void *owner)
{
	(void)c;
	free(owner);
}

static const struct grpc_conn_ops conn_ops = {
	.opened = on_opened, .request = on_request, .crowded = on_crowded, .closed = on_closed, .destroy = destroy,
};

static int grpc_server_adopt(struct grpc_server *server, int fd)
{
	struct server_conn *sc;
	int r;

	sc = server->n_conns >= server->options.max_connections ? oldest_stranger(server, NULL, false) : NULL;
	if (sc)
		end_conn(sc);
	if (server->draining || server->n_conns >= server->options.max_connections) {
		close_fd(fd);
		return server->draining ? -ESHUTDOWN : -EMFILE;
	}
	sc = calloc(1, sizeof(*sc));
	r = sc ? grpc_conn_init(&sc->conn, server->loop, &server->conf, &conn_ops, sc) : -ENOMEM;
	if (r < 0) {
		close_fd(fd);
		free(sc);
		return r;
	}
	sc->server = server;
	list_append(&server->conns, &sc->link);
	server->n_conns++;
	r = grpc_link_accept(server->loop, fd, server->options.tls, NULL, server->options.handshake_timeout_ms, &grpc_conn_link_ops,
			     &sc->conn, &sc->conn.link);
	if (r < 0)
		drop(sc);
	return r;
}

size_t grpc_server_n_connections(const struct grpc_server *server)
{
	return server->n_conns;
}

size_t grpc_server_kick(struct grpc_server *server, const char *peer_id)
{
	size_t n = 0;

	list_for_each_safe(l, &server->conns) {
		struct server_conn *sc = list_entry(l, struct server_conn, link);
		const struct tls_session *tls = grpc_link_session(sc->conn.link);
		const char *id = tls ? tls_peer_id(tls) : NULL;

		if (!id || strcmp(id, peer_id) != 0)
			continue;
		end_conn(sc);
		n++;
	}
	return n;
}

/* --- listeners --- */

static int on_acceptable(struct watch *w, uint32_t events);

static int on_pause_over(struct timer *t)
{
	struct listener *l = container_of(t, struct listener, pause);

	return watch_add(l->server->loop, &l->watch, l->fd, EPOLLIN, false, on_acceptable);
}

static int on_acceptable(struct watch *w, uint32_t events)
{
	struct listener *l = container_of(w, struct listener, watch);

	(void)events;
	for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
		int fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)) {
			watch_remove(&l->watch);
			return timer_arm(l->server->loop, &l->pause, ACCEPT_PAUSE_MS, on_pause_over);
		}
		if (fd < 0)
			return 0;	/* none left, or one that was gone already */
		if (grpc_server_adopt(l->server, fd) < 0)
			continue;	/* that one is closed; the next may fit again */
	}
	return 0;
}

static int open_listener(const struct ip_port *addr, int *ret_fd, struct ip_port *ret_bound)
{
	struct sockaddr_storage sa;
	socklen_t len = ip_port_to_sockaddr(addr, 0, &sa);
	CLEANUP_FD int fd = socket(sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int one = 1;

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 || bind(fd, (struct sockaddr *)&sa, len) < 0 ||
	    listen(fd, SOMAXCONN) < 0)
		return -errno;
	len = sizeof(sa);
	if (getsockname(fd, (struct sockaddr *)&sa, &len) < 0)
		return -errno;
	int r = ip_port_from_sockaddr(&sa, ret_bound);
	if (r < 0)
		return r;
	*ret_fd = steal_fd(&fd);
	return 0;
}

int grpc_server_listen(struct grpc_server *server, const struct ip_port *addr, struct ip_port *ret_bound, struct diag *reterr_diag)
{
	struct listener *l = &server->listeners[server->n_listeners];
	char text[IP_PORT_TEXT_LEN];
	int r;

	if (server->n_listeners == LISTENERS_MAX)
		return diag_set(reterr_diag, "more than %d listeners", LISTENERS_MAX);
	*l = (struct listener){ .server = server, .fd = -1 };
	r = open_listener(addr, &l->fd, ret_bound);
	if (r == 0)
		r = watch_add(server->loop, &l->watch, l->fd, EPOLLIN, false, on_acceptable);
	if (r < 0) {
		l->fd = close_fd(l->fd);
		diag_set(reterr_diag, "cannot listen on %s: %s", ip_port_format(addr, text), strerror(-r));
		return r;
	}
	server->n_listeners++;
	return 0;
}

static void stop_listening(struct grpc_server *server)
{
	for (size_t i = 0; i < server->n_listeners; i++) {
		watch_remove(&server->listeners[i].watch);
		timer_cancel(&server->listeners[i].pause);
		server->listeners[i].fd = close_fd(server->listeners[i].fd);
	}
	server->n_listeners = 0;
}

/* --- life --- */

static void set_defaults(struct grpc_server_options *o)
{
	o->max_connections = o->max_connections ?: MAX_CONNECTIONS;
	o->max_streams = o->max_streams ?: MAX_STREAMS;
	o->max_header_list = o->max_header_list ?: MAX_HEADER_LIST;
	o->max_message = o->max_message ?: MAX_MESSAGE;
	o->max_queued = o->max_queued ?: MAX_QUEUED;
	o->window = o->window ?: WINDOW;
	o->handshake_timeout_ms = o->handshake_timeout_ms ?: HANDSHAKE_TIMEOUT_MS;
	o->keepalive_ms = o->keepalive_ms ?: KEEPALIVE_MS;
	o->keepalive_timeout_ms = o->keepalive_timeout_ms ?: KEEPALIVE_TIMEOUT_MS;
}

int grpc_server_new(struct loop *loop, const struct grpc_server_options *options, struct grpc_server **ret_server)
{
	struct grpc_server *server = calloc(1, sizeof(*server));
	struct grpc_server_options *o;

	if (!server)
		return -ENOMEM;
	server->loop = loop;
	server->options = *options;
	o = &server->options;
	set_defaults(o);
	server->conf = (struct grpc_conn_config){
		.server = true, .max_message = o->max_message, .max_queued = o->max_queued, .window = o->window,
		.max_streams = o->max_streams, .max_header_list = o->max_header_list, .keepalive_ms = o->keepalive_ms,
		.keepalive_timeout_ms = o->keepalive_timeout_ms, .held = &server->held,
	};
	list_init(&server->conns);
	if (o->trust_domain && !(server->trust_domain = strdup(o->trust_domain))) {
		free(server);
		return -ENOMEM;
	}
	o->tls = o->tls ? tls_ctx_ref(o->tls) : NULL;
	*ret_server = server;
	return 0;
}

struct grpc_server *grpc_server_free(struct grpc_server *server)
{
	if (!server)
		return NULL;
	stop_listening(server);
	list_for_each_safe(l, &server->conns)
		drop(list_entry(l, struct server_conn, link));
	tls_ctx_unref(server->options.tls);
	free(server->trust_domain);
	free(server);
	return NULL;
}

void grpc_server_set_tls(struct grpc_server *server, struct tls_ctx *tls)
{
	tls_ctx_unref(server->options.tls);
	server->options.tls = tls ? tls_ctx_ref(tls) : NULL;
}

void grpc_server_drain(struct grpc_server *server)
{
	server->draining = true;
	stop_listening(server);
	list_for_each(l, &server->conns)
		grpc_conn_drain(&list_entry(l, struct server_conn, link)->conn);
}
