/*
 * The worker thread: its loop, its mail, its turns.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "proxy/flow.h"
#include "proxy/hbone.h"
#include "proxy/linger.h"

enum {
	REPORT_DELAY_MS = 100,
	REPORTS_MAX = 256,		/* so many are posted at once */
	TICK_MS = 1000,
	STAGING_KEEP = 2,		/* free buffers that are kept */
	WAKES_A_TURN = 64,
	SPREAD_SLACK = 2,		/* connections that a worker has more than another for nothing */
	QUIET_TURNS = 2,		/* in a tick: its own, and one more */
};

/* --- to the main thread --- */

void worker_post_now(struct worker *w, struct mail *m)
{
	mailbox_post(w->conf.main, m);
}

static void post_reports(struct worker *w)
{
	struct mail *first = w->reports;

	timer_cancel(&w->report_timer);
	w->reports = NULL;
	w->reports_end = &w->reports;
	w->n_reports = 0;
	mailbox_post_list(w->conf.main, first);
}

static int on_report_timer(struct timer *t)
{
	post_reports(container_of(t, struct worker, report_timer));
	return 0;
}

void worker_post(struct worker *w, struct mail *m)
{
	m->next = NULL;
	*w->reports_end = m;
	w->reports_end = &m->next;
	if (++w->n_reports >= REPORTS_MAX)
		post_reports(w);
	else if (!w->report_timer.loop && timer_arm(w->loop, &w->report_timer, REPORT_DELAY_MS, on_report_timer) < 0)
		post_reports(w);
}

struct ask_mail {
	struct mail mail;
	struct worker *w;
	struct vm *vm;
	struct ip ip;
};

static void deliver_ask(struct mail *m, void *receiver)
{
	struct ask_mail *a = container_of(m, struct ask_mail, mail);

	(void)receiver;
	a->w->conf.events->resolve(a->w->conf.events_data, a->vm, &a->ip);
	vm_unref(a->vm);
	free(a);
}

void worker_ask(struct worker *w, struct vm *vm, const struct ip *ip)
{
	struct ask_mail *a = calloc(1, sizeof(*a));

	if (!a)
		return;			/* it will time out */
	*a = (struct ask_mail){ .mail.fn = deliver_ask, .w = w, .vm = vm_ref(vm), .ip = *ip };
	mailbox_post(w->conf.main, &a->mail);
}

/* --- buffers of a turn --- */

static struct staging *staging_new(void)
{
	struct staging *s = malloc(sizeof(*s));

	if (s)
		list_init(&s->link);
	return s;
}

struct staging *worker_staging_get(struct worker *w)
{
	struct staging *s = list_first(&w->staging, struct staging, link);

	if (!s)
		return staging_new();
	list_unlink(&s->link);
	w->n_staging--;
	return s;
}

void worker_staging_put(struct worker *w, struct staging *s)
{
	if (w->n_staging >= STAGING_KEEP) {
		free(s);
		return;
	}
	list_append(&w->staging, &s->link);
	w->n_staging++;
}

static void free_staging(struct worker *w, size_t keep)
{
	for (struct staging *s; w->n_staging > keep && (s = list_first(&w->staging, struct staging, link));) {
		list_unlink(&s->link);
		free(s);
		w->n_staging--;
	}
}

/* --- turns --- */

/* What the turn has produced goes out: one record set and one send() a tunnel. */
static void on_turn(void *data)
{
	struct worker *w = data;

	while (!list_empty(&w->dirty))
		hbone_flush(list_entry(w->dirty.next, struct hbone, dirty));
	/*
	 * The processor would otherwise be taken from a worker that is never idle at the end of a time slice only,
	 * milliseconds long: what other proxies have to do for a neighbour at the other end waits no longer than a turn.
	 */
	if (share_was_long(&w->share) || !list_empty(&w->busy))
		sched_yield();
	share_next_turn(&w->share);
	__atomic_store_n(&w->load.n_turns, w->load.n_turns + 1, __ATOMIC_RELAXED);
}

/* What neighbours of the busy ones have to say does not wait until those are served. */
static void flush_before_busy(struct worker *w)
{
	list_for_each_safe(l, &w->dirty) {
		struct hbone *t = list_entry(l, struct hbone, dirty);

		if (list_empty(&t->v->of_busy))
			hbone_flush(t);
	}
}

