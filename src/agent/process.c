/*
 * Proxy processes: one an isolation group. Started when its first VM wants it,
 * started again when it dies, ended some time after its last VM has left.
 */
#include "agent/supervisor_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/proxy_link.h"
#include "agent/proxy_state.h"
#include "base/clock.h"
#include "base/fdmsg.h"

enum {
	HELLO_TIMEOUT_MS = 10000,
	STOP_GRACE_MS = 2000,		/* beyond the drain time: then it is killed */
	LIVED_MS = 5000,		/* so long alive: its death is an accident, it is started again at once */
	ADOPT_GRACE_MS = 30000,		/* for the guests of an adopted process to be found again */
};

static const char *const state_names[] = {
	[PROCESS_IDLE] = "idle",
	[PROCESS_STARTING] = "starting",
	[PROCESS_RUNNING] = "running",
	[PROCESS_BACKOFF] = "backoff",
	[PROCESS_STOPPING] = "stopping",
};
_Static_assert(ELEMENTS(state_names) == _PROCESS_STATE_N, "every state has a name");

const char *process_state_name(enum process_state state)
{
	return state_names[state];
}

static void complain(struct process *p, const char *what, int r)
{
	p->supervisor->ops.failed(what, p->group, r, p->supervisor->ops.data);
}

const char *process_path(const struct process *p, const char *what, char path[static 108])
{
	if (snprintf(path, 108, "%s/%s/%d.%s", p->supervisor->conf.run_dir, p->group, (int)p->pid, what) >= 108)
		path[0] = 0;
	return path;
}

static int on_timer(struct timer *t)
{
	process_event(container_of(t, struct process, timer), PROCESS_EV_TIMER);
	return 0;
}

void process_arm(struct process *p, uint64_t delay_ms)
{
	if (timer_arm(p->supervisor->loop, &p->timer, delay_ms, on_timer) < 0)
		complain(p, "no memory for a timer", -ENOMEM);
}

/* --- messages --- */

int process_send(struct process *p, const Outrigger__Ipc__ToProxy *m, const int *fds, size_t n_fds)
{
	return p->ipc ? proxy_link_send(p->ipc, m, fds, n_fds) : -ENOTCONN;
}

static int send_hello(struct process *p)
{
	Outrigger__Ipc__Hello hello = OUTRIGGER__IPC__HELLO__INIT;
	Outrigger__Ipc__ToProxy m = OUTRIGGER__IPC__TO_PROXY__INIT;
	char software[] = "outrigger-agent " OUTRIGGER_VERSION;

	hello.version = PROCESS_IPC_VERSION;
	hello.software = software;
	hello.pid = (uint32_t)getpid();
	hello.group = p->group;
	m.msg_case = OUTRIGGER__IPC__TO_PROXY__MSG_HELLO;
	m.hello = &hello;
	return process_send(p, &m, NULL, 0);
}

/* Without them it goes on, and a restart while the controller is away finds nothing. */
static size_t open_state(struct process *p, int fds[static PROXY_STATE_FILES])
{
	const char *dir = p->supervisor->conf.state_dir;
	int r = dir[0] ? proxy_state_open(dir, p->group, fds) : -ENOENT;

	if (r < 0 && dir[0])
		complain(p, "the last configuration cannot be kept", r);
	return r < 0 ? 0 : PROXY_STATE_FILES;
}

int process_send_access_log(struct process *p)
{
	const struct supervisor *s = p->supervisor;
	Outrigger__Ipc__AccessLog log = OUTRIGGER__IPC__ACCESS_LOG__INIT;
	Outrigger__Ipc__ToProxy m = OUTRIGGER__IPC__TO_PROXY__INIT;

	if (!s->setup->access_log_comes)
		return 0;
	m.msg_case = OUTRIGGER__IPC__TO_PROXY__MSG_ACCESS_LOG;
	m.access_log = &log;
	return process_send(p, &m, &s->access_log_fd, s->access_log_fd >= 0);
}

