/*
 * VMs on a worker: their listeners, and all that comes and goes with them.
 */
#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "proxy/flow.h"
#include "proxy/pool.h"
#include "proxy/hbone.h"

enum { ACCEPTS_A_TURN = 16, BACKLOG_MAX = 4096, LAST_WORDS_MS = 1000, PACE_RETRY_MS = 5, PACE_BURST_MS = 100, DNS_PORT = 53 };

static struct worker_vm *worker_vm_find(struct worker *w, uint32_t slot)
{
	struct map_link *l = map_find(&w->vms, &slot, sizeof(slot));

	return l ? container_of(l, struct worker_vm, link) : NULL;
}

struct worker_vm *worker_vm_by_ip(struct worker *w, const struct ip *ip)
{
	struct map_link *l = map_find(&w->by_ip, ip, sizeof(*ip));

	return l ? container_of(l, struct vm_address, link)->v : NULL;
}

static void forget_addresses(struct worker_vm *v)
{
	for (size_t i = 0; i < v->n_addresses; i++)
		if (v->addresses[i].v)
			map_remove(&v->w->by_ip, &v->addresses[i].link);
	free(v->addresses);
	v->addresses = NULL;
	v->n_addresses = 0;
}

/* One that another VM has had until now is this one's. What cannot be noted is reached over a wire, like that of a stranger. */
static void note_addresses(struct worker_vm *v, struct vm_address *addresses)
{
	struct worker *w = v->w;

	forget_addresses(v);
	v->addresses = addresses;
	v->n_addresses = v->conf->n_addresses;
	for (size_t i = 0; i < v->n_addresses; i++) {
		struct vm_address *a = &addresses[i];
		struct map_link *old = map_find(&w->by_ip, &v->conf->addresses[i], sizeof(a->ip));

		if (old) {
			container_of(old, struct vm_address, link)->v = NULL;
			map_remove(&w->by_ip, old);
		}
		a->ip = v->conf->addresses[i];
		if (map_add(&w->by_ip, &a->link, &a->ip, sizeof(a->ip)) == 0)
			a->v = v;
	}
}

/* --- listeners --- */

/* The address that was dialled: the socket's own, since it is transparent. */
static bool dialled(int fd, struct ip_port *ret_dst)
{
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);

	return getsockname(fd, (struct sockaddr *)&sa, &len) == 0 && ip_port_from_sockaddr(&sa, ret_dst) == 0;
}

/* -EAGAIN when there is none, or another worker was quicker. */
static int accept_one(int listener, struct ip_port *ret_src, struct ip_port *ret_dst)
{
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);
	int fd = accept4(listener, (struct sockaddr *)&sa, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd < 0)
		return -errno;
	if (ip_port_from_sockaddr(&sa, ret_src) < 0 || !dialled(fd, ret_dst)) {
		close_fd(fd);
		return -ECONNABORTED;
	}
	return fd;
}

/*
 * No descriptors or no memory: epoll would tell of the waiting connections
 * again and again. Others may take them, or we after the next tick.
 */
static bool is_exhausted(struct worker_vm *v, int r)
{
	if (r != -EMFILE && r != -ENFILE && r != -ENOBUFS && r != -ENOMEM)
		return false;
	worker_over(v, r == -ENOBUFS || r == -ENOMEM ? VM_B_MEMORY : VM_B_DESCRIPTORS);
	return true;
}

/* --- servers of names --- */

struct names_mail {
	struct mail mail;
	struct worker *w;
	struct vm *vm;
	int fd;
	struct ip_port src, dst;
};

/* On the main thread. */
static void deliver_names(struct mail *m, void *receiver)
{
	struct names_mail *n = container_of(m, struct names_mail, mail);

	(void)receiver;
	n->w->conf.events->names(n->w->conf.events_data, n->vm, n->fd, &n->src, &n->dst);
	vm_unref(n->vm);
	free(n);
}

/* To the main thread, which answers for the mesh. false: it is like any other connection. */
static bool is_for_names(struct worker_vm *v, int fd, const struct ip_port *src, const struct ip_port *dst)
{
	bool wanted = dst->port == DNS_PORT && v->conf->names && v->w->conf.events->names;
	struct names_mail *m = wanted ? calloc(1, sizeof(*m)) : NULL;

	if (!m)
		return false;
	*m = (struct names_mail){ .mail.fn = deliver_names, .w = v->w, .vm = vm_ref(v->vm), .fd = fd, .src = *src, .dst = *dst };
	worker_post_now(v->w, &m->mail);
	return true;
}

/* --- what is accepted --- */

static void inbound_accepted(struct worker_vm *v, int fd, const struct ip_port *src, const struct ip_port *dst)
{
	if (dst->port == v->w->conf.hbone_port)
		hbone_accept(v, fd, src, dst);
	else
		flow_in_accepted(v, fd, src, dst);
}

