/*
 * What policies name in a cluster, kept as they name it.
 *
 * Source: https://kubernetes.io/docs/reference/using-api/server-side-apply/
 */
#include "control/kube_manage.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/backoff.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/map.h"
#include "control/kube_want.h"

enum { NAME_LEN = 254, TEXT_LEN = 700, HINT_LEN = 500, IN_FLIGHT_MAX = 16, AGAIN_MIN_MS = 1000, AGAIN_MAX_MS = 60000, IN_USE_MS = 3000, SOON_MS = 100 };

/* A change of one object that is under way, or is to be tried again. */
struct change {
	struct map_link link;		/* by key */
	struct kube_manage *manage;
	char key[KUBE_KEY_LEN];
	enum kube_action action;
	enum kube_wanted_kind kind;
	char namespace[NAME_LEN], name[NAME_LEN];
	char uid[64], version[64];	/* of what is to be deleted */
	struct kube_call *call;
	bool planned;
	struct backoff backoff;
	uint64_t due_ms;			/* monotonic; not before */
	char found[TEXT_LEN];		/* why it is not done yet, or "" */
	char hint[HINT_LEN];
};

struct kube_manage {
	struct loop *loop;
	struct kube_client *client;
	bool only_look;
	bool manage;			/* of the configuration */
	char *owner;
	struct kube_wants wants;
	struct kube_watch *accounts;
	json_t *existing;		/* by key */
	json_t *listing[_KUBE_WANTED_N];	/* keys of a list that is under way, or NULL */
	bool synced[_KUBE_WANTED_N];
	struct map changes;
	unsigned n_in_flight;
	struct defer review;
	struct timer again;
};

static void review(struct kube_manage *m);

/* --- changes --- */

static void change_free(struct change *ch)
{
	if (ch->call)
		ch->manage->n_in_flight--;
	kube_cancel(ch->call);
	map_remove(&ch->manage->changes, &ch->link);
	free(ch);
}

static struct change *change_find(const struct kube_manage *m, const char *key)
{
	struct map_link *l = map_find_str(&m->changes, key);

	return l ? container_of(l, struct change, link) : NULL;
}

static struct change *change_get(struct kube_manage *m, const char *key)
{
	struct change *ch = change_find(m, key);

	if (ch)
		return ch;
	ch = calloc(1, sizeof(*ch));
	if (!ch)
		return NULL;
	ch->manage = m;
	ch->backoff = (struct backoff){ .min_ms = AGAIN_MIN_MS, .max_ms = AGAIN_MAX_MS };
	snprintf(ch->key, sizeof(ch->key), "%s", key);
	if (map_add(&m->changes, &ch->link, ch->key, strlen(ch->key)) < 0) {
		free(ch);
		return NULL;
	}
	return ch;
}

/* It has come to an end, good or bad: not again before a while, so that a fight about an object does not become a flood. */
static void rest(struct change *ch)
{
	ch->due_ms = clock_mono_ms() + backoff_next(&ch->backoff);
	review(ch->manage);
}

static void fail(struct change *ch, const char *hint, const char *found)
{
	if (strcmp(ch->found, found) != 0)
		log_warn("an object of the onboarding policies could not be brought up to date", log_str("object", ch->key),
			 log_str("action", kube_action_name(ch->action)), log_str("reason", found));
	snprintf(ch->found, sizeof(ch->found), "%s", found);
	snprintf(ch->hint, sizeof(ch->hint), "%s", hint);
	rest(ch);
}

