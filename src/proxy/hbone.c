/*
 * HBONE connections.
 *
 * Nothing here frees a tunnel in the middle of a callback: what goes wrong is
 * noted by hbone_break(), and the end comes as a deferred call of the loop.
 */
#include "proxy/hbone.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/log.h"
#include "proxy/flow.h"
#include "proxy/linger.h"
#include "proxy/pool.h"
#include "proxy/upstream.h"

static int on_events(struct watch *w, uint32_t events);

/* --- what the VM may have --- */

/* What waits for the peer is the VM's, whoever is slow. */
static void charge(struct hbone *t)
{
	struct vm *vm = t->v->vm;
	size_t now = t->out.len, before = t->charged;

	t->charged = now;
	if (__atomic_add_fetch(&vm->buffered_bytes, now - before, __ATOMIC_RELAXED) <= t->v->conf->limits.buffered_bytes || now < before)
		return;
	worker_over(t->v, VM_B_BUFFERS);
	hbone_break(t, "too many bytes wait in this VM's proxy");
}

/* A peer that has not shown yet who it is may keep others of the same VM waiting, and nobody else. */
static bool count_in(struct worker_vm *v)
{
	if (__atomic_add_fetch(&v->vm->n_handshakes, 1, __ATOMIC_RELAXED) <= v->conf->limits.handshakes)
		return true;
	__atomic_sub_fetch(&v->vm->n_handshakes, 1, __ATOMIC_RELAXED);
	worker_over(v, VM_B_HANDSHAKES);
	return false;
}

/*
 * Only who has shown who it is takes a place, and another's only by peer_share.h's
 * rule. What had it is gone at the end of this turn.
 */
static bool take_place(struct hbone *t)
{
	struct worker_vm *v = t->v;
	struct hbone *other;

	t->counted = true;
	if (__atomic_add_fetch(&v->vm->n_tunnels, 1, __ATOMIC_RELAXED) <= v->conf->limits.tunnels)
		return true;
	worker_over(v, VM_B_TUNNELS);
	other = peer_share_makes_room(t);
	if (!other)
		return false;
	h2_goaway(&other->h2, H2_NO_ERROR);
	hbone_break(other, "another tunnel needed its place");
	return true;
}

static void end_handshake(struct hbone *t)
{
	if (t->handshaking)
		__atomic_sub_fetch(&t->v->vm->n_handshakes, 1, __ATOMIC_RELAXED);
	t->handshaking = false;
}

static void count_out(struct hbone *t)
{
	end_handshake(t);
	peer_share_leave(t);
	if (t->counted)
		__atomic_sub_fetch(&t->v->vm->n_tunnels, 1, __ATOMIC_RELAXED);
	t->counted = false;
	__atomic_sub_fetch(&t->v->vm->buffered_bytes, t->charged, __ATOMIC_RELAXED);
	t->charged = 0;
}

/* The main thread gives back what is free then. */
static void count_rest(struct worker *w)
{
	__atomic_store_n(&w->load.n_rests, w->load.n_rests + 1, __ATOMIC_RELAXED);
}

/* --- the end --- */

static void hbone_end(struct hbone *t)
{
	struct worker_vm *v = t->v;
	struct worker *w = v->w;

	t->broken = true;
	hbone_rx_flush(w);
	while (!list_empty(&t->flows)) {
		struct flow *f = list_entry(t->flows.next, struct flow, of_other);

		list_unlink(&f->of_other);
		flow_tunnel_lost(f, t->why);
	}
	defer_cancel(&t->end_defer);
	timer_cancel(&t->open_timer);
	watch_remove(&t->watch);
	count_out(t);
	if (t->pool)
		pool_tunnel_gone(t->pool, t, t->open);
	list_unlink(&t->dirty);
	list_unlink(&t->of_vm);
	if (t->open)
		h2_deinit(&t->h2);
	if (t->staging)
		worker_staging_put(w, t->staging);
	flow_peer_unref(t->stranger);
	tls_session_free(t->tls);
	vm_conf_unref(t->conf);
	bytes_deinit(&t->out);
	if (t->faulty && !t->connecting)
		linger_close(w, t->fd);
	else
		close_fd(t->fd);
	__atomic_store_n(&w->load.n_tunnels, w->load.n_tunnels - 1, __ATOMIC_RELAXED);
	count_rest(w);
	free(t);
	worker_vm_check(v);
}