/* false: the kernel has no memory for what is left; it is tried again at the tick. */
static bool take_up(struct worker_vm *v)
{
	struct watch *watch;
	int r = 0;

	while (r == 0 && (watch = list_first(&v->put_off, struct watch, put_off)) && share_left(&v->w->share, &v->share))
		r = watch_take_up(watch);
	list_unlink(&v->of_busy);
	if (!list_empty(&v->put_off))
		list_append(&v->w->busy, &v->of_busy);	/* behind those that this turn is too short for */
	return r == 0;
}

/* What was put off, as far as the shares of this turn go. Many who come again and again take turns at turns. */
static int on_busy(struct defer *d)
{
	struct worker *w = container_of(d, struct worker, busy_defer);
	struct list now;
	uint32_t before = w->share.spent;
	bool more = false;

	flush_before_busy(w);
	list_init(&now);
	list_splice(&now, &w->busy);
	w->taking_up = true;
	while (!list_empty(&now) && (w->share.spent - before < SHARE_LONG || !share_contended(&w->share))) {
		struct worker_vm *v = list_first(&now, struct worker_vm, of_busy);

		more |= take_up(v) && !list_empty(&v->put_off);
	}
	w->taking_up = false;
	more |= !list_empty(&now);
	list_splice(&now, &w->busy);
	list_splice(&w->busy, &now);
	if (more)
		loop_defer_next(w->loop, &w->busy_defer, on_busy);
	return 0;
}

void worker_vm_put_off(struct worker_vm *v, struct watch *watch, uint32_t events)
{
	struct worker *w = v->w;

	if (share_contended(&w->share))
		worker_over(v, VM_B_TURN);
	watch_put_off(watch, events, &v->put_off);
	if (!list_empty(&v->of_busy))
		return;
	list_append(&w->busy, &v->of_busy);
	loop_defer(w->loop, &w->busy_defer, on_busy);
}

void worker_vm_starve(struct worker_vm *v, struct watch *watch, uint32_t events)
{
	worker_over(v, VM_B_MEMORY);
	watch_put_off(watch, events, &v->w->starved);
}

/* Each once: who starves still is behind the others. */
static void feed_starved(struct worker *w)
{
	struct list now;

	list_init(&now);
	list_splice(&now, &w->starved);
	while (!list_empty(&now)) {
		struct watch *watch = list_entry(now.next, struct watch, put_off);

		if (watch_take_up(watch) == 0)
			continue;
		list_unlink(&watch->put_off);
		list_append(&w->starved, &watch->put_off);
	}
}

static int on_waking(struct defer *d)
{
	struct worker *w = container_of(d, struct worker, wake_defer);

	for (int i = 0; i < WAKES_A_TURN && !list_empty(&w->waking); i++) {
		struct flow *f = list_entry(w->waking.next, struct flow, waiting);

		list_unlink(&f->waiting);
		if (f->direction == FLOW_OUTBOUND)
			flow_out_decide(f);
		else
			flow_in_decide(f);
	}
	if (!list_empty(&w->waking))
		loop_defer_next(w->loop, &w->wake_defer, on_waking);
	return 0;
}

/* Flows that waited for news, each once. There may be as many as VMs like: no more than some in a turn. */
static void wake(struct worker *w, struct list *waiting)
{
	while (!list_empty(waiting)) {
		struct list *l = waiting->next;

		list_unlink(l);
		list_append(&w->waking, l);
	}
	if (!list_empty(&w->waking))
		loop_defer(w->loop, &w->wake_defer, on_waking);
}

static void on_refill(void *data)
{
	struct worker *w = data;

	wake(w, &w->no_socket);
}

/* Its whole pages are the kernel's again until they are written to; what was in them is gone. */
static void release_pages(void *data, size_t len)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = ((uintptr_t)data + page - 1) & ~(page - 1), to = ((uintptr_t)data + len) & ~(page - 1);

	if (from < to)
		(void)!madvise((void *)from, to - from, MADV_DONTNEED);
}

/* The buffers hold nothing from one turn to the next: when the traffic has stopped they need not be there. */
static void release_buffers(struct worker *w)
{
	uint64_t n = w->load.n_turns - w->turns_at_tick;

	w->turns_at_tick = w->load.n_turns;
	if (n > QUIET_TURNS) {
		w->buffers_used = true;
		return;
	}
	if (!w->buffers_used)
		return;
	w->buffers_used = false;
	release_pages(w->net, WORKER_NET_SIZE);
	release_pages(w->plain, WORKER_PLAIN_SIZE);
	release_pages(w->cipher, WORKER_CIPHER_SIZE);
	free_staging(w, 1);	/* one stays: what is open goes on when there is no memory to be had */
	list_for_each(l, &w->staging)
		release_pages(list_entry(l, struct staging, link)->data, WORKER_STAGING_SIZE);
}