static void refused(struct change *ch, const struct kube_answer *a)
{
	const struct kube_kind_info *kind = &kube_kinds[ch->kind];
	char hint[HINT_LEN];

	if (a->error == KUBE_FORBIDDEN)
		snprintf(hint, sizeof(hint), "missing in a Role of namespace %s: { apiGroups: [\"%s\"], resources: [%s], verbs: [create, patch, delete] }; "
			 "outrigger-controller --kubernetes prints it", ch->namespace, kind->group, kind->plural);
	else if (a->error == KUBE_NOT_FOUND)
		snprintf(hint, sizeof(hint), "namespaces are not made here: kubectl create namespace %s%s", ch->namespace,
			 ch->kind == KUBE_GROUP ? "; and are Istio's CustomResourceDefinitions installed?" : "");
	else if (a->error == KUBE_CONFLICT)
		snprintf(hint, sizeof(hint), "somebody else made or changed it at the same time; it is looked at again");
	else
		snprintf(hint, sizeof(hint), "it is tried again by itself");
	fail(ch, hint, a->text);
}

/* --- requests --- */

static int request(struct change *ch, const char *method, const char *verb, const char *path, json_t *body, const char *type,
		   void (*done)(struct kube_call *call, void *data, const struct kube_answer *answer))
{
	char what[2 * NAME_LEN + 96];
	const struct kube_request q = { .method = method, .path = path, .what = what, .body = body, .content_type = type, .done = done, .data = ch };
	int r;

	snprintf(what, sizeof(what), "%s %s of %s/%s", verb, kube_kinds[ch->kind].plural, ch->namespace, ch->name);
	r = kube_start(ch->manage->client, &q, &ch->call);
	if (r == 0)
		ch->manage->n_in_flight++;
	else
		fail(ch, "it is tried again by itself", "out of memory");
	return r;
}

static void answered(struct change *ch)
{
	ch->call = NULL;
	ch->manage->n_in_flight--;
}

static void remember(struct kube_manage *m, enum kube_wanted_kind kind, const json_t *object);

static void done(struct change *ch)
{
	log_info("an object of the onboarding policies was brought up to date", log_str("object", ch->key), log_str("action", kube_action_name(ch->action)));
	ch->found[0] = 0;
	rest(ch);
}

static void on_applied(struct kube_call *call, void *data, const struct kube_answer *a)
{
	struct change *ch = data;

	(void)call;
	answered(ch);
	if (a->error != KUBE_OK) {
		refused(ch, a);
		return;
	}
	remember(ch->manage, ch->kind, a->json);
	done(ch);
}

/* What has our label is ours in all fields that we set. What is new must not be: without force, so that a race with somebody else ends in a conflict. */
static void send_apply(struct change *ch, const json_t *object)
{
	const struct kube_kind_info *kind = &kube_kinds[ch->kind];
	char path[2 * NAME_LEN + 160];

	snprintf(path, sizeof(path), "%s/namespaces/%s/%s/%s?fieldManager=outrigger-controller%s", kind->base, ch->namespace, kind->plural, ch->name,
		 ch->action == KUBE_CHANGE ? "&force=true" : "");
	(void)!request(ch, "PATCH", ch->action == KUBE_CHANGE ? "patch" : "create", path, (json_t *)(uintptr_t)object, "application/apply-patch+yaml",
		       on_applied);
}

/* --- removing --- */

static void on_deleted(struct kube_call *call, void *data, const struct kube_answer *a)
{
	struct change *ch = data;

	(void)call;
	answered(ch);
	if (a->error != KUBE_OK && a->error != KUBE_NOT_FOUND) {
		refused(ch, a);
		return;
	}
	json_object_del(ch->manage->existing, ch->key);
	done(ch);
}

/* Exactly what was looked at: another of its name, or one that lost our label since, is left alone. */
static void send_delete(struct change *ch)
{
	const struct kube_kind_info *kind = &kube_kinds[ch->kind];
	char path[2 * NAME_LEN + 128];
	json_t *body = json_pack("{s:s, s:s, s:{s:s, s:s}}", "apiVersion", "v1", "kind", "DeleteOptions", "preconditions", "uid", ch->uid,
				 "resourceVersion", ch->version);

	snprintf(path, sizeof(path), "%s/namespaces/%s/%s/%s", kind->base, ch->namespace, kind->plural, ch->name);
	if (body)
		(void)!request(ch, "DELETE", "delete", path, body, NULL, on_deleted);
	else
		fail(ch, "it is tried again by itself", "out of memory");
	json_decref(body);
}

