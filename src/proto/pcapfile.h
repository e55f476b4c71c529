#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"

/*
 * Capture files in memory: pcap (both byte orders, microseconds and
 * nanoseconds) and pcapng (enhanced, simple and the old packet blocks).
 *
 * A pure reader over the caller's bytes, which must outlive it. Formats:
 * draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng.
 */
enum {
	_PCAPFILE_E_SUCCESS,

	PCAPFILE_E_END,		/* no more frames */
	PCAPFILE_E_UNKNOWN,	/* no capture file */
	PCAPFILE_E_TRUNCATED,	/* the file ends in the middle of something */
	PCAPFILE_E_MALFORMED,	/* a length or a reference that cannot be */
	PCAPFILE_E_LINK,	/* a link type that we do not read; the next call goes on */
};

enum { PCAPFILE_MAX_INTERFACES = 64, PCAPFILE_MAX_FRAME = 1 << 20 };

struct pcapfile_interface {
	uint32_t link_type;	/* LINKTYPE_* */
	uint32_t snap_len;	/* 0: no limit */
	uint64_t units_per_s;	/* of time stamps */
	int64_t offset_s;
};

struct pcapfile {
	const uint8_t *data;
	size_t size;
	size_t at;			/* offset of what is read next */
	bool is_ng;
	bool swapped;			/* other byte order than ours */
	uint64_t n_frames;		/* so far */
	size_t frame_offset;		/* of the frame, or of what was wrong */
	uint32_t bad_link;		/* with PCAPFILE_E_LINK */
	struct pcapfile_interface interfaces[PCAPFILE_MAX_INTERFACES];	/* of the section */
	uint32_t n_interfaces;
};

struct pcapfile_frame {
	const uint8_t *data;
	size_t len;
	size_t wire_len;		/* >= len */
	uint64_t number;		/* from 1 */
	uint64_t time_ns;		/* since 1970; 0 where the block has none */
	uint8_t link;			/* enum packet_link */
};

/* 0, PCAPFILE_E_UNKNOWN, PCAPFILE_E_TRUNCATED, PCAPFILE_E_MALFORMED. */
MUST_CHECK int pcapfile_open(struct pcapfile *p, const void *data, size_t size);
/* 0, or any of the above; after TRUNCATED and MALFORMED there is nothing more to read. */
MUST_CHECK int pcapfile_next(struct pcapfile *p, struct pcapfile_frame *ret_frame);
