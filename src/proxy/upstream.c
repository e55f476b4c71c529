/*
 * New connections.
 */
#include "proxy/upstream.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

static int new_socket(struct sockd_pool *pool, enum upstream_kind kind, int family)
{
	int one = 1;
	int fd;

	if (kind != UPSTREAM_OWN && pool) {
		fd = sockd_take(pool, kind == UPSTREAM_TO_VM ? SOCKD_TO_VM : SOCKD_FROM_VM, family);
		if (fd < 0)
			return fd;
	} else {
		fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		if (fd < 0)
			return -errno;
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	return fd;
}

/*
 * In whose name. Inbound, the client's port may be in use by another connection
 * of ours to the same place: then another port has to do. Outbound it has to be
 * the very port: answers are told from the VM's own flows by it.
 */
static int bind_to(int fd, enum upstream_kind kind, const struct ip_port *src, int family)
{
	struct sockaddr_storage sa;
	struct ip_port any = *src;
	socklen_t len = ip_port_to_sockaddr(src, family, &sa);

	if (bind(fd, (struct sockaddr *)&sa, len) == 0)
		return 0;
	if (kind != UPSTREAM_TO_VM || errno != EADDRINUSE)
		return -errno;
	any.port = 0;
	len = ip_port_to_sockaddr(&any, family, &sa);
	return bind(fd, (struct sockaddr *)&sa, len) < 0 ? -errno : 0;
}

int upstream_open(struct sockd_pool *pool, enum upstream_kind kind, const struct ip_port *src, const struct ip_port *dst)
{
	int family = ip_is_v4(&dst->ip) ? AF_INET : AF_INET6;
	struct sockaddr_storage sa;
	socklen_t len = ip_port_to_sockaddr(dst, family, &sa);
	CLEANUP_FD int fd = new_socket(pool, kind, family);
	int r;

	if (fd < 0)
		return steal_fd(&fd);
	if (kind != UPSTREAM_OWN && pool && !ip_is_none(&src->ip) && ip_is_v4(&src->ip) == ip_is_v4(&dst->ip)) {
		r = bind_to(fd, kind, src, family);
		if (r < 0)
			return r;
	}
	if (connect(fd, (struct sockaddr *)&sa, len) < 0 && errno != EINPROGRESS)
		return -errno;
	return steal_fd(&fd);
}

int upstream_connect(struct worker *w, enum upstream_kind kind, const struct ip_port *src, const struct ip_port *dst)
{
	return upstream_open(w->sockd, kind, src, dst);
}
