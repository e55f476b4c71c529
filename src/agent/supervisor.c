/*
 * What the agent wishes of its proxies.
 */
#include "agent/supervisor_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/proxy_link.h"
#include "agent/proxy_state.h"
#include "base/clock.h"
#include "mesh/pb.h"

static const char *const said_names[] = {
	[OUTRIGGER__IPC__VM_STATE__VM_STARTING] = "starting",
	[OUTRIGGER__IPC__VM_STATE__VM_CERTIFICATE] = "certificate",
	[OUTRIGGER__IPC__VM_STATE__VM_READY] = "ready",
	[OUTRIGGER__IPC__VM_STATE__VM_DEGRADED] = "degraded",
	[OUTRIGGER__IPC__VM_STATE__VM_DRAINING] = "draining",
	[OUTRIGGER__IPC__VM_STATE__VM_STOPPED] = "stopped",
	[OUTRIGGER__IPC__VM_STATE__VM_FAILED] = "failed",
};

const char *supervisor_said_name(Outrigger__Ipc__VmState said)
{
	return (unsigned)said < ELEMENTS(said_names) ? said_names[said] : "unknown";
}

/* A deep copy, by way of its bytes. */
static int copy_message(const ProtobufCMessage *m, ProtobufCMessage **ret_copy)
{
	CLEANUP_FREE uint8_t *data = NULL;
	size_t len;
	int r = pb_pack(m, &data, &len);

	return r < 0 ? r : pb_unpack(m->descriptor, data, len, 0, ret_copy);
}

int supervisor_init(struct supervisor *s, struct loop *loop, const struct supervisor_conf *conf,
		    const struct supervisor_system *system, const struct supervisor_ops *ops)
{
	*s = (struct supervisor){ .loop = loop, .conf = *conf, .system = *system, .ops = *ops };
	s->access_log_fd = -1;
	s->sweep_at_ms = clock_mono_ms() + conf->state_keep_ms;
	list_init(&s->processes);
	map_init(&s->vms);
	return 0;
}

void supervisor_deinit(struct supervisor *s)
{
	list_for_each_safe(l, &s->processes) {
		struct process *p = list_entry(l, struct process, link);

		p->state = PROCESS_IDLE;	/* nothing is to be done about it any more */
		list_for_each_safe(v, &p->vms)
			proxy_vm_free(list_entry(v, struct proxy_vm, in_process));
		process_free(p);
	}
	map_deinit(&s->vms);
	pb_free(s->setup);
	s->access_log_fd = close_fd(s->access_log_fd);
}

/* Without it the proxies serve on: a log is no reason not to. */
static void open_access_log(struct supervisor *s)
{
	const char *path = s->setup->access_log;
	int fd;

	s->access_log_fd = close_fd(s->access_log_fd);
	s->setup->access_log_comes = *path && strcmp(path, "stderr");
	if (!s->setup->access_log_comes)
		return;
	fd = s->system.access_log_open(s->system.data, path);
	if (fd < 0)
		s->ops.failed("the access log cannot be opened: nothing is written to it", path, fd, s->ops.data);
	else
		s->access_log_fd = fd;
}

int supervisor_set_mesh(struct supervisor *s, const Outrigger__Ipc__Setup *setup)
{
	ProtobufCMessage *copy;
	int r = copy_message(&setup->base, &copy);

	if (r < 0)
		return r;
	pb_free(s->setup);
	s->setup = (Outrigger__Ipc__Setup *)(void *)copy;
	open_access_log(s);
	list_for_each(l, &s->processes) {
		struct process *p = list_entry(l, struct process, link);

		if (p->state == PROCESS_RUNNING)
			r = process_send_setup(p);
		else if (p->state == PROCESS_STOPPING && p->ipc)
			r = process_send_access_log(p);
		else if (p->state == PROCESS_IDLE && !list_empty(&p->vms))
			process_event(p, PROCESS_EV_WANTED);
	}
	return r;
}

