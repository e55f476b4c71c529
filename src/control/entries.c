/*
 * WorkloadEntries with our label.
 */
#include "control/entries.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/map.h"
#include "mesh/names.h"

enum { REVIEW_MS = 5000, NAME_LEN = 254, TEXT_LEN = 600 };

struct entry {
	struct map_link link;		/* by uid */
	struct entries *entries;
	char uid[64];
	char namespace[NAME_LEN];
	char name[NAME_LEN];
	char nic[NAME_LEN];
	struct ip address;
	uint64_t generation;
	struct kube_call *call;		/* it is being deleted */
};

struct entries {
	struct loop *loop;
	struct entries_options o;
	struct kube_watch *watch;
	struct map by_uid;
	uint64_t generation;
	struct timer again;		/* what is wanted changes with time, too */
	struct defer review;
	struct entries_info info;
	char failure[TEXT_LEN];
};

static void entry_free(struct entry *e)
{
	kube_cancel(e->call);
	map_remove(&e->entries->by_uid, &e->link);
	free(e);
}

/* --- deleting --- */

static void removed(struct entry *e)
{
	e->entries->info.n_removed++;
	e->entries->failure[0] = 0;
	log_info("a WorkloadEntry without its VM was removed", log_str("entry", e->name), log_str("namespace", e->namespace), log_str("nic", e->nic));
}

static void on_deleted(struct kube_call *call, void *data, const struct kube_answer *a)
{
	struct entry *e = data;
	struct entries *es = e->entries;

	(void)call;
	e->call = NULL;
	if (a->error == KUBE_OK) {
		removed(e);
	} else if (a->error != KUBE_NOT_FOUND && a->error != KUBE_CONFLICT) {
		es->info.n_failed++;
		snprintf(es->failure, sizeof(es->failure), "%s", a->text);
		LOG_LIMITED(LOG_L_WARN, "a WorkloadEntry without its VM could not be removed", log_str("reason", a->text));
	}
}

static void delete(struct entry *e)
{
	char path[2 * NAME_LEN + 128], what[2 * NAME_LEN + 32];
	const struct kube_request q = {
		.method = "DELETE", .path = path, .what = what, .done = on_deleted, .data = e,
		.body = json_pack("{s:s, s:s, s:{s:s}}", "apiVersion", "v1", "kind", "DeleteOptions", "preconditions", "uid", e->uid),
	};

	snprintf(path, sizeof(path), "/apis/networking.istio.io/v1/namespaces/%s/workloadentries/%s", e->namespace, e->name);
	snprintf(what, sizeof(what), "delete workloadentries %s/%s", e->namespace, e->name);
	/* Without memory: with the next review. */
	if (q.body && kube_start(e->entries->o.client, &q, &e->call) < 0)
		e->call = NULL;
	json_decref(q.body);
}

static int on_review(struct defer *d)
{
	struct entries *es = container_of(d, struct entries, review);

	map_for_each(l, &es->by_uid) {
		struct entry *e = container_of(l, struct entry, link);

		if (e->call)
			continue;
		if (!es->o.wanted(es->o.data, e->nic, &e->address)) {
			if (es->o.remove)
				delete(e);
		} else if (es->o.seen) {
			es->o.seen(es->o.data, e->nic, &e->address);
		}
	}
	return 0;
}

void entries_review(struct entries *es)
{
	if (es)
		loop_defer(es->loop, &es->review, on_review);
}

static int on_again(struct timer *t)
{
	struct entries *es = container_of(t, struct entries, again);

	entries_review(es);
	return timer_arm(es->loop, t, REVIEW_MS, on_again);
}

/* --- watching --- */

static bool copy(char *to, size_t size, const json_t *text)
{
	const char *s = json_string_value(text);

	return s && snprintf(to, size, "%s", s) < (int)size;
}

static struct entry *find(const struct entries *es, const json_t *object)
{
	const char *uid = json_string_value(json_object_get(json_object_get(object, "metadata"), "uid"));
	struct map_link *l = uid ? map_find_str(&es->by_uid, uid) : NULL;

	return l ? container_of(l, struct entry, link) : NULL;
}

