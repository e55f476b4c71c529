/*
 * Policy routing for diverted packets and for the answers to them.
 */
#include "agent/steer_routes.h"

#include <errno.h>
#include <linux/fib_rules.h>
#include <linux/rtnetlink.h>
#include <string.h>

enum {
	REQUEST_BUF = 1024,
	PREF_LOCAL = 0,
	PREF_MARK = 1,
	PREF_SAME_NIC = 2,	/* and the STEER_N_SAME_NIC - 1 that follow */

	MARK_MASK = 0xfffffff8,	/* marks base+8 .. base+15 are only looked at by BPF */
};

static const int families[] = { AF_INET, AF_INET6 };

struct rule {
	uint32_t pref;
	uint32_t table;
	const char *iif;	/* or NULL */
	uint32_t mark;		/* or 0 */
	uint16_t tcp_port;	/* or 0 */
};

static int rule_talk(struct steer_routes *r, uint16_t type, int family, const struct rule *rule)
{
	_Alignas(struct nlmsghdr) char buf[REQUEST_BUF];
	struct nlmsghdr *h = netlink_start(r->nl, buf, type, type == RTM_NEWRULE ? NLM_F_CREATE | NLM_F_EXCL : 0);
	struct fib_rule_hdr *f = mnl_nlmsg_put_extra_header(h, sizeof(*f));

	f->family = (uint8_t)family;
	f->action = FR_ACT_TO_TBL;
	f->table = RT_TABLE_UNSPEC;
	mnl_attr_put_u32(h, FRA_PRIORITY, rule->pref);
	mnl_attr_put_u32(h, FRA_TABLE, rule->table);
	if (rule->iif)
		mnl_attr_put_strz(h, FRA_IIFNAME, rule->iif);
	if (rule->mark) {
		mnl_attr_put_u32(h, FRA_FWMARK, rule->mark);
		mnl_attr_put_u32(h, FRA_FWMASK, MARK_MASK);
	}
	if (rule->tcp_port) {
		struct fib_rule_port_range range = { rule->tcp_port, rule->tcp_port };

		mnl_attr_put_u8(h, FRA_IP_PROTO, IPPROTO_TCP);
		mnl_attr_put(h, FRA_DPORT_RANGE, sizeof(range), &range);
	}
	return netlink_talk(r->nl, h, NULL, NULL);
}

/* Whatever is at this preference and leads to this table, of this run or an earlier one. */
static void rule_flush(struct steer_routes *r, int family, uint32_t pref, uint32_t table)
{
	struct rule rule = { .pref = pref, .table = table };

	for (int i = 0; i < 16; i++)
		if (rule_talk(r, RTM_DELRULE, family, &rule) < 0)
			return;
}

struct route {
	int family;
	uint32_t table;
	uint8_t type;		/* RTN_* */
	uint32_t ifindex;
	const struct ip *dst;	/* NULL: default */
	bool from_loopback;	/* preferred source 127.0.0.1 or ::1 */
};

static void put_addr(struct nlmsghdr *h, uint16_t attr, int family, const struct ip *a)
{
	if (family == AF_INET)
		mnl_attr_put(h, attr, 4, a->b + 12);
	else
		mnl_attr_put(h, attr, 16, a->b);
}

