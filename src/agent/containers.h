#pragma once
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/diag.h"
#include "base/ip.h"
#include "base/map.h"
#include "outrigger/provisioner.pb-c.h"

/*
 * The container-registered addresses that the controller knows: prefixes, the
 * longest that matches counts. A hash for all lengths, and a bitmap of the
 * lengths that occur, so a look-up takes as many probes as there are lengths.
 */
enum { CONTAINERS_MAX = 200000, CONTAINERS_N_LENS = 129 };

struct container {
	struct map_link by_prefix;
	struct ip_prefix prefix;	/* no bits behind its length */
	char *what;			/* "pod shop/cart-1" */
};

struct containers {
	uint64_t version;
	struct map by_prefix;
	bool has_len[CONTAINERS_N_LENS];
};

/* -EINVAL with @reterr_diag: refused whole. -ENOMEM. */
MUST_CHECK int containers_decode(const Outrigger__V1__ContainerSet *pb, struct containers **ret_containers, struct diag *reterr_diag);
struct containers *containers_free(struct containers *c);

/* NULL: none. */
const struct container *containers_find(const struct containers *c, const struct ip *ip);