int process_send_setup(struct process *p)
{
	Outrigger__Ipc__Setup setup = *p->supervisor->setup;
	Outrigger__Ipc__ToProxy m = OUTRIGGER__IPC__TO_PROXY__INIT;
	char admin[108], resume[108];
	int fds[PROXY_STATE_FILES];
	size_t n_fds = open_state(p, fds);
	int r;

	if (!p->prev) {		/* who stands by has no names yet */
		setup.admin_path = (char *)(uintptr_t)process_path(p, "admin", admin);
		setup.resume_path = (char *)(uintptr_t)process_path(p, "resume", resume);
	}
	m.msg_case = OUTRIGGER__IPC__TO_PROXY__MSG_SETUP;
	m.setup = &setup;
	r = process_send(p, &m, fds, n_fds);
	while (n_fds)
		close_fd(fds[--n_fds]);
	return r < 0 ? r : process_send_access_log(p);
}

static void take_hello(struct process *p, const Outrigger__Ipc__Hello *m)
{
	char why[160];

	if (m->version != PROCESS_IPC_VERSION) {
		snprintf(why, sizeof(why), "it speaks version %u of the protocol, this agent %d: %.60s", m->version, PROCESS_IPC_VERSION,
			 m->version > PROCESS_IPC_VERSION ? "it is of a newer release, upgrade the agent" : "it is of an older release, end it");
		complain(p, why, -EPROTONOSUPPORT);
		process_event(p, PROCESS_EV_LOST);
		return;
	}
	p->pid = (pid_t)m->pid;
	snprintf(p->software, sizeof(p->software), "%s", m->software);
	snprintf(p->binary, sizeof(p->binary), "%s", m->binary);
	for (size_t i = 0; i < m->n_vm_ids && p->n_had < ELEMENTS(p->had); i++) {
		p->had[p->n_had] = strdup(m->vm_ids[i]);
		if (p->had[p->n_had])
			p->n_had++;
	}
	process_event(p, PROCESS_EV_HELLO);
}

struct proxy_vm *process_vm(struct process *p, const char *id)
{
	struct proxy_vm *vm = supervisor_find(p->supervisor, id);

	return vm && vm->process == (p->prev ? p->prev : p) ? vm : NULL;
}

/* @id: at once, drained or not. */
static void send_away_vm(struct process *p, char *id)
{
	Outrigger__Ipc__VmRemove remove = OUTRIGGER__IPC__VM_REMOVE__INIT;
	Outrigger__Ipc__ToProxy m = OUTRIGGER__IPC__TO_PROXY__INIT;

	remove.vm_id = id;
	m.msg_case = OUTRIGGER__IPC__TO_PROXY__MSG_VM_REMOVE;
	m.vm_remove = &remove;
	if (process_send(p, &m, NULL, 0) < 0)
		complain(p, "proxy process does not take a message", -EIO);
}

/* Of a VM that left while there was no agent: who drains it would speak in its name, wherever it is. */
static bool is_orphan(const struct process *p, const Outrigger__Ipc__VmLoad *l)
{
	return p->retired && p->adopted && l->connections_open && clock_mono_ms() - p->started_ms > ADOPT_GRACE_MS &&
	       !supervisor_find(p->supervisor, l->vm_id);
}

static void take_load(struct process *p, const Outrigger__Ipc__Load *m)
{
	p->cpu_ns = m->cpu_ns;
	p->rss_bytes = m->rss_bytes;
	p->connections = 0;
	for (size_t i = 0; i < m->n_vms; i++) {
		const Outrigger__Ipc__VmLoad *l = m->vms[i];
		struct proxy_vm *vm = process_vm(p, l->vm_id);

		p->connections += l->connections_open;
		if (is_orphan(p, l))
			send_away_vm(p, l->vm_id);
		if (vm)
			vm->load = (struct vm_load){
				.connections_opened = l->connections_opened, .connections_open = l->connections_open,
				.bytes_sent = l->bytes_sent, .bytes_received = l->bytes_received,
				.failed = l->failed, .buffered_bytes = l->buffered_bytes,
			};
	}
}