void worker_vm_take(struct worker *w, const struct vm *vm, bool inbound, int fd, const struct ip_port *src, const struct ip_port *dst)
{
	struct worker_vm *v = worker_vm_find(w, vm->slot);

	if (!v || v->vm != vm || v->removed)
		close_fd(fd);
	else if (inbound)
		inbound_accepted(v, fd, src, dst);
	else
		flow_out_accepted(v, fd, src, dst);
}

/* false: there is no other, as far as is known. */
static bool accept_next(struct worker_vm *v, struct watch *watch)
{
	bool inbound = watch == &v->inbound;
	struct ip_port src, dst;
	int fd = accept_one(watch->fd, &src, &dst);

	if (fd == -ECONNABORTED || fd == -EINTR)
		return true;
	if (is_exhausted(v, fd))
		watch_remove(watch);
	if (fd < 0)
		return false;
	if (!inbound && is_for_names(v, fd, &src, &dst))
		return true;
	if (!v->leaves && worker_spread(v->w, v->vm, inbound, fd, &src, &dst)) {
		share_use_connection(&v->w->share, &v->share, SHARE_ACCEPT);	/* as here: the other worker takes it whenever it comes */
		return true;
	}
	if (inbound)
		inbound_accepted(v, fd, &src, &dst);
	else
		flow_out_accepted(v, fd, &src, &dst);
	return true;
}

/* Harmless when nothing waits. What could not be armed or taken up is at the tick. */
static void take_up_paced(struct worker_vm *v)
{
	struct watch *watch = list_first(&v->paced, struct watch, put_off);

	if (watch)
		(void)!watch_take_up(watch);
}

static int on_pace_timer(struct timer *t)
{
	take_up_paced(container_of(t, struct worker_vm, pace_timer));
	return 0;
}

static struct pace_rate rate_of(const struct worker_vm *v)
{
	return (struct pace_rate){ .per_s = v->conf->limits.connection_rate, .burst_ms = PACE_BURST_MS };
}

/* false: too many a second. The rest waits in the kernel. */
static bool in_pace(struct worker_vm *v, uint32_t events)
{
	if (pace_left(&v->vm->pace, rate_of(v), loop_now_ms(v->w->loop)))
		return true;
	worker_over(v, VM_B_RATE);
	watch_put_off(&v->outbound, events, &v->paced);
	(void)!timer_arm(v->w->loop, &v->pace_timer, PACE_RETRY_MS, on_pace_timer);
	return false;
}

/* Takes what waits, but no more than is fair to the others on the loop. */
static void accept_some(struct worker_vm *v, struct watch *watch, uint32_t events)
{
	for (int i = 0; i < ACCEPTS_A_TURN; i++) {
		if (!worker_vm_turn(v, 1)) {
			worker_vm_put_off(v, watch, events);
			return;
		}
		if (watch == &v->outbound && !in_pace(v, events))
			return;
		if (!accept_next(v, watch))
			return;
		if (watch == &v->outbound)
			pace_take(&v->vm->pace, rate_of(v), 1, loop_now_ms(v->w->loop));
	}
}

/* What has connected already is not left in a queue that nobody will look at. */
static void accept_last(struct worker_vm *v, struct watch *watch)
{
	for (int i = 0; i < BACKLOG_MAX && watch->loop && accept_next(v, watch); i++)
		;
	watch_remove(watch);
}

static int on_outbound(struct watch *watch, uint32_t events)
{
	accept_some(container_of(watch, struct worker_vm, outbound), watch, events);
	return 0;
}

static int on_inbound(struct watch *watch, uint32_t events)
{
	accept_some(container_of(watch, struct worker_vm, inbound), watch, events);
	return 0;
}

/* Workers share the listener; the kernel wakes one of them, the first that is idle. Options are inherited by what is accepted. */
static int listen_on(struct worker *w, struct watch *watch, int fd, watch_fn *fn)
{
	int one = 1;

	if (fd < 0 || watch->loop)
		return 0;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	return watch_add(w->loop, watch, fd, EPOLLIN | EPOLLEXCLUSIVE, false, fn);
}

static int listen_all(struct worker_vm *v)
{
	int r = listen_on(v->w, &v->outbound, v->vm->outbound_fd, on_outbound);

	return r < 0 ? r : listen_on(v->w, &v->inbound, v->vm->inbound_fd, on_inbound);
}

struct removed_mail {
	struct mail mail;
	struct worker *w;
	struct vm *vm;
};

