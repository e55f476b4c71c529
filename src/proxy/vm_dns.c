/*
 * A VM's queries for names: its datagrams, and what joins the parts.
 */
#include "proxy/vm_dns.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>


enum {
	DNS_PORT = 53,
	DATAGRAMS_A_TURN = 64,		/* of one VM; the others and the mesh controller come in between */
	DATAGRAMS_LEFT = 4096,		/* more than a socket's queue has */
	IDLE_MS = 60000,
};

struct vm_dns {
	struct loop *loop;
	int fds[2];			/* to the VM; to its servers */
	struct watch watch;
	struct dns_broker broker;
	struct dns_conns conns;
	uint8_t buffer[65536];
};

/* --- datagrams --- */

struct datagram {
	struct ip_port from;
	struct ip_port to;
	const uint8_t *data;
	size_t len;
};

static void send_from(struct vm_dns *d, int fd, const struct ip *from, const struct ip_port *to, const void *data, size_t len)
{
	union {
		struct cmsghdr align;
		uint8_t space[CMSG_SPACE(sizeof(struct in6_pktinfo))];
	} control = {};
	struct iovec iov = { .iov_base = (void *)(uintptr_t)data, .iov_len = len };
	struct in6_pktinfo source = {};
	struct sockaddr_storage sa;
	struct msghdr m = {
		.msg_name = &sa, .msg_namelen = ip_port_to_sockaddr(to, AF_INET6, &sa), .msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = &control, .msg_controllen = sizeof(control),
	};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	memcpy(&source.ipi6_addr, from->b, sizeof(source.ipi6_addr));
	c->cmsg_level = SOL_IPV6;
	c->cmsg_type = IPV6_PKTINFO;
	c->cmsg_len = CMSG_LEN(sizeof(source));
	memcpy(CMSG_DATA(c), &source, sizeof(source));
	if (sendmsg(fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		d->broker.count.send_errors++;		/* as if the network had lost it */
}

static void to_vm(void *data, const struct dns_way *way, const void *message, size_t len)
{
	struct vm_dns *d = data;

	if (way->conn)
		dns_conn_to_vm(way->conn, message, len);
	else
		send_from(d, d->fds[0], &way->server, &way->client, message, len);
}

/* As the VM sent it: BPF turns it round. */
static void to_server(void *data, const struct dns_way *way, const void *message, size_t len)
{
	struct vm_dns *d = data;

	if (way->conn)
		dns_conn_to_server(way->conn, message, len);
	else
		send_from(d, d->fds[1], &way->server, &way->client, message, len);
}

static const struct dns_broker_ops broker_ops = { .to_vm = to_vm, .to_server = to_server };

static bool destination(struct msghdr *m, struct ip_port *ret_to)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		struct sockaddr_storage sa = {};
		size_t len = c->cmsg_len - CMSG_LEN(0);

		if (!(c->cmsg_level == SOL_IP && c->cmsg_type == IP_ORIGDSTADDR) &&
		    !(c->cmsg_level == SOL_IPV6 && c->cmsg_type == IPV6_ORIGDSTADDR))
			continue;
		memcpy(&sa, CMSG_DATA(c), MIN(len, sizeof(sa)));
		return ip_port_from_sockaddr(&sa, ret_to) == 0;
	}
	return false;
}

