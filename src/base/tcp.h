#pragma once
#include <netinet/in.h>
#include <sys/socket.h>

/*
 * Options of the connections that the mesh is controlled by.
 *
 * What is lost is sent again every 2 s at the latest: a network that was away
 * for half a minute is otherwise believed to be away for as long again, and what
 * is known here is as old. Whom nothing reaches is then given up after some 25 s
 * (tcp_retries2). Linux 6.15 and newer; before that nothing happens, nor where
 * @fd is not TCP.
 */
static inline void tcp_retry_often(int fd)
{
	enum { TCP_RTO_MAX_MS_ = 44, RTO_MAX_MS = 2000 };	/* include/uapi/linux/tcp.h */
	int ms = RTO_MAX_MS;

	(void)!setsockopt(fd, IPPROTO_TCP, TCP_RTO_MAX_MS_, &ms, sizeof(ms));
}
