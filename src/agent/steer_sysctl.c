/*
 * Kernel settings of the NIC's network namespace.
 */
#include "agent/steer_sysctl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

static struct steer_sysctl *add(struct steer_sysctls *s, long want, bool fatal)
{
	struct steer_sysctl *c = &s->list[s->n++];

	*c = (struct steer_sysctl){ .want = want, .fatal = fatal };
	return c;
}

static void add_global(struct steer_sysctls *s, const char *name, long want)
{
	struct steer_sysctl *c = add(s, want, false);

	snprintf(c->name, sizeof(c->name), "net/ipv4/%s", name);
}

static void add_device(struct steer_sysctls *s, const char *family, const char *device, const char *name, long want, bool fatal)
{
	struct steer_sysctl *c = add(s, want, fatal);

	snprintf(c->name, sizeof(c->name), "net/%s/conf/%s/%s", family, device, name);
}

void steer_sysctls_init(struct steer_sysctls *s, const struct steer_conf *conf)
{
	const char *dev = conf->divert_dev;

	*s = (struct steer_sysctls){};
	/* the divert device has no route to anybody: any reverse path check, loose or strict, drops all of it */
	add_device(s, "ipv4", "all", "rp_filter", 0, true);
	add_device(s, "ipv4", dev, "rp_filter", 0, true);
	add_device(s, "ipv4", "all", "src_valid_mark", 0, true);
	add_device(s, "ipv4", dev, "src_valid_mark", 0, true);
	/* what a server on the NIC itself says to a VM may take a turn by the divert device */
	add_device(s, "ipv4", dev, "accept_local", 1, false);
	/* there is no neighbour to redirect anybody to */
	add_device(s, "ipv4", dev, "send_redirects", 0, false);
	add_device(s, "ipv6", dev, "disable_ipv6", 0, true);
	add_device(s, "ipv6", dev, "accept_ra", 0, false);
	/* a SYN that reuses the port of a connection in TIME_WAIT costs ten milliseconds: have none */
	add_global(s, "tcp_max_tw_buckets", 0);
	/* path MTU messages for a proxy's connection in its VM's name go to the VM: probe for black holes instead */
	add_global(s, "tcp_mtu_probing", 1);
}

static int open_sysctl(const struct steer_sysctl *s, int flags)
{
	char path[sizeof(s->name) + 16];

	snprintf(path, sizeof(path), "/proc/sys/%s", s->name);
	int fd = open(path, flags | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int steer_sysctl_read(const struct steer_sysctl *s, long *ret_value)
{
	char text[32] = {};
	CLEANUP_FD int fd = open_sysctl(s, O_RDONLY);

	if (fd < 0)
		return fd;
	if (read(fd, text, sizeof(text) - 1) < 0)
		return -errno;
	*ret_value = strtol(text, NULL, 10);
	return 0;
}

static int write_value(const struct steer_sysctl *s, long value)
{
	char text[32];
	CLEANUP_FD int fd = open_sysctl(s, O_WRONLY);

	if (fd < 0)
		return fd;
	int n = snprintf(text, sizeof(text), "%ld", value);
	return write(fd, text, (size_t)n) == n ? 0 : -errno;
}

int steer_sysctls_apply(struct steer_sysctls *s)
{
	for (size_t i = 0; i < s->n; i++) {
		struct steer_sysctl *c = &s->list[i];

		if (steer_sysctl_read(c, &c->before) < 0 || c->before == c->want)
			continue;
		int r = write_value(c, c->want);
		if (r < 0 && c->fatal)
			return r;
		c->changed = r == 0;
	}
	return 0;
}

void steer_sysctls_restore(struct steer_sysctls *s)
{
	long now;

	for (size_t i = 0; i < s->n; i++) {
		struct steer_sysctl *c = &s->list[i];

		if (c->changed && steer_sysctl_read(c, &now) == 0 && now == c->want)
			(void)!write_value(c, c->before);
		c->changed = false;
	}
}
