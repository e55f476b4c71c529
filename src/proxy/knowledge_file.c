/*
 * The state file: a DeltaDiscoveryResponse, as if one had brought it all.
 */
#include <errno.h>
#include <string.h>

#include "base/arena.h"
#include "envoy/discovery.pb-c.h"
#include "mesh/pb.h"
#include "proxy/knowledge_internal.h"

#define STATE_VERSION	"outrigger-proxy state 1"

enum { SAVE_ARENA_MAX = 16 * 1024 * 1024, LOAD_MAX = 512 * 1024 * 1024 };

typedef Envoy__Service__Discovery__V3__DeltaDiscoveryResponse Response;
typedef Envoy__Service__Discovery__V3__Resource Resource;

/* A response of one resource; those of all, one behind the other, are protobuf's form of one response with them all. */
static int save_one(enum knowledge_kind kind, const char *name, const uint8_t *value, size_t len, struct bytes *out)
{
	Response response = ENVOY__SERVICE__DISCOVERY__V3__DELTA_DISCOVERY_RESPONSE__INIT;
	Resource resource = ENVOY__SERVICE__DISCOVERY__V3__RESOURCE__INIT;
	Google__Protobuf__Any any = GOOGLE__PROTOBUF__ANY__INIT;

	any.type_url = (char *)(uintptr_t)knowledge_type_url(kind);
	any.value = (ProtobufCBinaryData){ len, (uint8_t *)(uintptr_t)value };
	resource.name = (char *)(uintptr_t)name;
	resource.resource = &any;
	response.n_resources = 1;
	response.resources = (Resource *[]){ &resource };
	return pb_append(&response.base, out);
}

/* @w, or the service @def. */
static int encode(const struct knowledge *k, const struct snap_workload *w, const struct snap_def *def, struct arena *arena, struct bytes *value)
{
	struct workload workload;
	struct service service;
	int r;

	if (w) {
		r = snapshot_workload_model(k->snapshot, w, arena, &workload);
		return r < 0 ? r : workload_encode(&workload, value);
	}
	r = snap_store_service_model(k->store, def, arena, &service);
	return r < 0 ? r : service_encode(&service, value);
}

static int save_noted(const struct knowledge *k, const char *name, const struct snap_workload *w, const struct snap_def *def, struct bytes *out)
{
	struct arena *arena;
	struct bytes value;
	int r;

	r = arena_new(SAVE_ARENA_MAX, &arena);
	if (r < 0)
		return r;
	bytes_init(&value, SAVE_ARENA_MAX);
	r = encode(k, w, def, arena, &value);
	if (r == 0)
		r = save_one(KNOWLEDGE_ADDRESS, name, value.data, value.len, out);
	bytes_deinit(&value);
	arena_free(arena);
	return r;
}

static int save_record(const struct knowledge *k, const struct record *rec, struct bytes *out)
{
	const char *target = record_target(rec);

	if (rec->extra && rec->extra->len)
		return save_one((enum knowledge_kind)rec->kind, rec->name, rec->extra->value, rec->extra->len, out);

	const struct snap_service *service = rec->is_service ? snapshot_service(k->snapshot, target) : NULL;
	const struct snap_workload *w = rec->is_service ? NULL : snapshot_workload(k->snapshot, target);
	return w || service ? save_noted(k, rec->name, w, service ? service->def : NULL, out) : 0;
}

int knowledge_save(const struct knowledge *k, struct bytes *out)
{
	Response head = ENVOY__SERVICE__DISCOVERY__V3__DELTA_DISCOVERY_RESPONSE__INIT;

	head.system_version_info = (char *)(uintptr_t)STATE_VERSION;
	int r = pb_append(&head.base, out);
	for (size_t i = 0; i < ELEMENTS(k->records); i++)
		map_for_each(l, &k->records[i])
			if (r == 0)
				r = save_record(k, container_of(l, struct record, link), out);
	char uid[SNAP_UID_LEN];
	for (uint32_t i = 0; r == 0 && i < snapshot_n_workloads(k->snapshot); i++) {
		const struct snap_workload *w = snapshot_workload_at(k->snapshot, i);

		if (w->note.holders != KNOWLEDGE_RECORDED)
			r = save_noted(k, snap_workload_uid(w, uid), w, NULL, out);
	}
	for (uint32_t i = 0; r == 0 && i < snapshot_n_services(k->snapshot); i++) {
		const struct snap_def *def = snapshot_service_at(k->snapshot, i)->def;

		if (def->defined && def->note.holders != KNOWLEDGE_RECORDED)
			r = save_noted(k, snap_def_key(def), NULL, def, out);
	}
	return r;
}

static int load_one(struct knowledge *k, const Resource *res, struct diag *d)
{
	if (!res->resource)
		return 0;
	for (int kind = 0; kind < _KNOWLEDGE_KIND_N; kind++)
		if (!strcmp(res->resource->type_url, knowledge_type_url((enum knowledge_kind)kind)))
			return knowledge_put(k, KNOWLEDGE_RESTORED, (enum knowledge_kind)kind, res->name,
					     res->resource->value.data, res->resource->value.len, d);
	return 0;
}

int knowledge_load(struct knowledge *k, const void *data, size_t len, struct diag *reterr_diag)
{
	ProtobufCMessage *m;
	int r = pb_unpack(&envoy__service__discovery__v3__delta_discovery_response__descriptor, data, len, LOAD_MAX, &m);

	if (r == -EBADMSG || r == -E2BIG)
		return diag_set(reterr_diag, "it is not a state file, or a broken one");
	if (r < 0)
		return r;

	const Response *response = (const Response *)(const void *)m;
	if (strcmp(response->system_version_info, STATE_VERSION))
		r = diag_set(reterr_diag, "its version is \"%.64s\", this program reads \"" STATE_VERSION "\"", response->system_version_info);
	knowledge_begin(k);
	for (size_t i = 0; r == 0 && i < response->n_resources; i++)
		r = load_one(k, response->resources[i], reterr_diag);
	int lost = knowledge_end(k);
	pb_free(m);
	return r < 0 ? r : lost;
}