/* 0; -EAGAIN: no more for now. */
static int receive(struct vm_dns *d, struct datagram *ret_datagram)
{
	uint8_t control[256] __attribute__((aligned(8)));
	struct iovec iov = { .iov_base = d->buffer, .iov_len = sizeof(d->buffer) };
	struct sockaddr_storage sa = {};
	struct msghdr m = {
		.msg_name = &sa, .msg_namelen = sizeof(sa), .msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	ssize_t n = recvmsg(d->fds[0], &m, MSG_DONTWAIT);

	if (n < 0)
		return -errno;
	*ret_datagram = (struct datagram){ .data = d->buffer, .len = (size_t)n };
	if (ip_port_from_sockaddr(&sa, &ret_datagram->from) < 0 || !destination(&m, &ret_datagram->to))
		ret_datagram->to.port = 0;
	return 0;
}

/* --- queries and answers that come --- */

static bool is_own(const struct vm_dns *d, const struct ip *ip)
{
	for (size_t i = 0; i < d->broker.put->n_addresses; i++) {
		struct ip own;

		if (ip_parse(d->broker.put->addresses[i], &own) == 0 && ip_equal(&own, ip))
			return true;
	}
	return false;
}

static void take_some(struct vm_dns *d, unsigned n)
{
	struct datagram g;

	for (unsigned i = 0; i < n && receive(d, &g) == 0; i++) {
		if (g.to.port == DNS_PORT && is_own(d, &g.from.ip))
			dns_broker_query(&d->broker, &(struct dns_way){ .client = g.from, .server = g.to.ip }, g.data, g.len);
		else if (g.to.port && g.from.port == DNS_PORT && is_own(d, &g.to.ip))
			dns_broker_response(&d->broker, &(struct dns_way){ .client = g.to, .server = g.from.ip }, g.data, g.len);
		else
			d->broker.count.strays++;
	}
}

static int on_readable(struct watch *w, uint32_t events)
{
	(void)events;
	take_some(container_of(w, struct vm_dns, watch), DATAGRAMS_A_TURN);
	return 0;
}

/* --- life --- */

int vm_dns_new(struct loop *loop, int fds[2], const struct vm_dns_ops *ops, void *data, struct vm_dns **ret_dns)
{
	struct vm_dns *d = calloc(1, sizeof(*d));
	int r = d ? 0 : -ENOMEM;

	if (r == 0) {
		d->loop = loop;
		d->fds[0] = fds[0];
		d->fds[1] = fds[1];
		dns_broker_init(&d->broker, loop, &broker_ops, d, &ops->names, data);
		dns_conns_init(&d->conns, loop, &d->broker, &ops->conns, data);
		r = watch_add(loop, &d->watch, fds[0], EPOLLIN, false, on_readable);
	}
	if (r < 0) {
		free(d);
		close_fd(fds[0]);
		close_fd(fds[1]);
		return r;
	}
	*ret_dns = d;
	return 0;
}

int vm_dns_replace(struct vm_dns *d, int fds[2])
{
	int r;

	take_some(d, DATAGRAMS_LEFT);
	watch_remove(&d->watch);
	for (int i = 0; i < 2; i++) {
		close_fd(d->fds[i]);
		d->fds[i] = fds[i];
	}
	r = watch_add(d->loop, &d->watch, d->fds[0], EPOLLIN, false, on_readable);
	if (r < 0)	/* nobody would read it: without a socket queries pass */
		d->fds[0] = close_fd(d->fds[0]);
	return r;
}

struct vm_dns *vm_dns_free(struct vm_dns *d)
{
	if (!d)
		return NULL;
	dns_conns_deinit(&d->conns);
	dns_broker_deinit(&d->broker);
	watch_remove(&d->watch);
	close_fd(d->fds[0]);
	close_fd(d->fds[1]);
	free(d);
	return NULL;
}

void vm_dns_set(struct vm_dns *d, const Outrigger__Ipc__VmPut *put)
{
	d->broker.put = put;
}

int vm_dns_take(struct vm_dns *d, int fd, const struct ip_port *src, const struct ip_port *dst)
{
	if (d->broker.put->dns == OUTRIGGER__IPC__DNS_MODE__DNS_OBSERVE)
		return -EBUSY;
	return dns_conns_take(&d->conns, fd, src, dst);
}

void vm_dns_told(struct vm_dns *d, const char *key)
{
	dns_names_told(&d->broker.names, key);
}

void vm_dns_review(struct vm_dns *d)
{
	dns_broker_review(&d->broker);
}

void vm_dns_forget(struct vm_dns *d)
{
	const struct dns_names_ops *ops = d->broker.names.ops;
	void *data = d->broker.names.data;

	dns_names_deinit(&d->broker.names);
	dns_names_init(&d->broker.names, ops, data);
}

void vm_dns_tick(struct vm_dns *d)
{
	dns_names_sweep(&d->broker.names, loop_now_ms(d->loop), IDLE_MS);
	dns_conns_tick(&d->conns);
}

struct vm_dns_counters vm_dns_counters(const struct vm_dns *d)
{
	struct vm_dns_counters c = d->broker.count;

	c.over_budget += d->broker.names.refused;
	return c;
}
