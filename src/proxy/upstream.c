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

/* -EADDRINUSE, -EADDRNOTAVAIL: the port of @src is taken, as a whole or towards @dst. */
static int try_open(struct sockd_pool *pool, enum upstream_kind kind, const struct ip_port *src, const struct ip_port *dst)
{
	int family = ip_is_v4(&dst->ip) ? AF_INET : AF_INET6;
	struct sockaddr_storage sa;
	socklen_t len;
	CLEANUP_FD int fd = new_socket(pool, kind, family);

	if (fd < 0)
		return steal_fd(&fd);
	if (kind != UPSTREAM_OWN && pool && !ip_is_none(&src->ip) && ip_is_v4(&src->ip) == ip_is_v4(&dst->ip)) {
		len = ip_port_to_sockaddr(src, family, &sa);
		if (bind(fd, (struct sockaddr *)&sa, len) < 0)
			return -errno;
	}
	len = ip_port_to_sockaddr(dst, family, &sa);
	if (connect(fd, (struct sockaddr *)&sa, len) < 0 && errno != EINPROGRESS)
		return -errno;
	return steal_fd(&fd);
}

/*
 * In whose name. Inbound, the client's port may be in use by another connection
 * of ours to the same place (its own to the service's address and to the VM's
 * may both have it): then another port has to do. Outbound it has to be the very
 * port: answers are told from the VM's own flows by it.
 */
int upstream_open(struct sockd_pool *pool, enum upstream_kind kind, const struct ip_port *src, const struct ip_port *dst)
{
	int fd = try_open(pool, kind, src, dst);

	if (kind == UPSTREAM_TO_VM && src->port && (fd == -EADDRINUSE || fd == -EADDRNOTAVAIL))
		fd = try_open(pool, kind, &(struct ip_port){ .ip = src->ip }, dst);
	return fd;
}

int upstream_connect(struct worker *w, enum upstream_kind kind, const struct ip_port *src, const struct ip_port *dst)
{
	return upstream_open(w->sockd, kind, src, dst);
}
