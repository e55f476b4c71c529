/*
 * The writer's part for authorization policies: by name, and by the namespace
 * that they apply to.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "mesh/snap_state.h"

static size_t list_size(uint32_t n, const char *namespace)
{
	return sizeof(struct snap_policies) + n * sizeof(const struct policy *) + strlen(namespace) + 1;
}

void snap_policies_free(struct snap_store *st, struct snap_policies *list)
{
	if (list)
		slab_free(&st->slab, list, list_size(list->n, list->namespace));
}

/* The list @was without @old and with @new, either may be NULL; *ret_list is NULL when nothing is in it. */
static int list_change(struct snap_store *st, const struct snap_policies *was, const char *namespace,
		       const struct policy *old, const struct policy *new, struct snap_policies **ret_list)
{
	uint32_t n_was = was ? was->n : 0, n = new ? 1 : 0;
	struct snap_policies *list;

	for (uint32_t i = 0; i < n_was; i++)
		n += was->list[i] != old;
	if (!n) {
		*ret_list = NULL;
		return 0;
	}
	list = slab_alloc(&st->slab, list_size(n, namespace));
	if (!list)
		return -ENOMEM;
	list->n = 0;
	list->namespace = memcpy(&list->list[n], namespace, strlen(namespace) + 1);
	for (uint32_t i = 0; i < n_was; i++)
		if (was->list[i] != old)
			list->list[list->n++] = was->list[i];
	if (new)
		list->list[list->n++] = new;

	int r = snap_made(st, SNAP_O_POLICIES, list);
	if (r == 0)
		*ret_list = list;
	return r;
}

static int change_global(struct snap_store *st, const struct policy *old, const struct policy *new)
{
	struct snap_policies *was = st->now.global;
	int r = list_change(st, was, "", old, new, &st->now.global);

	return r < 0 ? r : snap_drop(st, SNAP_O_POLICIES, was);
}

static uint64_t key_of_list(uint32_t value)
{
	const struct snap_policies *list = slab_at(value);

	return snap_hash_text(list->namespace);
}

static int change_namespace(struct snap_store *st, const char *namespace, const struct policy *old, const struct policy *new)
{
	uint64_t hash = snap_hash_text(namespace);
	struct snap_policies *was = slab_at(trie_get(&st->now.policies_of, hash));
	struct snap_policies *list;
	int r;

	if (was && strcmp(was->namespace, namespace))
		was = NULL;
	r = list_change(st, was, namespace, old, new, &list);
	if (r == 0 && list)
		r = was ? trie_swap(&st->now.policies_of, &st->tx, hash, slab_ref(was), slab_ref(list)) : trie_add(&st->now.policies_of, &st->tx, key_of_list, hash, slab_ref(list));
	else if (r == 0 && was)
		r = trie_remove(&st->now.policies_of, &st->tx, hash, slab_ref(was));
	if (r == -EEXIST)
		return snap_drop(st, SNAP_O_POLICIES, list) < 0 ? -ENOMEM : r;
	return r < 0 ? r : snap_drop(st, SNAP_O_POLICIES, was);
}

/* Takes @old out of the list of its scope and puts @new into that of its own. */
static int change_lists(struct snap_store *st, const struct policy *old, const struct policy *new)
{
	int r = 0;

	if (old && old->scope == POLICY_GLOBAL)
		r = change_global(st, old, NULL);
	else if (old && old->scope == POLICY_NAMESPACE)
		r = change_namespace(st, old->namespace, old, NULL);
	if (r == 0 && new && new->scope == POLICY_GLOBAL)
		r = change_global(st, NULL, new);
	else if (r == 0 && new && new->scope == POLICY_NAMESPACE)
		r = change_namespace(st, new->namespace, NULL, new);
	return r;
}

static bool is_policy(const struct policy *p, const char *key)
{
	size_t len = strlen(p->namespace);

	return !strncmp(p->namespace, key, len) && key[len] == '/' && !strcmp(p->name, key + len + 1);
}

static uint64_t key_of_policy(uint32_t value)
{
	const struct policy *p = slab_at(value);
	char key[2 * MODEL_NAME_MAX + 2];
	int n = snprintf(key, sizeof(key), "%s/%s", p->namespace, p->name);

	return map_hash(key, MIN((size_t)n, sizeof(key) - 1));
}

int snap_store_put_policy(struct snap_store *st, struct policy *p)
{
	CLEANUP_FREE char *key = NULL;
	struct policy *old, *new;
	int r;

	if (asprintf(&key, "%s/%s", p->namespace, p->name) < 0) {
		key = NULL;
		return -ENOMEM;
	}

	uint64_t hash = snap_hash_text(key);
	old = slab_at(trie_get(&st->now.policies, hash));
	if (old && !is_policy(old, key))
		old = NULL;
	new = slab_alloc(&st->slab, sizeof(*new));
	if (!new)
		return -ENOMEM;
	*new = *p;
	new->owner = NULL;	/* the caller's until nothing can fail any more */
	r = snap_made(st, SNAP_O_POLICY, new);
	if (r == 0)
		r = old ? trie_swap(&st->now.policies, &st->tx, hash, slab_ref(old), slab_ref(new)) : trie_add(&st->now.policies, &st->tx, key_of_policy, hash, slab_ref(new));
	if (r == -EEXIST)
		return snap_drop(st, SNAP_O_POLICY, new) < 0 ? -ENOMEM : r;
	if (r == 0)
		r = change_lists(st, old, new);
	if (r == 0)
		r = snap_drop(st, SNAP_O_POLICY, old);
	if (r < 0)
		return r;
	new->owner = steal_ptr(&p->owner);
	*p = (struct policy){};
	st->now.policy_serial++;
	return 0;
}

int snap_store_remove_policy(struct snap_store *st, const char *key)
{
	uint64_t hash = snap_hash_text(key);
	struct policy *old = slab_at(trie_get(&st->now.policies, hash));
	int r;

	if (!old || !is_policy(old, key))
		return 0;
	r = trie_remove(&st->now.policies, &st->tx, hash, slab_ref(old));
	if (r == 0)
		r = change_lists(st, old, NULL);
	if (r == 0)
		r = snap_drop(st, SNAP_O_POLICY, old);
	if (r == 0)
		st->now.policy_serial++;
	return r;
}

int snap_store_set_policies_known(struct snap_store *st, bool known)
{
	if (st->now.policies_known == known)
		return 0;
	st->now.policies_known = known;
	st->now.policy_serial++;
	st->changed = true;
	return 0;
}
