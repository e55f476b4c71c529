/*
 * Resources and who holds them.
 */
#include "proxy/knowledge.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/arena.h"
#include "envoy/discovery.pb-c.h"
#include "mesh/model.h"
#include "mesh/pb.h"

#define STATE_VERSION	"outrigger-proxy state 1"

enum { RETRY_MS = 1000, SAVE_ARENA_MAX = 64 * 1024 * 1024, LOAD_MAX = 512 * 1024 * 1024 };

struct resource {
	struct map_link link;		/* by kind and name */
	enum knowledge_kind kind;
	bool published;
	bool is_service;
	char *target;			/* key in the store: uid, "namespace/hostname", "namespace/name" */
	char *version;
	uint8_t *value;
	size_t len;
	uint32_t *holders;
	size_t n_holders;
	char key[];			/* kind's letter, then the name */
};

struct knowledge {
	struct loop *loop;
	struct snap_store *store;
	struct snapshot *snapshot;
	struct map resources;
	uint64_t generation;
	void (*changed)(void *data);
	void *data;
	struct defer tell;
	struct timer retry;
};

const char *knowledge_type_url(enum knowledge_kind kind)
{
	return kind == KNOWLEDGE_POLICY ? MODEL_TYPE_AUTHORIZATION : MODEL_TYPE_ADDRESS;
}

static char *key_of(enum knowledge_kind kind, const char *name)
{
	char *key;

	return asprintf(&key, "%c%s", kind == KNOWLEDGE_POLICY ? 'p' : 'a', name) < 0 ? NULL : key;
}

static struct resource *find(const struct knowledge *k, enum knowledge_kind kind, const char *name)
{
	CLEANUP_FREE char *key = key_of(kind, name);
	struct map_link *l = key ? map_find_str(&k->resources, key) : NULL;

	return l ? container_of(l, struct resource, link) : NULL;
}

static void resource_free(struct resource *res)
{
	if (!res)
		return;
	free(res->target);
	free(res->version);
	free(res->value);
	free(res->holders);
	free(res);
}

/* --- publishing --- */

static int on_tell(struct defer *d)
{
	struct knowledge *k = container_of(d, struct knowledge, tell);

	k->changed(k->data);
	return 0;
}

/* Publishes one change of the store whose outcome was @r, or takes it back. */
static int publish(struct knowledge *k, int r)
{
	struct snapshot *s;

	if (r == 0)
		r = snap_store_publish(k->store, &s);
	if (r < 0) {
		snap_store_abort(k->store);
		return r;
	}
	if (s != k->snapshot)
		loop_defer(k->loop, &k->tell, on_tell);
	snapshot_unref(k->snapshot);
	k->snapshot = s;
	return 0;
}

static int on_retry(struct timer *t);

/* What could not be published for want of memory is tried again. */
static void retry_later(struct knowledge *k, int r)
{
	if (r == -ENOMEM && !k->retry.loop)
		(void)!timer_arm(k->loop, &k->retry, RETRY_MS, on_retry);
}

static int remove_target(struct knowledge *k, const struct resource *res)
{
	if (res->kind == KNOWLEDGE_POLICY)
		return publish(k, snap_store_remove_policy(k->store, res->target));
	if (res->is_service)
		return publish(k, snap_store_remove_service(k->store, res->target));
	return publish(k, snap_store_remove_workload(k->store, res->target));
}

/* --- decoding into the store --- */

static int put_policy(struct knowledge *k, const struct resource *res, char **ret_target, struct diag *d)
{
	struct policy p;
	int r = policy_decode(res->value, res->len, &p, d);

	if (r < 0)
		return r;
	if (asprintf(ret_target, "%s/%s", p.namespace, p.name) < 0) {
		*ret_target = NULL;
		policy_deinit(&p);
		return -ENOMEM;
	}
	r = publish(k, snap_store_put_policy(k->store, &p));
	policy_deinit(&p);
	return r;
}

static int put_address(struct knowledge *k, struct resource *res, char **ret_target, struct diag *d)
{
	struct address a;
	char *target = NULL;
	int r = address_decode(res->value, res->len, &a, d);

	if (r < 0)
		return r;
	res->is_service = a.type == ADDRESS_SERVICE;
	if (res->is_service && asprintf(&target, "%s/%s", a.service.namespace, a.service.hostname) < 0)
		target = NULL;
	else if (!res->is_service)
		target = strdup(a.workload.uid);
	if (!target)
		r = -ENOMEM;
	else if (res->is_service)
		r = publish(k, snap_store_put_service(k->store, &a.service));
	else
		r = publish(k, snap_store_put_workload(k->store, &a.workload));
	address_deinit(&a);
	*ret_target = target;
	return r;
}

