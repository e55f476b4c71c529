/*
 * Has anybody changed under us what steering depends on?
 */
#include "agent/steer_check.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

static void line(struct monitor_msg_checks *c, bool ok, bool fatal, const char *what, const char *found)
{
	if (c->n == MONITOR_MAX_CHECKS)
		return;
	c->checks[c->n].ok = ok;
	c->checks[c->n].fatal = fatal;
	snprintf(c->checks[c->n].what, MONITOR_CHECK_TEXT_LEN, "%s", what);
	snprintf(c->checks[c->n].found, MONITOR_CHECK_TEXT_LEN, "%s", ok ? "" : found);
	c->n++;
}

static void check_sysctls(const struct monitor_state *m, struct monitor_msg_checks *c)
{
	char what[MONITOR_CHECK_TEXT_LEN], found[MONITOR_CHECK_TEXT_LEN];
	long value;

	for (size_t i = 0; i < m->sysctls.n; i++) {
		const struct steer_sysctl *s = &m->sysctls.list[i];

		if (steer_sysctl_read(s, &value) < 0)
			continue;	/* this kernel does not have it */
		snprintf(what, sizeof(what), "sysctl %.70s is %ld", s->name, s->want);
		snprintf(found, sizeof(found), "it is %ld", value);
		line(c, value == s->want, s->fatal, what, found);
	}
}

static void check_device(struct monitor_state *m, struct monitor_msg_checks *c)
{
	struct steer_link now = {};
	bool there = steer_link_find(&m->nl, m->conf->divert_dev, &now) == 0;
	char what[MONITOR_CHECK_TEXT_LEN];

	snprintf(what, sizeof(what), "device %s is there", m->conf->divert_dev);
	line(c, there, true, what, "it is gone");
	snprintf(what, sizeof(what), "device %s is the one that was made", m->conf->divert_dev);
	line(c, there && now.ifindex == m->divert.ifindex && !memcmp(now.mac, m->divert.mac, sizeof(now.mac)),
	     true, what, "it has another index or MAC address");
}

void steer_check_run(struct monitor_state *m, struct monitor_msg_checks *ret_checks)
{
	*ret_checks = (struct monitor_msg_checks){};
	check_device(m, ret_checks);
	line(ret_checks, steer_routes_present(&m->routes, AF_INET), true, "routing rules for IPv4 are there", "one is missing");
	line(ret_checks, steer_routes_present(&m->routes, AF_INET6), true, "routing rules for IPv6 are there", "one is missing");
	line(ret_checks, m->bpf.tcx, false, "BPF programs are attached by TCX", "clsact filters: this kernel is older than 6.6");
	check_sysctls(m, ret_checks);
}