static int route_talk(struct steer_routes *r, uint16_t type, const struct route *route)
{
	_Alignas(struct nlmsghdr) char buf[REQUEST_BUF];
	struct nlmsghdr *h = netlink_start(r->nl, buf, type, type == RTM_NEWROUTE ? NLM_F_CREATE | NLM_F_REPLACE : 0);
	struct rtmsg *m = mnl_nlmsg_put_extra_header(h, sizeof(*m));
	struct ip loopback = { .b = { [10] = 0xff, 0xff, 127, 0, 0, 1 } };

	if (route->family == AF_INET6)
		loopback = (struct ip){ .b = { [15] = 1 } };
	m->rtm_family = (uint8_t)route->family;
	m->rtm_protocol = RTPROT_STATIC;
	m->rtm_type = route->type;
	m->rtm_scope = route->type == RTN_LOCAL ? RT_SCOPE_HOST : RT_SCOPE_LINK;
	mnl_attr_put_u32(h, RTA_TABLE, route->table);
	mnl_attr_put_u32(h, RTA_OIF, route->ifindex);
	if (route->dst) {
		m->rtm_dst_len = route->family == AF_INET ? 32 : 128;
		put_addr(h, RTA_DST, route->family, route->dst);
	}
	if (route->from_loopback)
		put_addr(h, RTA_PREFSRC, route->family, &loopback);
	return netlink_talk(r->nl, h, NULL, NULL);
}

enum { LOOPBACK_IFINDEX = 1 };

static int setup_family(struct steer_routes *r, int family)
{
	const struct steer_conf *c = r->conf;
	struct rule local = { .pref = c->rule_pref + PREF_LOCAL, .table = c->table_local, .iif = c->divert_dev };
	struct rule mark = { .pref = c->rule_pref + PREF_MARK, .table = c->table_divert, .mark = c->mark_base };
	struct route to_local = { .family = family, .table = c->table_local, .type = RTN_LOCAL, .ifindex = LOOPBACK_IFINDEX };
	struct route to_divert = { .family = family, .table = c->table_divert, .type = RTN_UNICAST, .ifindex = r->divert_ifindex };

	int e = route_talk(r, RTM_NEWROUTE, &to_local);
	if (e < 0)
		return e;
	e = route_talk(r, RTM_NEWROUTE, &to_divert);
	if (e < 0)
		return e;
	e = rule_talk(r, RTM_NEWRULE, family, &local);
	if (e < 0)
		return e;
	return rule_talk(r, RTM_NEWRULE, family, &mark);
}

static void remove_family(struct steer_routes *r, int family)
{
	const struct steer_conf *c = r->conf;
	struct route to_local = { .family = family, .table = c->table_local, .type = RTN_LOCAL, .ifindex = LOOPBACK_IFINDEX };
	struct route to_divert = { .family = family, .table = c->table_divert, .type = RTN_UNICAST, .ifindex = r->divert_ifindex };

	rule_flush(r, family, c->rule_pref + PREF_LOCAL, c->table_local);
	rule_flush(r, family, c->rule_pref + PREF_MARK, c->table_divert);
	for (uint32_t i = 0; i < STEER_N_SAME_NIC; i++)
		rule_flush(r, family, c->rule_pref + PREF_SAME_NIC + i, c->table_same_nic + i);
	(void)!route_talk(r, RTM_DELROUTE, &to_local);
	(void)!route_talk(r, RTM_DELROUTE, &to_divert);
}

int steer_routes_setup(struct steer_routes *r, struct netlink *nl, const struct steer_conf *conf, uint32_t divert_ifindex)
{
	*r = (struct steer_routes){ .nl = nl, .conf = conf, .divert_ifindex = divert_ifindex };
	for (size_t i = 0; i < ELEMENTS(families); i++) {
		remove_family(r, families[i]);

		int e = setup_family(r, families[i]);
		if (e == -EAFNOSUPPORT && families[i] == AF_INET6)	/* a kernel started with ipv6.disable=1 */
			continue;
		if (e < 0)
			return e;
	}
	return 0;
}

void steer_routes_remove(struct steer_routes *r)
{
	if (!r->nl)
		return;
	for (size_t i = 0; i < ELEMENTS(families); i++)
		remove_family(r, families[i]);
}

/* --- same NIC --- */

