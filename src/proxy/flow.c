/*
 * The life of a connection: moving bytes, ending, reporting.
 */
#include "proxy/flow.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "proxy/pool.h"
#include "proxy/tee.h"
#include "proxy/hbone.h"

enum {
	TIGHT_READ = 4096,		/* bytes at once for a VM that has used half of its buffers: slow readers keep less each */
};

static const uint64_t REPORT_OF_TARGET = UINT64_C(1) << 62;	/* in the id of the report of the VM at the other end */

static int on_local(struct watch *w, uint32_t events);
static int on_far(struct watch *w, uint32_t events);

/* --- life --- */

struct flow *flow_new(struct worker_vm *v, enum flow_direction direction)
{
	struct vm *vm = v->vm;
	struct flow *f;

	bool may = __atomic_add_fetch(&vm->n_connections, 1, __ATOMIC_RELAXED) <= v->conf->limits.connections;

	f = may ? calloc(1, sizeof(*f)) : NULL;
	if (!f) {
		__atomic_sub_fetch(&vm->n_connections, 1, __ATOMIC_RELAXED);
		worker_over(v, may ? VM_B_MEMORY : VM_B_CONNECTIONS);
		return NULL;
	}
	share_use_connection(&v->w->share, &v->share, SHARE_ACCEPT);
	f->v = v;
	f->id = ++v->w->next_flow_id << 8 | v->w->conf.index;
	f->direction = direction;
	f->start_ms = clock_wall_ms();
	f->started_ms = f->active_ms = loop_now_ms(v->w->loop);
	f->reported_s = (uint32_t)(f->started_ms / 1000);
	f->workload_id = UINT32_MAX;
	f->counted = true;
	sock_init(&f->local);
	list_init(&f->of_other);
	list_init(&f->waiting);
	list_init(&f->stream.blocked);
	list_init(&f->of_vm);
	list_append(&v->flows, &f->of_vm);
	__atomic_store_n(&v->w->load.n_flows, v->w->load.n_flows + 1, __ATOMIC_RELAXED);
	return f;
}

/* On the main thread. */
static void deliver_report(struct mail *m, void *receiver)
{
	struct flow_report *r = container_of(m, struct flow_report, mail);

	(void)receiver;
	r->worker->conf.events->report(r->worker->conf.events_data, r);
}

/* As @v's, which may be the VM at the other end. */
static struct flow_report *make_report(const struct flow *f, const struct worker_vm *v, enum flow_event event, enum flow_result result)
{
	size_t n_why = f->why ? MIN(strlen(f->why), (size_t)FLOW_WHY_MAX) : 0;
	struct flow_report *r = calloc(1, sizeof(*r) + (n_why ? n_why + 1 : 0));

	if (!r)
		return NULL;		/* the counters are right in any case */
	r->mail.fn = deliver_report;
	r->worker = f->v->w;
	r->event = event;
	r->result = result;
	r->vm = vm_ref(v->vm);
	r->source = f->source;
	r->destination = f->destination;
	r->upstream = f->upstream;
	r->bytes_sent = f->bytes_sent;
	r->bytes_received = f->bytes_received;
	r->start_ms = f->start_ms;
	r->connect_ms = f->connect_ms;
	r->duration_ms = (uint32_t)(loop_now_ms(f->v->w->loop) - f->started_ms);
	r->status = f->status;
	r->attempts = f->attempts;
	r->hbone = f->hbone;
	if (n_why)
		r->why = memcpy(r + 1, f->why, n_why);
	return r;
}

static void report_target(const struct flow *f, const struct worker_vm *to, enum flow_event event, enum flow_result result)
{
	struct flow_report *r = make_report(f, to, event, result);
	struct worker *w = f->v->w;
	const struct snap_workload *client = w->snap ? snapshot_workload(w->snap, f->v->conf->uid) : NULL;

	if (!r)
		return;
	r->id = f->id | REPORT_OF_TARGET;
	r->direction = FLOW_INBOUND;
	r->destination = f->upstream;
	r->peer = peers_get(w, client, NULL, tls_ctx_id(f->v->conf->client), true);
	worker_post(w, &r->mail);
}

static void report(struct flow *f, enum flow_event event, enum flow_result result)
{
	struct flow_report *r = make_report(f, f->v, event, result);

	if (f->target && event != FLOW_CLOSED)
		report_target(f, f->target, event, result);
	if (!r)
		return;
	r->id = f->id;
	r->direction = f->direction;
	r->peer = flow_peer_ref(f->peer);
	f->reported_s = (uint32_t)(loop_now_ms(f->v->w->loop) / 1000);
	worker_post(f->v->w, &r->mail);
}

