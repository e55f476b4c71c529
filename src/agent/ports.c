/*
 * Devices by rtnetlink: a dump, then notifications; a dump anew when some
 * were lost, or to learn the kind of a device's master.
 */
#include "agent/ports.h"

#include <errno.h>
#include <fnmatch.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>

#include "agent/netlink.h"
#include "base/map.h"

struct port {
	struct map_link link;
	struct port_info info;
	char kind[16];		/* of the device itself */
	bool told;		/* PORTS_NEW was said */
	uint32_t generation;	/* of the dump that saw it last */
};

struct ports {
	struct watch watch;
	struct mnl_socket *sock;
	struct map by_index;
	ports_fn *fn;
	void *data;
	char patterns[PORTS_MAX_PATTERNS][IFNAMSIZ];
	size_t n_patterns;
	uint32_t generation;
	uint32_t seq;
	bool lost;		/* notifications were: read all again */
	bool dumping;
};

enum { RECEIVE_BUF = 65536, SOCKET_BUF = 1 << 20 };

static struct port *find(const struct ports *p, uint32_t ifindex)
{
	struct map_link *l = map_find(&p->by_index, &ifindex, sizeof(ifindex));

	return l ? container_of(l, struct port, link) : NULL;
}

static bool matches(const struct ports *p, const char *name)
{
	for (size_t i = 0; i < p->n_patterns; i++)
		if (fnmatch(p->patterns[i], name, 0) == 0)
			return true;
	return false;
}

/* --- what the kernel says --- */

static void read_kind(const struct nlattr *info, char kind[static 16])
{
	struct nlattr *a;

	netlink_nested(a, info)
		if (mnl_attr_get_type(a) == IFLA_INFO_KIND)
			snprintf(kind, 16, "%s", mnl_attr_get_str(a));
}

/* The part of a link message that is about the device. */
static void read_link(const struct nlmsghdr *h, struct port_info *info, char kind[static 16])
{
	const struct ifinfomsg *i = mnl_nlmsg_get_payload(h);
	struct nlattr *a;

	*info = (struct port_info){ .ifindex = (uint32_t)i->ifi_index, .up = i->ifi_flags & IFF_UP };
	info->carrier = info->up && i->ifi_flags & IFF_RUNNING;
	memset(kind, 0, 16);
	netlink_attrs(a, h, sizeof(*i)) {
		switch (mnl_attr_get_type(a)) {
		case IFLA_IFNAME:
			snprintf(info->name, sizeof(info->name), "%s", mnl_attr_get_str(a));
			break;
		case IFLA_ADDRESS:
			if (mnl_attr_get_payload_len(a) == sizeof(info->mac))
				memcpy(info->mac, mnl_attr_get_payload(a), sizeof(info->mac));
			break;
		case IFLA_MTU:
			info->mtu = mnl_attr_get_u32(a);
			break;
		case IFLA_MASTER:
			info->master = mnl_attr_get_u32(a);
			break;
		case IFLA_LINKINFO:
			read_kind(a, kind);
			break;
		default:
			break;
		}
	}
}

static void fill_master(const struct ports *p, struct port_info *info)
{
	const struct port *master = info->master ? find(p, info->master) : NULL;

	memset(info->master_kind, 0, sizeof(info->master_kind));
	if (master)
		memcpy(info->master_kind, master->kind, sizeof(info->master_kind));
}

static bool same(const struct port_info *a, const struct port_info *b)
{
	return !strcmp(a->name, b->name) && !memcmp(a->mac, b->mac, sizeof(a->mac)) && a->mtu == b->mtu &&
	       a->master == b->master && !strcmp(a->master_kind, b->master_kind) && a->up == b->up && a->carrier == b->carrier;
}

static void tell(struct ports *p, struct port *port, bool changed)
{
	bool wanted = matches(p, port->info.name);

	if (wanted && !port->told) {
		port->told = true;
		p->fn(PORTS_NEW, &port->info, p->data);
	} else if (!wanted && port->told) {
		port->told = false;
		p->fn(PORTS_GONE, &port->info, p->data);
	} else if (wanted && changed) {
		p->fn(PORTS_CHANGED, &port->info, p->data);
	}
}

static void forget(struct ports *p, struct port *port)
{
	map_remove(&p->by_index, &port->link);
	if (port->told)
		p->fn(PORTS_GONE, &port->info, p->data);
	free(port);
}

static int link_there(struct ports *p, const struct nlmsghdr *h)
{
	struct port_info info;
	char kind[16];
	bool changed = true;

	read_link(h, &info, kind);

	struct port *port = find(p, info.ifindex);
	if (!port) {
		port = calloc(1, sizeof(*port));
		if (!port)
			return -ENOMEM;
		port->info.ifindex = info.ifindex;
		int r = map_add(&p->by_index, &port->link, &port->info.ifindex, sizeof(port->info.ifindex));
		if (r < 0) {
			free(port);
			return r;
		}
	} else {
		fill_master(p, &info);
		changed = !same(&info, &port->info);
	}
	if (kind[0])
		memcpy(port->kind, kind, sizeof(kind));
	fill_master(p, &info);
	port->info = info;
	port->generation = p->generation;
	if (!p->dumping)	/* its master may come later in a dump */
		tell(p, port, changed);
	else if (changed && port->told)
		p->fn(PORTS_CHANGED, &port->info, p->data);
	return 0;
}

