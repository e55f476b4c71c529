/*
 * Listeners of the small HTTP server.
 */
#include "mesh/httpd.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "mesh/httpd_conn.h"

enum { BACKLOG = 128, ACCEPTS_A_TURN = 64, PAUSE_MS = 100, DEFAULT_MAX_BODY = 1 << 20, DEFAULT_MAX_CONNECTIONS = 64, DEFAULT_IDLE_MS = 60000 };

int httpd_new(struct loop *loop, const struct httpd_options *options, struct httpd **ret_httpd)
{
	struct httpd *h = calloc(1, sizeof(*h));

	if (!h)
		return -ENOMEM;
	h->loop = loop;
	h->options = *options;
	h->options.max_body = options->max_body ? options->max_body : DEFAULT_MAX_BODY;
	h->options.max_connections = options->max_connections ? options->max_connections : DEFAULT_MAX_CONNECTIONS;
	h->options.idle_timeout_ms = options->idle_timeout_ms ? options->idle_timeout_ms : DEFAULT_IDLE_MS;
	list_init(&h->conns);
	*ret_httpd = h;
	return 0;
}

struct httpd *httpd_free(struct httpd *h)
{
	if (!h)
		return NULL;
	list_for_each_safe(l, &h->conns)
		httpd_conn_free(list_entry(l, struct httpd_conn, link));
	for (size_t i = 0; i < h->n_listeners; i++) {
		struct httpd_listener *l = &h->listeners[i];

		watch_remove(&l->watch);
		timer_cancel(&l->pause);
		close_fd(l->fd);
		tls_ctx_unref(l->tls);
		if (l->path)
			unlink(l->path);
		free(l->path);
	}
	free(h);
	return NULL;
}

/* Of those that have not sent a request and are owed no answer. */
static struct httpd_conn *longest_waiting(struct httpd_listener *l)
{
	list_for_each(link, &l->httpd->conns) {
		struct httpd_conn *c = list_entry(link, struct httpd_conn, link);

		if (c->listener == l && !c->busy && !c->ended)
			return c;
	}
	return NULL;
}

static int on_listener(struct watch *w, uint32_t events);

static int on_pause_over(struct timer *t)
{
	struct httpd_listener *l = container_of(t, struct httpd_listener, pause);

	return l->watch.events ? 0 : watch_modify(&l->watch, EPOLLIN);
}

/* Who says nothing makes room for who may: else a few silent clients would keep everybody out. */
static int on_listener(struct watch *w, uint32_t events)
{
	struct httpd_listener *l = container_of(w, struct httpd_listener, watch);

	(void)events;
	for (int i = 0; i < ACCEPTS_A_TURN; i++) {
		bool full = l->n_conns >= l->httpd->options.max_connections;
		struct httpd_conn *silent = full ? longest_waiting(l) : NULL;

		if (full && !silent)
			return watch_modify(w, 0);	/* all are being answered: the kernel's queue holds the others */
		int fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)) {
			int r = timer_arm(l->httpd->loop, &l->pause, PAUSE_MS, on_pause_over);

			return r < 0 ? r : watch_modify(w, 0);
		}
		if (fd < 0)
			return 0;	/* nobody, or one that was gone already */
		if (silent)
			httpd_conn_free(silent);
		if (httpd_conn_new(l, fd) < 0)
			return 0;	/* no memory: it is closed */
	}
	return 0;
}

void httpd_accept_more(struct httpd_listener *l)
{
	if (l->watch.loop && !l->watch.events)
		(void)!watch_modify(&l->watch, EPOLLIN);
}

/* Takes the descriptor in any case. */
static int listen_on(struct httpd *h, int fd, struct httpd_listener *l, struct diag *reterr_diag)
{
	int r = -ENOBUFS;

	if (h->n_listeners == HTTPD_MAX_LISTENERS) {
		diag_set(reterr_diag, "more than %d listeners", HTTPD_MAX_LISTENERS);
		goto fail;
	}
	if (listen(fd, BACKLOG) < 0) {
		r = -errno;
		diag_set(reterr_diag, "cannot listen: %m");
		goto fail;
	}

	struct httpd_listener *slot = &h->listeners[h->n_listeners];
	*slot = *l;
	slot->httpd = h;
	slot->fd = fd;
	r = watch_add(h->loop, &slot->watch, fd, EPOLLIN, false, on_listener);
	if (r == 0) {
		h->n_listeners++;
		return 0;
	}
fail:
	close_fd(fd);
	return r;
}