static void take_credential(struct proxy_vm *vm, int *fd)
{
	if (!vm || *fd < 0)
		return;
	close_fd(vm->credential_fd);
	vm->credential_fd = steal_fd(fd);
}

static void take_status(struct process *p, const Outrigger__Ipc__VmStatus *m)
{
	struct proxy_vm *vm = process_vm(p, m->vm_id);

	if (p->prev)
		upgrade_status(p, m);
	else if (vm)
		proxy_vm_status(vm, m);
}

static void on_message(struct proxy_link *l, const Outrigger__Ipc__ToAgent *m, int *fd, void *data)
{
	struct process *p = data;
	const struct supervisor_ops *ops = &p->supervisor->ops;
	struct proxy_vm *vm;

	(void)l;
	switch (m->msg_case) {
	case OUTRIGGER__IPC__TO_AGENT__MSG_HELLO:
		take_hello(p, m->hello);
		break;
	case OUTRIGGER__IPC__TO_AGENT__MSG_VM_STATUS:
		take_status(p, m->vm_status);
		break;
	case OUTRIGGER__IPC__TO_AGENT__MSG_CREDENTIAL:
		take_credential(process_vm(p, m->credential->vm_id), fd);
		break;
	case OUTRIGGER__IPC__TO_AGENT__MSG_VM_HEALTH:
		vm = process_vm(p, m->vm_health->vm_id);
		if (vm && !p->prev)	/* who stands by says it again when it serves */
			proxy_vm_health(vm, m->vm_health);
		break;
	case OUTRIGGER__IPC__TO_AGENT__MSG_TOKEN_WANTED:
		vm = process_vm(p, m->token_wanted->vm_id);
		if (vm)
			ops->token_wanted(vm, m->token_wanted->reason, ops->data);
		break;
	case OUTRIGGER__IPC__TO_AGENT__MSG_TEE:
		vm = process_vm(p, m->tee->vm_id);
		if (vm)
			ops->tee(vm, m->tee, ops->data);
		break;
	case OUTRIGGER__IPC__TO_AGENT__MSG_LOAD:
		take_load(p, m->load);
		break;
	default:
		break;		/* of a newer proxy: nothing that we wait for */
	}
}

static void on_closed(struct proxy_link *l, const char *why, void *data)
{
	struct process *p = data;

	(void)l;
	if (p->state != PROCESS_STOPPING)
		complain(p, why, 0);
	process_event(p, PROCESS_EV_LOST);
}

int process_connect(struct process *p, int fd)
{
	static const struct proxy_link_ops ops = { .message = on_message, .closed = on_closed };
	int r = proxy_link_new(p->supervisor->loop, fd, &ops, p, &p->ipc);

	if (r < 0)
		return r;
	r = send_hello(p);
	if (r < 0)
		p->ipc = proxy_link_free(p->ipc);
	return r;
}

/* --- the state machine --- */

static int spawn(struct process *p, int *ret_fd)
{
	const struct supervisor_conf *conf = &p->supervisor->conf;
	const struct supervisor_system *sys = &p->supervisor->system;
	int fds[2];
	int r;

	r = fdmsg_pair(fds);
	if (r < 0)
		return r;
	r = sys->spawn(sys->data, &(struct monitor_spawn){ .group = p->group, .workers = conf->workers, .fds = &fds[1], .n_fds = 1 },
		       &p->handle, &p->pid);
	close_fd(fds[1]);
	if (r < 0) {
		close_fd(fds[0]);
		return r;
	}
	*ret_fd = fds[0];
	return 0;
}

static void put_down(struct process *p)
{
	struct supervisor_system *sys = &p->supervisor->system;

	p->ipc = proxy_link_free(p->ipc);
	if (p->handle && sys->kill(sys->data, p->handle) < 0)
		p->handle = 0;		/* it has ended already */
	p->handle = 0;
	p->pid = 0;
}

