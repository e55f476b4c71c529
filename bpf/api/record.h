#pragma once
#include <linux/types.h>
#include "ports.h"

/*
 * Shared layout: a record of the capture ring. A header, then up to
 * STEER_RECORD_SMALL or STEER_RECORD_LARGE bytes.
 */
enum {
	STEER_RECORD_UDP,
	STEER_RECORD_TCP,
	STEER_RECORD_LEARN,
};

enum {
	STEER_RECORD_TO_VM = 1,
	STEER_RECORD_UNVERIFIED = 2,
	STEER_RECORD_CUT = 4,
};

enum {
	STEER_RECORD_SMALL = 256,
	STEER_RECORD_LARGE = 2048,
	STEER_RECORD_CHUNKS = 33,	/* of one packet at most: 64 KiB and a bit */
};

struct steer_record {
	__u64 time_ns;
	__u32 ifindex;
	__u32 vm;
	__u32 lost;			/* records of this VM that the ring had no room for, ever */
	__u32 seq;
	__u32 ack;
	__u32 total;			/* payload bytes of the packet */
	__u32 offset;			/* of this piece */
	__u32 len;			/* of this piece */
	__u16 vlan;
	__u16 sport;			/* network byte order */
	__u16 dport;
	__u8 kind;
	__u8 flags;
	__u8 tcp_flags;
	__u8 pad[3];
	__u8 dmac[6];
	__u8 smac[6];
	struct steer_addr saddr;
	struct steer_addr daddr;
};

struct steer_record_small {
	struct steer_record h;
	__u8 data[STEER_RECORD_SMALL];
};

struct steer_record_large {
	struct steer_record h;
	__u8 data[STEER_RECORD_LARGE];
};

_Static_assert(sizeof(struct steer_record) == 96, "shared layout");
_Static_assert(sizeof(struct steer_record_small) == 352, "shared layout");
_Static_assert(sizeof(struct steer_record_large) == 2144, "shared layout");
