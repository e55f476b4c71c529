/*
 * The worker: its parts, and what each tells the others.
 */
#include "agent/worker.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/random.h>

#include "agent/admin.h"
#include "agent/adopt.h"
#include "agent/budgets.h"
#include "agent/handover.h"
#include "agent/knowledge.h"
#include "agent/member.h"
#include "agent/memory.h"
#include "agent/own_addresses.h"
#include "agent/reports.h"
#include "agent/state.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/sandbox.h"

enum {
	TICK_MS = 1000,
	LOAD_EVERY_TICKS = 10,
	DECIDE_EVERY_TICKS = 30,
	SAVE_AGAIN_TICKS = STATE_RETRY_MS / TICK_MS,
	MEMORY_TICKS = 60,		/* after a restart: for ports to come back */
};

/* --- guests --- */

static void on_guest_changed(struct guest *g, void *data)
{
	struct worker *w = data;

	if (!member_of(g) && member_new(w, g) < 0) {
		log_error("no memory for a guest", log_str("guest", g->id));
		return;
	}
	catalog_guest_changed(&w->catalog, g, clock_mono_ns());
	member_touch(member_of(g));
	memory_touch(w);
}

static void on_guest_gone(struct guest *g, const char *reason, void *data)
{
	struct worker *w = data;

	log_info("guest is gone", log_str("guest", g->id), log_str("reason", reason));
	if (member_of(g))
		member_of(g)->ends = true;
	catalog_guest_gone(&w->catalog, g, reason);
	if (member_of(g))
		member_end(member_of(g), reason);
	memory_touch(w);
}

void worker_touch_everybody(struct worker *w)
{
	map_for_each(l, &w->guests.by_id) {
		struct member *m = member_of(container_of(l, struct guest, by_id));

		if (m)
			member_touch(m);
	}
}

static void on_own_addresses(const struct ip *ips, size_t n, void *data)
{
	struct worker *w = data;

	if (guest_table_ours(&w->guests, ips, n) < 0)
		log_error("no memory for the NIC's own addresses");
}

/* --- places --- */

static void on_place_up(struct place *p, void *data)
{
	struct worker *w = data;

	if (p->bridged && !w->told_l2)
		knowledge_repeat_welcome(w);
	if (guest_port_up(&w->guests, p->port, clock_mono_ms()) < 0)
		log_error("no memory for the configured guests", log_str("port", p->port));
	memory_recall(w, p);
}

static void on_place_down(struct place *p, const char *reason, void *data)
{
	struct worker *w = data;

	guest_port_down(&w->guests, p->port, reason);
}

/* --- claims --- */

static void arm_expiry(struct worker *w, uint64_t until_ms);

/* Registered and deregistered again as fast as it can: that guest's lines are left out, and no other's. */
static struct log_limit *limit_of(const struct claim *c, enum member_said what)
{
	static struct log_limit nobodys[_SAID_N];
	struct member *m = member_of(c->owner->guest);

	return m ? &m->said[what] : &nobodys[what];
}

static void judge_claim(struct worker *w, struct claim *c)
{
	struct member *m = member_of(c->owner->guest);
	struct judge *j;

	if (judge_new(&w->court, c, &j) < 0) {
		LOG_LIMITED(LOG_L_ERROR, "no memory to judge a claim: it is tried again", log_str("service", c->service));
		return;
	}
	c->user = j;
	memory_touch(w);
	if (m)
		member_touch(m);
}

static void on_claimed(struct claim *c, void *data)
{
	struct worker *w = data;

	c->first_seen_wall_ms = clock_wall_ms() - (int64_t)((c->claimed_ns - MIN(c->packet_ns, c->claimed_ns)) / 1000000);
	LOG_LIMITED_BY(limit_of(c, SAID_CLAIM), LOG_L_INFO, "claim", log_str("service", c->service), log_ip("address", &c->address),
		       log_int("port", c->port), log_str("protocol", c->sources[0].protocol), log_str("guest", c->owner->guest->id));
	arm_expiry(w, claim_until_ms(c));
	judge_claim(w, c);
}

