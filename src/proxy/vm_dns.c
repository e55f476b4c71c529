/*
 * A VM's queries for names.
 */
#include "proxy/vm_dns.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "base/list.h"
#include "proto/dns_reply.h"

enum {
	DNS_PORT = 53,
	DATAGRAMS_A_TURN = 64,		/* of one VM; the others and the mesh controller come in between */
	DATAGRAMS_LEFT = 4096,		/* more than a socket's queue has */
	TICK_MS = 100,
	IDLE_MS = 60000,
	ADDRESSES_MAX = 64,		/* of an answer */
};

/* What waits. @message is the query in mode answer, in mode fill the server's answer, once it has come. */
struct pending {
	struct list link;
	struct ip_port client;
	struct ip server;
	uint64_t until_ms;
	bool is_fill;
	struct dns_query query;
	char key[DNS_NAMES_KEY_LEN];
	size_t len;
	uint8_t *message;
};

struct vm_dns {
	struct loop *loop;
	int fds[2];			/* to the VM; to its servers */
	struct watch watch;
	struct timer timer;		/* while something is pending */
	struct dns_names names;
	const Outrigger__Ipc__VmPut *put;
	struct list pending;		/* oldest first */
	size_t n_pending;
	uint32_t turn;			/* endpoints are told from another one on each time */
	struct vm_dns_counters count;
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
		d->count.send_errors++;		/* as if the network had lost it */
}

static void send_to_vm(struct vm_dns *d, const struct ip *server, const struct ip_port *client, const void *data, size_t len)
{
	send_from(d, d->fds[0], server, client, data, len);
}

/* As the VM sent it: BPF turns it round. */
static void forward(struct vm_dns *d, const struct ip_port *client, const struct ip *server, const void *data, size_t len)
{
	d->count.forwarded++;
	send_from(d, d->fds[1], server, client, data, len);
}

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

/* --- answers --- */

static bool is_family(const struct ip *ip, uint16_t type)
{
	return type == (ip_is_v4(ip) ? DNS_TYPE_A : DNS_TYPE_AAAA);
}

/* The service's own addresses; of one without any, its endpoints', as many as there is room for. */
static void put_addresses(struct vm_dns *d, const struct snap_service *s, uint16_t type, struct dns_reply *r)
{
	uint32_t n = snap_service_size(s);

	for (uint16_t i = 0; i < s->def->n_vips; i++)
		if (is_family(&s->def->vips[i], type))
			dns_reply_address(r, &s->def->vips[i], VM_DNS_TTL_S);
	if (s->def->n_vips)
		return;
	for (uint32_t i = 0; i < n && r->n_answers < ADDRESSES_MAX; i++) {
		const struct snap_workload *w = snap_service_endpoint(s, (i + d->turn) % n);

		if (!w->reachable || !w->weight || !(w->healthy || s->def->allow_unhealthy))
			continue;
		if (is_family(&w->ip, type))
			dns_reply_address(r, &w->ip, VM_DNS_ENDPOINT_TTL_S);
		for (uint8_t k = 0; k < w->n_more; k++)
			if (is_family(&snap_workload_more(w)[k], type))
				dns_reply_address(r, &snap_workload_more(w)[k], VM_DNS_ENDPOINT_TTL_S);
	}
	d->turn++;
}

/* A name that exists has no record of the other types: no error, and nothing (RFC 2308, section 2.2). */
static void answer(struct vm_dns *d, const struct ip_port *client, const struct ip *server, const struct dns_query *q,
		   const struct snap_service *s)
{
	struct dns_reply r;

	dns_reply_begin(&r, q);
	if (q->type == DNS_TYPE_A || q->type == DNS_TYPE_AAAA)
		put_addresses(d, s, q->type, &r);
	r.cut = false;		/* any of them will do: no reason to ask once more, by TCP */
	dns_reply_end(&r);
	d->count.answered++;
	send_to_vm(d, server, client, r.data, r.len);
}

/* --- what waits --- */

static void pending_free(struct vm_dns *d, struct pending *p)
{
	list_unlink(&p->link);
	d->n_pending--;
	free(p->message);
	free(p);
}

static int on_timer(struct timer *t);

static bool keep_message(struct pending *p, const uint8_t *data, size_t len)
{
	p->message = malloc(len ? len : 1);
	if (!p->message)
		return false;
	memcpy(p->message, data, len);
	p->len = len;
	return true;
}

