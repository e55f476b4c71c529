/*
 * The main thread: what comes from the agent, from the workers and from the
 * clock, and where it goes.
 */
#include "proxy/proxy.h"

#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "proxy/credential.h"
#include "proxy/sidecar.h"

enum {
	TICK_MS = 1000,
	TRIM_CLOSED = 1000,		/* connections that ended make it worth while to give memory back */
	SAVE_EVERY = 5,			/* ticks */
	TERM_DRAIN_MS = 1000,
	STOP_GRACE_MS = 2000,		/* beyond the drain time */
};

struct sidecar *proxy_sidecar(const struct proxy *p, const char *vm_id)
{
	struct map_link *l = map_find_str(&p->sidecars, vm_id);

	return l ? container_of(l, struct sidecar, link) : NULL;
}

/* --- the snapshot --- */

void proxy_publish(struct proxy *p)
{
	struct snapshot *s = knowledge_snapshot(p->knowledge);

	p->unpublished = false;
	for (size_t i = 0; i < p->n_workers; i++) {
		int r = worker_set_snapshot(p->workers[i], s);

		if (r < 0) {	/* the next tick tries again */
			LOG_LIMITED(LOG_L_ERROR, "worker does not take a snapshot", log_int("worker", (int64_t)i), log_errno(r));
			p->unpublished = true;
		}
	}
}

int proxy_revoke(struct proxy *p, const void *bytes, size_t len, struct diag *reterr_diag)
{
	struct revocations *old = p->revoked;
	int r = revocations_merge(old, bytes, len, clock_wall_s(), &p->revoked, reterr_diag);

	if (r < 0)
		return r;
	for (size_t i = 0; r == 0 && p->revoked != old && i < p->n_workers; i++)
		r = worker_set_revoked(p->workers[i], p->revoked);
	if (r < 0) {		/* said again with the next answer: the list is the old one still */
		revocations_unref(p->revoked);
		p->revoked = old;
		return r;
	}
	if (p->revoked != old)
		log_warn("certificates were revoked", log_int("origins", (int64_t)revocations_n(p->revoked)));
	revocations_unref(old);
	return 0;
}

static void on_knowledge(void *data)
{
	struct proxy *p = data;

	proxy_publish(p);
	map_for_each(l, &p->sidecars)
		sidecar_review(container_of(l, struct sidecar, link));
}

/* The mesh controller has told every VM all there is: what was restored has had its time. */
static void drop_restored(struct proxy *p)
{
	if (!p->restored || !p->sidecars.n)
		return;
	map_for_each(l, &p->sidecars)
		if (!container_of(l, struct sidecar, link)->in_sync)
			return;
	p->restored = false;
	log_info("the mesh controller has spoken: the last configuration has had its time");
	knowledge_drop(p->knowledge, KNOWLEDGE_RESTORED);
}

/* --- workers --- */

static const Outrigger__Ipc__ServicePort *service_at(const Outrigger__Ipc__VmPut *m, const struct flow_report *r)
{
	for (size_t i = 0; r->direction == FLOW_INBOUND && i < m->n_ports; i++)
		if (m->ports[i]->target_port == r->upstream.port || m->ports[i]->target_port == r->destination.port)
			return m->ports[i];
	return NULL;
}

static void count_report(struct proxy *p, const struct sidecar *s, const struct flow_report *r)
{
	const Outrigger__Ipc__VmPut *m = s->put;
	const Outrigger__Ipc__ServicePort *port = service_at(m, r);
	const struct metrics_self self = {
		.workload = m->workload_name, .namespace = m->namespace_, .identity = s->identity,
		.app = sidecar_label(m, "app"), .version = sidecar_label(m, "version"),
		.canonical_name = names_canonical_name(sidecar_label, m) ?: m->workload_name,
		.canonical_revision = names_canonical_revision(sidecar_label, m) ?: "",
		.cluster = p->setup && p->setup->mesh_controller ? p->setup->mesh_controller->cluster_id : "",
		.service_host = port ? port->hostname : "", .service_name = port ? port->service : "",
		.service_namespace = port ? port->namespace_ : "",
	};

	metrics_report(p->metrics, r, &self);
	if (r->event == FLOW_CLOSED && p->access_log)
		access_log_write(p->access_log, r, &(struct access_log_self){
			.workload = m->workload_name, .namespace = m->namespace_, .identity = s->identity,
			.canonical_name = self.canonical_name, .canonical_revision = self.canonical_revision,
			.service = port ? port->hostname : "" });
}