static void wait_for_users(struct change *ch, const char *what, const char *first, size_t n)
{
	char found[TEXT_LEN];

	snprintf(found, sizeof(found), "it waits: %s %s%s", what, first, n > 1 ? " and others use it" : " uses it");
	fail(ch, "no policy names it any more; it is removed when nobody uses it. To keep it, take its label " KUBE_OWNER_LABEL " away", found);
	ch->due_ms = clock_mono_ms() + IN_USE_MS;
}

static void on_pods(struct kube_call *call, void *data, const struct kube_answer *a)
{
	struct change *ch = data;
	const json_t *items = json_object_get(a->json, "items");

	(void)call;
	answered(ch);
	if (a->error != KUBE_OK)
		refused(ch, a);
	else if (json_array_size(items))
		wait_for_users(ch, "pod", json_string_value(json_object_get(json_object_get(json_array_get(items, 0), "metadata"), "name")), json_array_size(items));
	else
		send_delete(ch);
}

static void ask_for_pods(struct change *ch)
{
	char path[2 * NAME_LEN + 96];

	snprintf(path, sizeof(path), "/api/v1/namespaces/%s/pods?limit=2&fieldSelector=spec.serviceAccountName%%3D%s", ch->namespace, ch->name);
	(void)!request(ch, "GET", "list the pods", path, NULL, NULL, on_pods);
}

static bool entry_uses(const struct change *ch, const json_t *entry)
{
	const json_t *user = ch->kind == KUBE_GROUP
		? json_object_get(json_object_get(json_object_get(entry, "metadata"), "annotations"), "istio.io/autoRegistrationGroup")
		: json_object_get(json_object_get(entry, "spec"), "serviceAccount");
	const char *text = json_string_value(user);

	return text && !strcmp(text, ch->name);
}

static void on_entries(struct kube_call *call, void *data, const struct kube_answer *a)
{
	struct change *ch = data;
	const json_t *items = json_object_get(a->json, "items"), *entry, *first = NULL;
	size_t i, n = 0;

	(void)call;
	answered(ch);
	if (a->error != KUBE_OK) {
		refused(ch, a);
		return;
	}
	json_array_foreach((json_t *)(uintptr_t)items, i, entry)
		if (entry_uses(ch, entry)) {
			first = first ? first : entry;
			n++;
		}
	if (n)
		wait_for_users(ch, "WorkloadEntry", json_string_value(json_object_get(json_object_get(first, "metadata"), "name")), n);
	else if (ch->kind == KUBE_ACCOUNT)
		ask_for_pods(ch);
	else
		send_delete(ch);
}

/* A group of anybody's that names the account. */
static const char *group_of_account(const struct change *ch)
{
	const char *key;
	json_t *object;

	json_object_foreach(ch->manage->existing, key, object) {
		const char *account = json_string_value(json_object_get(json_object_get(json_object_get(object, "spec"), "template"), "serviceAccount"));
		const char *namespace = json_string_value(json_object_get(json_object_get(object, "metadata"), "namespace"));

		if (account && namespace && !strcmp(account, ch->name) && !strcmp(namespace, ch->namespace))
			return key;
	}
	return NULL;
}

static void begin_delete(struct change *ch)
{
	const char *group = ch->kind == KUBE_ACCOUNT ? group_of_account(ch) : NULL;
	char path[NAME_LEN + 96];

	if (group) {
		wait_for_users(ch, "the", group, 1);
		return;
	}
	snprintf(path, sizeof(path), "/apis/networking.istio.io/v1/namespaces/%s/workloadentries", ch->namespace);
	(void)!request(ch, "GET", "list the WorkloadEntries", path, NULL, NULL, on_entries);
}

/* --- what is to be done --- */

static bool is_work(enum kube_action action)
{
	return action == KUBE_CREATE || action == KUBE_CHANGE || action == KUBE_DELETE;
}

