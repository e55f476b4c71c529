/*
 * The VMs' service proxies, as the supervisor sees them: each is put into its
 * process, told of changes, and taken out again. Flows are diverted only while
 * the proxy says that it serves.
 */
#include "agent/supervisor_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/proxy_link.h"
#include "base/clock.h"
#include "mesh/pb.h"

enum { LEAVE_GRACE_MS = 1000, LINGER_MORE_MS = 200 };

static const char *const state_names[] = {
	[VM_WAITING] = "waiting",
	[VM_PREPARING] = "preparing",
	[VM_SERVING] = "serving",
	[VM_BROKEN] = "broken",
	[VM_LEAVING] = "leaving",
};
_Static_assert(ELEMENTS(state_names) == _VM_STATE_N, "every state has a name");

const char *vm_state_name(enum vm_state state)
{
	return state_names[state];
}

static void complain(struct proxy_vm *vm, const char *what, int r)
{
	vm->process->supervisor->ops.failed(what, vm->id, r, vm->process->supervisor->ops.data);
}

/* --- diverting --- */

static int remove_divert(void *data, const struct monitor_divert *d)
{
	const struct supervisor_system *sys = data;
	int r = sys->divert_remove(sys->data, d);

	return r == -ENOENT ? 0 : r;
}

static int add_divert(void *data, const struct monitor_divert *d)
{
	const struct supervisor_system *sys = data;

	return sys->divert_add(sys->data, d);
}

static int copy(const struct diverts *from, struct diverts *ret)
{
	struct diverts d = { .n = from->n };

	if (from->n) {
		d.v = malloc(from->n * sizeof(*d.v));
		if (!d.v)
			return -ENOMEM;
		memcpy(d.v, from->v, from->n * sizeof(*d.v));
	}
	*ret = d;
	return 0;
}

static void proxy_vm_divert(struct proxy_vm *vm, bool on)
{
	struct supervisor_system *sys = &vm->process->supervisor->system;
	static const struct diverts none;
	struct diverts now;
	int r = copy(on ? &vm->diverts : &none, &now);

	if (r == 0) {
		r = diverts_change(&vm->set, &now, add_divert, remove_divert, sys);
		if (r == 0 && !vm->settled) {
			/* Also when it is to have none: what is closed never comes here for that before it leaves. */
			r = sys->diverts_settle(sys->data, vm->slot);
			vm->settled = r == 0;
		}
		diverts_deinit(&vm->set);
		vm->set = now;
	}
	if (r < 0)
		complain(vm, "the VM's flows could not be steered", r);
}

/* Without a proxy: what is closed stays diverted, and so is refused; the rest goes its old way. */
static void undivert_open(struct proxy_vm *vm)
{
	if (!vm->fail_closed)
		proxy_vm_divert(vm, false);
}

/* --- messages --- */

int proxy_vm_send_put(struct proxy_vm *vm, struct process *p, const int listeners[2])
{
	Outrigger__Ipc__VmPut put = *vm->put;
	Outrigger__Ipc__ToProxy m = OUTRIGGER__IPC__TO_PROXY__INIT;

	int fds[3];
	size_t n_fds = 0;

	if (vm->token)
		put.token = vm->token;
	for (size_t i = 0; listeners && i < 2; i++)
		fds[n_fds++] = listeners[i];
	if (vm->credential_fd >= 0 && (listeners || p->prev))	/* who has the VM already has it, too */
		fds[n_fds++] = vm->credential_fd;
	put.has_credential = n_fds & 1;
	put.standby = p->prev != NULL;
	m.msg_case = OUTRIGGER__IPC__TO_PROXY__MSG_VM_PUT;
	m.vm_put = &put;
	return process_send(p, &m, fds, n_fds);
}

/*
 * Its sockets for queries: new ones for each process, and when somebody wants
 * that for the first time. A process that knows nothing of them leaves them be,
 * and then they are gone from the map, and queries pass.
 */
int proxy_vm_send_dns(struct proxy_vm *vm, struct process *p)
{
	const struct supervisor_system *sys = &p->supervisor->system;
	Outrigger__Ipc__ToProxy m = OUTRIGGER__IPC__TO_PROXY__INIT;
	Outrigger__Ipc__VmDns dns = OUTRIGGER__IPC__VM_DNS__INIT;
	int fds[2], r;

	if (vm->put->dns == OUTRIGGER__IPC__DNS_MODE__DNS_OBSERVE || vm->has_dns)
		return 0;
	r = sys->dns_make(sys->data, vm->slot, fds);
	if (r < 0)
		return r;
	dns.vm_id = vm->id;
	m.msg_case = OUTRIGGER__IPC__TO_PROXY__MSG_VM_DNS;
	m.vm_dns = &dns;
	r = process_send(p, &m, fds, 2);
	close_fd(fds[0]);
	close_fd(fds[1]);
	vm->has_dns = r == 0;
	return r;
}