static void on_claim_changed(struct claim *c, void *data)
{
	struct member *m = member_of(c->owner->guest);

	arm_expiry(data, claim_until_ms(c));
	memory_touch(data);
	if (m)
		member_touch(m);
}

static void on_claim_gone(struct claim *c, const char *reason, void *data)
{
	struct member *m = member_of(c->owner->guest);

	memory_touch(data);
	LOG_LIMITED_BY(limit_of(c, SAID_CLAIM_GONE), LOG_L_INFO, "claim is gone", log_str("service", c->service), log_ip("address", &c->address),
		       log_int("port", c->port), log_str("reason", reason));
	if (m) {
		report_claim_gone(m, c, reason);
		member_touch(m);
	}
	c->user = judge_free(c->user);
}

static void on_looked_up(struct catalog_guest *g, const struct lookup *l, void *data)
{
	struct member *m = member_of(g->guest);

	(void)l;
	memory_touch(data);
	if (m)
		member_touch(m);
}

static void on_judged(struct claim *c, bool verdict, void *data)
{
	struct member *m = member_of(c->owner->guest);
	const struct judge *j = c->user;

	(void)data;
	if (verdict && j)
		LOG_LIMITED_BY(limit_of(c, SAID_VERDICT), LOG_L_INFO, "verdict", log_str("service", c->service),
			       log_str("verdict", verdict_name(j->verdict.verdict)), log_str("guest", c->owner->guest->id));
	if (m)
		member_touch(m);
}

static void on_answered(struct guest *g, void *data)
{
	struct worker *w = data;

	guest_touch(&w->guests, g, clock_mono_ms());
}

static uint32_t slot_of(const struct guest *g, void *data)
{
	const struct member *m = member_of(g);

	(void)data;
	return m && m->place ? m->place->slot : 0;
}

/* --- the controller --- */

static void on_welcome(const Outrigger__V1__Welcome *m, void *data)
{
	struct worker *w = data;

	knowledge_take_welcome(w, m, true);
	/* Requests of the last session may have been lost with it. */
	map_for_each(l, &w->guests.by_id) {
		struct member *member = member_of(container_of(l, struct guest, by_id));

		if (member)
			member->token_asked_ms = 0;
	}
	worker_touch_everybody(w);
}

static void on_policies(const Outrigger__V1__PolicySet *m, void *data)
{
	knowledge_take_policies(data, m, true);
	worker_touch_everybody(data);
}

static void on_containers(const Outrigger__V1__ContainerSet *m, void *data)
{
	knowledge_take_containers(data, m, true);
	worker_touch_everybody(data);
}

static void on_nodes(const Outrigger__V1__NodeSet *m, void *data)
{
	knowledge_take_nodes(data, m, true);
	worker_touch_everybody(data);
}

static void on_token(const Outrigger__V1__Token *t, void *data)
{
	struct worker *w = data;
	struct guest *g = guest_by_id(&w->guests, t->guest_id);
	struct member *m = g ? member_of(g) : NULL;

	if (!m)
		return;
	/* After a refusal not before long: proxies ask again at once. */
	m->token_asked_ms = t->refused[0] ? clock_mono_ms() : 0;
	m->token_wait_ms = t->retry_after_ms;
	snprintf(m->token_refused, sizeof(m->token_refused), "%s", t->refused);
	if (t->refused[0]) {
		LOG_LIMITED(LOG_L_WARN, "the controller gives no token", log_str("guest", t->guest_id), log_str("why", t->refused));
	} else {
		m->token_until = t->expires_at;
		if (!m->token_ns)
			m->token_ns = clock_mono_ns();
	}
	if (supervisor_token(&w->supervisor, t->guest_id, t->token, t->refused[0] ? t->refused : NULL) < 0)
		log_error("no memory for a token", log_str("guest", t->guest_id));
}