static void copy(char *to, size_t size, const json_t *text)
{
	snprintf(to, size, "%s", json_string_value(text) ? json_string_value(text) : "");
}

static void start(struct change *ch, const struct kube_step *s)
{
	const json_t *meta = json_object_get(s->want ? s->want->object : s->existing, "metadata");

	ch->action = s->action;
	ch->kind = s->kind;
	copy(ch->namespace, sizeof(ch->namespace), json_object_get(meta, "namespace"));
	copy(ch->name, sizeof(ch->name), json_object_get(meta, "name"));
	if (s->action == KUBE_DELETE) {
		copy(ch->uid, sizeof(ch->uid), json_object_get(meta, "uid"));
		copy(ch->version, sizeof(ch->version), json_object_get(meta, "resourceVersion"));
		begin_delete(ch);
	} else {
		send_apply(ch, s->want->object);
	}
}

/* What has rested and is not planned any more. */
static void forget_done(struct kube_manage *m, const struct kube_plan *plan)
{
	map_for_each(l, &m->changes)
		container_of(l, struct change, link)->planned = false;
	for (size_t i = 0; i < plan->n; i++) {
		struct change *ch = is_work(plan->v[i].action) ? change_find(m, plan->v[i].key) : NULL;

		if (ch)
			ch->planned = true;
	}
	map_for_each(l, &m->changes) {
		struct change *ch = container_of(l, struct change, link);

		if (!ch->planned && !ch->call && clock_mono_ms() >= ch->due_ms)
			change_free(ch);
	}
}

static int on_again(struct timer *t)
{
	review(container_of(t, struct kube_manage, again));
	return 0;
}

static void arm(struct kube_manage *m)
{
	uint64_t now = clock_mono_ms(), next = UINT64_MAX;

	map_for_each(l, &m->changes) {
		const struct change *ch = container_of(l, struct change, link);

		if (!ch->call)
			next = MIN(next, ch->due_ms);
	}
	if (next < UINT64_MAX)
		(void)!timer_arm(m->loop, &m->again, next > now + SOON_MS ? next - now : SOON_MS, on_again);
}

static void do_plan(struct kube_manage *m, const struct kube_plan *plan)
{
	for (size_t i = 0; i < plan->n && m->n_in_flight < IN_FLIGHT_MAX; i++) {
		struct change *ch = is_work(plan->v[i].action) ? change_get(m, plan->v[i].key) : NULL;

		if (ch && !ch->call && clock_mono_ms() >= ch->due_ms)
			start(ch, &plan->v[i]);
	}
}

static int on_review(struct defer *d)
{
	struct kube_manage *m = container_of(d, struct kube_manage, review);
	struct kube_plan plan;

	if (m->only_look || !kube_manage_is_synced(m))
		return 0;
	if (kube_plan_init(&plan, &m->wants, m->existing, m->owner, m->manage) == 0) {
		forget_done(m, &plan);
		do_plan(m, &plan);
		kube_plan_deinit(&plan);
	}
	arm(m);
	return 0;
}

/* In a turn of its own: answers and events come from inside of calls. */
static void review(struct kube_manage *m)
{
	loop_defer(m->loop, &m->review, on_review);
}

/* --- what is there --- */

static bool key_of(enum kube_wanted_kind kind, const json_t *object, char key[static KUBE_KEY_LEN])
{
	const json_t *meta = json_object_get(object, "metadata");
	const char *namespace = json_string_value(json_object_get(meta, "namespace")), *name = json_string_value(json_object_get(meta, "name"));

	if (namespace && name)
		kube_key(kind, namespace, name, key);
	return namespace && name;
}

