/*
 * Objects of a Kubernetes API, a line each, as fuzz-kube_mesh has them, and the
 * probes of WorkloadGroups ("G"). What
 * is a node's own address is no container's, who has it is found by it, and
 * when a list without anything has come nothing is left.
 */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "control/kube_groups.h"
#include "control/kube_things.h"
#include "mesh/pb.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char letters[] = "PESNG";

static void take_probe(const json_t *json)
{
	Outrigger__Health__Check *check;
	struct diag d = {};
	int r = kube_groups_read_probe(json, &check, &d);

	if (r == 0)
		pb_free(check);
	else if (!d.msg[0])
		abort();
}

static void take_line(struct kube_things *s, const char *line, size_t len)
{
	size_t gone = len && line[0] == '-';
	const char *letter = len > 1 + gone ? strchr(letters, line[gone]) : NULL;
	json_t *json;

	if (!letter || !*letter)
		return;
	json = json_loadb(line + gone + 1, len - gone - 1, 0, NULL);
	if (json && *letter == 'G')
		take_probe(json);
	else if (json && gone)
		(void)!kube_things_gone(s, (enum kube_kind)(letter - letters), json);
	else if (json && kube_things_put(s, (enum kube_kind)(letter - letters), json) && kube_things_put(s, (enum kube_kind)(letter - letters), json))
		abort();		/* the same once more is no change */
	json_decref(json);
}

static void check_node(const struct kube_things *s, const struct kube_node_index *index, const struct ip *ip)
{
	struct kube_node node;

	if (kube_things_node(s, index, ip, 1, &node) < 0)
		abort();
	if (!node.name || node.n_prefixes > KUBE_NODE_PREFIXES_MAX || node.n_ports > KUBE_NODE_PORTS_MAX)
		abort();
	for (size_t i = 0; i < node.n_ports; i++)
		if (!node.ports[i].at.port || !node.ports[i].what)
			abort();
	kube_node_deinit(&node);
}

static void check(const struct kube_things *s)
{
	struct kube_node_index index;
	struct kube_container *v;
	size_t n;

	if (kube_things_index(s, &index) < 0 || kube_things_containers(s, &v, &n) < 0)
		abort();
	for (size_t i = 0; i < index.n; i++) {
		check_node(s, &index, &index.v[i].ip);
		for (size_t k = 0; k < n; k++)
			if (v[k].prefix.len == 128 && ip_equal(&v[k].prefix.ip, &index.v[i].ip))
				abort();
	}
	for (size_t k = 0; k < n; k++)
		if (!v[k].what)
			abort();
	free(v);
	kube_node_index_deinit(&index);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *at = (const char *)data, *end = at + size;
	struct kube_things s;

	kube_things_init(&s);
	while (at < end) {
		const char *nl = memchr(at, '\n', (size_t)(end - at));
		size_t len = nl ? (size_t)(nl - at) : (size_t)(end - at);

		take_line(&s, at, len);
		at += len + 1;
	}
	check(&s);
	for (int kind = 0; kind < _KUBE_KIND_N; kind++) {
		kube_things_begin(&s, (enum kube_kind)kind);
		(void)!kube_things_synced(&s, (enum kube_kind)kind);
		if (s.kinds[kind].n)
			abort();
	}
	kube_things_deinit(&s);
	return 0;
}
