#pragma once
#include "base/defs.h"
#include "base/ip.h"
#include "base/map.h"
#include "control/store.h"

/*
 * Virtual addresses of services, from one prefix. A service keeps its address:
 * it is kept in the store, and the first choice follows from the name alone, so
 * that the loss of the store changes few.
 */
struct vips {
	struct ip_prefix prefix;
	struct store *store;	/* not owned; may be NULL */
	struct map by_key;
	struct map by_ip;
};

/* Reads what the store has. Errors are those of the store. */
MUST_CHECK int vips_init(struct vips *v, const struct ip_prefix *prefix, struct store *store);
void vips_deinit(struct vips *v);

/*
 * The address of service @key ("namespace/hostname"). -ENOSPC: none is left,
 * -ENOMEM. That it could not be stored is no error: *@ret_stored is false.
 */
MUST_CHECK int vips_get(struct vips *v, const char *key, struct ip *ret_ip, bool *ret_stored);
