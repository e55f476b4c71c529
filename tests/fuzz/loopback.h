#pragma once
/*
 * Connections to a listener of our own on 127.0.0.1, thousands a second. Those
 * that the server closes keep their port for a minute, so each has an address of
 * its own; the others are reset.
 */
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "base/ip.h"

static inline int loopback_connect(const struct ip_port *to)
{
	static uint32_t n;
	struct sockaddr_in from = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f010000 + (n++ & 0x7fffff)) };
	struct linger reset = { .l_onoff = 1 };
	int late = 1;
	struct sockaddr_storage sa;
	socklen_t len = ip_port_to_sockaddr(to, 0, &sa);
	int fd = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)) < 0 ||
	    setsockopt(fd, SOL_IP, IP_BIND_ADDRESS_NO_PORT, &late, sizeof(late)) < 0 || bind(fd, (struct sockaddr *)&from, sizeof(from)) < 0 ||
	    connect(fd, (struct sockaddr *)&sa, len) < 0)
		abort();
	return fd;
}
