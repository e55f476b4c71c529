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

enum { SAVE_ARENA_MAX = 16 * 1024 * 1024, RETRY_MS = 1000, LOAD_MAX = 512 * 1024 * 1024 };

/*
 * A workload, of which there are ten thousand, is in the store and nowhere
 * else: knowledge_save() writes it from there. Of the few others, and of what
 * could not be published yet, the bytes are kept.
 */
struct extra {
	char *target;			/* as resource_target(), where that is not the resource's name */
	size_t len;
	uint8_t value[];
};

struct resource {
	struct map_link link;		/* by name, in the map of its kind */
	uint8_t kind;			/* enum knowledge_kind */
	bool published;			/* its newest bytes are in the store */
	bool in_store;			/* it, or what it was before, is */
	bool is_service;
	uint32_t n_holders;
	union {
		uint32_t few[2];
		uint32_t *many;		/* of more than two */
	} holders;
	uint64_t hash;			/* of the newest bytes, keyed */
	struct extra *extra;		/* or NULL */
	char name[];
};

struct knowledge {
	struct loop *loop;
	struct snap_store *store;
	struct snapshot *snapshot;
	struct map resources[_KNOWLEDGE_KIND_N];
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

static struct resource *find(const struct knowledge *k, enum knowledge_kind kind, const char *name)
{
	struct map_link *l = map_find_str(&k->resources[kind], name);

