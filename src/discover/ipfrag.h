#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/list.h"
#include "proto/packet.h"

/*
 * Puts IP fragments together (RFC 791, section 3.2; RFC 8200, section 4.5), as
 * far as large answers over UDP need it. A datagram whose fragments overlap
 * with other bytes is dropped whole (RFC 5722), as is one that is not complete
 * after IPFRAG_PATIENCE_MS, or that others push out: the oldest goes first.
 */
enum {
	IPFRAG_MAX_DATAGRAMS = 64,
	IPFRAG_MAX_BYTES = 512 * 1024,	/* of all together */
	IPFRAG_PATIENCE_MS = 30000,
};

struct ipfrag {
	struct list datagrams;		/* oldest first */
	size_t n;
	size_t bytes;
	uint8_t *whole;			/* of the last one that was complete */
};

void ipfrag_init(struct ipfrag *f);
void ipfrag_deinit(struct ipfrag *f);
/*
 * Takes a packet of kind PACKET_FRAGMENT. true: it was the last one missing;
 * @ret_whole, which may be @p, is the UDP or TCP packet, its payload valid until the next call.
 */
bool ipfrag_add(struct ipfrag *f, const struct packet *p, uint64_t time_ns, struct packet *ret_whole);