static int on_message(const struct nlmsghdr *h, void *data)
{
	const struct ifinfomsg *i = mnl_nlmsg_get_payload(h);
	struct ports *p = data;

	/* a bridge speaks of its ports as AF_BRIDGE, also to say that one left it */
	if (i->ifi_family != AF_UNSPEC)
		return MNL_CB_OK;
	if (h->nlmsg_type == RTM_NEWLINK) {
		int r = link_there(p, h);
		if (r < 0) {
			errno = -r;
			return MNL_CB_ERROR;
		}
	} else if (h->nlmsg_type == RTM_DELLINK) {
		struct port *port = find(p, (uint32_t)i->ifi_index);
		if (port)
			forget(p, port);
	}
	return MNL_CB_OK;
}

/* --- dumps --- */

static int ask_all(struct ports *p)
{
	_Alignas(struct nlmsghdr) char buf[256];
	struct nlmsghdr *h = mnl_nlmsg_put_header(buf);

	h->nlmsg_type = RTM_GETLINK;
	h->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	h->nlmsg_seq = ++p->seq;
	mnl_nlmsg_put_extra_header(h, sizeof(struct ifinfomsg));
	if (mnl_socket_sendto(p->sock, h, h->nlmsg_len) < 0)
		return -errno;
	p->generation++;
	p->dumping = true;
	p->lost = false;
	return 0;
}

/* The dump is complete: what it did not show is gone, what it showed can be told with its master. */
static void dump_done(struct ports *p)
{
	p->dumping = false;
	map_for_each(l, &p->by_index) {
		struct port *port = container_of(l, struct port, link);

		if (port->generation != p->generation) {
			forget(p, port);
			continue;
		}
		fill_master(p, &port->info);
		tell(p, port, false);
	}
}

/* One datagram. -EAGAIN: there is none. */
static int receive(struct ports *p)
{
	_Alignas(struct nlmsghdr) static _Thread_local char buf[RECEIVE_BUF];
	ssize_t n = recv(mnl_socket_get_fd(p->sock), buf, sizeof(buf), MSG_DONTWAIT);

	if (n < 0 && errno == ENOBUFS) {
		p->lost = true;
		return 0;
	}
	if (n < 0)
		return -errno;

	int left = (int)n;
	for (const struct nlmsghdr *h = (const void *)buf; mnl_nlmsg_ok(h, left); h = mnl_nlmsg_next(h, &left)) {
		if (h->nlmsg_type == NLMSG_DONE && p->dumping && h->nlmsg_seq == p->seq) {
			dump_done(p);
		} else if (h->nlmsg_type == NLMSG_ERROR) {
			p->lost = true;		/* the dump was interrupted */
			p->dumping = false;
		} else if (h->nlmsg_type >= NLMSG_MIN_TYPE && on_message(h, p) == MNL_CB_ERROR) {
			return -errno;
		}
	}
	return 0;
}

static int on_netlink(struct watch *w, uint32_t events)
{
	struct ports *p = container_of(w, struct ports, watch);
	int r;

	(void)events;
	while ((r = receive(p)) == 0)
		;
	if (r != -EAGAIN && r != -EINTR)
		return r;
	return p->lost && !p->dumping ? ask_all(p) : 0;
}

static int read_first(struct ports *p)
{
	int r = ask_all(p);

	while (r == 0 && p->dumping) {
		r = receive(p);
		if (r == -EAGAIN || r == -EINTR)	/* a dump is answered by the call that asks for its next part */
			r = 0;
	}
	return r;
}

/* --- life --- */

static int open_socket(struct ports *p)
{
	int size = SOCKET_BUF;

	p->sock = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
	if (!p->sock || mnl_socket_bind(p->sock, RTMGRP_LINK, MNL_SOCKET_AUTOPID) < 0)
		return -errno;
	(void)!setsockopt(mnl_socket_get_fd(p->sock), SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	return 0;
}

static struct ports *ports_free(struct ports *p)
{
	if (!p)
		return NULL;
	watch_remove(&p->watch);
	if (p->sock)
		mnl_socket_close(p->sock);
	map_for_each(link, &p->by_index)
		free(container_of(link, struct port, link));
	map_deinit(&p->by_index);
	free(p);
	return NULL;
}

int ports_new(struct loop *l, const char *const *patterns, size_t n_patterns, ports_fn *fn, void *data,
	      struct ports **ret_ports)
{
	struct ports *p;

	if (n_patterns > PORTS_MAX_PATTERNS)
		return -E2BIG;
	p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	map_init(&p->by_index);
	p->fn = fn;
	p->data = data;
	for (; p->n_patterns < n_patterns; p->n_patterns++)
		snprintf(p->patterns[p->n_patterns], IFNAMSIZ, "%s", patterns[p->n_patterns]);

	*ret_ports = p;		/* @fn may want to look around */
	int r = open_socket(p);
	if (r == 0)
		r = read_first(p);
	if (r == 0)
		r = watch_add(l, &p->watch, mnl_socket_get_fd(p->sock), EPOLLIN, false, on_netlink);
	if (r < 0)
		*ret_ports = ports_free(p);
	return r;
}

const struct port_info *ports_find_name(const struct ports *p, const char *name)
{
	map_for_each(l, &p->by_index) {
		const struct port *port = container_of(l, struct port, link);

		if (!strcmp(port->info.name, name))
			return &port->info;
	}
	return NULL;
}