static int resource_publish(struct knowledge *k, struct resource *res, struct diag *d)
{
	CLEANUP_FREE char *target = NULL;
	bool was_service = res->is_service;
	int r;

	if (res->kind == KNOWLEDGE_POLICY)
		r = put_policy(k, res, &target, d);
	else
		r = put_address(k, res, &target, d);
	if (r == -EEXIST)
		return diag_set(d, "its name collides with another's");
	if (r < 0)
		return r;

	/* Under one name there may come another thing than before: then the old one goes. */
	if (res->target && (strcmp(res->target, target) || was_service != res->is_service)) {
		struct resource old = { .kind = res->kind, .is_service = was_service, .target = res->target };

		r = remove_target(k, &old);
		if (r < 0)
			return r;
	}
	free(res->target);
	res->target = steal_ptr(&target);
	res->published = true;
	return 0;
}

/* --- holders --- */

static int hold(struct resource *res, uint32_t holder)
{
	uint32_t *holders;

	for (size_t i = 0; i < res->n_holders; i++)
		if (res->holders[i] == holder)
			return 0;
	holders = realloc(res->holders, (res->n_holders + 1) * sizeof(*holders));
	if (!holders)
		return -ENOMEM;
	holders[res->n_holders++] = holder;
	res->holders = holders;
	return 0;
}

/* Nobody holds it any more. */
static int forget(struct knowledge *k, struct resource *res)
{
	int r = res->target ? remove_target(k, res) : 0;

	if (r < 0)
		return r;
	map_remove(&k->resources, &res->link);
	resource_free(res);
	return 0;
}

static void let_go(struct knowledge *k, struct resource *res, uint32_t holder)
{
	for (size_t i = 0; i < res->n_holders; i++)
		if (res->holders[i] == holder)
			res->holders[i--] = res->holders[--res->n_holders];
	if (res->n_holders)
		return;
	k->generation++;
	retry_later(k, forget(k, res));
}

static int on_retry(struct timer *t)
{
	struct knowledge *k = container_of(t, struct knowledge, retry);
	int r = 0;

	map_for_each(l, &k->resources) {
		struct resource *res = container_of(l, struct resource, link);
		struct diag d;

		if (r == 0 && !res->n_holders)
			r = forget(k, res);
		else if (r == 0 && !res->published)
			r = resource_publish(k, res, &d);
	}
	retry_later(k, r);
	return 0;
}

static int resource_new(struct knowledge *k, enum knowledge_kind kind, const char *name, struct resource **ret_resource)
{
	size_t n = strlen(name) + 2;
	struct resource *res = calloc(1, sizeof(*res) + n);
	int r;

	if (!res)
		return -ENOMEM;
	res->kind = kind;
	snprintf(res->key, n, "%c%s", kind == KNOWLEDGE_POLICY ? 'p' : 'a', name);
	r = map_add(&k->resources, &res->link, res->key, n - 1);
	if (r < 0) {
		resource_free(res);
		return r;
	}
	*ret_resource = res;
	return 0;
}

/* Keeps the new bytes, so that they can be published, now or later. Takes back when they are refused. */
static int resource_change(struct knowledge *k, struct resource *res, const char *version, const uint8_t *value, size_t len,
			   struct diag *d)
{
	uint8_t *old_value = res->value;
	size_t old_len = res->len;
	char *new_version = strdup(version);
	int r;

	res->value = malloc(len + 1);
	if (!res->value || !new_version) {
		free(res->value);
		free(new_version);
		res->value = old_value;
		return -ENOMEM;
	}
	if (len)
		memcpy(res->value, value, len);
	res->len = len;
	res->published = false;
	r = resource_publish(k, res, d);
	if (r == -EINVAL) {		/* the last good one stays in force */
		free(res->value);
		free(new_version);
		res->value = old_value;
		res->len = old_len;
		res->published = old_value != NULL;
		return r;
	}
	free(old_value);
	free(res->version);
	res->version = new_version;
	k->generation++;
	retry_later(k, r);
	return 0;
}

int knowledge_put(struct knowledge *k, uint32_t holder, enum knowledge_kind kind, const char *name, const char *version,
		  const uint8_t *value, size_t len, struct diag *reterr_diag)
{
	struct resource *res = find(k, kind, name);
	bool is_new = !res;
	int r = 0;

	if (is_new)
		r = resource_new(k, kind, name, &res);
	if (r == 0)
		r = hold(res, holder);
	if (r == 0 && (is_new || res->len != len || (len && memcmp(res->value, value, len))))
		r = resource_change(k, res, version, value, len, reterr_diag);
	if (r < 0 && is_new && res) {
		map_remove(&k->resources, &res->link);
		resource_free(res);
	}
	return r;
}

void knowledge_gone(struct knowledge *k, uint32_t holder, enum knowledge_kind kind, const char *name)
{
	struct resource *res = find(k, kind, name);

	if (res)
		let_go(k, res, holder);
}