/* What the main thread wants done. */
struct command {
	struct mail mail;
	struct snapshot *snapshot;
	struct revocations *revoked;
	struct vm_conf *conf;
	struct vm *vm;
	uint32_t drain_ms, linger_ms;
	int fd;
	bool inbound;
	struct ip_port src, dst;
	struct list late;
	struct worker *worker;
};

static struct command *command_new(void (*fn)(struct mail *m, void *receiver))
{
	struct command *c = calloc(1, sizeof(*c));

	if (c)
		c->mail.fn = fn;
	return c;
}

/*
 * Configurations of VMs for which there was no memory wait for the next tick:
 * nobody says them again, and a certificate may be among it.
 */
static void late_free(struct command *c)
{
	list_unlink(&c->late);
	vm_conf_unref(c->conf);
	free(c);
}

static bool late_drop(struct worker *w, const struct vm *vm)
{
	bool dropped = false;

	list_for_each_safe(l, &w->late) {
		struct command *c = list_entry(l, struct command, late);

		if (c->conf->vm != vm)
			continue;
		late_free(c);
		dropped = true;
	}
	return dropped;
}

static void put_late(struct worker *w)
{
	list_for_each_safe(l, &w->late) {
		struct command *c = list_entry(l, struct command, late);

		if (worker_vm_put(w, vm_conf_ref(c->conf)) < 0)
			continue;
		late_free(c);
		wake(w, &w->parked);
	}
}

static int on_tick(struct timer *t)
{
	struct worker *w = container_of(t, struct worker, tick_timer);
	uint64_t now = loop_now_ms(w->loop);
	int r = timer_arm(w->loop, t, TICK_MS, on_tick);	/* first: what is armed below may be what has no memory */

	release_buffers(w);
	share_next_window(&w->share);
	map_for_each(l, &w->vms)
		worker_vm_tick(container_of(l, struct worker_vm, link), now);
	put_late(w);
	feed_starved(w);
	if (!list_empty(&w->busy))
		loop_defer(w->loop, &w->busy_defer, on_busy);
	return r;
}

/* --- commands --- */

static void do_snapshot(struct mail *m, void *receiver)
{
	struct command *c = container_of(m, struct command, mail);
	struct worker *w = receiver;
	struct snapshot *old = w->snap;
	bool policies = !old || snapshot_policy_serial(old) != snapshot_policy_serial(c->snapshot);

	w->snap = c->snapshot;
	free(c);
	peers_clear(w);
	if (policies)
		map_for_each(l, &w->vms)
			worker_vm_recheck(container_of(l, struct worker_vm, link));
	wake(w, &w->parked);
	snapshot_unref(old);
}

int worker_set_snapshot(struct worker *w, struct snapshot *s)
{
	struct command *c = command_new(do_snapshot);

	if (!c)
		return -ENOMEM;
	c->snapshot = snapshot_ref(s);
	mailbox_post(&w->box, &c->mail);
	return 0;
}

static void do_revoked(struct mail *m, void *receiver)
{
	struct command *c = container_of(m, struct command, mail);
	struct worker *w = receiver;

	revocations_unref(w->revoked);
	w->revoked = c->revoked;
	free(c);
	map_for_each(l, &w->vms)
		worker_vm_recheck_peers(container_of(l, struct worker_vm, link));
}

int worker_set_revoked(struct worker *w, struct revocations *list)
{
	struct command *c = command_new(do_revoked);

	if (!c)
		return -ENOMEM;
	c->revoked = revocations_ref(list);
	mailbox_post(&w->box, &c->mail);
	return 0;
}

static void do_put(struct mail *m, void *receiver)
{
	struct command *c = container_of(m, struct command, mail);
	struct worker *w = receiver;

	late_drop(w, c->conf->vm);
	list_init(&c->late);
	if (worker_vm_put(w, vm_conf_ref(c->conf)) < 0) {
		list_append(&w->late, &c->late);
		return;
	}
	late_free(c);
	wake(w, &w->parked);
}

int worker_put_vm(struct worker *w, struct vm_conf *conf)
{
	struct command *c = command_new(do_put);

	if (!c)
		return -ENOMEM;
	c->conf = vm_conf_ref(conf);
	mailbox_post(&w->box, &c->mail);
	return 0;
}

