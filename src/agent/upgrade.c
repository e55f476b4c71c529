/*
 * Another proxy process in the place of one that runs.
 *
 * The new one is started beside the old one and given its VMs without
 * listeners: it gets their certificates (the old one's, by way of the agent)
 * and their configuration. Only when it could serve every VM that the old one
 * serves does it get listeners, which take the place of the old ones in
 * steering at once. The old one accepts what was under way for a moment yet,
 * then drains. When anything fails before that, the old one just goes on.
 */
#include "agent/supervisor_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/proxy_link.h"
#include "base/clock.h"

enum {
	READY_MS = 30000,	/* for the new process to be able to serve */
	LINGER_MS = 3000,	/* handshakes that began with the old listeners */
	STOP_GRACE_MS = 5000,
	AGAIN_MS = 60000,	/* after one that was given up */
};

static void say(struct process *p, const char *what, int r)
{
	p->supervisor->ops.failed(what, p->group, r, p->supervisor->ops.data);
}

/* --- beginning --- */

bool supervisor_outdated(const struct supervisor *s, const struct process *p)
{
	char installed[sizeof(p->binary)];
	struct stat st;

	if (!s->conf.proxy_path || stat(s->conf.proxy_path, &st) < 0)
		return false;		/* nothing to go to */
	snprintf(installed, sizeof(installed), "%llu:%llu:%lld:%lld", (unsigned long long)st.st_dev, (unsigned long long)st.st_ino,
		 (long long)st.st_size, (long long)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec);
	return strcmp(installed, p->binary) != 0;
}

static int on_deadline(struct timer *t)
{
	struct process *next = container_of(t, struct process, deadline);

	upgrade_give_up(next->prev, "the new process did not get ready in time");
	return 0;
}

static int begin(struct process *p)
{
	struct supervisor *s = p->supervisor;
	struct process *next;
	int r;

	if (p->next)
		return -EALREADY;
	if (p->n_had)
		return -EAGAIN;
	next = process_new(s, p->group);
	if (!next)
		return -ENOMEM;
	next->prev = p;
	p->next = next;
	snprintf(p->upgrade, sizeof(p->upgrade), "running");
	r = timer_arm(s->loop, &next->deadline, READY_MS, on_deadline);
	if (r < 0)
		upgrade_give_up(p, "no memory");
	else
		process_event(next, PROCESS_EV_WANTED);
	return r;
}

int supervisor_upgrade(struct supervisor *s, const char *group)
{
	list_for_each(l, &s->processes) {
		struct process *p = list_entry(l, struct process, link);

		if (!strcmp(p->group, group) && p->state == PROCESS_RUNNING && !p->prev)
			return begin(p);
	}
	return -ESRCH;
}

/* --- the end of it, without success --- */

void upgrade_give_up(struct process *p, const char *why)
{
	struct process *next = p->next;

	if (!next)
		return;
	p->next = NULL;
	p->upgrade_after_ms = clock_mono_ms() + AGAIN_MS;
	snprintf(p->upgrade, sizeof(p->upgrade), "given up: %s", why);
	say(p, p->upgrade, 0);
	list_for_each(l, &p->vms) {
		struct proxy_vm *vm = list_entry(l, struct proxy_vm, in_process);

		vm->next_held = vm->next_ready = false;
	}
	timer_cancel(&next->deadline);
	next->prev = NULL;
	next->retired = true;
	if (next->state == PROCESS_BACKOFF) {
		timer_cancel(&next->timer);
		next->state = PROCESS_IDLE;
	}
	process_event(next, PROCESS_EV_LOST);	/* from IDLE, where it may be already, nothing comes of it */
}

/* --- handing over --- */

static void hand_over_vm(struct process *next, struct proxy_vm *vm)
{
	const struct supervisor_system *sys = &next->supervisor->system;
	int fds[2] = { -1, -1 };
	int r = sys->listeners_make(sys->data, vm->slot, fds);

	proxy_vm_enter(vm, next);
	if (r == 0)
		r = proxy_vm_send_put(vm, next, fds);
	vm->has_dns = false;
	if (r == 0)
		r = proxy_vm_send_dns(vm, next);
	close_fd(fds[0]);
	close_fd(fds[1]);
	if (r < 0) {
		say(next, "a VM could not be handed over", r);
		proxy_vm_event(vm, VM_EV_FAILED);
		vm->held = false;		/* the next tick tries again */
	}
}

static int retire(struct process *p)
{
	Outrigger__Ipc__Shutdown shutdown = OUTRIGGER__IPC__SHUTDOWN__INIT;
	Outrigger__Ipc__ToProxy m = OUTRIGGER__IPC__TO_PROXY__INIT;

	shutdown.linger_ms = LINGER_MS;
	shutdown.drain_ms = p->supervisor->conf.upgrade_drain_ms;
	m.msg_case = OUTRIGGER__IPC__TO_PROXY__MSG_SHUTDOWN;
	m.shutdown = &shutdown;
	return process_send(p, &m, NULL, 0);
}