/* What is still to be said (a GOAWAY, an alert or close_notify), then the end. */
static int on_end(struct defer *d)
{
	struct hbone *t = container_of(d, struct hbone, end_defer);

	hbone_flush(t);
	(void)!tls_shutdown(t->tls);
	hbone_flush(t);
	hbone_end(t);
	return 0;
}

void hbone_break(struct hbone *t, const char *why)
{
	if (t->broken)
		return;
	t->broken = true;
	snprintf(t->why, sizeof(t->why), "%s", why ? why : "the tunnel broke");
	loop_defer(t->v->w->loop, &t->end_defer, on_end);
}

/* --- out --- */

static void rewatch(struct hbone *t)
{
	if (t->watch.loop)
		(void)!watch_modify(&t->watch, (uint32_t)EPOLLIN | (t->out.len || t->connecting ? (uint32_t)EPOLLOUT : 0u));
}

static void mark_dirty(struct hbone *t)
{
	if (list_empty(&t->dirty))
		list_append(&t->v->w->dirty, &t->dirty);
}

static void no_memory(struct hbone *t)
{
	worker_over(t->v, VM_B_MEMORY);
	hbone_break(t, "out of memory");
}

/* Sends @len bytes, keeps what the kernel does not take. */
static void send_bytes(struct hbone *t, const uint8_t *data, size_t len)
{
	ssize_t n = 0;

	if (t->cut)
		return;
	if (!t->out.len && !t->connecting && len) {
		do
			n = send(t->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
		while (n < 0 && errno == EINTR);
		if (n < 0 && errno != EAGAIN) {
			t->cut = true;
			hbone_break(t, strerror(errno));
			return;
		}
		n = MAX(n, 0);
	}
	t->unheard = true;
	int r = bytes_append(&t->out, data + n, len - (size_t)n);
	t->cut = r < 0;
	if (r == -ENOMEM)
		no_memory(t);
	else if (r < 0)
		hbone_break(t, "too many bytes wait for the peer");
	else if (t->out.len)
		rewatch(t);
	if (t->out.len != t->charged)
		charge(t);
}

/* Encrypts and sends what @h2 has written. */
static void seal(struct hbone *t)
{
	struct worker *w = t->v->w;
	struct iovec iov = { t->h2.out.data, t->h2.out.len };
	size_t n;
	int r;

	if (!t->h2.out.len)
		return;
	r = tls_seal(t->tls, &iov, 1, w->cipher, WORKER_CIPHER_SIZE, &n);
	__atomic_store_n(&w->load.bytes_tls, w->load.bytes_tls + t->h2.out.len, __ATOMIC_RELAXED);
	t->h2.out.len = 0;
	if (r < 0)
		hbone_break(t, "cannot encrypt");
	else
		send_bytes(t, w->cipher, n);
}

void hbone_flush(struct hbone *t)
{
	struct worker *w = t->v->w;

	list_unlink(&t->dirty);
	if (t->open) {
		seal(t);
		if (t->h2.failed)
			hbone_break(t, t->h2.error);
	}
	while (tls_pending(t->tls)) {
		size_t n = tls_take(t->tls, w->cipher, WORKER_CIPHER_SIZE);

		if (!n)
			break;
		send_bytes(t, w->cipher, n);
	}
	if (!t->staging)
		return;
	worker_staging_put(w, t->staging);
	t->staging = NULL;
	t->h2.out = (struct h2_out){};
}

/* A buffer for what this turn produces. Without memory for another one, tunnels take turns with those that there are: what waits in one is sent now. */
static struct staging *get_staging(struct worker *w)
{
	struct staging *s = worker_staging_get(w);

	list_for_each_safe(l, &w->dirty) {
		if (s)
			break;
		hbone_flush(list_entry(l, struct hbone, dirty));
		s = worker_staging_get(w);
	}
	return s;
}

bool hbone_room(struct h2 *h, size_t n)
{
	struct hbone *t = container_of(h, struct hbone, h2);

	if (!t->staging) {
		t->staging = get_staging(t->v->w);
		if (!t->staging) {
			worker_over(t->v, VM_B_MEMORY);
			return false;
		}
		h->out = (struct h2_out){ t->staging->data, 0, WORKER_STAGING_SIZE };
		mark_dirty(t);
	}
	if (h->out.size - h->out.len < n)
		seal(t);
	return h->out.size - h->out.len >= n;
}

static void resume_stalled(struct hbone *t)
{
	while (!list_empty(&t->stalled) && !hbone_is_stuffed(t)) {
		struct flow *f = list_entry(t->stalled.next, struct flow, waiting);

		list_unlink(&f->waiting);
		flow_resume(f);
	}
}

static void on_writable(struct hbone *t)
{
	ssize_t n = t->out.len ? send(t->fd, t->out.data, t->out.len, MSG_NOSIGNAL | MSG_DONTWAIT) : 0;

	if (n < 0 && errno != EAGAIN && errno != EINTR) {
		hbone_break(t, strerror(errno));
		return;
	}
	if (n > 0)
		bytes_consume(&t->out, (size_t)n);
	charge(t);
	rewatch(t);
	resume_stalled(t);
}

/* --- in --- */

static bool is_revoked(const struct hbone *t)
{
	size_t n;
	const uint8_t *serial = tls_peer_serial(t->tls, &n);

	return serial && revocations_has(t->v->w->revoked, serial, n);
}

static void refuse_revoked(struct hbone *t)
{
	worker_add(&t->v->count->tls_refused, 1);
	hbone_break(t, "the peer's certificate was revoked");
}

void hbone_recheck(struct hbone *t)
{
	if (t->open && !t->broken && is_revoked(t))
		refuse_revoked(t);
}

static void opened(struct hbone *t)
{
	const char *alpn = tls_alpn(t->tls);

	timer_cancel(&t->open_timer);
	end_handshake(t);
	if (is_revoked(t)) {
		worker_add(&t->v->count->tunnels_failed[t->server ? FLOW_INBOUND : FLOW_OUTBOUND], 1);
		refuse_revoked(t);
		return;
	}
	if (alpn && strcmp(alpn, "h2") != 0) {
		hbone_break(t, "the peer speaks no HTTP/2");
		return;
	}
	if (t->server && peer_share_join(t) < 0) {
		no_memory(t);
		return;
	}
	if (t->server && !take_place(t)) {
		hbone_break(t, "there are as many tunnels as there may be");
		return;
	}
	t->open = true;
	tls_hold(t->tls);
	if (h2_init(&t->h2, t->server, NULL, &hbone_stream_ops) < 0) {
		hbone_break(t, "out of memory");
		return;
	}
	t->idle_ms = loop_now_ms(t->v->w->loop);
	worker_add(&t->v->count->tunnels_opened[t->server ? FLOW_INBOUND : FLOW_OUTBOUND], 1);
	if (t->pool)
		pool_tunnel_open(t->pool);
}

/* Who it was: the counters do not tell. */
static void log_fault(const struct hbone *t, const char *what)
{
	const char *id = tls_peer_id(t->tls);
	char peer[IP_PORT_TEXT_LEN];

	LOG_LIMITED(LOG_L_WARN, "tunnel ended by a fault of the peer", log_str("vm", t->v->vm->id), log_str("peer", ip_port_format(&t->remote, peer)),
		    log_str("identity", id ? id : ""), log_str("reason", what));
}

static void tls_failed(struct hbone *t, int r)
{
	if (r == TLS_E_CLOSED) {
		hbone_break(t, "the peer closed the tunnel");
		return;
	}
	t->faulty = r == TLS_E_VERIFY || r == TLS_E_PROTOCOL;
	if (r == TLS_E_VERIFY)
		worker_add(&t->v->count->tls_refused, 1);
	if (!t->open)
		worker_add(&t->v->count->tunnels_failed[t->server ? FLOW_INBOUND : FLOW_OUTBOUND], 1);
	if (t->faulty)
		log_fault(t, tls_error(t->tls));
	hbone_break(t, r < 0 ? strerror(-r) : tls_error(t->tls));
}

static void take_plaintext(struct hbone *t, const uint8_t *data, size_t len)
{
	struct worker *w = t->v->w;
	int r;

	__atomic_store_n(&w->load.bytes_tls, w->load.bytes_tls + len, __ATOMIC_RELAXED);
	r = h2_recv(&t->h2, data, len, loop_now_ms(w->loop));
	hbone_rx_flush(w);
	if (r == 0) {
		if (t->pool && !list_empty(&t->pool->waiting) && hbone_takes_streams(t))
			pool_tunnel_open(t->pool);
		return;
	}
	t->faulty = r > 0;
	if (r > 0) {
		worker_add(&t->v->count->h2_errors, 1);
		log_fault(t, t->h2.error);
	}
	hbone_break(t, t->h2.error);
}

static void feed(struct hbone *t, const uint8_t *data, size_t len)
{
	struct worker *w = t->v->w;
	struct tls_in in = { .data = data, .len = len, .out = w->plain, .out_size = WORKER_PLAIN_SIZE };
	int r;

	do {
		r = tls_feed(t->tls, &in);
		if (!t->open && !t->broken && tls_is_open(t->tls))
			opened(t);
		if (in.out_len && !t->broken)
			take_plaintext(t, in.out, in.out_len);
	} while (r == 0 && !t->broken && (in.len || in.out_size - in.out_len < TLS_PLAINTEXT_MAX));
	if (r != 0 && !t->broken)
		tls_failed(t, r);
	if (tls_pending(t->tls))
		mark_dirty(t);
}

/* Records and frames: a read may bring tens of thousands, which do nothing else that is counted. */
static void charge_pieces(struct hbone *t)
{
	uint32_t n = tls_work(t->tls) + t->h2.n_frames - t->n_pieces;

	if (n < SHARE_PIECES)
		return;
	share_use(&t->v->w->share, &t->v->share, n / SHARE_PIECES);
	t->n_pieces += n;
}

static void on_readable(struct hbone *t)
{
	struct worker *w = t->v->w;
	uint32_t before = t->v->share.used, max = share_contended(&w->share) ? t->read_max : WORKER_NET_SIZE;
	ssize_t n = recv(t->fd, w->net, max, MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		hbone_break(t, n < 0 ? strerror(errno) : "the peer closed the tunnel");
		return;
	}
	t->rx_ms = loop_now_ms(w->loop);
	t->unheard = t->silent = false;
	feed(t, w->net, (size_t)n);
	charge_pieces(t);
	if (share_contended(&w->share))
		t->read_max = share_read_max(max, t->v->share.used - before, n == max, WORKER_NET_SIZE);
}

static int on_events(struct watch *w, uint32_t events)
{
	struct hbone *t = container_of(w, struct hbone, watch);

	if (t->broken)
		return 0;
	if (!worker_vm_turn(t->v, t->open || t->connecting ? 1 : SHARE_HANDSHAKE)) {
		worker_vm_put_off(t->v, w, events);
		return 0;
	}
	if (t->connecting) {
		socklen_t len = sizeof(int);
		int error = 0;

		if (getsockopt(t->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
			error = errno;
		if (error) {
			worker_add(&t->v->count->tunnels_failed[FLOW_OUTBOUND], 1);
			hbone_break(t, strerror(error));
			return 0;
		}
		t->connecting = false;
		on_writable(t);
	} else if (events & EPOLLOUT) {
		on_writable(t);
	}
	if (t->broken || !(events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
		return 0;
	if (t->open && tls_wake(t->tls) < 0)
		worker_vm_starve(t->v, w, events);	/* what it has rests in the kernel: nothing is lost */
	else
		on_readable(t);
	return 0;
}

/* --- the beginning --- */

static int on_open_timeout(struct timer *timer)
{
	struct hbone *t = container_of(timer, struct hbone, open_timer);

	worker_add(&t->v->count->tunnels_failed[t->server ? FLOW_INBOUND : FLOW_OUTBOUND], 1);
	hbone_break(t, t->connecting ? "connecting took too long" : "the TLS handshake took too long");
	return 0;
}

static struct hbone *hbone_new(struct worker_vm *v, int fd, bool server, struct tls_ctx *ctx, const struct tls_expect *expect)
{
	struct hbone *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->v = v;
	t->conf = vm_conf_ref(v->conf);
	t->fd = fd;
	t->server = server;
	t->connecting = t->unheard = !server;
	t->read_max = WORKER_NET_SIZE;
	t->rx_ms = loop_now_ms(v->w->loop);
	list_init(&t->of_pool);
	list_init(&t->of_vm);
	list_init(&t->of_share);
	list_init(&t->flows);
	list_init(&t->stalled);
	list_init(&t->dirty);
	bytes_init(&t->out, HBONE_OUT_MAX);
	if (tls_session_new(ctx, expect, &t->tls) < 0 ||
	    watch_add(v->w->loop, &t->watch, fd, EPOLLIN | (server ? 0u : (uint32_t)EPOLLOUT), false, on_events) < 0 ||
	    timer_arm(v->w->loop, &t->open_timer, HBONE_OPEN_TIMEOUT_MS, on_open_timeout) < 0) {
		watch_remove(&t->watch);
		tls_session_free(t->tls);
		vm_conf_unref(t->conf);
		free(t);
		return NULL;
	}
	list_append(&v->tunnels, &t->of_vm);
	__atomic_store_n(&v->w->load.n_tunnels, v->w->load.n_tunnels + 1, __ATOMIC_RELAXED);
	if (tls_pending(t->tls))
		mark_dirty(t);
	return t;
}

struct hbone *hbone_dial(struct worker_vm *v, struct pool_entry *pool, char why[static 160])
{
	struct tls_expect expect = { .ids = pool->ids, .n_ids = pool->n_ids, .trust_domain = pool->n_ids ? NULL : v->conf->trust_domain };
	int fd = upstream_connect(v->w, UPSTREAM_OWN, NULL, &pool->addr);
	struct hbone *t;

	if (fd < 0) {
		snprintf(why, 160, "%s", strerror(-fd));
		return NULL;
	}
	t = hbone_new(v, fd, false, v->conf->client, &expect);
	if (!t) {
		snprintf(why, 160, "out of memory");
		worker_over(v, VM_B_MEMORY);
		close_fd(fd);
		return NULL;
	}
	t->pool = pool;
	t->remote = pool->addr;
	return t;
}

void hbone_accept(struct worker_vm *v, int fd, const struct ip_port *src, const struct ip_port *dst)
{
	struct tls_expect expect = { .trust_domain = v->conf->trust_domain };
	struct hbone *t;

	if (!count_in(v)) {
		close_fd(fd);
		return;
	}
	t = v->conf->server ? hbone_new(v, fd, true, v->conf->server, &expect) : NULL;
	if (!t) {
		if (v->conf->server)
			worker_over(v, VM_B_MEMORY);
		__atomic_sub_fetch(&v->vm->n_handshakes, 1, __ATOMIC_RELAXED);
		worker_add(&v->count->tunnels_failed[FLOW_INBOUND], 1);
		close_fd(fd);
		return;
	}
	t->handshaking = true;
	t->local = *dst;
	t->remote = *src;
}

/* --- growing old --- */

void hbone_drain(struct hbone *t)
{
	if (t->broken || t->draining)
		return;
	t->draining = true;
	if (!t->open || !h2_n_streams(&t->h2)) {
		hbone_break(t, "drained");
		return;
	}
	h2_shutdown(&t->h2);
	if (t->pool)
		pool_tunnel_retired(t->pool);
}

void hbone_flow_gone(struct hbone *t)
{
	if (t->broken || !t->open)
		return;
	if (list_empty(&t->flows)) {
		t->idle_ms = loop_now_ms(t->v->w->loop);
		if (t->draining) {
			h2_goaway(&t->h2, H2_NO_ERROR);
			hbone_break(t, "drained");
		}
	}
	if (t->pool && !list_empty(&t->pool->waiting) && hbone_takes_streams(t))
		pool_tunnel_open(t->pool);
}

/*
 * Does the peer's kernel still acknowledge what we send? A server that has lost
 * its power does not, a process that is busy does. A retransmission may be the
 * wire's fault, several in a row hardly are. Of a SYN the first says as much:
 * it comes after a second.
 */
static void look_for_silence(struct hbone *t)
{
	struct tcp_info info = {};
	socklen_t len = sizeof(info);

	if (getsockopt(t->fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0)
		return;
	t->unheard = info.tcpi_unacked || t->out.len;
	t->silent = info.tcpi_retransmits >= (t->connecting ? 1 : HBONE_LOST_IN_A_ROW);
}

/*
 * Requests that a silent peer has not taken go to others, new ones get another
 * tunnel to it: that one opens as soon as there is a server again. What is open
 * may go on yet, unless the mesh has lost the peer as well.
 */
static void listen_for(struct hbone *t, uint64_t now_ms)
{
	static const char why[] = "the peer acknowledges nothing";

	if (!t->pool || !t->unheard || now_ms - t->rx_ms < HBONE_UNHEARD_MS)
		return;
	look_for_silence(t);
	if (!t->silent) {
		if (!list_empty(&t->pool->waiting) && hbone_takes_streams(t))
			pool_tunnel_open(t->pool);
		return;
	}
	if (t->v->w->snap && !snapshot_workload_by_ip(t->v->w->snap, &t->remote.ip)) {
		worker_add(&t->v->count->tunnels_failed[FLOW_OUTBOUND], !t->open);
		hbone_break(t, "the peer acknowledges nothing and has left the mesh");
		return;
	}
	list_for_each_safe(l, &t->flows)
		flow_out_hesitate(list_entry(l, struct flow, of_other), why);
	pool_tunnel_silent(t->pool, why);
}

/* One that we dialled, for too long. */
static bool is_idle(const struct hbone *t, uint64_t now_ms)
{
	if (!t->pool || !t->idle_ms || now_ms - t->idle_ms <= HBONE_SPARE_MS)
		return false;
	return now_ms - t->idle_ms > HBONE_IDLE_MS || pool_can_spare(t->pool, t);
}

void hbone_tick(struct hbone *t, uint64_t now_ms)
{
	if (!t->broken)
		listen_for(t, now_ms);
	if (!t->open || t->broken)
		return;
	bool waits = t->watch.put_off.next && !list_empty(&t->watch.put_off);	/* what the peer says is not read */

	if (t->ping_ms && !waits && now_ms - t->ping_ms > HBONE_PING_TIMEOUT_MS) {
		hbone_break(t, "the peer does not answer any more");
	} else if (is_idle(t, now_ms)) {
		h2_goaway(&t->h2, H2_NO_ERROR);
		hbone_break(t, "idle");
	} else if (now_ms - t->rx_ms > HBONE_PING_MS && !t->ping_ms) {
		t->ping_ms = now_ms;
		h2_ping(&t->h2);
	} else if (now_ms - t->rx_ms > HBONE_REST_MS) {
		if (tls_rest(t->tls))
			count_rest(t->v->w);
	}
}