/* Only what the plan looks at: a cluster has many accounts. */
static void remember(struct kube_manage *m, enum kube_wanted_kind kind, const json_t *object)
{
	const json_t *meta = json_object_get(object, "metadata");
	char key[KUBE_KEY_LEN];
	json_t *kept;

	if (!key_of(kind, object, key))
		return;
	kept = json_pack("{s:s, s:s, s:{s:O, s:O, s:O*, s:O*, s:O*, s:O*}, s:O*}", "apiVersion", kube_kinds[kind].version, "kind", kube_kinds[kind].kind,
			 "metadata", "namespace", json_object_get(meta, "namespace"), "name", json_object_get(meta, "name"),
			 "uid", json_object_get(meta, "uid"), "resourceVersion", json_object_get(meta, "resourceVersion"),
			 "labels", json_object_get(meta, "labels"), "annotations", json_object_get(meta, "annotations"), "spec", json_object_get(object, "spec"));
	/* Without memory it is missing until its next change: then it is made again, which changes nothing. */
	if (kept)
		json_object_set_new(m->existing, key, kept);
	if (m->listing[kind])
		json_object_set_new(m->listing[kind], key, json_true());
}

static void begin(struct kube_manage *m, enum kube_wanted_kind kind)
{
	json_decref(m->listing[kind]);
	m->listing[kind] = json_object();
}

static void gone(struct kube_manage *m, enum kube_wanted_kind kind, const json_t *object)
{
	char key[KUBE_KEY_LEN];

	if (key_of(kind, object, key))
		json_object_del(m->existing, key);
	review(m);
}

static void synced(struct kube_manage *m, enum kube_wanted_kind kind)
{
	const char *prefix = kube_kinds[kind].kind, *key;
	void *next;
	json_t *object;

	if (!m->listing[kind])
		return;			/* no memory: with the next list */
	json_object_foreach_safe(m->existing, next, key, object)
		if (!strncmp(key, prefix, strlen(prefix)) && !json_object_get(m->listing[kind], key))
			json_object_del(m->existing, key);
	json_decref(m->listing[kind]);
	m->listing[kind] = NULL;
	m->synced[kind] = true;
	review(m);
}

static void put(struct kube_manage *m, enum kube_wanted_kind kind, const json_t *object)
{
	remember(m, kind, object);
	review(m);
}

static void on_accounts_begin(void *data) { begin(data, KUBE_ACCOUNT); }
static void on_account(void *data, const json_t *object) { put(data, KUBE_ACCOUNT, object); }
static void on_account_gone(void *data, const json_t *object) { gone(data, KUBE_ACCOUNT, object); }
static void on_accounts_synced(void *data) { synced(data, KUBE_ACCOUNT); }
static void on_groups_begin(void *data) { begin(data, KUBE_GROUP); }
static void on_group(void *data, const json_t *object) { put(data, KUBE_GROUP, object); }
static void on_group_gone(void *data, const json_t *object) { gone(data, KUBE_GROUP, object); }
static void on_groups_synced(void *data) { synced(data, KUBE_GROUP); }

const struct kube_watch_ops kube_manage_group_ops = { on_groups_begin, on_group, on_group_gone, on_groups_synced };

bool kube_manage_is_synced(const struct kube_manage *m)
{
	return m->synced[KUBE_ACCOUNT] && m->synced[KUBE_GROUP];
}

struct kube_watch_info kube_manage_accounts(const struct kube_manage *m)
{
	return kube_watch_info(m->accounts);
}

/* --- for people --- */

static void add(json_t *list, const char *key, const char *should, const char *found, const char *hint)
{
	json_array_append_new(list, json_pack("{s:o, s:s, s:s}", "what", json_sprintf("%s %s", key, should), "found", found, "hint", hint));
}

static void add_step(const struct kube_manage *m, const struct kube_step *s, json_t *list)
{
	const struct change *ch = change_find(m, s->key);

	if (s->action == KUBE_MISSING)
		add(list, s->key, "is there", "it is missing", "outrigger-controller --kubernetes prints it; kubernetes.manage: true makes it");
	else if (s->action == KUBE_CLASH)
		add(list, s->key, "is as onboarding wants it", s->why,
		    m->manage ? "it is somebody else's and stays as it is: change it there, name another in the policy, or give it away by the label " KUBE_OWNER_LABEL
			      : "change it or the policy; outrigger-controller --kubernetes prints what is wanted");
	else if (is_work(s->action) && ch && ch->found[0])
		add(list, s->key, s->action == KUBE_DELETE ? "is removed" : "is as onboarding wants it", ch->found, ch->hint);
}

