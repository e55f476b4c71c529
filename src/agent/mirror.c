/*
 * The last report on each thing, packed.
 */
#include "agent/mirror.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mesh/pb.h"

void mirror_init(struct mirror *m)
{
	map_init(&m->by_key);
	for (size_t i = 0; i < _MIRROR_CLASS_N; i++)
		list_init(&m->entries[i]);
}

static void entry_free(struct mirror *m, struct mirror_entry *e)
{
	map_remove(&m->by_key, &e->by_key);
	list_unlink(&e->link);
	free(e->key);
	free(e);
}

void mirror_deinit(struct mirror *m)
{
	map_for_each(l, &m->by_key)
		entry_free(m, container_of(l, struct mirror_entry, by_key));
	map_deinit(&m->by_key);
}

static struct mirror_entry *find(const struct mirror *m, enum mirror_class class, const char *key)
{
	char full[MIRROR_KEY_LEN];
	struct map_link *l;

	snprintf(full, sizeof(full), "%c%s", '0' + (int)class, key);
	l = map_find_str(&m->by_key, full);
	return l ? container_of(l, struct mirror_entry, by_key) : NULL;
}

static int entry_new(struct mirror *m, enum mirror_class class, const char *key, const uint8_t *data, size_t len)
{
	char full[MIRROR_KEY_LEN];
	struct mirror_entry *e = malloc(sizeof(*e) + len);
	int r;

	if (!e)
		return -ENOMEM;
	*e = (struct mirror_entry){ .len = len };
	memcpy(e->data, data, len);
	snprintf(full, sizeof(full), "%c%s", '0' + (int)class, key);
	e->key = strdup(full);
	r = e->key ? map_add(&m->by_key, &e->by_key, e->key, strlen(e->key)) : -ENOMEM;
	if (r < 0) {
		free(e->key);
		free(e);
		return r;
	}
	list_append(&m->entries[class], &e->link);
	return 0;
}

int mirror_put(struct mirror *m, enum mirror_class class, const char *key, const Outrigger__V1__Report *report, bool *ret_changed)
{
	struct mirror_entry *old = find(m, class, key);
	CLEANUP_FREE uint8_t *data = NULL;
	size_t len;
	int r = pb_pack(&report->base, &data, &len);

	if (r < 0)
		return r;
	if (old && old->len == len && !memcmp(old->data, data, len)) {
		*ret_changed = false;
		return 0;
	}
	if (old)
		entry_free(m, old);
	*ret_changed = true;
	return entry_new(m, class, key, data, len);
}

bool mirror_drop(struct mirror *m, enum mirror_class class, const char *key)
{
	struct mirror_entry *e = find(m, class, key);

	if (e)
		entry_free(m, e);
	return e;
}