void flow_report_progress(struct flow *f)
{
	report(f, FLOW_PROGRESS, FLOW_OK);
}

static int really_free(struct defer *d)
{
	struct flow *f = container_of(d, struct flow, free_defer);
	struct worker_vm *v = f->v;

	list_unlink(&f->of_vm);
	flow_peer_unref(f->peer);
	free(f->why);
	free(f);
	worker_vm_check(v);
	return 0;
}

/* Bytes that waited in user memory do so no longer. */
static void unbuffer(struct flow *f, size_t len)
{
	if (len)
		__atomic_sub_fetch(&f->v->vm->buffered_bytes, len, __ATOMIC_RELAXED);
}

static bool buffer(struct flow *f, size_t len)
{
	if (!len)
		return true;
	return __atomic_add_fetch(&f->v->vm->buffered_bytes, len, __ATOMIC_RELAXED) <= f->v->conf->limits.buffered_bytes;
}

static void leave_tunnel(struct flow *f, bool clean)
{
	struct hbone *t = f->tunnel;

	if (!f->has_far && f->pool)
		pool_leave(f);
	if (!t)
		return;
	hbone_rx_forget(f->v->w, f);
	h2_reset(&t->h2, &f->stream, clean ? H2_NO_ERROR : H2_CONNECT_ERROR);
	if (f->local.out)
		h2_consume(&t->h2, NULL, sock_waiting(&f->local));	/* nobody will see it; others may use the room */
	list_unlink(&f->of_other);
	f->tunnel = NULL;
	if (f->direction == FLOW_INBOUND)
		peer_share_flow_goes(t);
	hbone_flow_gone(t);
}

/* Its place is that of a stream again. */
static void leave_far(struct flow *f, bool rst)
{
	if (!f->has_far)
		return;
	unbuffer(f, sock_close(&f->far, rst));
	f->has_far = false;
	f->stream = (struct h2_stream){};
	f->pool = NULL;
	list_init(&f->stream.blocked);
}

void flow_leave(struct flow *f)
{
	leave_tunnel(f, false);
	leave_far(f, true);
}

static void count_end_at(struct vm_counters *c, enum flow_direction direction, enum flow_result result, bool opened)
{
	switch (result) {
	case FLOW_R_DENIED:
	case FLOW_R_POLICY_CHANGED:
	case FLOW_R_PLAINTEXT:
	case FLOW_R_UNKNOWN:
	case FLOW_R_NO_PORT:
	case FLOW_R_BAD_REQUEST:
		worker_add(&c->refused[direction], 1);
		break;
	case FLOW_R_BUDGET:		/* counted by budget */
	case FLOW_OK:
	case FLOW_R_RESET:
	case FLOW_R_IDLE:
	case FLOW_R_DRAIN:
		break;
	default:
		worker_add(&c->failed[direction], 1);
		break;
	}
	if (opened)
		worker_add(&c->closed[direction], 1);
}

/* --- the VM at the other end, when it is of this process --- */

/* As for peers by tunnels; here all that the neighbour has counts, wherever it leads. */
bool flow_take_target(struct flow *f, struct worker_vm *to)
{
	uint32_t may = to->conf->limits.connections, kept = vm_kept(&to->conf->limits);

	if (kept && __atomic_load_n(&f->v->vm->n_connections, __ATOMIC_RELAXED) > kept)
		may -= kept;
	if (__atomic_add_fetch(&to->vm->n_connections, 1, __ATOMIC_RELAXED) > may) {
		__atomic_sub_fetch(&to->vm->n_connections, 1, __ATOMIC_RELAXED);
		worker_over(to, VM_B_CONNECTIONS);
		return false;
	}
	f->target = to;
	list_append(&to->from_neighbours, &f->of_other);
	return true;
}

void flow_leave_target(struct flow *f, enum flow_result result)
{
	if (!f->target)
		return;
	count_end_at(f->target->count, FLOW_INBOUND, result, f->opened);
	report_target(f, f->target, FLOW_CLOSED, result);
	flow_drop_target(f);
}

void flow_drop_target(struct flow *f)
{
	struct worker_vm *to = f->target;

	if (!to)
		return;
	list_unlink(&f->of_other);
	f->target = NULL;
	__atomic_sub_fetch(&to->vm->n_connections, 1, __ATOMIC_RELAXED);
	worker_vm_check(to);
}