static void on_report(void *data, struct flow_report *r)
{
	struct proxy *p = data;
	struct sidecar *s = slots_sidecar(&p->slots, r->vm);

	p->n_reports++;
	if (s) {
		count_report(p, s, r);
		if (r->direction == FLOW_OUTBOUND)
			sidecar_used(s, &r->destination.ip);
	}
	flow_report_free(r);
}

static void on_resolve(void *data, struct vm *vm, const struct ip *ip)
{
	struct sidecar *s = slots_sidecar(&((const struct proxy *)data)->slots, vm);

	if (s)
		sidecar_resolve(s, ip);
}

static void on_names(void *data, struct vm *vm, int fd, const struct ip_port *src, const struct ip_port *dst)
{
	struct sidecar *s = slots_sidecar(&((const struct proxy *)data)->slots, vm);

	if (s)
		sidecar_take_names(s, vm, fd, src, dst);
	else
		close_fd(fd);
}

int proxy_dial(struct proxy *p, struct vm *vm, int fd, const struct ip_port *src, const struct ip_port *dst)
{
	return worker_take_connection(p->workers[p->next_worker++ % p->n_workers], vm, fd, src, dst);
}

static void on_tee(void *data, struct flow_tee *t)
{
	struct proxy *p = data;

	tee_relay_pass(&p->tee, p->link, t);
	flow_tee_free(t);
}

static void on_removed(void *data, struct vm *vm)
{
	struct proxy *p = data;
	struct sidecar *s = slots_sidecar(&p->slots, vm);

	if (slots_gone(&p->slots, vm) && s)
		sidecar_removed(s, vm);
}

static const struct worker_events worker_events = {
	.resolve = on_resolve, .report = on_report, .tee = on_tee, .names = on_names, .removed = on_removed,
};

static void on_mail(void *data)
{
	struct proxy *p = data;

	mailbox_deliver(&p->mail, p);
}

unsigned proxy_n_workers(const struct proxy_options *options)
{
	long n = options->workers ? (long)options->workers : MIN(sysconf(_SC_NPROCESSORS_ONLN), 4L);

	return (unsigned)MIN(MAX(n, 1L), (long)PROXY_WORKERS_MAX);
}

static int start_workers(struct proxy *p, const int *sockd_socks, unsigned spare)
{
	unsigned n = proxy_n_workers(&p->options);
	int r = 0;

	for (unsigned i = 0; r == 0 && i < n; i++) {
		const struct worker_conf conf = {
			.main = &p->mail, .events = &worker_events, .events_data = p, .index = i, .n_workers = n, .all = p->workers,
			.sockd_sock = sockd_socks ? sockd_socks[i] : -1, .spare_sockets = spare, .hbone_port = SNAP_HBONE_PORT,
			.balance = p->options.round_robin ? BALANCE_ROUND_ROBIN : BALANCE_LEAST_REQUEST,
		};

		r = worker_new(&conf, &p->workers[i]);
		if (r == 0)
			p->n_workers++;
	}
	slots_start(&p->slots, p->workers, p->n_workers);
	return r;
}

/* --- VMs --- */

