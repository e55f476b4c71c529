/*
 * Objects of a Kubernetes API, a line each: "P", "E", "S", "N" (pod, slice,
 * service, node) and its JSON; "-" before it deletes it, "!" alone begins a
 * list of all kinds, "." ends it. What comes out of the registry decodes, and
 * when all is deleted nothing is left.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "control/kube_mesh.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char yaml[] =
	"mesh: {cluster_id: k1}\n"
	"kubernetes: {kubeconfig: /k, namespaces: ['*']}\n"
	"workloads:\n"
	"- {name: fixed, namespace: shop, addresses: [10.1.0.1]}\n";
static const char letters[] = "PESN";

static void each(struct kube_mesh *m, void (*fn)(struct kube_mesh *m, enum kube_kind kind))
{
	for (int kind = 0; kind < _KUBE_KIND_N; kind++)
		fn(m, (enum kube_kind)kind);
}

static void take_line(struct kube_mesh *m, const char *line, size_t len)
{
	size_t gone = len && line[0] == '-';
	const char *letter = len > 1 + gone ? strchr(letters, line[gone]) : NULL;
	json_t *json;

	if (len == 1 && line[0] == '!')
		each(m, kube_mesh_begin);
	if (len == 1 && line[0] == '.')
		each(m, kube_mesh_synced);
	if (!letter || !*letter)
		return;
	json = json_loadb(line + gone + 1, len - gone - 1, 0, NULL);
	if (json && gone)
		kube_mesh_gone(m, (enum kube_kind)(letter - letters), json);
	else if (json)
		kube_mesh_put(m, (enum kube_kind)(letter - letters), json);
	json_decref(json);
}

static void check(const struct resources *r)
{
	map_for_each(l, &r->by_name[RESOURCE_ADDRESS]) {
		const struct resource *res = container_of(l, struct resource, link);
		struct address a;
		struct diag d = {};

		if (res->removed)
			continue;
		if (address_decode(res->bytes, res->len, &a, &d) < 0) {
			fprintf(stderr, "%s: %s\n", res->name, d.msg);
			abort();
		}
		address_deinit(&a);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *at = (const char *)data, *end = at + size;
	struct config *config;
	struct resources resources;
	struct registry *reg;
	struct kube_mesh *mesh;
	struct loop *loop;
	struct diag d = {};
	size_t n;

	log_change(LOG_L_ERROR, false);
	if (loop_new(&loop) < 0 || config_parse("c", yaml, sizeof(yaml) - 1, &config, &d) < 0)
		abort();
	resources_init(&resources);
	if (registry_new(loop, &resources, NULL, config, &reg) < 0 || kube_mesh_new(loop, reg, &mesh) < 0 || loop_turn(loop, 0) < 0)
		abort();
	n = reg->workloads.n + reg->services.n;
	while (at < end) {
		const char *nl = memchr(at, '\n', (size_t)(end - at));
		size_t len = nl ? (size_t)(nl - at) : (size_t)(end - at);

		take_line(mesh, at, len);
		at += len + 1;
		if (at < end && *at == '\n' && loop_turn(loop, 0) < 0)	/* an empty line is a turn of the loop */
			abort();
	}
	if (loop_turn(loop, 0) < 0 || loop_turn(loop, 0) < 0)
		abort();
	check(&resources);
	each(mesh, kube_mesh_begin);
	each(mesh, kube_mesh_synced);
	if (loop_turn(loop, 0) < 0 || reg->workloads.n + reg->services.n != n)
		abort();
	kube_mesh_free(mesh);
	registry_free(reg);
	resources_deinit(&resources);
	config_free(config);
	loop_free(loop);
	return 0;
}
