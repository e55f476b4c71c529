/*
 * WorkloadGroups and their probes.
 *
 * Source: networking/v1/workload_group.proto of istio/api (ReadinessProbe); the
 * defaults are those of pkg/istio-agent/health of Istio.
 */
#include "control/kube_groups.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/map.h"
#include "mesh/health_check.h"
#include "mesh/pb.h"

enum { KEY_LEN = 512, HEADERS_MAX = 32, WAIT_MS = 500 };

struct group {
	struct map_link link;		/* by key */
	char key[KEY_LEN];		/* "namespace/name" */
	Outrigger__Health__Check *check;	/* NULL: none */
	char problem[DIAG_TEXT_LEN];	/* why there is none, or "" */
	bool by_hbone;			/* sidecars, too, are told to speak HBONE to its VMs */
	uint64_t generation;
};

struct kube_groups {
	struct loop *loop;
	struct kube_groups_options o;
	struct kube_watch *watch;
	struct map groups;
	uint64_t generation;
	bool synced;			/* there was a whole list */
	struct timer wait;		/* until it is ready */
};

/* --- a probe --- */

static char *text_of(const json_t *o, const char *name)
{
	const char *s = json_string_value(json_object_get(o, name));

	return (char *)(uintptr_t)(s ? s : "");
}

static uint32_t number_of(const json_t *o, const char *name, uint32_t scale)
{
	json_int_t v = json_integer_value(json_object_get(o, name));

	return v > 0 ? (uint32_t)MIN(v, (json_int_t)UINT32_MAX / scale) * scale : 0;
}

struct headers {
	Outrigger__Health__Header v[HEADERS_MAX];
	Outrigger__Health__Header *list[HEADERS_MAX];
};

static int read_http(const json_t *http, Outrigger__Health__Check *c, struct headers *headers, struct diag *d)
{
	const json_t *list = json_object_get(http, "httpHeaders");

	if (json_array_size(list) > HEADERS_MAX)
		return diag_set(d, "more than %d headers", HEADERS_MAX);
	c->kind = (char *)(uintptr_t)(!strcasecmp(text_of(http, "scheme"), "HTTPS") ? "https" : "http");
	c->port = number_of(http, "port", 1);
	c->path = text_of(http, "path");
	c->host = text_of(http, "host");
	c->headers = headers->list;
	for (size_t i = 0; i < json_array_size(list); i++) {
		outrigger__health__header__init(&headers->v[i]);
		headers->v[i].name = text_of(json_array_get(list, i), "name");
		headers->v[i].value = text_of(json_array_get(list, i), "value");
		headers->list[c->n_headers++] = &headers->v[i];
	}
	return 0;
}

static int read_kind(const json_t *probe, Outrigger__Health__Check *c, struct headers *headers, struct diag *d)
{
	const json_t *http = json_object_get(probe, "httpGet"), *tcp = json_object_get(probe, "tcpSocket"), *grpc = json_object_get(probe, "grpc");

	if (http)
		return read_http(http, c, headers, d);
	if (tcp) {
		c->kind = (char *)(uintptr_t)"tcp";
		c->port = number_of(tcp, "port", 1);
	} else if (grpc) {
		c->kind = (char *)(uintptr_t)"grpc";
		c->port = number_of(grpc, "port", 1);
		c->service = text_of(grpc, "service");
	} else if (json_object_get(probe, "exec")) {
		return diag_set(d, "exec probes run inside of the guest, where nothing of ours is");
	} else {
		return diag_set(d, "it has none of httpGet, tcpSocket, grpc");
	}
	return 0;
}