int proxy_vm_put(struct proxy *p, const Outrigger__Ipc__VmPut *m, int *fds, size_t n_fds, struct diag *reterr_diag)
{
	struct sidecar *s = proxy_sidecar(p, m->vm_id);
	int r;

	if (s)
		return sidecar_update(s, m, fds, n_fds, reterr_diag);
	r = sidecar_new(p, m, fds, n_fds, &s, reterr_diag);
	if (r < 0)
		return r;
	r = map_add(&p->sidecars, &s->link, s->vm_id, strlen(s->vm_id));
	if (r < 0) {
		sidecar_free(s);
		return r;
	}
	list_append(&p->shown, &s->shown);
	sidecar_setup(s);
	sidecar_greet(s);
	return 0;
}

static void vm_remove(struct proxy *p, struct sidecar *s, uint32_t drain_ms, uint32_t linger_ms)
{
	map_remove(&p->sidecars, &s->link);
	list_append(&p->leaving, &s->leaving);
	if (!p->stopping)
		list_unlink(&s->shown);
	sidecar_remove(s, drain_ms, linger_ms);
}

/* A VM that drains and is not there any more. */
static void cut_leaving(struct proxy *p, const char *vm_id)
{
	list_for_each(l, &p->leaving) {
		struct sidecar *s = list_entry(l, struct sidecar, leaving);

		if (!strcmp(s->put->vm_id, vm_id))
			sidecar_cut(s);
	}
}

void proxy_forget(struct proxy *p, struct sidecar *s)
{
	list_unlink(&s->leaving);
	list_unlink(&s->shown);
	knowledge_drop(p->knowledge, s->holder);
	sidecar_free(s);
	if (p->stopping && !p->sidecars.n && list_empty(&p->leaving))
		loop_stop(p->loop);
}

/* --- the agent --- */

static char **list_vm_ids(void *data, size_t *ret_n)
{
	struct proxy *p = data;
	size_t n = 0;

	free(p->vm_ids);
	p->vm_ids = calloc(p->sidecars.n + 1, sizeof(*p->vm_ids));
	map_for_each(l, &p->sidecars)
		if (p->vm_ids)
			p->vm_ids[n++] = container_of(l, struct sidecar, link)->put->vm_id;
	*ret_n = n;
	return p->vm_ids;
}

static void on_agent(void *data)
{
	struct proxy *p = data;

	log_info("agent");
	map_for_each(l, &p->sidecars)
		sidecar_greet(container_of(l, struct sidecar, link));
}

static void on_agent_gone(void *data, const char *why)
{
	struct proxy *p = data;

	if (!p->setup || p->standby) {	/* nobody could find it */
		log_error("agent is gone before there was anything to serve", log_str("reason", why));
		loop_stop(p->loop);
		return;
	}
	if (!p->stopping)
		log_warn("agent is gone; serving on", log_str("reason", why));
}

/* The credential goes last, and is read after all the rest: what is wrong with it is no reason not to serve. */
static int vm_put(struct proxy *p, const Outrigger__Ipc__VmPut *m, int *fds, size_t n_fds, struct diag *d)
{
	size_t n_listeners = n_fds - (m->has_credential && n_fds);
	int r = proxy_vm_put(p, m, fds, n_listeners, d);

	if (r >= 0 && n_listeners < n_fds)
		credential_take(proxy_sidecar(p, m->vm_id), fds[n_listeners]);
	return r;
}

static void take_vm_put(struct proxy *p, const Outrigger__Ipc__VmPut *m, int *fds, size_t n_fds)
{
	Outrigger__Ipc__ToAgent answer = OUTRIGGER__IPC__TO_AGENT__INIT;
	Outrigger__Ipc__VmStatus status = OUTRIGGER__IPC__VM_STATUS__INIT;
	struct diag d = {};
	int r = vm_put(p, m, fds, n_fds, &d);

	if (r >= 0)
		return;
	if (!*d.msg)
		diag_set(&d, "%s", strerror(-r));
	log_error("VM cannot be served", log_str("vm", m->vm_id), log_str("reason", d.msg));
	status.vm_id = m->vm_id;
	status.state = OUTRIGGER__IPC__VM_STATE__VM_FAILED;
	status.detail = d.msg;
	status.mono_ns = clock_mono_ns();
	answer.msg_case = OUTRIGGER__IPC__TO_AGENT__MSG_VM_STATUS;
	answer.vm_status = &status;
	r = agent_link_send(p->link, &answer, false);
	if (r < 0)
		log_warn("agent does not take a status", log_errno(r));
}

