#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/list.h"

/*
 * Puts a sniffed TCP connection together: both directions, from segments that
 * may come twice, overlap, arrive in any order, or never.
 *
 * The sniffer is no endpoint: it cannot ask for a segment again. A hole is
 * given up when the peer has acknowledged the bytes (then nobody will send
 * them again) and a short time has passed in which the capture may still
 * deliver them late; or when the window is full; or after a long silence.
 *
 * Bytes are delivered in the order of cause and effect: a segment waits until
 * everything that its sender had acknowledged was delivered or given up.
 *
 * Of bytes that come twice the first copy counts.
 */
enum reasm_flag { REASM_FIN = 0x01, REASM_SYN = 0x02, REASM_RST = 0x04, REASM_ACK = 0x10 };	/* as in the header */

struct reasm_segment {
	unsigned dir;		/* 0 or 1: 0 is the client's */
	uint32_t seq;
	uint32_t ack;
	uint8_t flags;		/* enum reasm_flag */
	const uint8_t *data;
	size_t len;
	size_t wire_len;	/* >= len: the rest was not captured */
	uint64_t time_ns;
};

/* Memory that waits, with its limit; a chain: flow's guest, then everything. */
struct reasm_budget {
	struct reasm_budget *parent;
	size_t used;
	size_t max;
};

struct reasm_sink {
	void (*data)(void *arg, unsigned dir, const uint8_t *data, size_t len);
	/* @len bytes are missing; 0: the capture began in the middle. */
	void (*gap)(void *arg, unsigned dir, size_t len);
	void (*end)(void *arg, unsigned dir);	/* once each direction: FIN or RST */
	void *arg;
};

struct reasm_counts {
	uint64_t duplicates;
	uint64_t reordered;
	uint64_t out_of_window;
	uint64_t gaps;
	uint64_t gap_bytes;
	uint64_t no_memory;
};

struct reasm_side {
	bool started;		/* @next is valid */
	bool has_isn;
	bool has_acked;
	bool has_fin;
	bool ended;
	uint32_t isn;
	uint32_t next;		/* sequence number of the next byte to deliver */
	uint32_t acked;		/* the other side has everything before it */
	uint32_t fin;		/* of the FIN */
	struct list pieces;	/* by sequence number, without overlap */
	size_t bytes;		/* of memory, in @pieces */
	size_t n_pieces;
};

struct reasm {
	struct reasm_side sides[2];
	uint64_t stuck_since_ns;	/* 0: nothing waits */
	size_t max_bytes;		/* each side */
	struct reasm_budget *budget;
	struct reasm_counts *counts;
};

enum {
	REASM_GRACE_MS = 200,		/* for bytes that were acknowledged but not seen */
	REASM_PATIENCE_MS = 15000,	/* for bytes that the sender may still repeat */
	REASM_MAX_AHEAD = 16 << 20,	/* a segment further ahead is not of this connection */
	REASM_MAX_PIECES = 1024,	/* of a side: each segment is compared with them */
};

void reasm_init(struct reasm *r, size_t max_bytes, struct reasm_budget *budget, struct reasm_counts *counts);
void reasm_deinit(struct reasm *r);	/* without delivering what waits; a second time is harmless */

/* Does this segment begin another connection with the same addresses and ports? */
bool reasm_is_new_connection(const struct reasm *r, const struct reasm_segment *seg);

void reasm_segment(struct reasm *r, const struct reasm_segment *seg, const struct reasm_sink *sink);
/* Time has passed. */
void reasm_expire(struct reasm *r, uint64_t now_ns, const struct reasm_sink *sink);
/* Delivers what waits, holes given up. */
void reasm_flush(struct reasm *r, const struct reasm_sink *sink);
bool reasm_ended(const struct reasm *r);	/* both directions */