static int start(struct process *p)
{
	int fd, r;

	if (!p->supervisor->setup) {	/* not provisioned: supervisor_set_mesh() starts it */
		timer_cancel(&p->timer);
		return PROCESS_IDLE;
	}
	p->started_ms = clock_mono_ms();
	p->n_starts++;
	if (p->n_starts > 1)
		p->supervisor->n_restarts++;
	r = spawn(p, &fd);
	if (r == 0)
		r = process_connect(p, fd);
	if (r < 0) {
		complain(p, "proxy process could not be started", r);
		put_down(p);
		process_arm(p, backoff_next(&p->backoff));
		return PROCESS_BACKOFF;
	}
	process_arm(p, HELLO_TIMEOUT_MS);
	return PROCESS_STARTING;
}

static int on_hello(struct process *p)
{
	int r = process_send_setup(p);

	if (r < 0)
		complain(p, "proxy process does not take its setup", r);
	timer_cancel(&p->timer);
	p->state = PROCESS_RUNNING;	/* what follows may send */
	if (p->prev) {
		upgrade_hello(p);
		return (int)p->state;
	}
	list_for_each_safe(l, &p->vms)
		proxy_vm_event(list_entry(l, struct proxy_vm, in_process), VM_EV_PROCESS_UP);
	if (list_empty(&p->vms))
		process_arm(p, p->n_had ? ADOPT_GRACE_MS : p->supervisor->conf.linger_ms);
	else if (p->n_had)
		process_arm(p, ADOPT_GRACE_MS);
	return PROCESS_RUNNING;
}

/* No VM wants it: what was kept for them is of no use to who comes next, who has to ask for a certificate anyway. */
static int rest(struct process *p)
{
	if (!p->retired)
		proxy_state_remove(p->supervisor->conf.state_dir, p->group);
	return PROCESS_IDLE;
}

static int on_lost(struct process *p)
{
	bool accident = p->state == PROCESS_STOPPING || clock_mono_ms() - p->started_ms > LIVED_MS;
	bool awaited = p->n_had > 0;
	struct process *prev = p->prev;

	put_down(p);
	if (prev) {
		timer_cancel(&p->timer);
		p->state = PROCESS_IDLE;
		upgrade_give_up(prev, "the new process has ended");
		return PROCESS_IDLE;
	}
	upgrade_give_up(p, "the old process has ended by itself");
	while (p->n_had)
		free(p->had[--p->n_had]);
	p->state = PROCESS_BACKOFF;	/* so that the VMs, which hear of it now, do not start it themselves */
	list_for_each_safe(l, &p->vms)
		proxy_vm_event(list_entry(l, struct proxy_vm, in_process), VM_EV_PROCESS_LOST);
	timer_cancel(&p->timer);
	if (list_empty(&p->vms) || p->retired)
		return awaited ? PROCESS_IDLE : rest(p);
	if (accident) {
		backoff_reset(&p->backoff);
		return start(p);
	}
	process_arm(p, backoff_next(&p->backoff));
	return PROCESS_BACKOFF;
}

static int on_hello_timeout(struct process *p)
{
	complain(p, "proxy process does not say hello", -ETIMEDOUT);
	return on_lost(p);
}

static int stop(struct process *p, uint32_t drain_ms)
{
	Outrigger__Ipc__Shutdown shutdown = OUTRIGGER__IPC__SHUTDOWN__INIT;
	Outrigger__Ipc__ToProxy m = OUTRIGGER__IPC__TO_PROXY__INIT;

	shutdown.drain_ms = drain_ms;
	m.msg_case = OUTRIGGER__IPC__TO_PROXY__MSG_SHUTDOWN;
	m.shutdown = &shutdown;
	if (process_send(p, &m, NULL, 0) < 0)
		return on_lost(p);
	process_arm(p, drain_ms + STOP_GRACE_MS);
	return PROCESS_STOPPING;
}

/* What an adopted process still has and nobody came back for goes. */
static void drop_orphans(struct process *p)
{
	while (p->n_had) {
		char *id = p->had[--p->n_had];

		send_away_vm(p, id);
		free(id);
	}
}