static void on_drain(const Outrigger__V1__Drain *m, void *data)
{
	struct worker *w = data;

	log_info("the controller drains", log_str("guest", m->guest_id[0] ? m->guest_id : "all"));
	if (m->guest_id[0])
		supervisor_unwant(&w->supervisor, m->guest_id, m->drain_ms);
	else
		supervisor_shutdown(&w->supervisor, m->drain_ms);
}

static void on_revoked(const char *reason, void *data)
{
	struct worker *w = data;

	(void)reason;
	w->revoked = true;
	worker_touch_everybody(w);
}

static void on_handover(const Outrigger__V1__Handover *m, void *data)
{
	handover_take(data, m);
}

static void on_moved(const Outrigger__V1__Moved *m, void *data)
{
	handover_moved(data, m);
}

static void on_session_changed(enum session_state state, const char *detail, void *data)
{
	(void)data;
	if (state == SESSION_WAITING)
		LOG_LIMITED(LOG_L_WARN, "the controller is out of reach", log_str("why", detail));
	else
		log_info("controller", log_str("session", session_state_name(state)));
}

/* --- time --- */

static int on_expiry(struct timer *t)
{
	struct worker *w = container_of(t, struct worker, expiry);

	arm_expiry(w, catalog_expire(&w->catalog, clock_mono_ms()));
	return 0;
}

/* A claim that ends at @until_ms. Without memory for a timer the tick sees it end. */
static void arm_expiry(struct worker *w, uint64_t until_ms)
{
	uint64_t now = clock_mono_ms();

	if (until_ms == UINT64_MAX || (w->expiry.loop && w->expiry.due_ms <= until_ms))
		return;
	if (timer_arm(w->loop, &w->expiry, until_ms > now ? until_ms - now : TICK_MS, on_expiry) < 0)
		log_error("no memory for a timer");
}

/* Those that found no memory when they were made. */
static void judge_the_rest(struct worker *w)
{
	list_for_each(lg, &w->catalog.by_guest)
		list_for_each(l, &list_entry(lg, struct catalog_guest, link)->claims) {
			struct claim *c = list_entry(l, struct claim, link);

			if (!c->user)
				judge_claim(w, c);
		}
}

/* Whatever was missed: each guest is decided on twice a minute. */
static void decide_some(struct worker *w, unsigned tick)
{
	map_for_each(l, &w->guests.by_id) {
		struct member *m = member_of(container_of(l, struct guest, by_id));

		if (m && (m->engine_id / 2 + tick) % DECIDE_EVERY_TICKS == 0)
			member_touch(m);
	}
}

static int on_tick(struct timer *t)
{
	struct worker *w = container_of(t, struct worker, tick);
	static unsigned n;

	engine_tick(w->engine, w->frame, clock_mono_ns());
	guest_expire(&w->guests, clock_mono_ms());
	catalog_expire(&w->catalog, clock_mono_ms());
	catalog_retry(&w->catalog, clock_mono_ns());
	judge_the_rest(w);
	decide_some(w, n);
	supervisor_tick(&w->supervisor);
	budgets_tick(w);
	memory_save(w);
	if (n % SAVE_AGAIN_TICKS == 0) {
		places_save_again(&w->places);
		knowledge_save_again(w);
	}
	if (w->memory_ticks && w->loaded.adopted)
		worker_open_forgotten(w);	/* each time: a proxy that was killed takes a while to be gone, an adopted one has its grace */
	if (w->memory_ticks && !--w->memory_ticks) {
		memory_forget(w);
		places_drop_kept(&w->places);
		worker_settle_others(w);
	}
	map_for_each(l, &w->guests.by_id) {
		struct guest *g = container_of(l, struct guest, by_id);
		struct member *m = member_of(g);
		const struct proxy_vm *vm = m && m->joined ? supervisor_find(&w->supervisor, g->id) : NULL;

		if (vm && vm->load.connections_open)
			guest_touch(&w->guests, g, clock_mono_ms());
		if (vm && vm->state != VM_SERVING)
			member_ask_token(m);
	}
	if (++n % LOAD_EVERY_TICKS == 0)
		report_load(w);
	return timer_arm(w->loop, &w->tick, TICK_MS, on_tick);
}