void proxy_vm_send_token(struct proxy_vm *vm, const char *refused)
{
	Outrigger__Ipc__VmToken token = OUTRIGGER__IPC__VM_TOKEN__INIT;
	Outrigger__Ipc__ToProxy m = OUTRIGGER__IPC__TO_PROXY__INIT;
	char none[] = "";
	char *why = refused ? strdup(refused) : NULL;
	int r;

	if (!vm->held || vm->process->state != PROCESS_RUNNING) {
		free(why);
		return;		/* it goes with the VmPut */
	}
	token.vm_id = vm->id;
	token.token = vm->token && !refused ? vm->token : none;
	token.refused = why ? why : none;
	m.msg_case = OUTRIGGER__IPC__TO_PROXY__MSG_VM_TOKEN;
	m.vm_token = &token;
	r = process_send(vm->process, &m, NULL, 0);
	if (r < 0)
		complain(vm, "the proxy does not take a token", r);
	if (vm->next_held && process_send(vm->process->next, &m, NULL, 0) < 0)
		upgrade_give_up(vm->process, "the new process does not take a token");
	free(why);
}

/*
 * A VM that leaves in order is withdrawn from the mesh first; its peers take a
 * moment to learn it. For half of the time it is served as before, then its
 * flows are not diverted any more, and what is open has the rest.
 */
static uint32_t linger_ms(const struct proxy_vm *vm)
{
	return vm->drain_ms / 2;
}

int proxy_vm_send_remove(struct proxy_vm *vm, struct process *p, uint32_t drain_ms)
{
	Outrigger__Ipc__VmRemove remove = OUTRIGGER__IPC__VM_REMOVE__INIT;
	Outrigger__Ipc__ToProxy m = OUTRIGGER__IPC__TO_PROXY__INIT;

	remove.vm_id = vm->id;
	remove.drain_ms = drain_ms;
	if (drain_ms && linger_ms(vm))	/* what came before the diverts went is taken yet */
		remove.linger_ms = linger_ms(vm) + LINGER_MORE_MS;
	m.msg_case = OUTRIGGER__IPC__TO_PROXY__MSG_VM_REMOVE;
	m.vm_remove = &remove;
	return process_send(p, &m, NULL, 0);
}

/* --- the state machine --- */

enum { VM_GONE = _VM_STATE_N };

static int put(struct proxy_vm *vm)
{
	const struct supervisor_system *sys = &vm->process->supervisor->system;
	int fds[2] = { -1, -1 };
	int r = 0;

	if (process_had(vm->process, vm->id)) {
		r = proxy_vm_send_put(vm, vm->process, NULL);	/* adopted: it has its listeners */
	} else {
		r = sys->listeners_make(sys->data, vm->slot, fds);
		if (r == 0)
			r = proxy_vm_send_put(vm, vm->process, fds);
		close_fd(fds[0]);
		close_fd(fds[1]);
	}
	vm->has_dns = false;
	if (r == 0)
		r = proxy_vm_send_dns(vm, vm->process);
	vm->held = r == 0;	/* else the next tick hands it over, with new listeners */
	if (r < 0) {
		complain(vm, "the VM could not be handed to its proxy", r);
		snprintf(vm->detail, sizeof(vm->detail), "could not be handed to its proxy: %s", strerror(-r));
		return VM_BROKEN;
	}
	return VM_PREPARING;
}

static int on_want_waiting(struct proxy_vm *vm)
{
	return vm->process->state == PROCESS_RUNNING ? put(vm) : VM_WAITING;
}

static int update(struct proxy_vm *vm)
{
	int r = proxy_vm_send_put(vm, vm->process, NULL);

	if (r == 0)
		r = proxy_vm_send_dns(vm, vm->process);
	upgrade_vm_changed(vm);
	if (r < 0)
		complain(vm, "the proxy does not take a change", r);
	return r;
}

static int on_want_held(struct proxy_vm *vm)
{
	update(vm);
	return (int)vm->state;
}

static int on_want_serving(struct proxy_vm *vm)
{
	update(vm);
	proxy_vm_divert(vm, true);
	return VM_SERVING;
}

