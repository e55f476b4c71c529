/*
 * Wanted x existing -> steps.
 */
#include "control/kube_plan.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_LEN = 160, DEPTH_MAX = 16 };

static const char *const action_names[] = {
	[KUBE_FITS] = "fits", [KUBE_CREATE] = "create", [KUBE_CHANGE] = "change", [KUBE_DELETE] = "delete", [KUBE_MISSING] = "missing",
	[KUBE_CLASH] = "clash",
};
_Static_assert(ELEMENTS(action_names) == _KUBE_ACTION_N, "every action has a name");

const char *kube_action_name(enum kube_action action)
{
	return action_names[action];
}

static const char *text_at(const json_t *object, const char *section, const char *name)
{
	const char *s = json_string_value(json_object_get(json_object_get(json_object_get(object, "metadata"), section), name));

	return s ? s : "";
}

static bool is_owned(const json_t *object, const char *owner)
{
	return !strcmp(text_at(object, "labels", KUBE_OWNER_LABEL), owner);
}

/* --- the difference --- */

static void say(const char *path, const json_t *is, const json_t *wanted, char why[static KUBE_WHY_LEN])
{
	CLEANUP_FREE char *a = is ? json_dumps(is, JSON_COMPACT | JSON_ENCODE_ANY) : NULL, *b = json_dumps(wanted, JSON_COMPACT | JSON_ENCODE_ANY);

	if (is)
		snprintf(why, KUBE_WHY_LEN, "%s is %.80s, not %.80s", path, a ? a : "another", b ? b : "what is wanted");
	else
		snprintf(why, KUBE_WHY_LEN, "%s is not there, wanted is %.120s", path, b ? b : "something");
}

/* Is everything that @wanted has in @is, too? What @is has besides is somebody else's business. */
static bool covers(const json_t *is, const json_t *wanted, const char *path, unsigned depth, char why[static KUBE_WHY_LEN])
{
	const char *key;
	json_t *value;
	char at[PATH_LEN];

	if (!json_is_object(wanted) || !json_is_object(is) || depth == DEPTH_MAX) {
		if (is && json_equal(is, wanted))
			return true;
		say(path, is, wanted, why);
		return false;
	}
	json_object_foreach((json_t *)(uintptr_t)wanted, key, value) {
		snprintf(at, sizeof(at), "%s%s%s", path, *path ? "." : "", key);
		if (!covers(json_object_get(is, key), value, at, depth + 1, why))
			return false;
	}
	return true;
}

static enum kube_action decide(const struct kube_want *w, const json_t *is, const char *owner, bool manage, char why[static KUBE_WHY_LEN])
{
	if (!is)
		return manage ? KUBE_CREATE : KUBE_MISSING;
	if (manage && is_owned(is, owner))
		return covers(is, w->object, "", 0, why) ? KUBE_FITS : KUBE_CHANGE;	/* the annotation tells what is too much */
	return covers(is, w->demand, "", 0, why) ? KUBE_FITS : KUBE_CLASH;
}

/* --- the plan --- */

static const struct kube_want *find(const struct kube_wants *wants, const char *key)
{
	for (size_t i = 0; i < wants->n; i++)
		if (!strcmp(wants->v[i].key, key))
			return &wants->v[i];
	return NULL;
}

static void add_wanted(struct kube_plan *plan, const struct kube_want *w, const json_t *is, const char *owner, bool manage)
{
	struct kube_step *s = &plan->v[plan->n++];

	*s = (struct kube_step){ .kind = w->kind, .want = w, .existing = is };
	snprintf(s->key, sizeof(s->key), "%s", w->key);
	s->action = decide(w, is, owner, manage, s->why);
}

/* Groups before the accounts that they name. */
static void add_unwanted(struct kube_plan *plan, enum kube_wanted_kind kind, const struct kube_wants *wants, const json_t *existing, const char *owner)
{
	const char *prefix = kube_kinds[kind].kind, *key;
	size_t n_prefix = strlen(prefix);
	json_t *is;

	json_object_foreach((json_t *)(uintptr_t)existing, key, is) {
		if (strncmp(key, prefix, n_prefix) != 0 || key[n_prefix] != ' ' || !is_owned(is, owner) || find(wants, key))
			continue;
		struct kube_step *s = &plan->v[plan->n++];

		*s = (struct kube_step){ .action = KUBE_DELETE, .kind = kind, .existing = is };
		snprintf(s->key, sizeof(s->key), "%s", key);
	}
}

int kube_plan_init(struct kube_plan *plan, const struct kube_wants *wants, const json_t *existing, const char *owner, bool manage)
{
	*plan = (struct kube_plan){ .v = calloc(wants->n + json_object_size(existing) + 1, sizeof(*plan->v)) };
	if (!plan->v)
		return -ENOMEM;
	for (size_t i = 0; i < wants->n; i++)
		add_wanted(plan, &wants->v[i], json_object_get(existing, wants->v[i].key), owner, manage);
	if (manage) {
		add_unwanted(plan, KUBE_GROUP, wants, existing, owner);
		add_unwanted(plan, KUBE_ACCOUNT, wants, existing, owner);
	}
	return 0;
}

void kube_plan_deinit(struct kube_plan *plan)
{
	free(plan->v);
	*plan = (struct kube_plan){};
}
