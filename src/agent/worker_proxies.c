/*
 * The worker's proxies: what their supervisor tells the members, what it has
 * the monitor do, and what is done about VMs that have none after a restart.
 */
#include "agent/worker.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/log_file.h"
#include "agent/member.h"
#include "base/log.h"

enum {
	LINGER_MS = 60000,
	STATE_KEEP_MS = 3600 * 1000,	/* as long as memory.c believes what it finds */
};

/* --- what the supervisor tells --- */

static void touch(struct worker *w, const struct proxy_vm *vm)
{
	struct guest *g = guest_by_id(&w->guests, vm->id);

	if (g && member_of(g))
		member_touch(member_of(g));
}

static void on_vm_changed(struct proxy_vm *vm, void *data)
{
	log_info("proxy", log_str("guest", vm->id), log_str("state", vm_state_name(vm->state)), log_str("says", supervisor_said_name(vm->said)),
		 log_str("detail", vm->detail));
	touch(data, vm);
}

static void on_vm_gone(struct proxy_vm *vm, void *data)
{
	log_info("proxy is gone", log_str("guest", vm->id));
	touch(data, vm);
}

static void on_vm_health(struct proxy_vm *vm, void *data)
{
	touch(data, vm);
}

static void on_token_wanted(struct proxy_vm *vm, const char *reason, void *data)
{
	struct worker *w = data;
	struct guest *g = guest_by_id(&w->guests, vm->id);

	if (!g || !member_of(g))
		return;
	log_debug("proxy wants a token", log_str("guest", vm->id), log_str("reason", reason));
	if (strcmp(reason, "first") || !vm->token)
		member_of(g)->token_until = 0;		/* the one that it has is no good */
	member_ask_token(member_of(g));
}

static void on_supervisor_failed(const char *what, const char *subject, int r, void *data)
{
	(void)data;
	if (r)
		LOG_LIMITED(LOG_L_ERROR, "proxy", log_str("what", what), log_str("of", subject), log_errno(r));
	else
		LOG_LIMITED(LOG_L_WARN, "proxy", log_str("what", what), log_str("of", subject));
}

/* --- what the monitor does for it --- */

static int sys_spawn(void *data, const struct monitor_spawn *s, uint32_t *ret_proxy, pid_t *ret_pid)
{
	return monitor_proxy_spawn(((struct worker *)data)->monitor, s, ret_proxy, ret_pid);
}

static int sys_kill(void *data, uint32_t proxy)
{
	return monitor_proxy_signal(((struct worker *)data)->monitor, proxy, SIGKILL);
}

/* The monitor's rights reach further; what is in a folder of ours only we may open. */
static int sys_access_log_open(void *data, const char *path)
{
	int fd, r = monitor_access_log(((struct worker *)data)->monitor, path, &fd);

	return r == 0 ? fd : r == -EPERM || r == -EACCES ? log_file_open(path) : r;
}

static int sys_dns_make(void *data, uint32_t vm, int ret_fds[2])
{
	return monitor_dns_make(((struct worker *)data)->monitor, vm, ret_fds);
}

static int sys_listeners_make(void *data, uint32_t vm, int ret_fds[2])
{
	return monitor_listeners_make(((struct worker *)data)->monitor, vm, ret_fds);
}

static int sys_divert_add(void *data, const struct monitor_divert *d)
{
	return monitor_divert_add(((struct worker *)data)->monitor, d);
}

static int sys_divert_remove(void *data, const struct monitor_divert *d)
{
	return monitor_divert_remove(((struct worker *)data)->monitor, d);
}

static int sys_diverts_settle(void *data, uint32_t vm)
{
	return monitor_diverts_settle(((struct worker *)data)->monitor, vm);
}

/* Of the proxies' last configurations. */
static const char *make_state_dir(struct worker *w)
{
	int n = snprintf(w->proxy_state, sizeof(w->proxy_state), "%s/proxies", w->conf->state_dir);

	if ((size_t)n < sizeof(w->proxy_state) && (mkdir(w->proxy_state, 0700) == 0 || errno == EEXIST))
		return w->proxy_state;
	log_error("the proxies' last configurations cannot be kept", log_str("folder", w->proxy_state), log_errno(-errno));
	return "";
}

int worker_start_supervisor(struct worker *w, const char *run_dir)
{
	static const char *const levels[] = { "error", "warn", "info", "debug" };
	struct supervisor_conf conf = {
		.run_dir = run_dir, .state_dir = make_state_dir(w), .proxy_path = w->conf->proxy.path,
		.upgrade_adopted = w->conf->proxy.upgrade == CONFIG_UPGRADE_AUTO, .upgrade_drain_ms = w->conf->proxy.upgrade_drain_ms,
		.mark_base = w->conf->steering.mark_base, .workers = w->conf->proxy.workers,
		.log_level = levels[w->conf->log.level], .log_json = w->conf->log.json, .drain_ms = w->conf->proxy.drain_ms, .linger_ms = LINGER_MS,
		.state_keep_ms = STATE_KEEP_MS,
	};
	struct supervisor_system system = {
		.spawn = sys_spawn, .kill = sys_kill, .listeners_make = sys_listeners_make, .access_log_open = sys_access_log_open,
		.dns_make = sys_dns_make, .divert_add = sys_divert_add,
		.divert_remove = sys_divert_remove, .diverts_settle = sys_diverts_settle, .data = w,
	};
	struct supervisor_ops ops = {
		.changed = on_vm_changed, .gone = on_vm_gone, .health = on_vm_health, .token_wanted = on_token_wanted, .tee = feed_tee,
		.failed = on_supervisor_failed, .data = w,
	};

	return supervisor_init(&w->supervisor, w->loop, &conf, &system, &ops);
}

/* --- after a restart --- */

static bool has_proxy(const struct worker *w, const struct place *p)
{
	bool has = false;

	map_for_each(l, &w->supervisor.vms)
		has |= container_of(l, struct proxy_vm, by_id)->slot == p->slot;
	return has;
}

/* Is there anything that will give a guest of that port its proxy back, without a packet of its own? */
static bool is_remembered(const struct worker *w, const struct place *p)
{
	bool is = false;

	map_for_each(l, &w->guests.by_id) {
		const struct guest *g = container_of(l, struct guest, by_id);
		const struct catalog_guest *cg = catalog_of(g);

		if (g->link.vlan == p->vlan && !strcmp(g->link.port, p->port))
			is |= cg && (cg->n_claims || cg->n_lookups);
	}
	return is;
}

/*
 * A strict VM whose agent and proxy died together, before it was in the memory
 * of the one, has to register again, and for that its own flows must pass. What
 * comes to it is refused yet: worker_settle_others().
 */
void worker_open_forgotten(struct worker *w)
{
	list_for_each(l, &w->places.places) {
		const struct place *p = list_entry(l, struct place, link);

		if (p->up && !has_proxy(w, p) && !is_remembered(w, p) && monitor_diverts_open(w->monitor, p->slot) < 0)
			log_error("what a VM sends is still diverted to nobody", log_str("port", p->port));
	}
}

/* VMs that have not come back to the mesh after a restart are no longer treated as if they had. */
void worker_settle_others(struct worker *w)
{
	list_for_each(l, &w->places.places) {
		const struct place *p = list_entry(l, struct place, link);

		if (!has_proxy(w, p) && monitor_diverts_settle(w->monitor, p->slot) < 0)
			log_error("what a predecessor diverted is still diverted", log_str("port", p->port));
	}
}
