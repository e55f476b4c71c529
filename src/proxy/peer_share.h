#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/list.h"
#include "base/map.h"

/*
 * Who holds the tunnels to a VM, on one worker: by the identity that each has
 * shown. When there are as many as there may be, one identity makes room for
 * another that has fewer, so that no peer, however permitted, keeps others out.
 * And who the connections over them, of which one that has many is refused more
 * before there are none left.
 */
struct worker_vm;
struct hbone;

struct peer_share {
	struct map_link link;		/* in worker_vm.shares */
	struct list tunnels;
	size_t n;
	uint32_t n_flows;		/* connections to the VM over these tunnels */
	char id[];
};

/* Notes whose @t is: tls_peer_id() is known. -ENOMEM. */
MUST_CHECK int peer_share_join(struct hbone *t);
void peer_share_leave(struct hbone *t);		/* harmless when it has not joined */

/*
 * The tunnel that has to go for @t: the one that has been without streams for
 * longest, whoever's it is; else, of the identity that has the most and has
 * more than @t's, the one with the fewest streams. NULL: @t's has its share.
 */
struct hbone *peer_share_makes_room(const struct hbone *t);

/*
 * May one more connection come by @t? The last eighth of those that the VM may
 * have is for itself, and for peers that have little of it.
 */
bool peer_share_may_connect(const struct hbone *t);
void peer_share_flow_comes(struct hbone *t);
void peer_share_flow_goes(struct hbone *t);
