#pragma once
#include "base/defs.h"
#include "base/ip.h"
#include "base/list.h"
#include "base/map.h"
#include "control/store.h"

/*
 * Virtual addresses of services, from one prefix. A service keeps its address:
 * it is kept in the store, and the first choice follows from the name alone, so
 * that the loss of the store changes few. That of a service that is gone is
 * kept for its return, until another one finds none left, or there are VIPS_KEPT.
 */
enum { VIPS_KEPT = 16384 };

struct vips {
	struct ip_prefix prefix;
	struct store *store;	/* not owned; may be NULL */
	struct map by_key;
	struct map by_ip;
	struct list unused;		/* the longest so first */
	size_t n_unused;
};

/* Reads what the store has. Errors are those of the store. */
MUST_CHECK int vips_init(struct vips *v, const struct ip_prefix *prefix, struct store *store);
void vips_deinit(struct vips *v);

/*
 * The address of service @key ("namespace/hostname"). -ENOSPC: none is left,
 * -ENOMEM. That it could not be stored is no error: *@ret_stored is false.
 */
MUST_CHECK int vips_get(struct vips *v, const char *key, struct ip *ret_ip, bool *ret_stored);
/* The service is gone; harmless where it has none. */
void vips_release(struct vips *v, const char *key);
/* How many there can be. */
uint32_t vips_size(const struct vips *v);