/* A socket file whose owner has died refuses connections; one that is in use does not. */
static bool somebody_answers(const struct sockaddr_un *sa)
{
	CLEANUP_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	return fd >= 0 && (!connect(fd, (const struct sockaddr *)sa, sizeof(*sa)) || errno == EAGAIN || errno == EINPROGRESS);
}

static int bind_unix(int fd, const struct sockaddr_un *sa, mode_t mode, struct diag *reterr_diag)
{
	struct stat st;
	int r;

	if (!lstat(sa->sun_path, &st)) {
		if (!S_ISSOCK(st.st_mode)) {
			diag_set(reterr_diag, "%s is there and is not a socket", sa->sun_path);
			return -EEXIST;
		}
		if (somebody_answers(sa)) {
			diag_set(reterr_diag, "%s is in use: another process answers there", sa->sun_path);
			return -EADDRINUSE;
		}
		unlink(sa->sun_path);
	}
	/* Nobody can connect before listen(), so the mode is right from the start. */
	if (bind(fd, (const struct sockaddr *)sa, sizeof(*sa)) < 0 || chmod(sa->sun_path, mode) < 0) {
		r = -errno;
		diag_set(reterr_diag, "%s: %m", sa->sun_path);
		return r;
	}
	return 0;
}

int httpd_listen_unix(struct httpd *h, const char *path, mode_t mode, struct diag *reterr_diag)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	struct httpd_listener l = { .is_unix = true };
	CLEANUP_FREE char *copy = strdup(path);
	int r;

	if (!copy)
		return -ENOMEM;
	if (strlen(path) >= sizeof(sa.sun_path)) {
		diag_set(reterr_diag, "%s: longer than a socket's path may be (%zu)", path, sizeof(sa.sun_path) - 1);
		return -ENAMETOOLONG;
	}
	memcpy(sa.sun_path, path, strlen(path) + 1);

	CLEANUP_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	r = bind_unix(fd, &sa, mode, reterr_diag);
	if (r < 0)
		return r;
	l.path = copy;
	r = listen_on(h, steal_fd(&fd), &l, reterr_diag);
	if (r < 0)
		unlink(path);
	else
		steal_ptr(&copy);
	return r;
}

int httpd_listen_tcp(struct httpd *h, const struct ip_port *addr, struct tls_ctx *tls, struct diag *reterr_diag)
{
	struct httpd_listener l = { .addr = *addr, .loopback = !tls && ip_is_loopback(&addr->ip) };
	char text[IP_PORT_TEXT_LEN];
	struct sockaddr_storage sa;
	socklen_t len = ip_port_to_sockaddr(addr, 0, &sa);
	int on = 1, r;

	CLEANUP_FD int fd = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 || bind(fd, (struct sockaddr *)&sa, len) < 0) {
		r = -errno;
		diag_set(reterr_diag, "%s: %m", ip_port_format(addr, text));
		return r;
	}
	len = sizeof(sa);
	if (getsockname(fd, (struct sockaddr *)&sa, &len) < 0)
		return -errno;
	r = ip_port_from_sockaddr(&sa, &l.addr);
	if (r < 0)
		return r;
	l.tls = tls ? tls_ctx_ref(tls) : NULL;
	r = listen_on(h, steal_fd(&fd), &l, reterr_diag);
	if (r < 0)
		tls_ctx_unref(l.tls);
	return r;
}

void httpd_set_tls(struct httpd *h, struct tls_ctx *tls)
{
	for (size_t i = 0; i < h->n_listeners; i++) {
		struct httpd_listener *l = &h->listeners[i];

		if (!l->tls)
			continue;
		tls_ctx_unref(l->tls);
		l->tls = tls_ctx_ref(tls);
	}
}

struct ip_port httpd_address(const struct httpd *h, size_t i)
{
	for (size_t k = 0; k < h->n_listeners; k++)
		if (!h->listeners[k].is_unix && !i--)
			return h->listeners[k].addr;
	return (struct ip_port){};
}