/* On the main thread. */
static void removed(struct mail *m, void *receiver)
{
	struct removed_mail *r = container_of(m, struct removed_mail, mail);

	(void)receiver;
	if (r->w->conf.events->removed)
		r->w->conf.events->removed(r->w->conf.events_data, r->vm);
	vm_unref(r->vm);
	free(r);
}

/* --- coming --- */

static int vm_begin(struct worker_vm *v)
{
	int r = map_add(&v->w->vms, &v->link, &v->vm->slot, sizeof(v->vm->slot));

	if (r < 0)
		return r;
	r = listen_all(v);
	if (r < 0) {
		watch_remove(&v->outbound);
		map_remove(&v->w->vms, &v->link);
		return r;
	}
	__atomic_add_fetch(&v->vm->n_serving, 1, __ATOMIC_RELAXED);
	return 0;
}

/* From now on others may let go of it before or after this worker: what one accepts stays there. */
static void vm_leaves(struct worker_vm *v)
{
	if (!v->leaves)
		__atomic_sub_fetch(&v->vm->n_serving, 1, __ATOMIC_RELAXED);
	v->leaves = true;
}

static int vm_add(struct worker *w, struct vm_conf *c)
{
	struct worker_vm *v = calloc(1, sizeof(*v));
	struct vm_address *addresses = calloc(c->n_addresses + 1, sizeof(*addresses));
	struct removed_mail *last = malloc(sizeof(*last));
	int r = v && addresses && last ? 0 : -ENOMEM;

	if (r == 0) {
		v->w = w;
		v->vm = c->vm;
		v->conf = c;
		v->count = &c->vm->counters[w->conf.index];
		v->last = last;
		list_init(&v->flows);
		list_init(&v->tunnels);
		list_init(&v->put_off);
		list_init(&v->of_busy);
		list_init(&v->paced);
		list_init(&v->from_neighbours);
		map_init(&v->pool);
		map_init(&v->shares);
		r = vm_begin(v);
	}
	if (r < 0) {
		free(last);
		free(addresses);
		free(v);
		return r;
	}
	vm_ref(c->vm);
	note_addresses(v, addresses);
	return 0;
}

/*
 * Tunnels that we dialled with the old certificate carry what they carry, and
 * take nothing new.
 */
static void retire_tunnels(struct worker_vm *v)
{
	list_for_each_safe(l, &v->tunnels) {
		struct hbone *t = list_entry(l, struct hbone, of_vm);

		if (t->pool && t->conf->client != v->conf->client)
			hbone_drain(t);
	}
}

int worker_vm_put(struct worker *w, struct vm_conf *c)
{
	struct worker_vm *v = worker_vm_find(w, c->vm->slot);

	if (!v) {
		int r = vm_add(w, c);

		if (r < 0)
			vm_conf_unref(c);
		return r;
	}
	struct vm_address *addresses = calloc(c->n_addresses + 1, sizeof(*addresses));
	if (!addresses) {
		vm_conf_unref(c);
		return -ENOMEM;
	}
	struct vm_conf *old = v->conf;
	v->conf = c;
	note_addresses(v, addresses);
	if (old->client && old->client != c->client)
		retire_tunnels(v);
	vm_conf_unref(old);
	return 0;
}

/* --- going --- */

static int really_free(struct defer *d)
{
	struct worker_vm *v = container_of(d, struct worker_vm, free_defer);
	struct worker *w = v->w;
	struct removed_mail *m = v->last;

	timer_cancel(&v->drain_timer);
	timer_cancel(&v->pace_timer);
	list_unlink(&v->of_busy);
	map_remove(&w->vms, &v->link);
	forget_addresses(v);
	pool_free_all(v);
	map_deinit(&v->shares);
	vm_conf_unref(v->conf);
	*m = (struct removed_mail){ .mail.fn = removed, .w = w, .vm = v->vm };
	worker_post(w, &m->mail);	/* behind the reports of its last connections */
	free(v);
	return 0;
}

void worker_vm_check(struct worker_vm *v)
{
	if (!v->removed)
		(void)!listen_all(v);	/* a descriptor is free: those who wait need not wait for the tick */
	else if (list_empty(&v->flows) && list_empty(&v->tunnels) && list_empty(&v->from_neighbours))
		loop_defer(v->w->loop, &v->free_defer, really_free);
}

/*
 * Ends what is still open. Flows free themselves at the end of the turn. What
 * has not reached the VM yet is answered, so that the peer can try another.
 */
