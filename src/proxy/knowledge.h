#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/bytes.h"
#include "base/defs.h"
#include "base/diag.h"
#include "base/ip.h"
#include "base/loop.h"
#include "base/map.h"
#include "mesh/snapshot.h"

/*
 * What the process knows of the mesh: the union of what the mesh controller
 * told each of its VMs, one copy of each resource, kept as long as one of them
 * holds it. Feeds the snapshot store, and is what the state file keeps.
 *
 * What arrives together is published together (knowledge_begin()), so that what
 * its changes have in common is copied once. Running out of memory costs no more
 * than one resource all the same: what was put together is then put again, one
 * at a time, and that one is tried again later.
 */
struct knowledge;

enum knowledge_kind { KNOWLEDGE_ADDRESS, KNOWLEDGE_POLICY, _KNOWLEDGE_KIND_N };

const char *knowledge_type_url(enum knowledge_kind kind);

enum { KNOWLEDGE_RESTORED = INT32_MAX - 1 };	/* holder of what came from the state file; the others are below it */

/* @changed is called at the end of a turn in which something was published. */
MUST_CHECK int knowledge_new(struct loop *loop, void (*changed)(void *data), void *data, struct knowledge **ret_knowledge);
/* Ours; "" before. -EBUSY: there is knowledge already, of another network. -ENOMEM. */
MUST_CHECK int knowledge_set_network(struct knowledge *k, const char *network);
struct knowledge *knowledge_free(struct knowledge *k);	/* all snapshots must have been given back */

/* The newest that is published; borrowed. */
struct snapshot *knowledge_snapshot(const struct knowledge *k);

/*
 * Until knowledge_end() what is put need not be published; names and values that
 * are put must stay till then. -ENOMEM of knowledge_end(): some of it is lost.
 */
void knowledge_begin(struct knowledge *k);
MUST_CHECK int knowledge_end(struct knowledge *k);

/* @holder: a number of a VM. -EINVAL with a reason: not to be taken. -ENOMEM. */
MUST_CHECK int knowledge_put(struct knowledge *k, uint32_t holder, enum knowledge_kind kind, const char *name,
			     const uint8_t *value, size_t len, struct diag *reterr_diag);
void knowledge_gone(struct knowledge *k, uint32_t holder, enum knowledge_kind kind, const char *name);
void knowledge_drop(struct knowledge *k, uint32_t holder);	/* all that it holds */

void knowledge_absent(struct knowledge *k, const struct ip *ip, bool absent);
void knowledge_policies_known(struct knowledge *k);

size_t knowledge_n(const struct knowledge *k);
uint64_t knowledge_generation(const struct knowledge *k);	/* rises with each change of what save() writes */

/* A file of all resources, for knowledge_load(). -ENOBUFS, -ENOMEM. */
MUST_CHECK int knowledge_save(const struct knowledge *k, struct bytes *out);
/* -EINVAL with a reason; what it could read before is kept. */
MUST_CHECK int knowledge_load(struct knowledge *k, const void *data, size_t len, struct diag *reterr_diag);
