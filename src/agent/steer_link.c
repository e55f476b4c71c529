/*
 * The divert device, made and unmade by rtnetlink.
 */
#include "agent/steer_link.h"

#include <errno.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>

enum { REQUEST_BUF = 4096 };

static int on_link(const struct nlmsghdr *h, void *data)
{
	const struct ifinfomsg *i = mnl_nlmsg_get_payload(h);
	struct steer_link *link = data;
	struct nlattr *a;

	link->ifindex = (uint32_t)i->ifi_index;
	netlink_attrs(a, h, sizeof(*i)) {
		if (mnl_attr_get_type(a) == IFLA_ADDRESS && mnl_attr_get_payload_len(a) == sizeof(link->mac))
			memcpy(link->mac, mnl_attr_get_payload(a), sizeof(link->mac));
		else if (mnl_attr_get_type(a) == IFLA_MASTER && mnl_attr_get_payload_len(a) == sizeof(link->master))
			link->master = mnl_attr_get_u32(a);
	}
	return MNL_CB_OK;
}

/* By its name, or NULL and its ifindex. */
static int ask(struct netlink *nl, const char *name, uint32_t ifindex, struct steer_link *ret_link)
{
	_Alignas(struct nlmsghdr) char buf[REQUEST_BUF];
	struct nlmsghdr *h = netlink_start(nl, buf, RTM_GETLINK, 0);
	struct ifinfomsg *i = mnl_nlmsg_put_extra_header(h, sizeof(*i));
	struct steer_link link = {};

	if (name)
		mnl_attr_put_strz(h, IFLA_IFNAME, name);
	else
		i->ifi_index = (int)ifindex;

	int r = netlink_talk(nl, h, on_link, &link);
	if (r < 0)
		return r;
	if (!link.ifindex)
		return -ENODEV;
	*ret_link = link;
	return 0;
}

int steer_link_find(struct netlink *nl, const char *name, struct steer_link *ret_link)
{
	return ask(nl, name, 0, ret_link);
}

int steer_link_get(struct netlink *nl, uint32_t ifindex, struct steer_link *ret_link)
{
	return ask(nl, NULL, ifindex, ret_link);
}

/* For a veth, @peer is the name of the other end; else NULL. */
static int make(struct netlink *nl, const char *name, const char *kind, const char *peer)
{
	_Alignas(struct nlmsghdr) char buf[REQUEST_BUF];
	struct nlmsghdr *h = netlink_start(nl, buf, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);

	mnl_nlmsg_put_extra_header(h, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(h, IFLA_IFNAME, name);

	struct nlattr *info = mnl_attr_nest_start(h, IFLA_LINKINFO);
	mnl_attr_put_strz(h, IFLA_INFO_KIND, kind);
	if (peer) {
		struct nlattr *d = mnl_attr_nest_start(h, IFLA_INFO_DATA);
		struct nlattr *p = mnl_attr_nest_start(h, VETH_INFO_PEER);

		mnl_nlmsg_put_extra_header(h, sizeof(struct ifinfomsg));
		mnl_attr_put_strz(h, IFLA_IFNAME, peer);
		mnl_attr_nest_end(h, p);
		mnl_attr_nest_end(h, d);
	}
	mnl_attr_nest_end(h, info);
	return netlink_talk(nl, h, NULL, NULL);
}

/* Up, no ARP, and no link-local address of its own. */
static int set_up(struct netlink *nl, uint32_t ifindex)
{
	_Alignas(struct nlmsghdr) char buf[REQUEST_BUF];
	struct nlmsghdr *h = netlink_start(nl, buf, RTM_NEWLINK, 0);
	struct ifinfomsg *i = mnl_nlmsg_put_extra_header(h, sizeof(*i));

	i->ifi_index = (int)ifindex;
	i->ifi_flags = IFF_UP | IFF_NOARP;
	i->ifi_change = IFF_UP | IFF_NOARP;

	struct nlattr *spec = mnl_attr_nest_start(h, IFLA_AF_SPEC);
	struct nlattr *inet6 = mnl_attr_nest_start(h, AF_INET6);
	mnl_attr_put_u8(h, IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
	mnl_attr_nest_end(h, inet6);
	mnl_attr_nest_end(h, spec);
	return netlink_talk(nl, h, NULL, NULL);
}

static void peer_name(const struct steer_conf *conf, char ret_name[IFNAMSIZ])
{
	snprintf(ret_name, IFNAMSIZ, "%.*sp", IFNAMSIZ - 2, conf->divert_dev);
}

int steer_link_ensure(struct netlink *nl, const struct steer_conf *conf, struct steer_link *ret_link)
{
	struct steer_link link, other;
	char peer[IFNAMSIZ];
	bool made = false;

	peer_name(conf, peer);
	int r = steer_link_find(nl, conf->divert_dev, &link);
	if (r == -ENODEV) {
		made = true;
		r = make(nl, conf->divert_dev, "dummy", NULL);
		if (r == -EOPNOTSUPP || r == -ENOENT)
			r = make(nl, conf->divert_dev, "veth", peer);
		if (r < 0)
			return r;
		r = steer_link_find(nl, conf->divert_dev, &link);
	}
	if (r < 0)
		return r;
	r = set_up(nl, link.ifindex);
	if (r < 0)
		return r;
	if (steer_link_find(nl, peer, &other) == 0) {	/* a veth has a carrier when its other end is up */
		r = set_up(nl, other.ifindex);
		if (r < 0)
			return r;
	}
	link.made = made;
	*ret_link = link;
	return 0;
}

void steer_link_remove(struct netlink *nl, const struct steer_link *link)
{
	_Alignas(struct nlmsghdr) char buf[REQUEST_BUF];
	struct nlmsghdr *h = netlink_start(nl, buf, RTM_DELLINK, 0);
	struct ifinfomsg *i = mnl_nlmsg_put_extra_header(h, sizeof(*i));

	i->ifi_index = (int)link->ifindex;
	(void)!netlink_talk(nl, h, NULL, NULL);		/* on the way out: somebody may have removed it */
}
