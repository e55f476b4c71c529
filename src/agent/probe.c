/*
 * A probe is a connect() that the monitor opens and we wait for; BPF notes
 * where the SYN-ACK or RST came in. The connection is reset at once.
 */
#include "agent/probe.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>

static void stop(struct probe *p)
{
	watch_remove(&p->watch);
	timer_cancel(&p->timer);
	p->fd = close_fd(p->fd);
	p->running = false;
}

void probe_cancel(struct probe *p)
{
	if (p->running)
		stop(p);
}

static enum probe_result result_of(int error)
{
	switch (error) {
	case 0:
		return PROBE_CONNECTED;
	case ECONNREFUSED:
	case ECONNRESET:
		return PROBE_REFUSED;
	case ETIMEDOUT:
	case EHOSTUNREACH:	/* nobody answers ARP */
		return PROBE_SILENT;
	default:
		return PROBE_FAILED;
	}
}

static int on_answer(struct watch *w, uint32_t events)
{
	struct probe *p = container_of(w, struct probe, watch);
	struct monitor_probe_answer where;
	struct linger reset = { .l_onoff = 1 };
	int error = 0;
	socklen_t len = sizeof(error);

	(void)events;
	if (getsockopt(p->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
		error = errno;
	/* No FIN, no TIME_WAIT: the service sees a connection that was given up. */
	setsockopt(p->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));

	enum probe_result result = result_of(error);
	bool known = (result == PROBE_CONNECTED || result == PROBE_REFUSED) &&
		     monitor_probe_result(p->monitor, &p->target, &p->local, &where) == 0;

	stop(p);
	p->fn(p, result, known ? &where : NULL);
	return 0;
}

static int on_timeout(struct timer *t)
{
	struct probe *p = container_of(t, struct probe, timer);

	stop(p);
	p->fn(p, PROBE_SILENT, NULL);
	return 0;
}

/* The address that this machine would talk to @target from. Nothing is sent. */
static int own_source(const struct ip_port *target, struct ip *ret_ip)
{
	int family = ip_is_v4(&target->ip) ? AF_INET : AF_INET6;
	struct sockaddr_storage sa;
	socklen_t len = ip_port_to_sockaddr(target, family, &sa);
	CLEANUP_FD int fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ip_port at;
	int r;

	if (fd < 0 || connect(fd, (const struct sockaddr *)&sa, len) < 0)
		return -errno;
	len = sizeof(sa);
	if (getsockname(fd, (struct sockaddr *)&sa, &len) < 0)
		return -errno;
	r = ip_port_from_sockaddr(&sa, &at);
	if (r == 0)
		*ret_ip = at.ip;
	return r;
}

int probe_start(struct probe *p, struct loop *l, struct monitor_client *monitor, const struct ip_port *target,
		enum probe_way way, uint32_t timeout_ms, probe_fn *fn)
{
	struct monitor_probe request = { .target = *target };
	int r = 0;

	if (p->running)
		return -EBUSY;
	if (way == PROBE_FROM_SPARE)
		request.source = ip_spare(&target->ip);	/* the answer is caught at the VM's port */
	else if (way == PROBE_FROM_OWN)
		r = own_source(target, &request.source);
	if (r < 0)
		return r;
	r = monitor_probe_open(monitor, &request, &p->fd, &p->local);
	if (r < 0)
		return r;
	p->running = true;
	p->monitor = monitor;
	p->target = *target;
	p->fn = fn;
	r = watch_add(l, &p->watch, p->fd, EPOLLOUT, false, on_answer);
	if (r == 0)
		r = timer_arm(l, &p->timer, timeout_ms, on_timeout);
	if (r < 0)
		stop(p);
	return r;
}