int kube_groups_read_probe(const json_t *probe, Outrigger__Health__Check **ret_check, struct diag *d)
{
	Outrigger__Health__Check c = OUTRIGGER__HEALTH__CHECK__INIT, *copy;
	struct headers headers;
	int r = read_kind(probe, &c, &headers, d);

	if (r < 0)
		return r;
	if (!c.port)
		return diag_set(d, "it has no port");
	c.initial_delay_ms = number_of(probe, "initialDelaySeconds", 1000);
	c.interval_ms = number_of(probe, "periodSeconds", 1000) ?: 10000;
	c.timeout_ms = number_of(probe, "timeoutSeconds", 1000) ?: 1000;
	c.successes = number_of(probe, "successThreshold", 1) ?: 1;
	c.failures = number_of(probe, "failureThreshold", 1) ?: 1;
	r = health_check_valid(&c, d);
	if (r < 0)
		return r;
	copy = pb_copy(&c.base);
	if (!copy)
		return -ENOMEM;
	*ret_check = copy;
	return 0;
}

/* --- the groups --- */

static void group_free(struct kube_groups *g, struct group *group)
{
	map_remove(&g->groups, &group->link);
	pb_free(group->check);
	free(group);
}

static struct group *find(const struct kube_groups *g, const char *key)
{
	struct map_link *l = map_find_str(&g->groups, key);

	return l ? container_of(l, struct group, link) : NULL;
}

static bool key_of(const json_t *object, char key[static KEY_LEN])
{
	const json_t *meta = json_object_get(object, "metadata");

	return snprintf(key, KEY_LEN, "%s/%s", text_of(meta, "namespace"), text_of(meta, "name")) < KEY_LEN;
}

static struct group *get(struct kube_groups *g, const char *key)
{
	struct group *group = find(g, key);

	if (group)
		return group;
	group = calloc(1, sizeof(*group));
	if (!group)
		return NULL;
	snprintf(group->key, sizeof(group->key), "%s", key);
	if (map_add(&g->groups, &group->link, group->key, strlen(group->key)) < 0) {
		free(group);
		return NULL;
	}
	return group;
}

/* conversion.go of pilot/pkg/serviceregistry/serviceentry: a WorkloadEntry with an account is spoken to by mutual TLS, unless this says otherwise. */
static bool says_hbone(const json_t *object)
{
	static const char *const from[] = { "template", "metadata" };	/* the latter wins */
	const char *mode = "";

	for (size_t i = 0; i < ELEMENTS(from); i++) {
		const json_t *labels = json_object_get(json_object_get(json_object_get(object, "spec"), from[i]), "labels");
		const char *text = text_of(labels, KUBE_TLS_MODE_LABEL);

		mode = *text ? text : mode;
	}
	return !strcmp(mode, "disabled");
}

static bool same(const Outrigger__Health__Check *a, const Outrigger__Health__Check *b)
{
	return a && b ? pb_equal(&a->base, &b->base) : a == b;
}

static void changed(struct kube_groups *g)
{
	if (kube_groups_ready(g))
		g->o.changed(g->o.data);
}

static void on_put(void *data, const json_t *object)
{
	struct kube_groups *g = data;
	const json_t *probe = json_object_get(json_object_get(object, "spec"), "probe");
	Outrigger__Health__Check *check = NULL;
	struct diag d = {};
	char key[KEY_LEN];
	struct group *group = key_of(object, key) ? get(g, key) : NULL;

	if (g->o.also.put)
		g->o.also.put(g->o.also_data, object);
	if (!group)
		return;			/* no memory: with its next change */
	group->generation = g->generation;
	group->by_hbone = says_hbone(object);
	if (probe && kube_groups_read_probe(probe, &check, &d) == -ENOMEM)
		return;
	snprintf(group->problem, sizeof(group->problem), "%s", d.msg);
	bool news = !same(group->check, check);
	pb_free(group->check);
	group->check = check;
	if (news)
		changed(g);
}

static void forget(struct kube_groups *g, struct group *group)
{
	bool news = group->check;

	group_free(g, group);
	if (news)
		changed(g);
}