struct proxy_vm *supervisor_find(const struct supervisor *s, const char *id)
{
	struct map_link *l = map_find_str(&s->vms, id);

	return l ? container_of(l, struct proxy_vm, by_id) : NULL;
}

/* --- wishes --- */

static int vm_new(struct supervisor *s, const struct supervisor_wish *wish, struct proxy_vm **ret_vm)
{
	struct process *p = process_get(s, wish->group);
	struct proxy_vm *vm = p ? calloc(1, sizeof(*vm)) : NULL;
	int r;

	if (!vm)
		return -ENOMEM;
	snprintf(vm->id, sizeof(vm->id), "%s", wish->put->vm_id);
	vm->slot = wish->slot;
	vm->wanted_ns = clock_mono_ns();
	vm->credential_fd = -1;
	list_init(&vm->in_process);
	r = map_add(&s->vms, &vm->by_id, vm->id, strlen(vm->id));
	if (r < 0) {
		free(vm);
		return r;
	}
	proxy_vm_enter(vm, p);
	*ret_vm = vm;
	return 0;
}

static bool same_message(const ProtobufCMessage *a, const ProtobufCMessage *b)
{
	CLEANUP_FREE uint8_t *pa = NULL, *pb = NULL;
	size_t na, nb;

	if (!a || pb_pack(a, &pa, &na) < 0 || pb_pack(b, &pb, &nb) < 0)
		return false;
	return na == nb && (!na || !memcmp(pa, pb, na));
}

/* Takes the wish over; @ret_changed: it is another one. */
static int vm_take(struct proxy_vm *vm, const struct supervisor_wish *wish, bool *ret_changed)
{
	struct diverts diverts;
	ProtobufCMessage *copy;
	int r;

	r = diverts_make(wish->diverts, &diverts);
	if (r < 0)
		return r;
	r = copy_message(&wish->put->base, &copy);
	if (r < 0) {
		diverts_deinit(&diverts);
		return r;
	}
	*ret_changed = !vm->wanted || vm->fail_closed != wish->fail_closed || diverts.n != vm->diverts.n ||
		       !same_message(vm->put ? &vm->put->base : NULL, copy);
	diverts_deinit(&vm->diverts);
	pb_free(vm->put);
	vm->diverts = diverts;
	vm->put = (Outrigger__Ipc__VmPut *)(void *)copy;
	vm->fail_closed = wish->fail_closed;
	vm->wanted = true;
	return 0;
}

int supervisor_want(struct supervisor *s, const struct supervisor_wish *wish)
{
	struct proxy_vm *vm = supervisor_find(s, wish->put->vm_id);
	bool is_new = !vm, changed;
	int r;

	if (is_new) {
		r = vm_new(s, wish, &vm);
		if (r < 0)
			return r;
	}
	r = vm_take(vm, wish, &changed);
	if (r < 0) {
		if (is_new)
			proxy_vm_free(vm);
		return r;
	}
	if (strcmp(vm->process->group, wish->group)) {
		snprintf(vm->next_group, sizeof(vm->next_group), "%s", wish->group);
		vm->drain_ms = s->conf.drain_ms;
		proxy_vm_event(vm, VM_EV_UNWANT);	/* and on from there when it has left */
		return 0;
	}
	if (is_new)
		process_event(vm->process, PROCESS_EV_WANTED);
	if (changed)
		proxy_vm_event(vm, VM_EV_WANT);
	return 0;
}

void supervisor_unwant(struct supervisor *s, const char *id, uint32_t drain_ms)
{
	struct proxy_vm *vm = supervisor_find(s, id);

	if (!vm)
		return;
	vm->wanted = false;
	vm->next_group[0] = 0;
	vm->drain_ms = drain_ms;
	proxy_vm_event(vm, VM_EV_UNWANT);
}

