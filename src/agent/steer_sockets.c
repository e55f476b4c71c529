/*
 * Transparent listeners and probes.
 */
#include "agent/steer_sockets.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

enum {
	BACKLOG = 4096,
	MARK_PROBE_OWN = 8,	/* as in bpf/lib/steer.h: a mark that routes nowhere */
	PROBE_SYN_RETRIES = 2,
};

static int set_int(int fd, int level, int option, int value)
{
	return setsockopt(fd, level, option, &value, sizeof(value)) < 0 ? -errno : 0;
}

struct option {
	int level, name, value;
};

static int set_options(int fd, const struct option *options, size_t n)
{
	int r = 0;

	for (size_t i = 0; i < n && r == 0; i++)
		r = set_int(fd, options[i].level, options[i].name, options[i].value);
	return r;
}

static int set_transparent(int fd, uint32_t mark)
{
	const struct option options[] = {
		{ SOL_IPV6, IPV6_V6ONLY, 0 },
		{ SOL_IP, IP_TRANSPARENT, 1 },
		{ SOL_IPV6, IPV6_TRANSPARENT, 1 },
		{ SOL_SOCKET, SO_MARK, (int)mark },
	};

	return set_options(fd, options, ELEMENTS(options));
}

static const struct option listener_options[] = {
	{ SOL_SOCKET, SO_REUSEADDR, 1 },
	{ SOL_SOCKET, SO_REUSEPORT, 0 },
};

static const struct option dns_options[] = {
	{ SOL_IP, IP_RECVORIGDSTADDR, 1 },
	{ SOL_IPV6, IPV6_RECVORIGDSTADDR, 1 },
};

/* The port does not matter to anybody, since what comes is assigned or has its port replaced: with many VMs it is a free one. */
static int bind_to(int fd, const struct in6_addr *address, uint16_t port)
{
	struct sockaddr_in6 sa = { .sin6_family = AF_INET6, .sin6_addr = *address, .sin6_port = htons(port) };

	if (bind(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0)
		return 0;
	if (errno != EADDRINUSE)
		return -errno;
	sa.sin6_port = 0;
	return bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 ? -errno : 0;
}

/*
 * The address is nobody's either: 192.0.0.8, the dummy address (RFC 7600,
 * section 4.8). A listener on any address would have its port on the VMs'
 * addresses, too, and a proxy could not bind to a VM's own port of the same
 * number; and whoever reaches the NIC could connect to it. As an IPv4 address it
 * leaves the socket good for both families (SYN cookies are refused to one that
 * is for IPv6 alone).
 */
static const struct in6_addr nobody = { .s6_addr = { [10] = 0xff, [11] = 0xff, [12] = 192, [13] = 0, [14] = 0, [15] = 8 } };

int steer_socket_listen(const struct steer_conf *conf, uint16_t port)
{
	CLEANUP_FD int fd = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	int r = set_options(fd, listener_options, ELEMENTS(listener_options));
	if (r == 0)
		r = set_transparent(fd, conf->mark_base + STEER_MARK_ANSWER);
	if (r == 0)
		r = bind_to(fd, &nobody, port);
	if (r < 0)
		return r;
	if (listen(fd, BACKLOG) < 0)
		return -errno;
	return steal_fd(&fd);
}

int steer_socket_dns(const struct steer_conf *conf, enum steer_mark mark)
{
	CLEANUP_FD int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	int r = set_transparent(fd, conf->mark_base + mark);
	if (r == 0)
		r = set_options(fd, dns_options, ELEMENTS(dns_options));
	if (r == 0)
		r = bind_to(fd, &in6addr_any, 0);
	return r < 0 ? r : steal_fd(&fd);
}

static int bind_spare(int fd, int family, const struct ip *source)
{
	struct ip_port a = { .ip = *source };
	struct sockaddr_storage sa;
	socklen_t len = ip_port_to_sockaddr(&a, family, &sa);
	int r = family == AF_INET ? set_int(fd, SOL_IP, IP_TRANSPARENT, 1) : set_int(fd, SOL_IPV6, IPV6_TRANSPARENT, 1);

	if (r < 0)
		return r;
	return bind(fd, (struct sockaddr *)&sa, len) < 0 ? -errno : 0;
}

int steer_socket_probe(const struct steer_conf *conf, const struct ip_port *target, const struct ip *source,
		       struct ip_port *ret_local)
{
	int family = ip_is_v4(&target->ip) ? AF_INET : AF_INET6;
	CLEANUP_FD int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	bool own = ip_is_none(source);
	struct sockaddr_storage sa;
	socklen_t len;
	int r;

	if (fd < 0)
		return -errno;
	r = set_int(fd, SOL_SOCKET, SO_MARK, (int)(conf->mark_base + (own ? (uint32_t)MARK_PROBE_OWN : STEER_MARK_PROBE)));
	if (r == 0)
		r = set_int(fd, IPPROTO_TCP, TCP_SYNCNT, PROBE_SYN_RETRIES);
	if (r == 0 && !own)
		r = bind_spare(fd, family, source);
	if (r < 0)
		return r;
	len = ip_port_to_sockaddr(target, family, &sa);
	if (connect(fd, (struct sockaddr *)&sa, len) < 0 && errno != EINPROGRESS)
		return -errno;
	len = sizeof(sa);
	if (getsockname(fd, (struct sockaddr *)&sa, &len) < 0)
		return -errno;
	r = ip_port_from_sockaddr(&sa, ret_local);
	if (r < 0)
		return r;
	return steal_fd(&fd);
}
