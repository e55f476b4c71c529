#pragma once
#include <stdint.h>
#include "base/ip.h"
#include "base/loop.h"
#include "control/kube_client.h"
#include "control/kube_watch.h"

/*
 * WorkloadEntries that istiod made of our VMs. istiod makes one when a VM's
 * proxy registers; it removes it 10 s after the proxy's stream has ended, and
 * never when it was itself away at that moment. A VM that is gone has to be gone
 * at once: entries with our label whose address is no VM's of ours are deleted
 * here, by uid, so that never a newer one is hit.
 */
struct entries;

struct entries_options {		/* copied; the client is borrowed for its life */
	struct kube_client *client;
	/* Is @address that of a VM behind @nic, or may it still be? */
	bool (*wanted)(void *data, const char *nic, const struct ip *address);
	/* There is an entry for it. May be NULL. */
	void (*seen)(void *data, const char *nic, const struct ip *address);
	void *data;
	bool remove;			/* false: only looked at */
};

struct entries_info {
	uint64_t n_entries;
	uint64_t n_removed;
	uint64_t n_failed;
	const char *failure;		/* the last one, or "" */
	struct kube_watch_info watch;
};

MUST_CHECK int entries_new(struct loop *loop, const struct entries_options *options, struct entries **ret_entries);
struct entries *entries_free(struct entries *entries);
/* VMs came or went: looks through all of them at the end of the loop's turn. */
void entries_review(struct entries *entries);
/* There is one for this VM. */
bool entries_has(const struct entries *entries, const char *nic, const struct ip *address);
struct entries_info entries_info(const struct entries *entries);
