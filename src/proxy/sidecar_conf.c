/*
 * What the workers get to know of a VM.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "proxy/sidecar.h"

const char *sidecar_label(const void *put, const char *key)
{
	const Outrigger__Ipc__VmPut *m = put;

	for (size_t i = 0; i < m->n_labels; i++)
		if (!strcmp(m->labels[i]->key, key))
			return m->labels[i]->value;
	return "";
}

/* The header by which peers without a workload API know us (ztunnel's baggage). */
static char *make_baggage(const Outrigger__Ipc__VmPut *m, const char *cluster)
{
	const char *name = names_canonical_name(sidecar_label, m) ?: m->workload_name;
	char *text;

	if (asprintf(&text, "k8s.cluster.name=%s,k8s.namespace.name=%s,k8s.deployment.name=%s,service.name=%s,service.version=%s",
		     cluster, m->namespace_, m->workload_name, name, names_canonical_revision(sidecar_label, m) ?: "latest") < 0)
		return NULL;
	return text;
}

static void set_limits(const struct sidecar *s, struct vm_limits *limits)
{
	const Outrigger__Ipc__Limits *all = s->proxy->setup ? s->proxy->setup->limits : NULL;
	const Outrigger__Ipc__Limits *own = s->put->limits;

	for (int i = 0; i < 2; i++) {
		const Outrigger__Ipc__Limits *l = i ? own : all;

		if (!l)
			continue;
		if (l->connections)
			limits->connections = l->connections;
		if (l->buffered_bytes)
			limits->buffered_bytes = l->buffered_bytes;
		if (l->teed_bytes)
			limits->teed_bytes = l->teed_bytes;
		if (l->connect_timeout_ms)
			limits->connect_timeout_ms = l->connect_timeout_ms;
		if (l->resolve_timeout_ms)
			limits->resolve_timeout_ms = l->resolve_timeout_ms;
		if (l->connection_rate)
			limits->connection_rate = l->connection_rate;
		if (l->idle_timeout_s)
			limits->idle_timeout_s = l->idle_timeout_s;
	}
	limits->connections = MIN(limits->connections, s->proxy->connections_max);
}

/*
 * Permissive: what is not of the mesh goes on as it did. Strict: nobody gets in
 * without an identity, and nothing that the mesh knows is talked to in plain;
 * the rest of the world (a package server, a database outside) stays within reach,
 * but only once the mesh has said that it is none of its.
 */
static void set_mode(const struct sidecar *s, struct vm_conf *c)
{
	bool permissive = s->put->mode == OUTRIGGER__IPC__MODE__MODE_PERMISSIVE;

	c->plain_in = permissive ? VM_PLAIN_ALLOW : VM_PLAIN_DENY;
	c->plain_unresolved = permissive ? VM_PLAIN_ALLOW : VM_PLAIN_DENY;
	c->plain_mesh = permissive ? VM_PLAIN_ALLOW : VM_PLAIN_DENY;
	c->plain_absent = VM_PLAIN_ALLOW;
}

static int fill(const struct sidecar *s, struct vm_conf *c)
{
	const Outrigger__Ipc__VmPut *m = s->put;
	const Outrigger__Ipc__Setup *setup = s->proxy->setup;

	c->uid = strdup(s->uid);
	c->namespace = strdup(m->namespace_);
	c->trust_domain = strdup(setup->trust_domain);
	c->baggage = make_baggage(m, setup->mesh_controller ? setup->mesh_controller->cluster_id : "");
	if (!c->uid || !c->namespace || !c->trust_domain || !c->baggage)
		return -ENOMEM;
	c->client = tls_ctx_ref(s->client);
	c->server = tls_ctx_ref(s->server);
	for (size_t i = 0; i < m->n_addresses && c->n_addresses < VM_MAX_ADDRESSES; i++)
		if (ip_parse(m->addresses[i], &c->addresses[c->n_addresses]) == 0)
			c->n_addresses++;
	for (size_t i = 0; i < m->n_tee_ports && c->n_tee_ports < VM_MAX_TEE_PORTS; i++)
		if (m->tee_ports[i] && m->tee_ports[i] <= 65535)
			c->tee_ports[c->n_tee_ports++] = (uint16_t)m->tee_ports[i];
	c->names = m->dns != OUTRIGGER__IPC__DNS_MODE__DNS_OBSERVE;
	set_mode(s, c);
	set_limits(s, &c->limits);
	return 0;
}

int sidecar_conf_make(const struct sidecar *s, struct vm_conf **ret_conf)
{
	struct vm_conf *c;
	int r = vm_conf_new(s->vm, &c);

	if (r < 0)
		return r;
	r = fill(s, c);
	if (r < 0) {
		vm_conf_unref(c);
		return r;
	}
	*ret_conf = c;
	return 0;
}