	return l ? container_of(l, struct resource, link) : NULL;
}

/* Its key in the store: uid, "namespace/hostname", "namespace/name". */
static const char *resource_target(const struct resource *res)
{
	return res->extra && res->extra->target ? res->extra->target : res->name;
}

static int extra_new(const uint8_t *value, size_t len, struct extra **ret_extra)
{
	struct extra *e = malloc(sizeof(*e) + len);

	if (!e)
		return -ENOMEM;
	e->target = NULL;
	e->len = len;
	if (len)
		memcpy(e->value, value, len);
	*ret_extra = e;
	return 0;
}

static struct extra *extra_free(struct extra *e)
{
	if (e)
		free(e->target);
	free(e);
	return NULL;
}

static void resource_free(struct resource *res)
{
	if (!res)
		return;
	extra_free(res->extra);
	if (res->n_holders > ELEMENTS(res->holders.few))
		free(res->holders.many);
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
	const char *target = resource_target(res);

	if (res->kind == KNOWLEDGE_POLICY)
		return publish(k, snap_store_remove_policy(k->store, target));
	if (res->is_service)
		return publish(k, snap_store_remove_service(k->store, target));
	return publish(k, snap_store_remove_workload(k->store, target));
}

/* --- decoding into the store --- */

/* What is known of a resource once its bytes are decoded. */
struct taken {
	bool is_service;
	struct extra *extra;
};

/* "@a/@b", or only @a. */
static bool is_joined(const char *text, const char *a, const char *b)
{
	size_t n = strlen(a);

	return !strncmp(text, a, n) && (b ? text[n] == '/' && !strcmp(text + n + 1, b) : !text[n]);
}

/* @len 0: the bytes need not be kept. */
static int taken_init(struct taken *t, const struct resource *res, const char *a, const char *b, const uint8_t *value, size_t len)
{
	int r = 0;

	if (len || !is_joined(res->name, a, b))
		r = extra_new(value, len, &t->extra);
	if (r < 0 || is_joined(res->name, a, b))
		return r;
	if (asprintf(&t->extra->target, b ? "%s/%s" : "%s", a, b) >= 0)
		return 0;
	t->extra->target = NULL;
	return -ENOMEM;
}

static int put_policy(struct knowledge *k, const struct resource *res, const uint8_t *value, size_t len, struct taken *t, struct diag *d)
{
	struct policy p;
	int r = policy_decode(value, len, &p, d);

	if (r < 0)
		return r;
	r = taken_init(t, res, p.namespace, p.name, value, len);
	if (r == 0)
		r = publish(k, snap_store_put_policy(k->store, &p));
	policy_deinit(&p);
	return r;
}

static int put_address(struct knowledge *k, const struct resource *res, const uint8_t *value, size_t len, struct taken *t, struct diag *d)
{
	struct address a;
	int r = address_decode(value, len, &a, d);

	if (r < 0)
		return r;
	t->is_service = a.type == ADDRESS_SERVICE;
	if (t->is_service)
		r = taken_init(t, res, a.service.namespace, a.service.hostname, value, len);
	else
		r = taken_init(t, res, a.workload.uid, NULL, NULL, 0);
	if (r == 0)
		r = publish(k, t->is_service ? snap_store_put_service(k->store, &a.service) : snap_store_put_workload(k->store, &a.workload));
	address_deinit(&a);
	return r;
}

/* Under one name there may come another thing than before: then the old one goes. */
static int drop_old(struct knowledge *k, const struct resource *res, const struct taken *t)
{
	const char *target = t->extra && t->extra->target ? t->extra->target : res->name;

	if (!res->in_store || (res->is_service == t->is_service && !strcmp(resource_target(res), target)))
		return 0;
	return remove_target(k, res);
}

static int resource_publish(struct knowledge *k, struct resource *res, const uint8_t *value, size_t len, struct diag *d)
{
	struct taken t = {};
	int r;

	if (res->kind == KNOWLEDGE_POLICY)
		r = put_policy(k, res, value, len, &t, d);
	else
		r = put_address(k, res, value, len, &t, d);
	if (r == 0)
		r = drop_old(k, res, &t);
	if (r < 0) {
		extra_free(t.extra);
		return r == -EEXIST ? diag_set(d, "its name collides with another's") : r;
	}
	extra_free(res->extra);
	res->extra = t.extra;
	res->is_service = t.is_service;
	res->published = res->in_store = true;
	return 0;
}

/* --- holders --- */

static uint32_t *holders(struct resource *res)
{
	return res->n_holders > ELEMENTS(res->holders.few) ? res->holders.many : res->holders.few;
}

static int hold(struct resource *res, uint32_t holder)
{
	uint32_t *list = holders(res);
	uint32_t n = res->n_holders;

	for (uint32_t i = 0; i < n; i++)
		if (list[i] == holder)
			return 0;
	if (n >= ELEMENTS(res->holders.few)) {
		list = realloc(n > ELEMENTS(res->holders.few) ? list : NULL, (n + 1) * sizeof(*list));
		if (!list)
			return -ENOMEM;
		if (n == ELEMENTS(res->holders.few))
			memcpy(list, res->holders.few, sizeof(res->holders.few));
		res->holders.many = list;
	}
	list[n] = holder;
	res->n_holders++;
	return 0;
}

/* Nobody holds it any more. */
static int forget(struct knowledge *k, struct resource *res)
{
	int r = res->in_store ? remove_target(k, res) : 0;

	if (r < 0)
		return r;
	map_remove(&k->resources[res->kind], &res->link);
	resource_free(res);
	return 0;
}

static void unhold(struct resource *res, uint32_t holder)
{
	uint32_t *list = holders(res);
	uint32_t n = res->n_holders;

	for (uint32_t i = 0; i < n; i++)
		if (list[i] == holder)
			list[i--] = list[--n];
	if (res->n_holders > ELEMENTS(res->holders.few) && n <= ELEMENTS(res->holders.few)) {
		memcpy(res->holders.few, (uint32_t[]){ list[0], list[1] }, sizeof(res->holders.few));
		free(list);
	}
	res->n_holders = n;
}

static void let_go(struct knowledge *k, struct resource *res, uint32_t holder)
{
	unhold(res, holder);
	if (res->n_holders)
		return;
	k->generation++;
	retry_later(k, forget(k, res));
}

/* Those of one map: what could not be forgotten, and what could not be published. */
static int retry_all(struct knowledge *k, const struct map *resources)
{
	int r = 0;

	map_for_each(l, resources) {
		struct resource *res = container_of(l, struct resource, link);
		struct extra *e = res->extra;
		struct diag d;

		if (r == 0 && !res->n_holders)
			r = forget(k, res);
		else if (r == 0 && !res->published && e)
			r = resource_publish(k, res, e->value, e->len, &d);
	}
	return r;
}

static int on_retry(struct timer *t)
{
	struct knowledge *k = container_of(t, struct knowledge, retry);
	int r = 0;

	for (size_t i = 0; r == 0 && i < ELEMENTS(k->resources); i++)
		r = retry_all(k, &k->resources[i]);
	retry_later(k, r);
	return 0;
}

static int resource_new(struct knowledge *k, enum knowledge_kind kind, const char *name, struct resource **ret_resource)
{
	size_t n = strlen(name) + 1;
	struct resource *res = malloc(sizeof(*res) + n);
	int r;

	if (!res)
		return -ENOMEM;
	*res = (struct resource){ .kind = (uint8_t)kind };
	memcpy(res->name, name, n);
	r = map_add(&k->resources[kind], &res->link, res->name, n - 1);
	if (r < 0) {
		resource_free(res);
		return r;
	}
	*ret_resource = res;
	return 0;
}

/* The bytes stay, to be published later; what the store has of it stays under its key. */
static int keep_for_later(struct resource *res, const uint8_t *value, size_t len)
{
	struct extra *e;
	int r = extra_new(value, len, &e);

	if (r < 0)
		return r;
	if (res->extra) {
		e->target = res->extra->target;
		res->extra->target = NULL;
	}
	extra_free(res->extra);
	res->extra = e;
	res->published = false;
	return 0;
}

/* New bytes are published, now or later. When they are refused the last good ones stay in force. */
static int resource_change(struct knowledge *k, struct resource *res, const uint8_t *value, size_t len, struct diag *d)
{
	int r = resource_publish(k, res, value, len, d);

	if (r == -ENOMEM && keep_for_later(res, value, len) == 0) {
		retry_later(k, r);
		r = 0;
	}
	if (r == 0)
		k->generation++;
	return r;
}

int knowledge_put(struct knowledge *k, uint32_t holder, enum knowledge_kind kind, const char *name,
		  const uint8_t *value, size_t len, struct diag *reterr_diag)
{
	struct resource *res = find(k, kind, name);
	uint64_t hash = map_hash(value, len);
	bool is_new = !res;
	int r = 0;

	if (is_new)
		r = resource_new(k, kind, name, &res);
	if (r == 0)
		r = hold(res, holder);
	if (r == 0 && (is_new || res->hash != hash)) {
		r = resource_change(k, res, value, len, reterr_diag);
		if (r == 0)
			res->hash = hash;
	}
	if (r < 0 && is_new && res) {
		map_remove(&k->resources[kind], &res->link);
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
	for (size_t i = 0; i < ELEMENTS(k->resources); i++)
		map_for_each(l, &k->resources[i])
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
	return k->resources[KNOWLEDGE_ADDRESS].n + k->resources[KNOWLEDGE_POLICY].n;
}

uint64_t knowledge_generation(const struct knowledge *k)
{
	return k->generation;
}

int knowledge_set_network(struct knowledge *k, const char *network)
{
	return snap_store_set_network(k->store, network);
}

int knowledge_new(struct loop *loop, void (*changed)(void *data), void *data, struct knowledge **ret_knowledge)
{
	struct knowledge *k = calloc(1, sizeof(*k));
	int r;

	if (!k)
		return -ENOMEM;
	k->loop = loop;
	k->changed = changed;
	k->data = data;
	for (size_t i = 0; i < ELEMENTS(k->resources); i++)
		map_init(&k->resources[i]);
	r = snap_store_new("", &k->store);
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
	for (size_t i = 0; i < ELEMENTS(k->resources); i++) {
		map_for_each(l, &k->resources[i]) {
			map_remove(&k->resources[i], l);
			resource_free(container_of(l, struct resource, link));
		}
		map_deinit(&k->resources[i]);
	}
	snapshot_unref(k->snapshot);
	snap_store_free(k->store);
	free(k);
	return NULL;
}

/* --- the state file: a DeltaDiscoveryResponse, as if one had brought it all --- */

typedef Envoy__Service__Discovery__V3__DeltaDiscoveryResponse Response;
typedef Envoy__Service__Discovery__V3__Resource Resource;

/* A response of one resource; those of all, one behind the other, are protobuf's form of one response with them all. */
static int save_one(const struct resource *res, const uint8_t *value, size_t len, struct bytes *out)
{
	Response response = ENVOY__SERVICE__DISCOVERY__V3__DELTA_DISCOVERY_RESPONSE__INIT;
	Resource resource = ENVOY__SERVICE__DISCOVERY__V3__RESOURCE__INIT;
	Google__Protobuf__Any any = GOOGLE__PROTOBUF__ANY__INIT;

	any.type_url = (char *)(uintptr_t)knowledge_type_url((enum knowledge_kind)res->kind);
	any.value = (ProtobufCBinaryData){ len, (uint8_t *)(uintptr_t)value };
	resource.name = (char *)(uintptr_t)res->name;
	resource.resource = &any;
	response.n_resources = 1;
	response.resources = (Resource *[]){ &resource };
	return pb_append(&response.base, out);
}

static int save_workload(const struct knowledge *k, const struct resource *res, struct bytes *out)
{
	const struct snap_workload *from = snapshot_workload(k->snapshot, resource_target(res));
	struct arena *arena;
	struct workload w;
	struct bytes value;
	int r;

	if (!from)
		return 0;
	r = arena_new(SAVE_ARENA_MAX, &arena);
	if (r < 0)
		return r;
	bytes_init(&value, SAVE_ARENA_MAX);
	r = snapshot_workload_model(k->snapshot, from, arena, &w);
	if (r == 0)
		r = workload_encode(&w, &value);
	if (r == 0)
		r = save_one(res, value.data, value.len, out);
	bytes_deinit(&value);
	arena_free(arena);
	return r;
}

static int save(const struct knowledge *k, const struct resource *res, struct bytes *out)
{
	if (res->extra && res->extra->len)
		return save_one(res, res->extra->value, res->extra->len, out);
	return save_workload(k, res, out);
}

int knowledge_save(const struct knowledge *k, struct bytes *out)
{
	Response head = ENVOY__SERVICE__DISCOVERY__V3__DELTA_DISCOVERY_RESPONSE__INIT;

	head.system_version_info = (char *)(uintptr_t)STATE_VERSION;
	int r = pb_append(&head.base, out);
	for (size_t i = 0; i < ELEMENTS(k->resources); i++)
		map_for_each(l, &k->resources[i])
			if (r == 0)
				r = save(k, container_of(l, struct resource, link), out);
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
	for (size_t i = 0; r == 0 && i < response->n_resources; i++)
		r = load_one(k, response->resources[i], reterr_diag);
	pb_free(m);
	return r;
}