int supervisor_token(struct supervisor *s, const char *id, const char *token, const char *refused)
{
	struct proxy_vm *vm = supervisor_find(s, id);
	char *copy;

	if (!vm)
		return 0;
	if (token && !refused) {
		copy = strdup(token);
		if (!copy)
			return -ENOMEM;
		if (vm->token)
			explicit_bzero(vm->token, strlen(vm->token));
		free(vm->token);
		vm->token = copy;
	}
	proxy_vm_send_token(vm, refused);
	return 0;
}

/* --- processes --- */

void supervisor_exited(struct supervisor *s, const struct monitor_exit *e)
{
	list_for_each(l, &s->processes) {
		struct process *p = list_entry(l, struct process, link);

		if (p->handle != e->proxy || !p->handle)
			continue;
		p->handle = 0;
		if (p->state != PROCESS_STOPPING)
			s->ops.failed("proxy process has ended", p->group, 0, s->ops.data);
		process_event(p, PROCESS_EV_LOST);
		return;
	}
}

int supervisor_adopt(struct supervisor *s, const char *group, int fd, pid_t pid, bool draining)
{
	struct process *p = draining ? process_new(s, group) : process_get(s, group);
	int r;

	if (!p || p->state != PROCESS_IDLE) {
		close_fd(fd);
		return p ? -EBUSY : -ENOMEM;
	}
	p->pid = pid;
	p->retired = draining;		/* whatever becomes of it: the next tick frees it when it is idle */
	p->adopted = true;
	p->started_ms = clock_mono_ms();
	r = process_connect(p, fd);
	if (r < 0)
		return r;
	p->state = draining ? PROCESS_STOPPING : PROCESS_STARTING;
	return 0;
}

/* What could not be handed over for want of something (descriptors, memory) is tried again. */
static void retry_broken(struct process *p)
{
	list_for_each_safe(l, &p->vms) {
		struct proxy_vm *vm = list_entry(l, struct proxy_vm, in_process);

		if (vm->state == VM_BROKEN && !vm->held)
			proxy_vm_event(vm, VM_EV_WANT);
	}
}

static void free_retired(struct supervisor *s)
{
	list_for_each_safe(l, &s->processes) {
		struct process *p = list_entry(l, struct process, link);

		if (p->retired && p->state == PROCESS_IDLE && list_empty(&p->vms))
			process_free(p);
	}
}

static bool lives(const char *group, void *data)
{
	const struct supervisor *s = data;

	list_for_each(l, &s->processes) {
		const struct process *p = list_entry(l, struct process, link);

		if (!strcmp(p->group, group) && (p->state != PROCESS_IDLE || !list_empty(&p->vms)))
			return true;
	}
	return false;
}

/* Groups whose VMs went while no agent was there have nobody who removes their files. */
static void sweep(struct supervisor *s)
{
	uint64_t now = clock_mono_ms();

	if (now < s->sweep_at_ms)
		return;
	s->sweep_at_ms = now + s->conf.state_keep_ms;
	proxy_state_sweep(s->conf.state_dir, lives, s);
}

void supervisor_tick(struct supervisor *s)
{
	Outrigger__Ipc__LoadRequest request = OUTRIGGER__IPC__LOAD_REQUEST__INIT;
	Outrigger__Ipc__ToProxy m = OUTRIGGER__IPC__TO_PROXY__INIT;

	m.msg_case = OUTRIGGER__IPC__TO_PROXY__MSG_LOAD_REQUEST;
	m.load_request = &request;
	free_retired(s);
	sweep(s);
	list_for_each_safe(l, &s->processes) {
		struct process *p = list_entry(l, struct process, link);

		if (p->prev || (p->state != PROCESS_RUNNING && !(p->retired && p->ipc)))
			continue;
		if (!p->retired) {
			retry_broken(p);
			upgrade_tick(p);
		}
		if (process_send(p, &m, NULL, 0) < 0)
			s->ops.failed("proxy process does not take a message", p->group, -EIO, s->ops.data);
	}
}

void supervisor_shutdown(struct supervisor *s, uint32_t drain_ms)
{
	map_for_each(l, &s->vms)
		supervisor_unwant(s, container_of(l, struct proxy_vm, by_id)->id, drain_ms);
}