json_t *kube_manage_problems(const struct kube_manage *m)
{
	json_t *list = json_array();
	struct kube_plan plan;

	for (size_t i = 0; list && i < m->wants.n; i++)
		if (m->wants.v[i].conflict[0])
			add(list, m->wants.v[i].key, "is the same for all policies", m->wants.v[i].conflict, "give the policies the same service_account, or groups of their own");
	if (!list || kube_plan_init(&plan, &m->wants, m->existing, m->owner, m->manage) < 0)
		return list;
	for (size_t i = 0; i < plan.n; i++)
		if (m->synced[plan.v[i].kind])
			add_step(m, &plan.v[i], list);
	kube_plan_deinit(&plan);
	return list;
}

int kube_manage_print(const struct kube_manage *m, FILE *out)
{
	struct kube_plan plan;
	int r = kube_plan_init(&plan, &m->wants, m->existing, m->owner, m->manage);

	if (r < 0)
		return r;
	for (size_t i = 0; i < plan.n; i++)
		fprintf(out, "%-8s %s%s%s\n", kube_action_name(plan.v[i].action), plan.v[i].key, plan.v[i].why[0] ? ": " : "", plan.v[i].why);
	kube_plan_deinit(&plan);
	return fflush(out) ? -EIO : 0;
}

/* --- life --- */

int kube_manage_apply(struct kube_manage *m, const struct config *c)
{
	struct kube_wants wants;
	char *owner;
	int r = 0;

	if (!m)
		return 0;
	owner = strdup(c->kubernetes.manage_as);
	r = kube_wants_init(&wants, c, c->kubernetes.manage);
	if (r < 0 || !owner) {
		kube_wants_deinit(&wants);
		free(owner);
		return -ENOMEM;
	}
	kube_wants_deinit(&m->wants);
	free(m->owner);
	m->wants = wants;
	m->owner = owner;
	m->manage = c->kubernetes.manage;
	map_for_each(l, &m->changes)		/* what was tried was for another policy */
		change_free(container_of(l, struct change, link));
	review(m);
	return 0;
}

int kube_manage_new(struct loop *loop, const struct kube_manage_options *o, struct kube_manage **ret_manage)
{
	struct kube_manage *m = calloc(1, sizeof(*m));
	const struct kube_watch_options w = {
		.client = o->client, .path = "/api/v1/serviceaccounts", .what = "serviceaccounts", .data = m,
		.ops = { on_accounts_begin, on_account, on_account_gone, on_accounts_synced },
	};
	int r = -ENOMEM;

	if (!m)
		return r;
	m->loop = loop;
	m->client = o->client;
	m->only_look = o->only_look;
	map_init(&m->changes);
	m->existing = json_object();
	if (m->existing)
		r = kube_manage_apply(m, o->config);
	if (r == 0)
		r = kube_watch_new(loop, &w, &m->accounts);
	if (r < 0) {
		kube_manage_free(m);
		return r;
	}
	*ret_manage = m;
	return 0;
}

struct kube_manage *kube_manage_free(struct kube_manage *m)
{
	if (!m)
		return NULL;
	kube_watch_free(m->accounts);
	timer_cancel(&m->again);
	defer_cancel(&m->review);
	map_for_each(l, &m->changes)
		change_free(container_of(l, struct change, link));
	map_deinit(&m->changes);
	for (int k = 0; k < _KUBE_WANTED_N; k++)
		json_decref(m->listing[k]);
	json_decref(m->existing);
	kube_wants_deinit(&m->wants);
	free(m->owner);
	free(m);
	return NULL;
}