void flow_target_denies(struct flow *f, struct worker_vm *to)
{
	count_end_at(to->count, FLOW_INBOUND, FLOW_R_DENIED, false);
	report_target(f, to, FLOW_CLOSED, FLOW_R_DENIED);
}

/* --- the end --- */

void flow_end(struct flow *f, enum flow_result result, const char *why)
{
	struct worker *w = f->v->w;

	if (f->state == FLOW_DEAD)
		return;
	f->state = FLOW_DEAD;
	share_use_connection(&w->share, &f->v->share, SHARE_END);
	if (why && !f->why)
		f->why = strdup(why);
	timer_cancel(&f->timer);
	list_unlink(&f->waiting);
	leave_tunnel(f, result == FLOW_OK || f->refused);
	unbuffer(f, sock_close(&f->local, result != FLOW_OK));
	leave_far(f, result != FLOW_OK);
	if (f->workload_id != UINT32_MAX)
		balance_closed(w->balance, f->workload_id);
	f->workload_id = UINT32_MAX;
	flow_leave_target(f, result);
	count_end_at(f->v->count, f->direction, result, f->opened);
	report(f, FLOW_CLOSED, result);
	if (f->counted)
		__atomic_sub_fetch(&f->v->vm->n_connections, 1, __ATOMIC_RELAXED);
	__atomic_store_n(&w->load.n_flows, w->load.n_flows - 1, __ATOMIC_RELAXED);
	f->free_defer = (struct defer){};
	loop_defer(w->loop, &f->free_defer, really_free);
}

int flow_take_local(struct flow *f, int fd, bool connecting)
{
	return sock_add(&f->local, f->v->w->loop, fd, connecting, on_local);
}

int flow_take_far(struct flow *f, int fd, bool connecting)
{
	f->has_far = true;
	sock_init(&f->far);
	return sock_add(&f->far, f->v->w->loop, fd, connecting, on_far);
}

void flow_open(struct flow *f)
{
	struct worker *w = f->v->w;

	f->state = FLOW_OPEN;
	f->opened = true;
	f->tee_lost[0] = f->tee_lost[1] = 0;
	f->connect_ms = (uint32_t)(loop_now_ms(w->loop) - f->started_ms);
	f->active_ms = loop_now_ms(w->loop);
	timer_cancel(&f->timer);
	list_unlink(&f->waiting);
	worker_add(&f->v->count->opened[f->direction], 1);
	if (f->target)
		worker_add(&f->target->count->opened[FLOW_INBOUND], 1);
	report(f, FLOW_OPENED, FLOW_OK);
	tee_begin(f);
	sock_read(&f->local, true);
	if (!f->tunnel)
		sock_read(&f->far, true);
}

static int on_timer(struct timer *t)
{
	struct flow *f = container_of(t, struct flow, timer);

	if (f->direction == FLOW_OUTBOUND)
		flow_out_timeout(f);
	else
		flow_in_timeout(f);
	return 0;
}

void flow_park(struct flow *f, struct list *list, uint32_t timeout_ms)
{
	list_unlink(&f->waiting);
	list_append(list, &f->waiting);
	if (!f->timer.loop && timer_arm(f->v->w->loop, &f->timer, timeout_ms, on_timer) < 0)
		flow_end(f, FLOW_R_INTERNAL, "out of memory");
}

void flow_wait(struct flow *f, struct list *list, uint32_t timeout_ms)
{
	timer_cancel(&f->timer);
	flow_park(f, list, timeout_ms);
}

/* --- moving bytes --- */

static bool direction_done(const struct sock *from, const struct sock *to)
{
	return from->eof && to->ended;
}

static void maybe_done(struct flow *f)
{
	if (f->state != FLOW_OPEN)
		return;
	if (f->tunnel ? f->local.eof && f->local.ended :
			direction_done(&f->local, &f->far) && direction_done(&f->far, &f->local))
		flow_end(f, FLOW_OK, NULL);
}

static void count_bytes(struct flow *f, bool by_client, size_t n)
{
	f->active_ms = loop_now_ms(f->v->w->loop);
	share_use_bytes(&f->v->w->share, &f->v->share, n);
	if (by_client) {
		f->bytes_sent += n;
		worker_add(&f->v->count->bytes_sent[f->direction], n);
		if (f->target)
			worker_add(&f->target->count->bytes_sent[FLOW_INBOUND], n);
	} else {
		f->bytes_received += n;
		worker_add(&f->v->count->bytes_received[f->direction], n);
		if (f->target)
			worker_add(&f->target->count->bytes_received[FLOW_INBOUND], n);
	}
}