static void take_vm_dns(struct proxy *p, const Outrigger__Ipc__VmDns *m, int *fds, size_t n_fds)
{
	struct sidecar *s = proxy_sidecar(p, m->vm_id);
	int r;

	if (!s || n_fds != 2)
		return;
	r = sidecar_set_dns(s, fds);
	fds[0] = fds[1] = -1;
	if (r < 0)
		log_error("queries for names are left alone", log_str("vm", m->vm_id), log_errno(r));
}

static void proxy_stop(struct proxy *p, uint32_t drain_ms);
static void proxy_retire(struct proxy *p, uint32_t linger_ms, uint32_t drain_ms);

static void on_message(void *data, const Outrigger__Ipc__ToProxy *m, int *fds, size_t n_fds)
{
	struct proxy *p = data;
	struct sidecar *s;
	struct diag d = {};
	int r;

	switch (m->msg_case) {
	case OUTRIGGER__IPC__TO_PROXY__MSG_SETUP:
		r = proxy_setup(p, m->setup, n_fds == STATE_FILES ? fds : NULL, &d);
		if (r < 0)
			log_error("setup is not used", log_str("reason", d.msg), log_errno(r));
		break;
	case OUTRIGGER__IPC__TO_PROXY__MSG_VM_PUT:
		take_vm_put(p, m->vm_put, fds, n_fds);
		break;
	case OUTRIGGER__IPC__TO_PROXY__MSG_VM_REMOVE:
		s = proxy_sidecar(p, m->vm_remove->vm_id);
		if (s)
			vm_remove(p, s, m->vm_remove->drain_ms, m->vm_remove->linger_ms);
		if (!m->vm_remove->drain_ms)
			cut_leaving(p, m->vm_remove->vm_id);
		break;
	case OUTRIGGER__IPC__TO_PROXY__MSG_VM_TOKEN:
		s = proxy_sidecar(p, m->vm_token->vm_id);
		if (s)
			sidecar_token(s, m->vm_token->token, m->vm_token->refused);
		break;
	case OUTRIGGER__IPC__TO_PROXY__MSG_VM_DNS:
		take_vm_dns(p, m->vm_dns, fds, n_fds);
		break;
	case OUTRIGGER__IPC__TO_PROXY__MSG_SHUTDOWN:
		if (m->shutdown->linger_ms)
			proxy_retire(p, m->shutdown->linger_ms, m->shutdown->drain_ms);
		else
			proxy_stop(p, m->shutdown->drain_ms);
		break;
	case OUTRIGGER__IPC__TO_PROXY__MSG_LOAD_REQUEST:
		proxy_send_load(p);
		break;
	case OUTRIGGER__IPC__TO_PROXY__MSG_ACCESS_LOG:
		if (p->access_log && p->setup->access_log_comes)
			access_log_change(p->access_log, n_fds ? steal_fd(&fds[0]) : -1);
		break;
	default:
		log_warn("agent sent what this version does not know");
		break;
	}
}

static const struct agent_link_ops link_ops = {
	.connected = on_agent, .message = on_message, .gone = on_agent_gone, .vm_ids = list_vm_ids,
};

/* --- time, signals, the end --- */

/* What is new is on the disk a tick later; it is written whole, so not more often than so. */
static void save_state(struct proxy *p)
{
	uint64_t serial = p->state.serial;
	struct diag d = {};
	int r;

	if (p->restored || p->standby || p->n_ticks < p->save_at_tick)
		return;
	r = state_file_save(&p->state, p->knowledge, &d);
	if (r < 0 || p->state.serial != serial)
		p->save_at_tick = p->n_ticks + SAVE_EVERY;
	if (r < 0 && !p->unkept)
		log_warn("configuration is not kept, which is tried again", log_str("reason", d.msg));
	else if (r >= 0 && p->unkept)
		log_info("configuration is kept again");
	p->unkept = r < 0;
}