/* @message: see there; may be NULL. NULL: over the budget, or out of memory. */
static struct pending *pending_new(struct vm_dns *d, const struct ip_port *client, const struct ip *server, const struct dns_query *q,
				   const char *key, bool is_fill, const struct datagram *message)
{
	struct pending *p = d->n_pending < VM_DNS_PENDING_MAX ? calloc(1, sizeof(*p)) : NULL;

	if (!p || (message && !keep_message(p, message->data, message->len)) ||
	    (!d->n_pending && timer_arm(d->loop, &d->timer, TICK_MS, on_timer) < 0)) {
		if (p)
			free(p->message);
		free(p);
		d->count.over_budget++;
		return NULL;
	}
	p->client = *client;
	p->server = *server;
	p->is_fill = is_fill;
	p->query = *q;
	p->until_ms = loop_now_ms(d->loop) + (message ? VM_DNS_WAIT_MS : VM_DNS_FILL_MS);
	memcpy(p->key, key, sizeof(p->key));
	list_append(&d->pending, &p->link);
	d->n_pending++;
	return p;
}

static void answer_pending(struct vm_dns *d, struct pending *p, const struct snap_service *s)
{
	d->count.filled += p->is_fill;
	answer(d, &p->client, &p->server, &p->query, s);
	pending_free(d, p);
}

/* The mesh has nothing for it: it becomes what it would have without us. */
static void let_go(struct vm_dns *d, struct pending *p)
{
	if (p->message && p->is_fill)
		send_to_vm(d, &p->server, &p->client, p->message, p->len);
	else if (p->message)
		forward(d, &p->client, &p->server, p->message, p->len);
	pending_free(d, p);
}

static int on_timer(struct timer *t)
{
	struct vm_dns *d = container_of(t, struct vm_dns, timer);
	uint64_t now_ms = loop_now_ms(d->loop);

	list_for_each_safe(l, &d->pending) {
		struct pending *p = list_entry(l, struct pending, link);
		const struct snap_service *s;

		if (now_ms < p->until_ms)
			continue;
		if (dns_names_find(&d->names, p->key, now_ms, &s) == DNS_FOUND)
			answer_pending(d, p, s);
		else
			let_go(d, p);
	}
	return d->n_pending ? timer_arm(d->loop, &d->timer, TICK_MS, on_timer) : 0;
}

void vm_dns_told(struct vm_dns *d, const char *key)
{
	const struct snap_service *s = NULL;

	if (!dns_names_told(&d->names, key))
		return;
	s = d->names.ops->service(d->names.data, key);
	list_for_each_safe(l, &d->pending) {
		struct pending *p = list_entry(l, struct pending, link);

		if (!p->message || strcmp(p->key, key) != 0)	/* without one it waits for its server */
			continue;
		if (s)
			answer_pending(d, p, s);
		else
			let_go(d, p);
	}
}

/* --- queries and answers that come --- */

static void take_query(struct vm_dns *d, const struct datagram *g)
{
	bool is_fill = d->put->dns == OUTRIGGER__IPC__DNS_MODE__DNS_FILL;
	const struct snap_service *s = NULL;
	char key[DNS_NAMES_KEY_LEN];
	enum dns_found found;
	struct dns_query q;

	d->count.queries++;
	if (!dns_query_decode(g->data, g->len, &q)) {
		d->count.malformed++;
		forward(d, &g->from, &g->to.ip, g->data, g->len);
		return;
	}
	if (d->put->dns == OUTRIGGER__IPC__DNS_MODE__DNS_OBSERVE ||
	    !dns_names_key(&q.name, d->put->namespace_, d->put->dns_domains, d->put->n_dns_domains, key)) {
		forward(d, &g->from, &g->to.ip, g->data, g->len);
		return;
	}
	found = dns_names_find(&d->names, key, loop_now_ms(d->loop), &s);
	if (is_fill) {
		(void)!pending_new(d, &g->from, &g->to.ip, &q, key, true, NULL);
		forward(d, &g->from, &g->to.ip, g->data, g->len);
	} else if (found == DNS_FOUND) {
		answer(d, &g->from, &g->to.ip, &q, s);
	} else if (found == DNS_FOUND_NOTHING || !pending_new(d, &g->from, &g->to.ip, &q, key, false, g)) {
		forward(d, &g->from, &g->to.ip, g->data, g->len);
	}
}