/* --- the monitor --- */

static int on_monitor(struct watch *watch, uint32_t events)
{
	struct worker *w = container_of(watch, struct worker, monitor_watch);
	int r = monitor_client_dispatch(w->monitor);

	(void)events;
	if (r < 0)
		log_error("the monitor is gone", log_errno(r));
	return r;
}

static void on_exit_of_proxy(const struct monitor_exit *e, void *data)
{
	struct worker *w = data;

	supervisor_exited(&w->supervisor, e);
}

static void on_signal(int signo, void *data)
{
	struct worker *w = data;

	json_t *waiting;
	struct diag d = {};

	if (signo == SIGHUP) {
		if (reload_config(w, &waiting, &d) == 0)
			json_decref(waiting);
		return;
	}
	log_info("told to end", log_int("signal", signo));
	loop_stop(w->loop);
}

/* --- putting it together --- */

static int start_monitor(struct worker *w, int sock)
{
	int r = monitor_client_new(sock, &w->monitor);

	if (r < 0)
		return r;
	monitor_client_on_exit(w->monitor, on_exit_of_proxy, w);
	r = monitor_load(w->monitor, &w->loaded);
	if (r < 0) {
		log_error("steering could not be set up", log_errno(r));
		return r;
	}
	log_info("steering is set up", log_str("attached_by", w->loaded.tcx ? "tcx" : "clsact"), log_int("adopted", w->loaded.adopted));
	return watch_add(w->loop, &w->monitor_watch, monitor_client_fd(w->monitor), EPOLLIN, false, on_monitor);
}

static int start_knowledge(struct worker *w)
{
	const struct config *conf = w->conf;
	struct guest_limits limits = {
		.per_nic = conf->limits.guests, .per_port = conf->limits.guests_per_port, .address_ms = conf->limits.address_lifetime_ms,
	};
	struct guest_events on_guest = { .changed = on_guest_changed, .gone = on_guest_gone, .data = w };
	struct catalog_events on_catalog = {
		.claimed = on_claimed, .changed = on_claim_changed, .gone = on_claim_gone, .looked_up = on_looked_up, .data = w,
	};
	int r = config_rules(conf, &w->rules, &w->n_rules);

	if (r < 0)
		return r;
	guest_table_init(&w->guests, conf->nic, w->rules, w->n_rules, &limits, &on_guest);
	catalog_init(&w->catalog, &w->guests, &on_catalog);
	w->catalog.claims_per_s = conf->limits.claims_per_s;
	map_init(&w->tees);
	w->court = (struct judge_court){
		.loop = w->loop, .monitor = w->monitor, .catalog = &w->catalog,
		.containers = (const struct containers *const *)&w->containers, .nodes = (const struct nodes *const *)&w->nodes,
		.registries = conf->registries.v, .n_registries = conf->registries.n,
		.probe = conf->probe.enabled, .own_address = conf->probe.own_address, .interval_ms = conf->probe.interval_ms,
		.timeout_ms = conf->probe.timeout_ms, .misses = conf->probe.misses,
		.slot_of = slot_of, .changed = on_judged, .answered = on_answered, .data = w,
	};
	r = engine_new(NULL, feed_observation, w, &w->engine);
	if (r < 0)
		return r;
	return feed_set_ports(w);
}

