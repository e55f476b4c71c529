#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/list.h"
#include "base/map.h"

/*
 * What the mesh controller serves, encoded and versioned: the registry puts,
 * the discovery streams read. It knows nothing of what is in the bytes.
 *
 * A resource may have aliases (names that are asked for in its place) and
 * parents (names whose subscribers want it too: the endpoints of a service).
 * Putting the same content again is no change. The version is a hash of the
 * content, so it survives a restart and a client's old copies are recognised.
 *
 * A change stays in the list of changes until resources_settle(); a removed
 * resource exists that long.
 */
enum resource_type {
	RESOURCE_ADDRESS,	/* istio.workload.Address */
	RESOURCE_AUTHORIZATION,	/* istio.security.Authorization */
	RESOURCE_ENDPOINTS,	/* envoy.config.endpoint.v3.ClusterLoadAssignment */
	RESOURCE_REVOCATIONS,	/* outrigger.v1.Revocations */
	_RESOURCE_TYPE_N
};

enum { RESOURCE_VERSION_LEN = 17 };

struct resource {
	struct map_link link;
	struct list changed;	/* in the list of changes, or by itself */
	enum resource_type type;
	char *name;
	char version[RESOURCE_VERSION_LEN];
	uint8_t *bytes;
	size_t len;
	bool removed;
	struct resource_ref *refs;	/* aliases and parents */
	size_t n_aliases;	/* the first so many of @refs */
	size_t n_refs;
};

struct resources {
	struct map by_name[_RESOURCE_TYPE_N];
	struct map groups[_RESOURCE_TYPE_N];	/* by alias or parent */
	struct list changes;
	bool incomplete;	/* more may exist than is here: what is not here is not gone */
	bool completed;		/* it was, until resources_settle() */
	void (*changed)(void *data);
	void *data;
};

struct resource_content {		/* borrowed */
	const void *bytes;
	size_t len;
	const char *const *aliases;
	size_t n_aliases;
	const char *const *parents;
	size_t n_parents;
};

void resources_init(struct resources *r);
void resources_deinit(struct resources *r);
/* @changed is called when the list of changes stops being empty. */
void resources_listen(struct resources *r, void (*changed)(void *data), void *data);

/*
 * After a start, until a source has been read for the first time: clients that
 * hold something that is not here are not told that it is gone.
 */
void resources_set_complete(struct resources *r, bool complete);

/* -ENOMEM: nothing has changed. */
MUST_CHECK int resources_put(struct resources *r, enum resource_type type, const char *name, const struct resource_content *content);
void resources_remove(struct resources *r, enum resource_type type, const char *name);
/* All changes have been taken: frees what was removed. */
void resources_settle(struct resources *r);

/* NULL when there is none; removed ones are none. */
struct resource *resources_find(const struct resources *r, enum resource_type type, const char *name);
/* By the name of another map's entry. */
struct resource *resources_find_same(const struct resources *r, enum resource_type type, const struct map_link *key);
const char *resource_alias(const struct resource *res, size_t i);	/* i < n_aliases */
const char *resource_parent(const struct resource *res, size_t i);	/* i < n_refs - n_aliases */
/* The map entry with the name of alias or parent @i < n_refs: for map_find_same(). */
const struct map_link *resource_ref_link(const struct resource *res, size_t i);

/* Those that have @name as alias, or as parent; removed ones excluded. fn() returns 0 or what ends the walk. */
int resources_each_alias(const struct resources *r, enum resource_type type, const char *name,
			 int (*fn)(struct resource *res, void *data), void *data);
int resources_each_child(const struct resources *r, enum resource_type type, const char *name,
			 int (*fn)(struct resource *res, void *data), void *data);