static void too_much(struct flow *f)
{
	worker_over(f->v, VM_B_BUFFERS);
	flow_end(f, FLOW_R_BUDGET, "too many bytes wait in this VM's proxy");
}

static size_t read_size(const struct flow *f)
{
	const struct worker_vm *v = f->v;
	bool tight = __atomic_load_n(&v->vm->buffered_bytes, __ATOMIC_RELAXED) > v->conf->limits.buffered_bytes / 2;

	return tight ? (size_t)TIGHT_READ : (size_t)WORKER_PUMP_SIZE;
}

/* A socket call said no. */
static void broken(struct flow *f, int r)
{
	if (r == -ENOMEM || r == -ENOBUFS) {
		worker_over(f->v, VM_B_MEMORY);
		flow_end(f, FLOW_R_INTERNAL, "out of memory");
	} else {
		flow_end(f, FLOW_R_RESET, strerror(-r));
	}
}

static bool is_from_client(const struct flow *f, const struct sock *s)
{
	if (f->direction == FLOW_OUTBOUND || !f->tunnel)
		return s == &f->local;
	return false;			/* inbound HBONE: the client is behind the tunnel */
}

static ssize_t read_parts(int fd, struct iovec *iov, size_t n_iov)
{
	ssize_t n;

	do
		n = n_iov == 1 ? recv(fd, iov->iov_base, iov->iov_len, MSG_DONTWAIT) : readv(fd, iov, (int)n_iov);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

/* Straight into the frame that will carry it. */
static void local_to_stream(struct flow *f)
{
	struct hbone *t = f->tunnel;
	struct iovec iov[H2_PARTS];
	size_t n_iov;

	if (hbone_is_stuffed(t)) {
		list_unlink(&f->waiting);
		list_append(&t->stalled, &f->waiting);
		sock_read(&f->local, false);
		return;
	}
	if (!h2_data_begin(&t->h2, &f->stream, WORKER_READ_SIZE, iov, &n_iov)) {
		sock_read(&f->local, false);	/* until flow_resume() */
		if (t->h2.failed)
			hbone_break(t, t->h2.error);
		return;
	}

	ssize_t n = read_parts(f->local.fd, iov, n_iov);
	if (n > 0) {
		h2_data_end(&t->h2, &f->stream, (size_t)n, false);
		count_bytes(f, is_from_client(f, &f->local), (size_t)n);
		tee_parts(f, is_from_client(f, &f->local), iov, n_iov, (size_t)n);
	} else if (n == 0) {
		share_use_connection(&f->v->w->share, &f->v->share, SHARE_END);
		f->local.eof = true;
		sock_read(&f->local, false);
		h2_end(&t->h2, &f->stream);
		tee_end(f, is_from_client(f, &f->local));
		maybe_done(f);
	} else if (n != -EAGAIN) {
		broken(f, (int)n);
	}
}

/* From socket to socket. What does not fit stops the reading until it is gone. */
static void pump(struct flow *f, struct sock *from, struct sock *to)
{
	struct worker *w = f->v->w;
	struct iovec iov = { w->net, read_size(f) };
	size_t sent;
	ssize_t n = read_parts(from->fd, &iov, 1);
	int r;

	if (n == -EAGAIN)
		return;
	if (n < 0) {
		broken(f, (int)n);
		return;
	}
	if (n == 0) {
		share_use_connection(&w->share, &f->v->share, SHARE_END);
		from->eof = true;
		sock_read(from, false);
		tee_end(f, from == &f->local);
		sock_end(to);
		maybe_done(f);
		return;
	}
	iov.iov_len = (size_t)n;
	count_bytes(f, is_from_client(f, from), (size_t)n);
	tee_parts(f, is_from_client(f, from), &iov, 1, (size_t)n);
	r = sock_write(to, &iov, 1, &sent);
	if (r < 0) {
		broken(f, r);
		return;
	}
	if (to->out)
		sock_read(from, false);
	if (!buffer(f, (size_t)n - sent))
		too_much(f);
}

static void readable(struct flow *f, struct sock *s)
{
	if (f->tunnel)
		local_to_stream(f);
	else
		pump(f, s, s == &f->local ? &f->far : &f->local);
}

static void writable(struct flow *f, struct sock *s)
{
	size_t sent;
	int r;

	r = sock_flush(s, &sent);
	if (r < 0) {
		broken(f, r);
		return;
	}
	unbuffer(f, sent);
	if (f->tunnel && sent)
		h2_consume(&f->tunnel->h2, &f->stream, sent);
	if (!f->tunnel && !s->out && f->state == FLOW_OPEN)
		sock_read(s == &f->local ? &f->far : &f->local, true);
	maybe_done(f);
}

/* A connect() of ours has come to its end. */
static void connected(struct flow *f, struct sock *s)
{
	int r = sock_connected(s);

	if (r < 0 && f->direction == FLOW_OUTBOUND)
		flow_out_failed(f, strerror(-r));
	else if (r < 0)
		flow_in_failed(f, strerror(-r));
	else if (f->direction == FLOW_OUTBOUND)
		flow_out_connected(f);
	else
		flow_in_connected(f);
	if (f->state == FLOW_OPEN)
		writable(f, s);		/* what came while it was connecting */
}

static void on_sock(struct flow *f, struct sock *s, uint32_t events)
{
	if (!worker_vm_turn(f->v, 1)) {
		worker_vm_put_off(f->v, &s->watch, events);
		return;
	}
	if (s->connecting) {
		connected(f, s);
		return;
	}
	if (events & EPOLLOUT)
		writable(f, s);
	if (f->state == FLOW_DEAD || s->fd < 0)
		return;
	if (s->reading && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
		readable(f, s);
	else if (events & EPOLLERR)		/* nobody reads just now, but this cannot wait */
		flow_end(f, FLOW_R_RESET, "reset by the application");
	else if (events & EPOLLHUP)
		sock_unwatch(s);
}

static int on_local(struct watch *w, uint32_t events)
{
	struct flow *f = container_of(container_of(w, struct sock, watch), struct flow, local);

	on_sock(f, &f->local, events);
	return 0;
}

static int on_far(struct watch *w, uint32_t events)
{
	struct flow *f = container_of(container_of(w, struct sock, watch), struct flow, far);

	on_sock(f, &f->far, events);
	return 0;
}

/* --- from the tunnel --- */

void flow_from_stream(struct flow *f, const struct iovec *iov, size_t n_iov, bool end)
{
	size_t total = 0, sent = 0;
	struct hbone *t = f->tunnel;
	int r = 0;

	for (size_t i = 0; i < n_iov; i++)
		total += iov[i].iov_len;
	if (f->state == FLOW_DEAD)
		return;
	if (total) {
		count_bytes(f, f->direction == FLOW_INBOUND, total);
		tee_parts(f, f->direction == FLOW_INBOUND, iov, n_iov, total);
		share_use(&f->v->w->share, &f->v->share, 1);
		r = sock_write(&f->local, iov, n_iov, &sent);
		if (sent)
			h2_consume(&t->h2, &f->stream, sent);
	}
	if (r < 0) {
		h2_consume(&t->h2, NULL, total - sent);
		broken(f, r);
		return;
	}
	if (!buffer(f, total - sent)) {
		too_much(f);
		return;
	}
	if (end) {
		share_use_connection(&f->v->w->share, &f->v->share, SHARE_END);
		tee_end(f, f->direction == FLOW_INBOUND);
		sock_end(&f->local);
		maybe_done(f);
	}
}

void flow_resume(struct flow *f)
{
	if (f->state == FLOW_OPEN && !f->local.eof)
		sock_read(&f->local, true);
}

void flow_stream_gone(struct flow *f, uint32_t code, bool by_us)
{
	char why[80];

	snprintf(why, sizeof(why), by_us ? "the peer broke HTTP/2 on the stream: %s" : "stream reset by the peer: %s", h2_code_name(code));
	if (f->state == FLOW_REQUESTED && code == H2_REFUSED_STREAM)
		flow_out_refused(f, why);
	else if (f->state == FLOW_REQUESTED)
		flow_out_failed(f, why);
	else if (f->state == FLOW_OPEN && code == H2_NO_ERROR && f->local.eof)
		flow_end(f, FLOW_OK, NULL);
	else
		flow_end(f, FLOW_R_RESET, why);
}

void flow_tunnel_lost(struct flow *f, const char *why)
{
	if (f->state == FLOW_REQUESTED)
		flow_out_failed(f, why);
	else
		flow_end(f, FLOW_R_TUNNEL, why);
}

void flow_ask(struct flow *f, const struct ip *ip)
{
	struct worker *w = f->v->w;

	if (f->no_waypoint ? f->asked_waypoint : f->asked)
		return;
	f->asked |= !f->no_waypoint;
	f->asked_waypoint |= f->no_waypoint;
	worker_ask(w, f->v->vm, ip);
}