static struct pending *pending_of(struct vm_dns *d, const struct datagram *g, const struct dns_query *q)
{
	list_for_each(l, &d->pending) {
		struct pending *p = list_entry(l, struct pending, link);

		if (p->is_fill && !p->message && p->query.id == q->id && p->query.type == q->type && p->client.port == g->to.port &&
		    ip_equal(&p->client.ip, &g->to.ip) && ip_equal(&p->server, &g->from.ip) && dns_name_equal(&p->query.name, &q->name))
			return p;
	}
	return NULL;
}

/* It has no such name, or it cannot find out: then it is as good as silent. */
static bool is_refusal(uint8_t rcode)
{
	return rcode == DNS_RCODE_NXDOMAIN || rcode == DNS_RCODE_SERVFAIL || rcode == DNS_RCODE_REFUSED;
}

/*
 * What was asked stands in the answer. So one whose query nobody remembers (it
 * was over the budget, or came to the process before this one) is filled, too.
 */
static bool fill(struct vm_dns *d, const struct datagram *g, const struct dns_query *q, struct pending *p)
{
	const struct snap_service *s;
	char key[DNS_NAMES_KEY_LEN];

	if (!is_refusal(q->rcode) || !dns_names_key(&q->name, d->put->namespace_, d->put->dns_domains, d->put->n_dns_domains, key))
		return false;
	switch (dns_names_find(&d->names, key, loop_now_ms(d->loop), &s)) {
	case DNS_FOUND:
		d->count.filled++;
		answer(d, &g->to, &g->from.ip, p ? &p->query : q, s);
		return true;
	case DNS_FOUND_LATER:
		return pending_new(d, &g->to, &g->from.ip, p ? &p->query : q, key, true, g);
	case DNS_FOUND_NOTHING:
		break;
	}
	return false;
}

static void take_response(struct vm_dns *d, const struct datagram *g)
{
	struct dns_query q;
	bool is_response = dns_response_decode(g->data, g->len, &q);
	struct pending *p = is_response ? pending_of(d, g, &q) : NULL;

	if (!is_response || !fill(d, g, &q, p))
		send_to_vm(d, &g->from.ip, &g->to, g->data, g->len);
	if (p)
		pending_free(d, p);
}

static bool is_own(const struct vm_dns *d, const struct ip *ip)
{
	for (size_t i = 0; i < d->put->n_addresses; i++) {
		struct ip own;

		if (ip_parse(d->put->addresses[i], &own) == 0 && ip_equal(&own, ip))
			return true;
	}
	return false;
}

static void take_some(struct vm_dns *d, unsigned n)
{
	struct datagram g;

	for (unsigned i = 0; i < n && receive(d, &g) == 0; i++) {
		if (g.to.port == DNS_PORT && is_own(d, &g.from.ip))
			take_query(d, &g);
		else if (g.to.port && g.from.port == DNS_PORT && is_own(d, &g.to.ip))
			take_response(d, &g);
		else
			d->count.strays++;
	}
}

static int on_readable(struct watch *w, uint32_t events)
{
	(void)events;
	take_some(container_of(w, struct vm_dns, watch), DATAGRAMS_A_TURN);
	return 0;
}

/* --- life --- */

int vm_dns_new(struct loop *loop, int fds[2], const struct dns_names_ops *ops, void *data, struct vm_dns **ret_dns)
{
	struct vm_dns *d = calloc(1, sizeof(*d));
	int r = d ? 0 : -ENOMEM;

	if (r == 0) {
		d->loop = loop;
		d->fds[0] = fds[0];
		d->fds[1] = fds[1];
		list_init(&d->pending);
		dns_names_init(&d->names, ops, data);
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
	list_for_each_safe(l, &d->pending)
		pending_free(d, list_entry(l, struct pending, link));
	timer_cancel(&d->timer);
	watch_remove(&d->watch);
	close_fd(d->fds[0]);
	close_fd(d->fds[1]);
	dns_names_deinit(&d->names);
	free(d);
	return NULL;
}

void vm_dns_set(struct vm_dns *d, const Outrigger__Ipc__VmPut *put)
{
	d->put = put;
}

void vm_dns_forget(struct vm_dns *d)
{
	const struct dns_names_ops *ops = d->names.ops;
	void *data = d->names.data;

	dns_names_deinit(&d->names);
	dns_names_init(&d->names, ops, data);
}

void vm_dns_tick(struct vm_dns *d)
{
	dns_names_sweep(&d->names, loop_now_ms(d->loop), IDLE_MS);
}

struct vm_dns_counters vm_dns_counters(const struct vm_dns *d)
{
	struct vm_dns_counters c = d->count;

	c.over_budget += d->names.refused;
	return c;
}