static void on_gone(void *data, const json_t *object)
{
	struct kube_groups *g = data;
	char key[KEY_LEN];
	struct group *group = key_of(object, key) ? find(g, key) : NULL;

	if (g->o.also.gone)
		g->o.also.gone(g->o.also_data, object);
	if (group)
		forget(g, group);
}

static void on_begin(void *data)
{
	struct kube_groups *g = data;

	g->generation++;
	if (g->o.also.begin)
		g->o.also.begin(g->o.also_data);
}

static void on_synced(void *data)
{
	struct kube_groups *g = data;

	map_for_each(l, &g->groups) {
		struct group *group = container_of(l, struct group, link);

		if (group->generation != g->generation)
			forget(g, group);
	}
	if (g->o.also.synced)
		g->o.also.synced(g->o.also_data);
	if (!g->synced) {
		g->synced = true;
		timer_cancel(&g->wait);
		g->o.changed(g->o.data);
	}
}

/* Nobody tells us that we are refused: it is looked at. */
static int on_wait(struct timer *t)
{
	struct kube_groups *g = container_of(t, struct kube_groups, wait);

	if (!kube_groups_ready(g))
		return timer_arm(g->loop, t, WAIT_MS, on_wait);
	g->o.changed(g->o.data);
	return 0;
}

/* --- for others --- */

const Outrigger__Health__Check *kube_groups_check(const struct kube_groups *g, const char *namespace, const char *name)
{
	char key[KEY_LEN];
	const struct group *group;

	if (snprintf(key, sizeof(key), "%s/%s", namespace, name) >= KEY_LEN)
		return NULL;
	group = find(g, key);
	return group ? group->check : NULL;
}

bool kube_groups_by_hbone(const struct kube_groups *g, const char *namespace, const char *name)
{
	char key[KEY_LEN];
	const struct group *group;

	if (snprintf(key, sizeof(key), "%s/%s", namespace, name) >= KEY_LEN)
		return true;
	group = find(g, key);
	return !group || group->by_hbone;
}

bool kube_groups_ready(const struct kube_groups *g)
{
	enum kube_error error = kube_watch_info(g->watch).error;

	return g->synced || error == KUBE_FORBIDDEN || error == KUBE_NOT_FOUND;
}

struct kube_watch_info kube_groups_info(const struct kube_groups *g)
{
	return kube_watch_info(g->watch);
}

bool kube_groups_problem(const struct kube_groups *g, size_t i, const char **ret_group, const char **ret_why)
{
	map_for_each(l, &g->groups) {
		const struct group *group = container_of(l, struct group, link);

		if (!group->problem[0] || i--)
			continue;
		*ret_group = group->key;
		*ret_why = group->problem;
		return true;
	}
	return false;
}

/* --- life --- */

int kube_groups_new(struct loop *loop, const struct kube_groups_options *o, struct kube_groups **ret_groups)
{
	struct kube_groups *g = calloc(1, sizeof(*g));
	const struct kube_watch_options w = {
		.client = o->client, .path = "/apis/networking.istio.io/v1/workloadgroups", .what = "workloadgroups.networking.istio.io", .data = g,
		.ops = { .begin = on_begin, .put = on_put, .gone = on_gone, .synced = on_synced },
	};
	int r;

	if (!g)
		return -ENOMEM;
	g->loop = loop;
	g->o = *o;
	map_init(&g->groups);
	r = kube_watch_new(loop, &w, &g->watch);
	if (r == 0)
		r = timer_arm(loop, &g->wait, WAIT_MS, on_wait);
	if (r < 0) {
		kube_groups_free(g);
		return r;
	}
	*ret_groups = g;
	return 0;
}

struct kube_groups *kube_groups_free(struct kube_groups *g)
{
	if (!g)
		return NULL;
	kube_watch_free(g->watch);
	timer_cancel(&g->wait);
	map_for_each(l, &g->groups)
		group_free(g, container_of(l, struct group, link));
	map_deinit(&g->groups);
	free(g);
	return NULL;
}