static void hand_over(struct process *next)
{
	struct process *p = next->prev;

	timer_cancel(&next->deadline);
	timer_cancel(&p->timer);
	next->prev = NULL;
	p->next = NULL;
	p->retired = true;
	p->state = PROCESS_STOPPING;
	snprintf(next->upgrade, sizeof(next->upgrade), "done");
	list_for_each_safe(l, &p->vms) {
		struct proxy_vm *vm = list_entry(l, struct proxy_vm, in_process);
		bool ready = vm->next_ready;

		vm->next_held = vm->next_ready = false;
		if (vm->state == VM_LEAVING)
			continue;	/* leaves from where it is */
		if (ready && vm->state == VM_SERVING) {
			hand_over_vm(next, vm);
			continue;
		}
		proxy_vm_event(vm, VM_EV_PROCESS_LOST);
		proxy_vm_enter(vm, next);
		proxy_vm_event(vm, VM_EV_PROCESS_UP);
	}
	/* In this order: who dies in between leaves no two that could be adopted. */
	if (retire(p) < 0)
		say(p, "the old process does not take its leave", -EIO);
	process_arm(p, (uint64_t)LINGER_MS + p->supervisor->conf.upgrade_drain_ms + STOP_GRACE_MS);
	if (process_send_setup(next) < 0)
		say(next, "proxy process does not take its setup", -EIO);
	say(next, "another process has taken over", 0);
	if (list_empty(&next->vms))
		process_event(next, PROCESS_EV_EMPTY);
}

/* Tells the new process of the VMs that it does not know, and hands over when it can serve all that are served. */
static void review(struct process *next)
{
	struct process *p = next->prev;
	bool ready = true;

	if (next->state != PROCESS_RUNNING)
		return;
	list_for_each(l, &p->vms) {
		struct proxy_vm *vm = list_entry(l, struct proxy_vm, in_process);

		if (vm->state != VM_SERVING)
			continue;
		if (!vm->next_held && proxy_vm_send_put(vm, next, NULL) < 0) {
			upgrade_give_up(p, "the new process does not take a VM");
			return;
		}
		vm->next_held = true;
		ready &= vm->next_ready;
	}
	if (ready)
		hand_over(next);
}

void upgrade_hello(struct process *next)
{
	review(next);
}

void upgrade_status(struct process *next, const Outrigger__Ipc__VmStatus *m)
{
	struct proxy_vm *vm = process_vm(next, m->vm_id);
	char why[160];

	if (!vm)
		return;
	if (m->state == OUTRIGGER__IPC__VM_STATE__VM_FAILED) {
		snprintf(why, sizeof(why), "the new process cannot serve %.60s: %.60s", vm->id, m->detail);
		upgrade_give_up(next->prev, why);
		return;
	}
	vm->next_ready = m->state == OUTRIGGER__IPC__VM_STATE__VM_READY || m->state == OUTRIGGER__IPC__VM_STATE__VM_DEGRADED;
	if (vm->next_ready)
		review(next);
}

void upgrade_vm_changed(struct proxy_vm *vm)
{
	struct process *next = vm->process->next;

	if (vm->next_held && proxy_vm_send_put(vm, next, NULL) < 0)
		upgrade_give_up(vm->process, "the new process does not take a change");
}

void upgrade_vm_leaves(struct proxy_vm *vm)
{
	struct process *next = vm->process->next;

	if (vm->next_held && proxy_vm_send_remove(vm, next, 0) < 0)
		upgrade_give_up(vm->process, "the new process does not take a removal");
	vm->next_held = vm->next_ready = false;
}

/* Who drains would go on speaking in the name of a VM that is somewhere else by now. */
void supervisor_vanished(struct supervisor *s, const char *id)
{
	Outrigger__Ipc__VmRemove remove = OUTRIGGER__IPC__VM_REMOVE__INIT;
	Outrigger__Ipc__ToProxy m = OUTRIGGER__IPC__TO_PROXY__INIT;

	remove.vm_id = (char *)(uintptr_t)id;
	m.msg_case = OUTRIGGER__IPC__TO_PROXY__MSG_VM_REMOVE;
	m.vm_remove = &remove;
	list_for_each(l, &s->processes) {
		struct process *p = list_entry(l, struct process, link);

		if (p->retired && p->ipc && process_send(p, &m, NULL, 0) < 0)
			say(p, "the old process does not take a removal", -EIO);
	}
}

void upgrade_tick(struct process *p)
{
	const struct supervisor *s = p->supervisor;

	if (p->next)
		review(p->next);
	else if (s->conf.upgrade_adopted && p->adopted && !p->n_had && clock_mono_ms() >= p->upgrade_after_ms && !list_empty(&p->vms) &&
		 supervisor_outdated(s, p) && begin(p) < 0)
		p->upgrade_after_ms = clock_mono_ms() + AGAIN_MS;
}