static int on_want_broken(struct proxy_vm *vm)
{
	if (!vm->held)
		return on_want_waiting(vm);
	return update(vm) < 0 ? VM_BROKEN : VM_PREPARING;
}

static int on_ready(struct proxy_vm *vm)
{
	if (!vm->ready_ns)
		vm->ready_ns = clock_mono_ns();
	proxy_vm_divert(vm, true);
	return VM_SERVING;
}

static int on_failed(struct proxy_vm *vm)
{
	if (vm->state == VM_PREPARING)
		vm->held = false;	/* it may not even have its listeners: the next tick hands it over afresh */
	undivert_open(vm);
	return VM_BROKEN;
}

static int on_lost(struct proxy_vm *vm)
{
	vm->held = false;
	vm->said = OUTRIGGER__IPC__VM_STATE__VM_STARTING;
	undivert_open(vm);
	return VM_WAITING;
}

static int on_leave_timer(struct timer *t)
{
	proxy_vm_event(container_of(t, struct proxy_vm, timer), VM_EV_STOPPED);
	return 0;
}

static int wait_for_leaving(struct proxy_vm *vm, uint32_t ms)
{
	return timer_arm(vm->process->supervisor->loop, &vm->timer, ms + LEAVE_GRACE_MS, on_leave_timer);
}

static int on_lingered(struct timer *t)
{
	struct proxy_vm *vm = container_of(t, struct proxy_vm, timer);

	proxy_vm_divert(vm, false);
	if (wait_for_leaving(vm, vm->drain_ms - linger_ms(vm)) < 0)
		proxy_vm_event(vm, VM_EV_STOPPED);
	return 0;
}

static int on_left(struct proxy_vm *vm)
{
	struct supervisor *s = vm->process->supervisor;
	struct process *p;

	vm->held = false;
	timer_cancel(&vm->timer);
	proxy_vm_divert(vm, false);
	if (!vm->wanted)
		return VM_GONE;
	p = process_get(s, vm->next_group[0] ? vm->next_group : vm->process->group);
	if (!p)
		return VM_GONE;
	vm->next_group[0] = 0;
	vm->state = VM_WAITING;
	proxy_vm_enter(vm, p);
	process_event(p, PROCESS_EV_WANTED);
	return on_want_waiting(vm);
}

static int on_unwant(struct proxy_vm *vm)
{
	bool lingers = linger_ms(vm) && vm->state == VM_SERVING;
	int r;

	if (!lingers)
		proxy_vm_divert(vm, false);
	upgrade_vm_leaves(vm);
	if (!vm->held || proxy_vm_send_remove(vm, vm->process, vm->drain_ms) < 0)
		return on_left(vm);
	if (lingers)
		r = timer_arm(vm->process->supervisor->loop, &vm->timer, linger_ms(vm), on_lingered);
	else
		r = wait_for_leaving(vm, vm->drain_ms);
	return r < 0 ? on_left(vm) : VM_LEAVING;
}

static int stay(struct proxy_vm *vm)
{
	return (int)vm->state;
}

typedef int handler(struct proxy_vm *vm);	/* returns the next state */

static handler *const transitions[_VM_STATE_N][_VM_EVENT_N] = {
	[VM_WAITING]   = { [VM_EV_WANT] = on_want_waiting, [VM_EV_UNWANT] = on_unwant, [VM_EV_PROCESS_UP] = put, [VM_EV_PROCESS_LOST] = stay,
			   [VM_EV_READY] = stay,           [VM_EV_FAILED] = stay,      [VM_EV_STOPPED] = stay },
	[VM_PREPARING] = { [VM_EV_WANT] = on_want_held,    [VM_EV_UNWANT] = on_unwant, [VM_EV_PROCESS_LOST] = on_lost,
			   [VM_EV_READY] = on_ready,       [VM_EV_FAILED] = on_failed, [VM_EV_STOPPED] = on_failed },
	[VM_SERVING]   = { [VM_EV_WANT] = on_want_serving, [VM_EV_UNWANT] = on_unwant, [VM_EV_PROCESS_LOST] = on_lost,
			   [VM_EV_READY] = stay,           [VM_EV_FAILED] = on_failed, [VM_EV_STOPPED] = on_failed },
	[VM_BROKEN]    = { [VM_EV_WANT] = on_want_broken,  [VM_EV_UNWANT] = on_unwant, [VM_EV_PROCESS_LOST] = on_lost,
			   [VM_EV_READY] = on_ready,       [VM_EV_FAILED] = stay,      [VM_EV_STOPPED] = stay },
	[VM_LEAVING]   = { [VM_EV_WANT] = stay,            [VM_EV_UNWANT] = stay,      [VM_EV_PROCESS_LOST] = on_left,
			   [VM_EV_READY] = stay,           [VM_EV_FAILED] = stay,      [VM_EV_STOPPED] = on_left },
};