void knowledge_drop(struct knowledge *k, uint32_t holder)
{
	map_for_each(l, &k->resources)
		let_go(k, container_of(l, struct resource, link), holder);
}

/* --- the rest --- */

void knowledge_absent(struct knowledge *k, const struct ip *ip, bool absent)
{
	/* Without memory the address stays unknown: who asks waits for the timeout. */
	(void)publish(k, absent ? snap_store_put_absent(k->store, ip) : snap_store_remove_absent(k->store, ip));
}

void knowledge_policies_known(struct knowledge *k)
{
	(void)publish(k, snap_store_set_policies_known(k->store, true));
}

struct snapshot *knowledge_snapshot(const struct knowledge *k)
{
	return k->snapshot;
}

size_t knowledge_n(const struct knowledge *k)
{
	return k->resources.n;
}

uint64_t knowledge_generation(const struct knowledge *k)
{
	return k->generation;
}

int knowledge_new(struct loop *loop, const char *network, void (*changed)(void *data), void *data, struct knowledge **ret_knowledge)
{
	struct knowledge *k = calloc(1, sizeof(*k));
	int r;

	if (!k)
		return -ENOMEM;
	k->loop = loop;
	k->changed = changed;
	k->data = data;
	map_init(&k->resources);
	r = snap_store_new(network, &k->store);
	if (r == 0)
		r = snap_store_publish(k->store, &k->snapshot);
	if (r < 0) {
		snap_store_free(k->store);
		free(k);
		return r;
	}
	*ret_knowledge = k;
	return 0;
}

struct knowledge *knowledge_free(struct knowledge *k)
{
	if (!k)
		return NULL;
	timer_cancel(&k->retry);
	defer_cancel(&k->tell);
	map_for_each(l, &k->resources) {
		struct resource *res = container_of(l, struct resource, link);

		map_remove(&k->resources, l);
		resource_free(res);
	}
	map_deinit(&k->resources);
	snapshot_unref(k->snapshot);
	snap_store_free(k->store);
	free(k);
	return NULL;
}

/* --- the state file: a DeltaDiscoveryResponse, as if one had brought it all --- */

typedef Envoy__Service__Discovery__V3__DeltaDiscoveryResponse Response;
typedef Envoy__Service__Discovery__V3__Resource Resource;

struct saved {
	Resource resource;
	Google__Protobuf__Any any;
};

static void save_one(const struct resource *res, struct saved *to)
{
	envoy__service__discovery__v3__resource__init(&to->resource);
	google__protobuf__any__init(&to->any);
	to->any.type_url = (char *)(uintptr_t)knowledge_type_url(res->kind);
	to->any.value = (ProtobufCBinaryData){ res->len, res->value };
	to->resource.name = (char *)(uintptr_t)(res->key + 1);
	to->resource.version = res->version;
	to->resource.resource = &to->any;
}

int knowledge_save(const struct knowledge *k, struct bytes *out)
{
	Response response = ENVOY__SERVICE__DISCOVERY__V3__DELTA_DISCOVERY_RESPONSE__INIT;
	struct arena *arena;
	int r = arena_new(SAVE_ARENA_MAX, &arena);

	if (r < 0)
		return r;

	struct saved *saved = arena_alloc(arena, k->resources.n, sizeof(*saved));
	Resource **list = arena_alloc(arena, k->resources.n, sizeof(*list));
	if (!saved || !list) {
		arena_free(arena);
		return -ENOMEM;
	}
	map_for_each(l, &k->resources) {
		save_one(container_of(l, struct resource, link), &saved[response.n_resources]);
		list[response.n_resources] = &saved[response.n_resources].resource;
		response.n_resources++;
	}
	response.resources = list;
	response.system_version_info = (char *)(uintptr_t)STATE_VERSION;

	size_t len = envoy__service__discovery__v3__delta_discovery_response__get_packed_size(&response);
	uint8_t *to = bytes_reserve(out, len);
	r = to ? 0 : len > out->max - out->len ? -ENOBUFS : -ENOMEM;
	if (to)
		bytes_commit(out, envoy__service__discovery__v3__delta_discovery_response__pack(&response, to));
	arena_free(arena);
	return r;
}

static int load_one(struct knowledge *k, const Resource *res, struct diag *d)
{
	if (!res->resource)
		return 0;
	for (int kind = 0; kind < _KNOWLEDGE_KIND_N; kind++)
		if (!strcmp(res->resource->type_url, knowledge_type_url((enum knowledge_kind)kind)))
			return knowledge_put(k, KNOWLEDGE_RESTORED, (enum knowledge_kind)kind, res->name, res->version,
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
	for (size_t i = 0; r == 0 && i < response->n_resources; i++)
		r = load_one(k, response->resources[i], reterr_diag);
	pb_free(m);
	return r;
}
