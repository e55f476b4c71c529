#pragma once
#include "base/loop.h"
#include "control/resources.h"
#include "control/store.h"
#include "mesh/revocation.h"

/*
 * Certificates of VMs whose NIC was revoked: kept on disk until the last of
 * them has expired, and told to all proxies as a discovery resource, so that
 * they are refused everywhere within the time of a push.
 */
struct revoker;

/* All borrowed for its life. @store NULL: nothing is kept. Errors of the store, -ENOMEM. */
MUST_CHECK int revoker_new(struct loop *loop, struct store *store, struct resources *resources, struct revoker **ret_revoker);
struct revoker *revoker_free(struct revoker *r);

/*
 * From now on, whatever the disk says: an error of the store means that it is
 * in force, but that a restart will not know of it. -ENOMEM: nothing happened.
 */
MUST_CHECK int revoker_add(struct revoker *r, const struct revocation_origin *origin, int64_t until);

bool revoker_has(const struct revoker *r, const struct revocation_origin *origin);
size_t revoker_n(const struct revoker *r);
