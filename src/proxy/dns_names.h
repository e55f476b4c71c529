#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/list.h"
#include "base/map.h"
#include "mesh/names.h"
#include "mesh/snapshot.h"
#include "proto/dns.h"

/*
 * Names that a VM has asked for, each a subscription "namespace/hostname" of
 * its discovery stream. No I/O: the owner subscribes and tells what was
 * answered.
 *
 * Which names these are is told by domains: below "svc.<cluster domain>" they
 * are Kubernetes' ("web.demo.svc.cluster.local", of namespace demo; "web.demo.svc"
 * is the same), below "mesh.internal" those of names.h; in any other domain
 * they are hosts of the VM's own namespace, or of the one that "namespace/domain"
 * says. The domain "." stands for names of one and two labels, "web" of the VM's
 * own namespace and "web.demo", as a search list makes them: in the first domain
 * of the two kinds above. No name outside of them is ever asked for, or answered.
 */
enum {
	DNS_NAMES_MAX = 1024,			/* of one VM */
	DNS_NAMES_AGAIN_MIN_MS = 1000,		/* what the mesh does not have is asked for again, when it is used */
	DNS_NAMES_AGAIN_MAX_MS = 30000,
	DNS_NAMES_KEY_LEN = 64 + NAMES_HOST_LEN,
};

struct dns_names_ops {
	int (*subscribe)(void *data, const char *key);
	void (*unsubscribe)(void *data, const char *key);
	void (*ask_again)(void *data, const char *key);		/* it is subscribed: answer anew */
	const struct snap_service *(*service)(void *data, const char *key);	/* NULL: none that is known now */
	const struct snap_service *(*service_at)(void *data, const struct ip *ip);	/* of those that are known: whose address, or endpoint's, it is */
};

struct dns_names {
	struct map wants;
	struct list told;
	const struct dns_names_ops *ops;
	void *data;
	uint64_t refused;		/* over DNS_NAMES_MAX */
};

void dns_names_init(struct dns_names *n, const struct dns_names_ops *ops, void *data);
void dns_names_deinit(struct dns_names *n);	/* no unsubscriptions */

/*
 * The mesh's key of a name; false: it is in none of the domains (none given: the
 * two that are named above). @namespace: the VM's.
 */
bool dns_names_key(const struct dns_name *name, const char *namespace, char *const *domains, size_t n_domains,
		   char ret_key[static DNS_NAMES_KEY_LEN]);

enum dns_found {
	DNS_FOUND,
	DNS_FOUND_NOTHING,	/* the mesh has no such service, or it cannot be asked */
	DNS_FOUND_LATER,	/* it has been asked */
};

/* Asks the mesh when it has not been yet. @ret_service is the newest snapshot's. */
enum dns_found dns_names_find(struct dns_names *n, const char *key, uint64_t now_ms, const struct snap_service **ret_service);
/*
 * The mesh has said what there is under @key. Answers are published whole, so
 * what it is may be looked up, and counts, when the answer has come to its end.
 */
void dns_names_told(struct dns_names *n, const char *key);
/* Then: one of ours that it has spoken of, each once; NULL: no more. */
const char *dns_names_next_told(struct dns_names *n);
/* Forgets what does not exist and was not asked for in @idle_ms. */
void dns_names_sweep(struct dns_names *n, uint64_t now_ms, uint64_t idle_ms);
