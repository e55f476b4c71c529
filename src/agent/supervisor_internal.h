#pragma once
#include "agent/supervisor.h"
#include "base/defs.h"

/*
 * Between the two state machines of the supervisor: process.c has that of the
 * processes, proxy_vm.c that of the VMs, supervisor.c what others call.
 */
enum process_event {
	PROCESS_EV_WANTED,	/* a VM is to be hosted */
	PROCESS_EV_HELLO,	/* it said hello in a version that we know */
	PROCESS_EV_LOST,	/* it has ended, or its socket is no good any more */
	PROCESS_EV_TIMER,
	PROCESS_EV_EMPTY,	/* the last VM has left */
	_PROCESS_EVENT_N
};

enum vm_event {
	VM_EV_WANT,		/* the wish is new or another one */
	VM_EV_UNWANT,
	VM_EV_PROCESS_UP,
	VM_EV_PROCESS_LOST,
	VM_EV_READY,
	VM_EV_FAILED,
	VM_EV_STOPPED,		/* the proxy has drained it, or should have */
	_VM_EVENT_N
};

/* The process of @group, made when there is none. NULL: no memory. */
struct process *process_get(struct supervisor *s, const char *group);
/* Another one, whether there is one or not. */
struct process *process_new(struct supervisor *s, const char *group);
void process_event(struct process *p, enum process_event ev);
struct process *process_free(struct process *p);
int process_send(struct process *p, const Outrigger__Ipc__ToProxy *m, const int *fds, size_t n_fds);
MUST_CHECK int process_send_setup(struct process *p);
/* The access log as it is open now. Nothing when there is none. */
MUST_CHECK int process_send_access_log(struct process *p);
/* Opens the conversation over @fd (taken over). */
MUST_CHECK int process_connect(struct process *p, int fd);
/* The process of @id's hosting, also of its successor. NULL: it is not its. */
struct proxy_vm *process_vm(struct process *p, const char *id);
void process_arm(struct process *p, uint64_t delay_ms);
/* Takes @id off the list of what an adopted process has; true when it was on it. */
bool process_had(struct process *p, const char *id);

/* May free @vm. */
void proxy_vm_event(struct proxy_vm *vm, enum vm_event ev);
void proxy_vm_free(struct proxy_vm *vm);
void proxy_vm_status(struct proxy_vm *vm, const Outrigger__Ipc__VmStatus *m);
void proxy_vm_health(struct proxy_vm *vm, const Outrigger__Ipc__VmHealth *m);
void proxy_vm_enter(struct proxy_vm *vm, struct process *p);	/* is hosted by @p from now on */
void proxy_vm_send_token(struct proxy_vm *vm, const char *refused);
/* @p: its process, or that one's successor. @fds: the listeners, or none. */
MUST_CHECK int proxy_vm_send_put(struct proxy_vm *vm, struct process *p, const int fds[2]);
MUST_CHECK int proxy_vm_send_dns(struct proxy_vm *vm, struct process *p);
MUST_CHECK int proxy_vm_send_remove(struct proxy_vm *vm, struct process *p, uint32_t drain_ms);

/* --- upgrade.c --- */

/* About once a second, for a process that runs and has its VMs. */
void upgrade_tick(struct process *p);
/* The one that gets ready has said hello, something about a VM, or has ended. */
void upgrade_hello(struct process *next);
void upgrade_status(struct process *next, const Outrigger__Ipc__VmStatus *m);
/* There will be no successor: @why. May be called for a process that has none under way. */
void upgrade_give_up(struct process *p, const char *why);
/* A VM of a process has another wish, or leaves: so for the successor. */
void upgrade_vm_changed(struct proxy_vm *vm);
void upgrade_vm_leaves(struct proxy_vm *vm);