static bool read_entry(const json_t *object, struct entry *e)
{
	const json_t *meta = json_object_get(object, "metadata");
	const char *address = json_string_value(json_object_get(json_object_get(object, "spec"), "address"));

	return copy(e->uid, sizeof(e->uid), json_object_get(meta, "uid")) && copy(e->namespace, sizeof(e->namespace), json_object_get(meta, "namespace")) &&
	       copy(e->name, sizeof(e->name), json_object_get(meta, "name")) &&
	       copy(e->nic, sizeof(e->nic), json_object_get(json_object_get(meta, "labels"), ISTIO_NIC_LABEL)) &&
	       /* Only what a proxy registered: an entry that somebody wrote is his. */
	       json_object_get(json_object_get(meta, "annotations"), "istio.io/autoRegistrationGroup") &&
	       address && ip_parse(address, &e->address) == 0;
}

static void on_put(void *data, const json_t *object)
{
	struct entries *es = data;
	struct entry *e = find(es, object);

	if (!e) {
		e = calloc(1, sizeof(*e));
		if (!e || !read_entry(object, e)) {
			free(e);
			return;
		}
		e->entries = es;
		if (map_add(&es->by_uid, &e->link, e->uid, strlen(e->uid)) < 0) {
			free(e);
			return;
		}
	}
	e->generation = es->generation;
	entries_review(es);
}

static void on_gone(void *data, const json_t *object)
{
	struct entries *es = data;
	struct entry *e = find(es, object);

	if (!e)
		return;
	if (e->call)			/* the watch was quicker than the answer */
		removed(e);
	else if (es->o.wanted(es->o.data, e->nic, &e->address))
		log_warn("the WorkloadEntry of a VM that is there was removed, not by us: was its WorkloadGroup?", log_str("entry", e->name),
			 log_str("namespace", e->namespace), log_str("nic", e->nic));
	entry_free(e);
}

static void on_begin(void *data)
{
	struct entries *es = data;

	es->generation++;
}

static void on_synced(void *data)
{
	struct entries *es = data;

	map_for_each(l, &es->by_uid) {
		struct entry *e = container_of(l, struct entry, link);

		if (e->generation != es->generation)
			entry_free(e);
	}
}

/* --- life --- */

bool entries_has(const struct entries *es, const char *nic, const struct ip *address)
{
	map_for_each(l, &es->by_uid) {
		const struct entry *e = container_of(l, struct entry, link);

		if (ip_equal(&e->address, address) && !strcmp(e->nic, nic))
			return true;
	}
	return false;
}

struct entries_info entries_info(const struct entries *es)
{
	struct entries_info info = es->info;

	info.n_entries = es->by_uid.n;
	info.failure = es->failure;
	info.watch = kube_watch_info(es->watch);
	return info;
}

int entries_new(struct loop *loop, const struct entries_options *o, struct entries **ret_entries)
{
	struct entries *es = calloc(1, sizeof(*es));
	const struct kube_watch_options w = {
		.client = o->client, .path = "/apis/networking.istio.io/v1/workloadentries", .what = "workloadentries.networking.istio.io",
		.selector = "labelSelector=outrigger.dev%2Fnic", .data = es,
		.ops = { .begin = on_begin, .put = on_put, .gone = on_gone, .synced = on_synced },
	};
	int r;

	if (!es)
		return -ENOMEM;
	es->loop = loop;
	es->o = *o;
	map_init(&es->by_uid);
	r = timer_arm(loop, &es->again, REVIEW_MS, on_again);
	if (r == 0)
		r = kube_watch_new(loop, &w, &es->watch);
	if (r < 0) {
		entries_free(es);
		return r;
	}
	*ret_entries = es;
	return 0;
}

struct entries *entries_free(struct entries *es)
{
	if (!es)
		return NULL;
	kube_watch_free(es->watch);
	timer_cancel(&es->again);
	defer_cancel(&es->review);
	map_for_each(l, &es->by_uid)
		entry_free(container_of(l, struct entry, link));
	map_deinit(&es->by_uid);
	free(es);
	return NULL;
}
