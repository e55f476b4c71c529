/*
 * Which of a NIC's guests are nodes of the Kubernetes cluster.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "control/provisioner_session.h"
#include "mesh/pb.h"

static char *word(const char *text)
{
	return (char *)(uintptr_t)text;
}

/* --- one node: texts are borrowed, but those of networks --- */

static void node_free(Outrigger__V1__Node *m)
{
	if (!m)
		return;
	for (size_t i = 0; i < m->n_networks; i++)
		free(m->networks[i]);
	free(m->networks);
	if (m->n_ports)
		free(m->ports[0]);	/* one piece */
	free(m->ports);
	free(m);
}

static int put_networks(const struct kube_node *n, Outrigger__V1__Node *m)
{
	char ip[IP_TEXT_LEN];

	m->networks = calloc(n->n_prefixes + 1, sizeof(*m->networks));
	if (!m->networks)
		return -ENOMEM;
	for (size_t i = 0; i < n->n_prefixes; i++) {
		const struct ip_prefix *p = &n->prefixes[i];

		if (asprintf(&m->networks[i], "%s/%d", ip_format(&p->ip, ip), ip_is_v4(&p->ip) ? p->len - 96 : p->len) < 0)
			return -ENOMEM;
		m->n_networks++;
	}
	return 0;
}

static int put_ports(const struct kube_node *n, Outrigger__V1__Node *m)
{
	Outrigger__V1__NodePort *all = calloc(n->n_ports + 1, sizeof(*all));

	m->ports = calloc(n->n_ports + 1, sizeof(*m->ports));
	if (!all || !m->ports || !n->n_ports) {
		bool failed = !all || !m->ports;

		free(all);
		return failed ? -ENOMEM : 0;
	}
	for (size_t i = 0; i < n->n_ports; i++) {
		outrigger__v1__node_port__init(&all[i]);
		all[i].port = n->ports[i].at.port;
		all[i].transport = word(n->ports[i].at.udp ? "udp" : "tcp");
		all[i].what = word(n->ports[i].what);
		m->ports[i] = &all[i];
	}
	m->n_ports = n->n_ports;
	return 0;
}

static Outrigger__V1__Node *node_new(const struct reg_guest *g, const struct kube_node *n)
{
	Outrigger__V1__Node *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	outrigger__v1__node__init(m);
	m->guest_id = g->pb->guest_id;
	m->name = word(n->name);
	if (n->provider_id)
		m->provider_id = word(n->provider_id);
	m->pods = (uint32_t)n->n_pods;
	if (put_networks(n, m) < 0 || put_ports(n, m) < 0) {
		node_free(m);
		return NULL;
	}
	return m;
}

/* --- all of them --- */

static int put_guest(const struct kube_things *things, const struct kube_node_index *index, const struct reg_guest *g, Outrigger__V1__NodeSet *set)
{
	struct kube_node node;
	int r = g->policy && !g->policy->kubernetes_node ? -ENOENT : kube_things_node(things, index, g->ips, g->n_ips, &node);

	if (r < 0)
		return r == -ENOENT ? 0 : r;
	set->nodes[set->n_nodes] = node_new(g, &node);
	kube_node_deinit(&node);
	return set->nodes[set->n_nodes] ? (set->n_nodes++, 0) : -ENOMEM;
}

static int fill(const struct session *s, Outrigger__V1__NodeSet *set)
{
	const struct kube_things *things = s->p->o.cluster ? kube_source_things(cluster_source(s->p->o.cluster)) : NULL;
	struct kube_node_index index;
	int r = things ? kube_things_index(things, &index) : 0;

	set->nodes = calloc(s->nic->n_guests + 1, sizeof(*set->nodes));
	if (r < 0 || !things)
		return set->nodes ? r : -ENOMEM;
	if (!set->nodes)
		r = -ENOMEM;
	list_for_each(l, &s->nic->guests)
		if (r == 0)
			r = put_guest(things, &index, list_entry(l, struct reg_guest, in_nic), set);
	kube_node_index_deinit(&index);
	return r;
}

static int send_set(struct session *s, Outrigger__V1__NodeSet *set)
{
	Outrigger__V1__Directive d = OUTRIGGER__V1__DIRECTIVE__INIT;
	uint8_t *bytes = NULL;
	size_t len;
	int r = pb_pack(&set->base, &bytes, &len);

	if (r < 0)
		return r;
	if (s->nodes_told && s->n_nodes == len && (!len || !memcmp(s->nodes, bytes, len))) {
		free(bytes);
		return 0;
	}
	d.msg_case = OUTRIGGER__V1__DIRECTIVE__MSG_NODES;
	d.nodes = set;
	r = session_send(s, &d);
	if (r == 0) {
		free(s->nodes);
		s->nodes_told = true;
		s->nodes = bytes;
		s->n_nodes = len;
	} else {
		free(bytes);
	}
	return r;
}

void session_push_nodes(struct session *s)
{
	Outrigger__V1__NodeSet set = OUTRIGGER__V1__NODE_SET__INIT;
	int r;

	/* What is not known yet is not gone: neither the cluster's objects, nor the guests of a NIC that is still telling. */
	if (!s->nic->synced || (s->p->o.cluster && !kube_source_is_complete(cluster_source(s->p->o.cluster))))
		return;			/* provisioner_nodes() does it */
	r = fill(s, &set);
	if (r == 0)
		r = send_set(s, &set);
	s->nodes_due = r == -ENOBUFS || r == -ENOMEM;
	for (size_t i = 0; i < set.n_nodes; i++)
		node_free(set.nodes[i]);
	free(set.nodes);
}
