/*
 * Watches of a cluster's objects.
 */
#include "control/kube_source.h"

#include <errno.h>
#include <stdlib.h>

enum { SETTLE_MS = 100 };

static const struct source_kind {
	const char *path;
	const char *what;
} kinds[_KUBE_KIND_N] = {
	[KUBE_PODS] = { "/api/v1/pods", "pods" },
	[KUBE_SLICES] = { "/apis/discovery.k8s.io/v1/endpointslices", "endpointslices.discovery.k8s.io" },
	[KUBE_SERVICES] = { "/api/v1/services", "services" },
	[KUBE_NODES] = { "/api/v1/nodes", "nodes" },
};

struct kind_state {
	enum kube_kind kind;
	struct kube_source *source;
	struct kube_watch *watch;
};

struct kube_source {
	struct loop *loop;
	void (*changed)(void *data);
	void *data;
	const struct kube_reader *reader;
	void *reader_data;
	struct timer settle;
	struct kube_things things;
	struct kind_state kinds[_KUBE_KIND_N];
};

/* --- what is watched --- */

static int on_settle(struct timer *t)
{
	struct kube_source *s = container_of(t, struct kube_source, settle);

	s->changed(s->data);
	return 0;
}

static void changed(struct kube_source *s)
{
	if (!s->settle.loop)
		(void)!timer_arm(s->loop, &s->settle, SETTLE_MS, on_settle);	/* no memory: with the next change */
}

static void on_put(void *data, const json_t *object)
{
	struct kind_state *k = data;
	struct kube_source *s = k->source;

	if (kube_things_put(&s->things, k->kind, object))
		changed(s);
	if (s->reader)
		s->reader->put(s->reader_data, k->kind, object);
}

static void on_gone(void *data, const json_t *object)
{
	struct kind_state *k = data;
	struct kube_source *s = k->source;

	if (kube_things_gone(&s->things, k->kind, object))
		changed(s);
	if (s->reader)
		s->reader->gone(s->reader_data, k->kind, object);
}

static void on_begin(void *data)
{
	struct kind_state *k = data;
	struct kube_source *s = k->source;

	kube_things_begin(&s->things, k->kind);
	if (s->reader)
		s->reader->begin(s->reader_data, k->kind);
}

static void on_synced(void *data)
{
	struct kind_state *k = data;
	struct kube_source *s = k->source;

	(void)!kube_things_synced(&s->things, k->kind);
	changed(s);		/* also where nothing has: it is known now */
	if (s->reader)
		s->reader->synced(s->reader_data, k->kind);
}

/* --- interface --- */

const struct kube_things *kube_source_things(const struct kube_source *s)
{
	return &s->things;
}

bool kube_source_is_complete(const struct kube_source *s)
{
	for (size_t i = 0; i < ELEMENTS(kinds); i++)
		if (!kube_watch_info(s->kinds[i].watch).synced)
			return false;
	return true;
}

size_t kube_source_n_watches(const struct kube_source *s)
{
	(void)s;
	return ELEMENTS(kinds);
}

struct kube_watch_info kube_source_watch(const struct kube_source *s, size_t i)
{
	return kube_watch_info(s->kinds[i].watch);
}

int kube_source_new(struct loop *loop, const struct kube_source_options *o, struct kube_source **ret_source)
{
	struct kube_source *s = calloc(1, sizeof(*s));
	int r = 0;

	if (!s)
		return -ENOMEM;
	kube_things_init(&s->things);
	s->loop = loop;
	s->changed = o->changed;
	s->data = o->data;
	s->reader = o->reader;
	s->reader_data = o->reader_data;
	for (size_t i = 0; r == 0 && i < ELEMENTS(kinds); i++) {
		struct kind_state *k = &s->kinds[i];
		const struct kube_watch_options w = {
			.client = o->client, .path = kinds[i].path, .what = kinds[i].what, .data = k,
			.ops = { .begin = on_begin, .put = on_put, .gone = on_gone, .synced = on_synced },
		};

		k->kind = (enum kube_kind)i;
		k->source = s;
		r = kube_watch_new(loop, &w, &k->watch);
	}
	if (r < 0) {
		kube_source_free(s);
		return r;
	}
	*ret_source = s;
	return 0;
}

struct kube_source *kube_source_free(struct kube_source *s)
{
	if (!s)
		return NULL;
	for (size_t i = 0; i < ELEMENTS(kinds); i++)
		kube_watch_free(s->kinds[i].watch);
	kube_things_deinit(&s->things);
	timer_cancel(&s->settle);
	free(s);
	return NULL;
}