/* On the main thread. */
static void deliver_removed(struct mail *m, void *receiver)
{
	struct command *c = container_of(m, struct command, mail);

	(void)receiver;
	if (c->worker->conf.events->removed)
		c->worker->conf.events->removed(c->worker->conf.events_data, c->vm);
	vm_unref(c->vm);
	free(c);
}

static void do_remove(struct mail *m, void *receiver)
{
	struct command *c = container_of(m, struct command, mail);
	struct worker *w = receiver;
	bool late = late_drop(w, c->vm), had = worker_vm_remove(w, c->vm, c->drain_ms, c->linger_ms);

	if (late && !had) {		/* there never was the memory to begin with it */
		c->worker = w;
		c->mail.fn = deliver_removed;
		worker_post(w, &c->mail);
		return;
	}
	vm_unref(c->vm);
	free(c);
}

int worker_remove_vm(struct worker *w, struct vm *vm, uint32_t drain_ms, uint32_t linger_ms)
{
	struct command *c = command_new(do_remove);

	if (!c)
		return -ENOMEM;
	c->vm = vm_ref(vm);
	c->drain_ms = drain_ms;
	c->linger_ms = linger_ms;
	mailbox_post(&w->box, &c->mail);
	return 0;
}

/* --- connections that others have accepted --- */

static void do_take(struct mail *m, void *receiver)
{
	struct command *c = container_of(m, struct command, mail);
	struct worker *w = receiver;

	worker_vm_take(w, c->vm, c->inbound, c->fd, &c->src, &c->dst);
	__atomic_sub_fetch(&w->load.n_coming, 1, __ATOMIC_RELAXED);
	vm_unref(c->vm);
	free(c);
}

static bool post_take(struct worker *w, struct vm *vm, bool inbound, int fd, const struct ip_port *src, const struct ip_port *dst)
{
	struct command *c = command_new(do_take);

	if (!c)
		return false;
	c->vm = vm_ref(vm);
	c->inbound = inbound;
	c->fd = fd;
	c->src = *src;
	c->dst = *dst;
	__atomic_add_fetch(&w->load.n_coming, 1, __ATOMIC_RELAXED);
	mailbox_post(&w->box, &c->mail);
	return true;
}

int worker_take_connection(struct worker *w, struct vm *vm, int fd, const struct ip_port *src, const struct ip_port *dst)
{
	if (post_take(w, vm, false, fd, src, dst))
		return 0;
	close_fd(fd);
	return -ENOMEM;
}

/*
 * What a worker has: tunnels, when one comes, since each may carry any number
 * of streams; else all that is open.
 */
static uint64_t has(const struct worker *w, bool tunnel)
{
	const uint64_t *n = tunnel ? &w->load.n_tunnels : &w->load.n_flows;

	return __atomic_load_n(n, __ATOMIC_RELAXED) + __atomic_load_n(&w->load.n_coming, __ATOMIC_RELAXED);
}

/*
 * To change threads costs a connection some microseconds: those that are short
 * stay where they came, for they are gone before there is a difference. Tunnels
 * are few, and last.
 */
bool worker_spread(struct worker *w, struct vm *vm, bool inbound, int fd, const struct ip_port *src, const struct ip_port *dst)
{
	bool tunnel = inbound && dst->port == w->conf.hbone_port;
	struct worker *least = w;
	uint64_t n, n_least = has(w, tunnel);

	if (!w->conf.all || __atomic_load_n(&vm->n_serving, __ATOMIC_RELAXED) < w->conf.n_workers)
		return false;
	for (size_t i = 0; i < w->conf.n_workers; i++) {
		n = has(w->conf.all[i], tunnel);
		n += tunnel ? 0 : SPREAD_SLACK + n / 4;
		if (n < n_least) {
			n_least = n;
			least = w->conf.all[i];
		}
	}
	return least != w && post_take(least, vm, inbound, fd, src, dst);
}

static void do_stop(struct mail *m, void *receiver)
{
	struct worker *w = receiver;

	(void)m;
	w->stopping = true;
	loop_stop(w->loop);
}

static void on_mail(void *data)
{
	struct worker *w = data;

	mailbox_deliver(&w->box, w);
}

/* --- life --- */

static void *run(void *data)
{
	struct worker *w = data;
	char name[16];

	snprintf(name, sizeof(name), "worker-%u", (unsigned)(w->conf.index & 0xff));
	pthread_setname_np(pthread_self(), name);
	while (!w->stopping)
		(void)!loop_run(w->loop);	/* ends by itself only for want of memory for a timer: go on */
	worker_vm_free_all(w);
	linger_free_all(w);
	for (int i = 0; i < 4; i++)	/* what was deferred, and what that deferred */
		(void)!loop_turn(w->loop, 0);
	post_reports(w);
	return NULL;
}