/* Once in a while; the log itself cannot say it. */
static void tell_dropped(struct proxy *p)
{
	enum { QUIET_MS = 10000 };
	uint64_t n = p->access_log ? access_log_dropped(p->access_log) : 0, now_ms = loop_now_ms(p->loop);

	if (n < p->told_dropped)	/* another log: counted from the beginning */
		p->told_dropped = 0;
	if (n == p->told_dropped || now_ms < p->dropped_quiet_ms)
		return;
	log_warn("lines of the access log are lost", log_int("lines", (int64_t)(n - p->told_dropped)));
	p->told_dropped = n;
	p->dropped_quiet_ms = now_ms + QUIET_MS;
}

static uint64_t count_rests(const struct proxy *p)
{
	uint64_t n = 0;

	for (size_t i = 0; i < p->n_workers; i++) {
		struct worker_load load;

		worker_load(p->workers[i], &load);
		n += load.n_rests;
	}
	return n;
}

/*
 * What connections and handshakes took is free but not given back: malloc()
 * keeps a heap whose end is in use. It goes when a tick has passed without news
 * of a connection (again when a tunnel has fallen quiet after that), and under
 * traffic after many of them have ended. Such a wave
 * may take longer than a tick, so that it is done again until a tick has passed
 * in which none ended.
 */
static void return_memory(struct proxy *p)
{
	size_t n = metrics_n_open(p->metrics), before = p->trimmed_open;
	uint64_t rests = count_rests(p);
	bool news = p->n_reports != p->reports_at_tick;
	bool rested = !news && (p->reports_at_tick != p->reports_at_trim || rests != p->rests_at_trim);

	p->reports_at_tick = p->n_reports;
	p->most_open = MAX(p->most_open, n);
	if (!before && !rested && (p->most_open - n < TRIM_CLOSED || n > p->most_open / 2))
		return;
	malloc_trim(0);
	p->reports_at_trim = p->n_reports;
	p->rests_at_trim = rests;
	p->most_open = n;
	p->trimmed_open = !before || n + 1 < before ? n + 1 : 0;
}

static int on_tick(struct timer *t)
{
	struct proxy *p = container_of(t, struct proxy, tick);

	map_for_each(l, &p->sidecars)
		sidecar_tick(container_of(l, struct sidecar, link));
	slots_tick(&p->slots);
	drop_restored(p);
	if (p->unpublished)
		proxy_publish(p);
	tell_dropped(p);
	return_memory(p);
	p->n_ticks++;
	save_state(p);
	return timer_arm(p->loop, &p->tick, TICK_MS, on_tick);
}

static int on_linger_over(struct timer *t)
{
	struct proxy *p = container_of(t, struct proxy, stop_timer);

	proxy_stop(p, p->drain_ms);
	return 0;
}

/*
 * Another process has our VMs' listeners in its hands. Ours have connections
 * yet that were under way; what they carry may end in peace, whether there is
 * an agent or not.
 */
static void proxy_retire(struct proxy *p, uint32_t linger_ms, uint32_t drain_ms)
{
	if (p->stopping)
		return;
	log_info("another process takes over", log_int("linger_ms", linger_ms), log_int("drain_ms", drain_ms));
	agent_link_retire(p->link);
	state_file_close(&p->state);
	p->drain_ms = drain_ms;
	if (timer_arm(p->loop, &p->stop_timer, linger_ms, on_linger_over) < 0)
		proxy_stop(p, drain_ms);
}

static int on_stop_timer(struct timer *t)
{
	loop_stop(container_of(t, struct proxy, stop_timer)->loop);
	return 0;
}