static int on_linger_over(struct process *p)
{
	if (p->prev)
		return PROCESS_RUNNING;
	drop_orphans(p);
	return list_empty(&p->vms) ? stop(p, 0) : PROCESS_RUNNING;
}

static int on_empty(struct process *p)
{
	if (!p->n_had)
		process_arm(p, p->supervisor->conf.linger_ms);
	return PROCESS_RUNNING;
}

static int on_wanted_again(struct process *p)
{
	if (!p->n_had)
		timer_cancel(&p->timer);
	return PROCESS_RUNNING;
}

static int on_stop_overdue(struct process *p)
{
	return on_lost(p);
}

static int on_nobody_left(struct process *p)
{
	timer_cancel(&p->timer);
	return rest(p);
}

static int stay(struct process *p)
{
	return (int)p->state;
}

typedef int handler(struct process *p);		/* returns the next state */

static handler *const transitions[_PROCESS_STATE_N][_PROCESS_EVENT_N] = {
	[PROCESS_IDLE]     = { [PROCESS_EV_WANTED] = start,           [PROCESS_EV_LOST] = stay, [PROCESS_EV_EMPTY] = stay },
	[PROCESS_STARTING] = { [PROCESS_EV_WANTED] = stay,            [PROCESS_EV_HELLO] = on_hello, [PROCESS_EV_LOST] = on_lost,
			       [PROCESS_EV_TIMER] = on_hello_timeout, [PROCESS_EV_EMPTY] = stay },
	[PROCESS_RUNNING]  = { [PROCESS_EV_WANTED] = on_wanted_again, [PROCESS_EV_HELLO] = stay, [PROCESS_EV_LOST] = on_lost,
			       [PROCESS_EV_TIMER] = on_linger_over,   [PROCESS_EV_EMPTY] = on_empty },
	[PROCESS_BACKOFF]  = { [PROCESS_EV_WANTED] = stay,            [PROCESS_EV_LOST] = stay, [PROCESS_EV_TIMER] = start,
			       [PROCESS_EV_EMPTY] = on_nobody_left },
	[PROCESS_STOPPING] = { [PROCESS_EV_WANTED] = stay,            [PROCESS_EV_HELLO] = stay, [PROCESS_EV_LOST] = on_lost,
			       [PROCESS_EV_TIMER] = on_stop_overdue,  [PROCESS_EV_EMPTY] = stay },
};

void process_event(struct process *p, enum process_event ev)
{
	handler *h = transitions[p->state][ev];

	if (!h) {
		complain(p, "proxy process: an event that its state does not know", -ENOTRECOVERABLE);
		return;
	}
	p->state = (enum process_state)h(p);
}

/* --- life --- */

struct process *process_new(struct supervisor *s, const char *group)
{
	struct process *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->supervisor = s;
	snprintf(p->group, sizeof(p->group), "%s", group);
	p->backoff = (struct backoff){ .min_ms = 40, .max_ms = 30000 };
	list_init(&p->vms);
	list_append(&s->processes, &p->link);
	return p;
}

struct process *process_get(struct supervisor *s, const char *group)
{
	struct process *p;

	list_for_each_safe(l, &s->processes) {
		p = list_entry(l, struct process, link);
		if (!strcmp(p->group, group) && !p->prev && !p->retired)
			return p;
		/* Groups come and go with namespaces and VMs: what is left of an old one goes here. */
		if (p->state == PROCESS_IDLE && list_empty(&p->vms) && !p->prev)
			process_free(p);
	}
	return process_new(s, group);
}

struct process *process_free(struct process *p)
{
	p->ipc = proxy_link_free(p->ipc);
	timer_cancel(&p->timer);
	timer_cancel(&p->deadline);
	while (p->n_had)
		free(p->had[--p->n_had]);
	list_unlink(&p->link);
	free(p);
	return NULL;
}

bool process_had(struct process *p, const char *id)
{
	for (size_t i = 0; i < p->n_had; i++)
		if (!strcmp(p->had[i], id)) {
			free(p->had[i]);
			p->had[i] = p->had[--p->n_had];
			return true;
		}
	return false;
}