static int worker_init(struct worker *w)
{
	int r;

	r = loop_new(&w->loop);
	if (r < 0)
		return r;
	mailbox_init(&w->box, w->loop);
	loop_on_wake(w->loop, on_mail, w);
	loop_set_turn_hook(w->loop, on_turn, w);
	r = balance_new(w->conf.balance, 0, &w->balance);
	if (r < 0)
		return r;
	w->net = malloc(WORKER_NET_SIZE);
	w->plain = malloc(WORKER_PLAIN_SIZE);
	w->cipher = malloc(WORKER_CIPHER_SIZE);
	struct staging *s = staging_new();
	if (s)
		worker_staging_put(w, s);
	if (!w->net || !w->plain || !w->cipher || !s)
		return -ENOMEM;
	if (w->conf.sockd_sock >= 0) {
		r = sockd_pool_new(w->loop, steal_fd(&w->conf.sockd_sock), w->conf.spare_sockets, &w->sockd);
		if (r < 0)
			return r;
		sockd_on_refill(w->sockd, on_refill, w);
	}
	return timer_arm(w->loop, &w->tick_timer, TICK_MS, on_tick);
}

static void worker_free(struct worker *w)
{
	free_staging(w, 0);
	list_for_each_safe(l, &w->late)
		late_free(list_entry(l, struct command, late));
	peers_clear(w);
	snapshot_unref(w->snap);
	revocations_unref(w->revoked);
	balance_free(w->balance);
	sockd_pool_free(w->sockd);
	close_fd(w->conf.sockd_sock);
	map_deinit(&w->vms);
	map_deinit(&w->by_ip);
	loop_free(w->loop);
	free(w->net);
	free(w->plain);
	free(w->cipher);
	free(w);
}

int worker_new(const struct worker_conf *conf, struct worker **ret_worker)
{
	struct worker *w = calloc(1, sizeof(*w));
	int r;

	if (!w) {
		close_fd(conf->sockd_sock);
		return -ENOMEM;
	}
	w->conf = *conf;
	w->reports_end = &w->reports;
	map_init(&w->vms);
	map_init(&w->by_ip);
	share_init(&w->share);
	list_init(&w->dirty);
	list_init(&w->staging);
	list_init(&w->late);
	list_init(&w->parked);
	list_init(&w->waking);
	list_init(&w->wake_defer.link);
	list_init(&w->busy);
	list_init(&w->busy_defer.link);
	list_init(&w->starved);
	list_init(&w->no_socket);
	list_init(&w->connecting);
	list_init(&w->lingering);
	r = worker_init(w);
	if (r == 0)
		r = -pthread_create(&w->thread, NULL, run, w);
	if (r < 0) {
		worker_free(w);
		return r;
	}
	*ret_worker = w;
	return 0;
}

void worker_end(struct worker *w)
{
	struct mail stop = { .fn = do_stop };

	if (w->ended)
		return;
	mailbox_post(&w->box, &stop);
	pthread_join(w->thread, NULL);
	w->ended = true;
}

struct worker *worker_stop(struct worker *w)
{
	if (!w)
		return NULL;
	worker_end(w);
	mailbox_deliver(&w->box, w);		/* commands that came too late: they hold references */
	worker_vm_free_all(w);
	linger_free_all(w);
	for (int i = 0; i < 4; i++)
		(void)!loop_turn(w->loop, 0);
	linger_free_all(w);
	(void)!loop_turn(w->loop, 0);
	post_reports(w);
	mailbox_deliver(w->conf.main, NULL);	/* reports name their worker */
	worker_free(w);
	return NULL;
}

void worker_load(const struct worker *w, struct worker_load *ret_load)
{
	ret_load->n_flows = __atomic_load_n(&w->load.n_flows, __ATOMIC_RELAXED);
	ret_load->n_tunnels = __atomic_load_n(&w->load.n_tunnels, __ATOMIC_RELAXED);
	ret_load->n_coming = __atomic_load_n(&w->load.n_coming, __ATOMIC_RELAXED);
	ret_load->n_turns = __atomic_load_n(&w->load.n_turns, __ATOMIC_RELAXED);
	ret_load->bytes_tls = __atomic_load_n(&w->load.bytes_tls, __ATOMIC_RELAXED);
	ret_load->n_rests = __atomic_load_n(&w->load.n_rests, __ATOMIC_RELAXED);
}