void proxy_vm_event(struct proxy_vm *vm, enum vm_event ev)
{
	struct supervisor *s = vm->process->supervisor;
	handler *h = transitions[vm->state][ev];
	int next;

	if (!h) {
		complain(vm, "proxy of a VM: an event that its state does not know", -ENOTRECOVERABLE);
		return;
	}
	next = h(vm);
	if (next != VM_GONE) {
		bool changed = vm->state != (enum vm_state)next;

		vm->state = (enum vm_state)next;
		if (changed)
			s->ops.changed(vm, s->ops.data);
		return;
	}
	s->ops.gone(vm, s->ops.data);
	proxy_vm_free(vm);
}

/* --- what the proxy says --- */

void proxy_vm_status(struct proxy_vm *vm, const Outrigger__Ipc__VmStatus *m)
{
	static const enum vm_event events[] = {
		[OUTRIGGER__IPC__VM_STATE__VM_STARTING] = _VM_EVENT_N,
		[OUTRIGGER__IPC__VM_STATE__VM_CERTIFICATE] = _VM_EVENT_N,
		[OUTRIGGER__IPC__VM_STATE__VM_READY] = VM_EV_READY,
		[OUTRIGGER__IPC__VM_STATE__VM_DEGRADED] = VM_EV_READY,
		[OUTRIGGER__IPC__VM_STATE__VM_DRAINING] = _VM_EVENT_N,
		[OUTRIGGER__IPC__VM_STATE__VM_STOPPED] = VM_EV_STOPPED,
		[OUTRIGGER__IPC__VM_STATE__VM_FAILED] = VM_EV_FAILED,
	};
	struct supervisor *s = vm->process->supervisor;

	if ((unsigned)m->state >= ELEMENTS(events))
		return;
	vm->said = m->state;
	vm->said_ns = m->mono_ns;
	vm->cert_not_after = m->cert_not_after;
	snprintf(vm->detail, sizeof(vm->detail), "%s", m->detail);
	if (m->identity[0])
		snprintf(vm->identity, sizeof(vm->identity), "%s", m->identity);
	if (events[m->state] == _VM_EVENT_N) {
		s->ops.changed(vm, s->ops.data);
		return;
	}

	enum vm_state before = vm->state;
	if (transitions[before][events[m->state]] == stay)
		s->ops.changed(vm, s->ops.data);
	proxy_vm_event(vm, events[m->state]);
}

void proxy_vm_health(struct proxy_vm *vm, const Outrigger__Ipc__VmHealth *m)
{
	struct supervisor *s = vm->process->supervisor;
	Outrigger__Ipc__VmHealth *copy = pb_copy(&m->base);

	if (!copy) {
		complain(vm, "what the proxy says of the VM's health is lost", -ENOMEM);
		return;
	}
	pb_free(vm->health);
	vm->health = copy;
	s->ops.health(vm, s->ops.data);
}

/* --- life --- */

void proxy_vm_enter(struct proxy_vm *vm, struct process *p)
{
	struct process *old = vm->process;

	list_unlink(&vm->in_process);
	vm->process = p;
	list_append(&p->vms, &vm->in_process);
	if (old && old != p && list_empty(&old->vms))
		process_event(old, PROCESS_EV_EMPTY);
}

void proxy_vm_free(struct proxy_vm *vm)
{
	struct process *p = vm->process;
	struct supervisor *s = p->supervisor;

	upgrade_vm_leaves(vm);
	timer_cancel(&vm->timer);
	close_fd(vm->credential_fd);
	map_remove(&s->vms, &vm->by_id);
	list_unlink(&vm->in_process);
	diverts_deinit(&vm->diverts);
	diverts_deinit(&vm->set);
	pb_free(vm->put);
	pb_free(vm->health);
	if (vm->token)
		explicit_bzero(vm->token, strlen(vm->token));
	free(vm->token);
	free(vm);
	if (list_empty(&p->vms) && p->state != PROCESS_IDLE)
		process_event(p, PROCESS_EV_EMPTY);
}
