#pragma once
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/ip.h"
#include "base/loop.h"

/*
 * The capture ring: what BPF copied from the VMs' ports, as records.
 */
struct capture;

enum capture_kind {
	CAPTURE_UDP,		/* one datagram, perhaps cut at CAPTURE_MAX_UDP */
	CAPTURE_TCP,		/* a piece of one segment: SYN, data, FIN or RST */
	CAPTURE_LEARN,		/* a whole frame that says who has which address: ARP, ND, DHCP */
};

enum capture_direction {
	CAPTURE_FROM_VM,
	CAPTURE_TO_VM,
};

enum {
	CAPTURE_UNVERIFIED = 1,	/* the source is not an allowed address of the VM (from the VM), or the destination (to it) */
	CAPTURE_CUT = 2,	/* the payload goes on beyond what could be copied */
};

enum { CAPTURE_MAX_CHUNK = 2048 };

struct capture_record {
	uint64_t time_ns;	/* CLOCK_MONOTONIC */
	uint32_t ifindex;
	uint32_t vm;		/* slot */
	uint16_t vlan;
	enum capture_kind kind;
	enum capture_direction direction;
	uint32_t flags;		/* CAPTURE_* */
	uint32_t lost;		/* records of this VM that the ring had no room for, ever: when it grows, there is a hole before this */
	uint8_t src_mac[6];
	uint8_t dst_mac[6];
	struct ip_port src;	/* CAPTURE_LEARN: none */
	struct ip_port dst;

	/* TCP */
	uint32_t seq;		/* of the segment's first byte (of the SYN itself, when it is one) */
	uint32_t ack;
	uint8_t tcp_flags;	/* FIN 1, SYN 2, RST 4, PSH 8, ACK 16 */

	/* A long datagram or super-segment comes as several records, one after the other. */
	uint32_t total;		/* payload bytes of the packet; CAPTURE_LEARN: of the frame */
	uint32_t offset;	/* of this piece in them: its bytes start at seq + offset (+ 1 after a SYN) */
	const uint8_t *data;	/* valid during the call */
	size_t len;
};

/* A negative return ends the loop with it. */
typedef int capture_fn(const struct capture_record *r, void *data);

/* Takes @ring_fd over, also when it fails. Works without privileges. */
MUST_CHECK int capture_new(struct loop *l, int ring_fd, uint32_t ring_bytes, capture_fn *fn, void *data,
			   struct capture **ret_capture);
struct capture *capture_free(struct capture *c);

struct capture_stats {
	uint64_t records;
	uint64_t bytes;		/* payload */
	uint64_t bad;		/* records that made no sense */
};
/* What BPF could not deliver is in the monitor's counters (ring_full), by VM. */
void capture_get_stats(const struct capture *c, struct capture_stats *ret_stats);