static int same_nic_rule(struct steer_routes *r, uint16_t type, uint32_t slot, uint16_t port)
{
	struct rule rule = {
		.pref = r->conf->rule_pref + PREF_SAME_NIC + slot, .table = r->conf->table_same_nic + slot,
		.iif = "lo", .tcp_port = port,
	};

	for (size_t i = 0; i < ELEMENTS(families); i++) {
		int e = rule_talk(r, type, families[i], &rule);
		if (e < 0 && e != -EEXIST && e != -EAFNOSUPPORT)
			return e;
	}
	return 0;
}

static int same_nic_route(struct steer_routes *r, uint16_t type, uint32_t slot, const struct ip *addr)
{
	struct route route = {
		.family = ip_is_v4(addr) ? AF_INET : AF_INET6, .table = r->conf->table_same_nic + slot,
		.type = RTN_LOCAL, .ifindex = LOOPBACK_IFINDEX, .dst = addr, .from_loopback = true,
	};

	return route_talk(r, type, &route);
}

static struct steer_same_nic *same_nic_find(struct steer_routes *r, uint16_t port)
{
	struct steer_same_nic *free_one = NULL;

	for (size_t i = 0; i < STEER_N_SAME_NIC; i++) {
		if (!r->same_nic[i].n_addrs)
			free_one = free_one ? free_one : &r->same_nic[i];
		else if (r->same_nic[i].port == port)
			return &r->same_nic[i];
	}
	return free_one;
}

int steer_routes_same_nic_add(struct steer_routes *r, const struct ip *addr, uint16_t port)
{
	struct steer_same_nic *s = same_nic_find(r, port);

	if (!s)
		return -ENOSPC;
	uint32_t slot = (uint32_t)(s - r->same_nic);
	int e = same_nic_route(r, RTM_NEWROUTE, slot, addr);
	if (e < 0)
		return e;
	if (!s->n_addrs) {
		e = same_nic_rule(r, RTM_NEWRULE, slot, port);
		if (e < 0) {
			(void)!same_nic_route(r, RTM_DELROUTE, slot, addr);
			return e;
		}
		s->port = port;
	}
	s->n_addrs++;
	return 0;
}

void steer_routes_same_nic_remove(struct steer_routes *r, const struct ip *addr, uint16_t port)
{
	struct steer_same_nic *s = same_nic_find(r, port);

	if (!s || !s->n_addrs || s->port != port)
		return;
	uint32_t slot = (uint32_t)(s - r->same_nic);
	(void)!same_nic_route(r, RTM_DELROUTE, slot, addr);
	if (!--s->n_addrs)
		(void)!same_nic_rule(r, RTM_DELRULE, slot, port);
}

/* --- check --- */

struct seen {
	const struct steer_conf *conf;
	unsigned n;
};

static int on_rule(const struct nlmsghdr *h, void *data)
{
	struct seen *seen = data;
	uint32_t pref = 0, table = 0;
	struct nlattr *a;

	netlink_attrs(a, h, sizeof(struct fib_rule_hdr)) {
		if (mnl_attr_get_type(a) == FRA_PRIORITY)
			pref = mnl_attr_get_u32(a);
		if (mnl_attr_get_type(a) == FRA_TABLE)
			table = mnl_attr_get_u32(a);
	}
	seen->n += pref == seen->conf->rule_pref + PREF_LOCAL && table == seen->conf->table_local;
	seen->n += pref == seen->conf->rule_pref + PREF_MARK && table == seen->conf->table_divert;
	return MNL_CB_OK;
}

bool steer_routes_present(struct steer_routes *r, int family)
{
	_Alignas(struct nlmsghdr) char buf[REQUEST_BUF];
	struct nlmsghdr *h = netlink_start(r->nl, buf, RTM_GETRULE, NLM_F_DUMP);
	struct fib_rule_hdr *f = mnl_nlmsg_put_extra_header(h, sizeof(*f));
	struct seen seen = { .conf = r->conf };

	f->family = (uint8_t)family;
	return netlink_talk(r->nl, h, on_rule, &seen) == 0 && seen.n == 2;
}