static int start_session(struct worker *w, const struct worker_start *start)
{
	struct session_conf conf = {
		.nic = w->conf->nic, .address = w->conf->controller.address, .server_name = w->conf->controller.server_name,
		.roots_pem = start->roots_pem, .join_token = start->join_token, .state_dir = w->conf->state_dir,
	};
	struct session_ops ops = {
		.welcome = on_welcome, .policies = on_policies, .containers = on_containers, .nodes = on_nodes, .token = on_token, .drain = on_drain,
		.revoked = on_revoked, .handover = on_handover, .moved = on_moved, .changed = on_session_changed, .data = w,
	};

	if (getrandom(&conf.boot_id, sizeof(conf.boot_id), 0) < 0)
		return -errno;
	return session_new(w->loop, &conf, &ops, &w->session);
}

static int start_places(struct worker *w)
{
	struct places_events ev = { .up = on_place_up, .down = on_place_down, .data = w };
	int r = own_addresses_new(w->loop, on_own_addresses, w, &w->own);

	if (r == 0)
		r = places_init(&w->places, w->loop, w->conf, w->monitor, w->loaded.adopted, &ev);
	if (r < 0)
		return r;
	r = capture_new(w->loop, steal_fd(&w->loaded.ring_fd), w->loaded.ring_bytes, feed_record, w, &w->capture);
	if (r < 0)
		return r;
	return timer_arm(w->loop, &w->tick, TICK_MS, on_tick);
}

static int start_all(struct worker *w, const struct worker_start *start, int sock, const char *run_dir)
{
	static const int signals[] = { SIGTERM, SIGINT, SIGHUP };
	struct diag d = {};
	int r = start_monitor(w, sock);

	if (r == 0)
		r = worker_start_supervisor(w, run_dir);
	if (r == 0)
		r = start_session(w, start);
	if (r == 0)
		r = start_knowledge(w);
	if (r == 0)
		r = memory_load(w);
	if (r == 0)
		r = start_places(w);
	if (r == 0)
		r = knowledge_load(w);
	if (r == 0)
		r = adopt_predecessors(w);
	if (r == 0)
		r = admin_new(w, &w->admin);
	if (r == 0)
		r = loop_on_signal(w->loop, signals, ELEMENTS(signals), on_signal, w);
	if (r == 0) {
		r = sandbox_confine(SANDBOX_CORE | SANDBOX_LOOP | SANDBOX_THREADS | SANDBOX_SOCKETS | SANDBOX_NETLINK | SANDBOX_WRITE_FILES, &d);
		if (r < 0)
			log_error("the worker could not be confined", log_str("why", d.msg), log_errno(r));
	}
	return r;
}

static void stop_all(struct worker *w)
{
	w->memory_at_ms = 0;
	memory_save(w);
	memory_forget(w);
	admin_free(w->admin);
	timer_cancel(&w->tick);
	timer_cancel(&w->expiry);
	own_addresses_free(w->own);
	capture_free(w->capture);
	session_free(w->session);
	supervisor_deinit(&w->supervisor);
	watch_remove(&w->monitor_watch);
	monitor_client_free(w->monitor);
}

int worker_run(const struct worker_start *start, int sock)
{
	struct worker *w = calloc(1, sizeof(*w));
	char run_dir[80];
	int r = w ? loop_new(&w->loop) : -ENOMEM;

	if (r < 0) {
		close_fd(sock);
		free(w);
		return r;
	}
	w->conf = start->conf;
	w->conf_path = start->conf_path;
	w->started_ms = clock_mono_ms();
	w->memory_ticks = MEMORY_TICKS;
	w->loaded.ring_fd = -1;
	if ((size_t)snprintf(run_dir, sizeof(run_dir), "%s/proxies", w->conf->run_dir) >= sizeof(run_dir))
		r = -ENAMETOOLONG;
	if (r == 0)
		r = start_all(w, start, sock, run_dir);
	if (r == 0) {
		log_info("outrigger-agent is up", log_str("nic", w->conf->nic), log_str("version", OUTRIGGER_VERSION));
		r = loop_run(w->loop);
	}
	/* The process ends here, and with it what the parts hold of each other; the proxies go on. */
	stop_all(w);
	return r;
}
