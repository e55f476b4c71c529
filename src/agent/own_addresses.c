/*
 * The NIC's own addresses: what is told is only that something has changed, and
 * then all are read. They are few, and seldom change.
 */
#include "agent/own_addresses.h"

#include <errno.h>
#include <linux/rtnetlink.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "agent/netlink.h"

enum { REQUEST_BUF = 4096, OWN_MAX = 65536, TRIES = 100, RETRY_MS = 1000 };

struct own_addresses {
	struct loop *loop;
	struct watch watch;
	struct timer retry;
	struct netlink news;
	struct ip *ips;
	size_t n;
	own_addresses_fn *fn;
	void *data;
};

static int add(struct own_addresses *o, const struct ip *ip)
{
	if (ip_is_loopback(ip) || o->n == OWN_MAX)
		return 0;
	if (!(o->n & (o->n - 1))) {		/* 0 and the powers of two */
		struct ip *ips = realloc(o->ips, (o->n ? 2 * o->n : 1) * sizeof(*ips));

		if (!ips)
			return -ENOMEM;
		o->ips = ips;
	}
	o->ips[o->n++] = *ip;
	return 0;
}

static bool read_address(const struct nlattr *a, uint8_t family, struct ip *ret_ip)
{
	if (family == AF_INET && mnl_attr_get_payload_len(a) == 4)
		*ret_ip = ip_from_v4(mnl_attr_get_payload(a));
	else if (family == AF_INET6 && mnl_attr_get_payload_len(a) == 16)
		*ret_ip = ip_from_v6(mnl_attr_get_payload(a));
	else
		return false;
	return true;
}

/* Of a point-to-point link IFA_ADDRESS is the other end's, and IFA_LOCAL ours. */
static int on_address(const struct nlmsghdr *h, void *data)
{
	const struct ifaddrmsg *m = mnl_nlmsg_get_payload(h);
	struct own_addresses *o = data;
	struct ip local, ip;
	bool has_local = false, has = false;
	struct nlattr *a;

	if (h->nlmsg_type != RTM_NEWADDR)
		return MNL_CB_OK;
	netlink_attrs(a, h, sizeof(*m)) {
		if (mnl_attr_get_type(a) == IFA_LOCAL)
			has_local = read_address(a, m->ifa_family, &local);
		else if (mnl_attr_get_type(a) == IFA_ADDRESS)
			has = read_address(a, m->ifa_family, &ip);
	}
	if ((has_local || has) && add(o, has_local ? &local : &ip) < 0) {
		errno = ENOMEM;
		return MNL_CB_ERROR;
	}
	return MNL_CB_OK;
}

/* By a socket of its own: the rest of a dump that was interrupted by a change (-EINTR) goes with it. */
static int dump(struct own_addresses *o)
{
	_Alignas(struct nlmsghdr) char buf[REQUEST_BUF];
	struct nlmsghdr *h;
	struct netlink nl;
	int r = netlink_open(&nl);

	if (r < 0)
		return r;
	h = netlink_start(&nl, buf, RTM_GETADDR, NLM_F_DUMP);
	mnl_nlmsg_put_extra_header(h, sizeof(struct ifaddrmsg));
	o->n = 0;
	r = netlink_talk(&nl, h, on_address, o);
	netlink_close(&nl);
	return r;
}

static int read_all(struct own_addresses *o)
{
	int r = -EINTR;

	for (int i = 0; i < TRIES && r == -EINTR; i++)
		r = dump(o);
	if (r == 0)
		o->fn(o->ips, o->n, o->data);
	return r;
}

static int read_news(struct own_addresses *o);

static int on_retry(struct timer *t)
{
	return read_news(container_of(t, struct own_addresses, retry));
}

/* Without memory or descriptors for it, or where changes do not stop, what was known stays in force for another moment. */
static int read_news(struct own_addresses *o)
{
	int r = read_all(o);

	if (r != -EINTR && r != -ENOMEM && r != -ENOBUFS && r != -EMFILE && r != -ENFILE)
		return r;
	(void)!timer_arm(o->loop, &o->retry, RETRY_MS, on_retry);	/* no memory for that either: until the next change */
	return 0;
}

static int on_news(struct watch *w, uint32_t events)
{
	struct own_addresses *o = container_of(w, struct own_addresses, watch);
	char buf[NETLINK_BUF];

	(void)events;
	while (recv(w->fd, buf, sizeof(buf), MSG_DONTWAIT) >= 0 || errno == ENOBUFS)
		;
	if (errno != EAGAIN && errno != EINTR)
		return -errno;
	return read_news(o);
}

static int follow(struct own_addresses *o)
{
	static const int groups[] = { RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR };

	for (size_t i = 0; i < ELEMENTS(groups); i++) {
		int group = groups[i];

		if (mnl_socket_setsockopt(o->news.sock, NETLINK_ADD_MEMBERSHIP, &group, sizeof(group)) < 0)
			return -errno;
	}
	return watch_add(o->loop, &o->watch, mnl_socket_get_fd(o->news.sock), EPOLLIN, false, on_news);
}

int own_addresses_new(struct loop *l, own_addresses_fn *fn, void *data, struct own_addresses **ret_own)
{
	struct own_addresses *o = calloc(1, sizeof(*o));
	int r;

	if (!o)
		return -ENOMEM;
	o->loop = l;
	o->fn = fn;
	o->data = data;
	r = netlink_open(&o->news);
	if (r == 0)
		r = follow(o);	/* before all are read, so that none is missed */
	if (r == 0)
		r = read_all(o);
	if (r < 0) {
		own_addresses_free(o);
		return r;
	}
	*ret_own = o;
	return 0;
}

struct own_addresses *own_addresses_free(struct own_addresses *o)
{
	if (!o)
		return NULL;
	watch_remove(&o->watch);
	timer_cancel(&o->retry);
	netlink_close(&o->news);
	free(o->ips);
	free(o);
	return NULL;
}