static void proxy_stop(struct proxy *p, uint32_t drain_ms)
{
	if (p->stopping) {
		loop_stop(p->loop);	/* asked twice: at once */
		return;
	}
	log_info("stopping", log_int("drain_ms", drain_ms));
	p->stopping = true;
	save_state(p);
	state_file_close(&p->state);	/* what is let go of from here on is not news */
	map_for_each(l, &p->sidecars)
		vm_remove(p, container_of(l, struct sidecar, link), drain_ms, 0);
	if (list_empty(&p->leaving) || timer_arm(p->loop, &p->stop_timer, drain_ms + STOP_GRACE_MS, on_stop_timer) < 0)
		loop_stop(p->loop);
}

static void on_signal(int signo, void *data)
{
	struct proxy *p = data;

	if (signo != SIGHUP)
		proxy_stop(p, TERM_DRAIN_MS);
	else if (p->reload)
		p->reload(p);
}

static uint64_t get_descriptors(void)
{
	struct rlimit l;

	return getrlimit(RLIMIT_NOFILE, &l) == 0 ? l.rlim_cur : 1024;
}

int proxy_init(struct proxy *p, const struct proxy_options *options, const int *sockd_socks)
{
	static const int signals[] = { SIGTERM, SIGINT, SIGHUP };
	uint64_t limit = get_descriptors();
	unsigned spare = budget_spare_sockets(limit, proxy_n_workers(options));
	int r;

	*p = (struct proxy){ .options = *options, .start_ms = clock_mono_ms() };
	p->connections_max = budget_connections(limit);
	map_init(&p->sidecars);
	list_init(&p->leaving);
	list_init(&p->shown);
	tee_relay_init(&p->tee);
	r = loop_new(&p->loop);
	if (r < 0)
		return r;
	mailbox_init(&p->mail, p->loop);
	loop_on_wake(p->loop, on_mail, p);
	r = loop_on_signal(p->loop, signals, ELEMENTS(signals), on_signal, p);
	if (r == 0)
		r = knowledge_new(p->loop, on_knowledge, p, &p->knowledge);
	if (r == 0)
		r = metrics_new(&p->metrics);
	if (r == 0)
		r = agent_link_new(p->loop, p->options.group, &link_ops, p, &p->link);
	if (r == 0)
		r = start_workers(p, sockd_socks, spare);
	if (r == 0 && sockd_socks)
		r = sockd_pool_new(p->loop, sockd_socks[p->n_workers], spare, &p->sockd);
	if (r == 0)
		r = timer_arm(p->loop, &p->tick, TICK_MS, on_tick);
	if (r == 0)
		proxy_publish(p);
	if (r < 0)
		proxy_deinit(p);
	return r;
}

void proxy_deinit(struct proxy *p)
{
	for (size_t i = 0; i < p->n_workers; i++)
		worker_end(p->workers[i]);
	for (size_t i = 0; i < p->n_workers; i++)
		p->workers[i] = worker_stop(p->workers[i]);
	if (p->loop)
		mailbox_deliver(&p->mail, p);
	p->n_workers = 0;
	slots_stop(&p->slots);
	map_for_each(l, &p->sidecars) {
		map_remove(&p->sidecars, l);
		sidecar_free(container_of(l, struct sidecar, link));
	}
	list_for_each_safe(s, &p->leaving)
		sidecar_free(list_entry(s, struct sidecar, leaving));
	map_deinit(&p->sidecars);
	httpd_free(p->admin);
	free(p->admin_path);
	channel_free(p->channel);
	agent_link_free(p->link);
	timer_cancel(&p->tick);
	timer_cancel(&p->stop_timer);
	if (p->loop)
		(void)!loop_turn(p->loop, 0);	/* what they have put off to the end of the turn */
	access_log_free(p->access_log);
	metrics_free(p->metrics);
	sockd_pool_free(p->sockd);
	knowledge_free(p->knowledge);
	p->revoked = revocations_unref(p->revoked);
	state_file_close(&p->state);
	tee_relay_deinit(&p->tee);
	if (p->setup)
		protobuf_c_message_free_unpacked(&p->setup->base, NULL);
	free(p->vm_ids);
	loop_free(p->loop);
}