static void cut(struct worker_vm *v)
{
	/* The VM may be elsewhere by now: what is sent again and again in its name takes its MAC address back here, in the eyes of switches. */
	static const unsigned last_words_ms = LAST_WORDS_MS;

	list_for_each_safe(l, &v->flows) {
		struct flow *f = list_entry(l, struct flow, of_vm);

		if (f->direction == FLOW_INBOUND && f->tunnel && f->state < FLOW_OPEN)
			flow_in_failed(f, "the VM's proxy ends");
		else
			flow_end(f, FLOW_R_DRAIN, "the VM's proxy ends");
	}
	while (!list_empty(&v->from_neighbours)) {
		struct flow *f = list_entry(v->from_neighbours.next, struct flow, of_other);

		if (f->state < FLOW_OPEN)
			flow_out_failed(f, "the VM's proxy ends");
		else
			flow_end(f, FLOW_R_DRAIN, "the VM's proxy ends");
	}
	list_for_each_safe(l, &v->tunnels) {
		struct hbone *t = list_entry(l, struct hbone, of_vm);

		setsockopt(t->fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &last_words_ms, sizeof(last_words_ms));
		hbone_break(t, "drained");
	}
}

static int on_drained(struct timer *t)
{
	cut(container_of(t, struct worker_vm, drain_timer));
	return 0;
}

static void drain(struct worker_vm *v, uint32_t drain_ms)
{
	vm_leaves(v);
	accept_last(v, &v->outbound);
	accept_last(v, &v->inbound);
	v->removed = true;
	list_for_each_safe(l, &v->tunnels)
		hbone_drain(list_entry(l, struct hbone, of_vm));
	if (!drain_ms || timer_arm(v->w->loop, &v->drain_timer, drain_ms, on_drained) < 0)
		cut(v);
	worker_vm_check(v);
}

static int on_lingered(struct timer *t)
{
	struct worker_vm *v = container_of(t, struct worker_vm, drain_timer);

	drain(v, v->drain_ms);
	return 0;
}

bool worker_vm_remove(struct worker *w, struct vm *vm, uint32_t drain_ms, uint32_t linger_ms)
{
	struct worker_vm *v = worker_vm_find(w, vm->slot);

	if (!v)
		return false;
	if (v->removed) {
		if (!drain_ms) {	/* it drains, and now the VM is gone */
			timer_cancel(&v->drain_timer);
			cut(v);
			worker_vm_check(v);
		}
		return true;
	}
	vm_leaves(v);
	v->drain_ms = drain_ms - MIN(linger_ms, drain_ms);
	if (!linger_ms || timer_arm(w->loop, &v->drain_timer, linger_ms, on_lingered) < 0)
		drain(v, drain_ms);
	return true;
}

/* The loop has ended: everything goes at once. */
void worker_vm_free_all(struct worker *w)
{
	map_for_each(l, &w->vms) {
		struct worker_vm *v = container_of(l, struct worker_vm, link);

		v->removed = true;
		watch_remove(&v->outbound);
		watch_remove(&v->inbound);
		cut(v);
		worker_vm_check(v);
	}
}

/* --- time and news --- */

static void flow_tick(struct flow *f, uint64_t now_ms)
{
	enum { PROGRESS_S = 15 };
	uint32_t idle_s = f->v->conf->limits.idle_timeout_s;
	uint64_t reported_ms = f->reported_s * UINT64_C(1000);

	if (f->state != FLOW_OPEN)
		return;
	sock_tick(&f->local);
	if (f->has_far)
		sock_tick(&f->far);
	if (idle_s && now_ms - f->active_ms > idle_s * UINT64_C(1000))
		flow_end(f, FLOW_R_IDLE, "no bytes for too long");
	else if (now_ms - reported_ms > PROGRESS_S * 1000 && f->active_ms > reported_ms)
		flow_report_progress(f);
}

static void recheck(struct worker_vm *v, bool for_good)
{
	v->missing_since_ms = 0;
	list_for_each_safe(l, &v->flows)
		flow_in_recheck(list_entry(l, struct flow, of_vm), for_good);
	list_for_each_safe(n, &v->from_neighbours)
		flow_in_recheck(list_entry(n, struct flow, of_other), for_good);
}

void worker_vm_tick(struct worker_vm *v, uint64_t now_ms)
{
	list_for_each_safe(l, &v->flows)
		flow_tick(list_entry(l, struct flow, of_vm), now_ms);
	list_for_each_safe(l, &v->tunnels)
		hbone_tick(list_entry(l, struct hbone, of_vm), now_ms);
	pool_tick(v, now_ms);
	take_up_paced(v);
	if (v->missing_since_ms && now_ms - v->missing_since_ms > v->conf->limits.resolve_timeout_ms)
		recheck(v, true);
	if (!v->removed)
		(void)!listen_all(v);	/* those that were given up for want of descriptors */
}

void worker_vm_recheck_peers(struct worker_vm *v)
{
	list_for_each_safe(l, &v->tunnels)
		hbone_recheck(list_entry(l, struct hbone, of_vm));
}

void worker_vm_recheck(struct worker_vm *v)
{
	recheck(v, false);
}
