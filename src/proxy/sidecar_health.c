/*
 * What a VM's checks have found, to the agent and to istiod.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "proxy/sidecar.h"
#include "proxy/sidecar_mesh.h"

void sidecar_set_health(struct sidecar *s)
{
	int r = s->health ? vm_health_set(s->health, s->put) : 0;

	if (r < 0)
		log_error("the VM's health cannot be checked", log_str("vm", s->put->vm_id), log_str("kind", s->put->health ? s->put->health->kind : ""),
			  log_errno(r));
}

static char *word(const char *text)
{
	return (char *)(uintptr_t)text;		/* protobuf-c has no const strings; nothing writes into these */
}

void sidecar_report_health(struct sidecar *s)
{
	Outrigger__Ipc__ToAgent m = OUTRIGGER__IPC__TO_AGENT__INIT;
	Outrigger__Ipc__VmHealth all = OUTRIGGER__IPC__VM_HEALTH__INIT;
	Outrigger__Ipc__PortHealth ports[VM_HEALTH_MAX_PORTS], *list[VM_HEALTH_MAX_PORTS];
	char addresses[VM_HEALTH_MAX_PORTS][IP_TEXT_LEN];

	if (!s->health)
		return;
	all.vm_id = s->put->vm_id;
	all.ports = list;
	for (; all.n_ports < vm_health_n_ports(s->health); all.n_ports++) {
		const struct vm_health_port p = vm_health_port(s->health, all.n_ports);
		Outrigger__Ipc__PortHealth *out = list[all.n_ports] = &ports[all.n_ports];

		outrigger__ipc__port_health__init(out);
		out->port = p.at.port;
		out->address = word(ip_format(&p.at.ip, addresses[all.n_ports]));
		out->state = word(health_state_name(p.health->state));
		out->reason = word(p.health->reason);
		out->since_ms = p.health->since_ms;
	}
	m.msg_case = OUTRIGGER__IPC__TO_AGENT__MSG_VM_HEALTH;
	m.vm_health = &all;
	int r = agent_link_send(s->proxy->link, &m, false);
	if (r < 0 && r != -ENOTCONN)
		log_warn("agent does not take a report on health", log_str("vm", s->put->vm_id), log_errno(r));
}

/* What was never healthy is not reported: istiod leaves it out until it hears of it. */
void sidecar_say_health(struct sidecar *s)
{
	const Outrigger__Ipc__MeshController *mc = s->proxy->setup ? s->proxy->setup->mesh_controller : NULL;
	char reason[VM_HEALTH_REASON_LEN];

	if (!s->xds || !s->health || !s->put->health || !mc || strcmp(mc->kind, "istio"))
		return;
	enum health_state state = vm_health_sum(s->health, reason);
	int r = state == HEALTH_WAITING ? 0 : xds_client_set_health(s->xds, state == HEALTH_UP ? NULL : reason);
	if (r < 0)
		log_warn("health is not reported", log_str("vm", s->put->vm_id), log_errno(r));
}

void sidecar_health_changed(void *sidecar)
{
	struct sidecar *s = sidecar;
	char reason[VM_HEALTH_REASON_LEN];
	enum health_state state = s->health ? vm_health_sum(s->health, reason) : HEALTH_UP;

	if (!s->health)
		return;
	if (s->put->health && state != s->told_health) {
		log_info("the VM's health", log_str("vm", s->put->vm_id), log_str("state", health_state_name(state)), log_str("reason", reason));
		s->told_health = state;
	}
	sidecar_report_health(s);
	sidecar_say_health(s);
}
