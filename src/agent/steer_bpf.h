#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "agent/steer_conf.h"
#include "agent/steer_link.h"
#include "base/defs.h"

/*
 * The BPF programs and maps: loaded, attached, pinned, adopted.
 *
 * Programs are attached by TCX links where the kernel has them (6.6), else as
 * clsact filters. With a pin directory the maps and links stay when we are
 * gone; a successor finds them there, and puts its own programs on the links.
 */
enum steer_hook {
	STEER_HOOK_PORT_INGRESS,
	STEER_HOOK_PORT_EGRESS,
	STEER_HOOK_DIVERT_EGRESS,
	STEER_HOOK_LO_INGRESS,
	_STEER_HOOK_N
};

struct steer_attachment {
	uint32_t ifindex;
	enum steer_hook hook;
	int link_fd;		/* -1: clsact */
	bool made_qdisc;
	bool used;
};

enum { STEER_MAX_ATTACHMENTS = 2048 };

struct steer_bpf {
	const struct steer_conf *conf;
	void *skel;			/* the skeleton: only steer_bpf.c knows it */
	bool tcx;
	bool adopted;
	bool pinned;
	struct steer_attachment *attachments;
	size_t n_attachments;

	int ports, guests, vms, counters, port_flags, diverts, listeners, dns_sockets, dns_vms, flows, probes, ring;	/* map fds */
	uint8_t *flags_of_port;		/* 65536, mapped: steer_port_flags */
};

MUST_CHECK int steer_bpf_load(struct steer_bpf *b, const struct steer_conf *conf, const struct steer_link *divert);
/* Detaches everything, unless it is pinned, and forgets it. */
void steer_bpf_unload(struct steer_bpf *b);

/* Attaches one hook to one device; once is enough. */
MUST_CHECK int steer_bpf_attach(struct steer_bpf *b, uint32_t ifindex, enum steer_hook hook);
void steer_bpf_detach(struct steer_bpf *b, uint32_t ifindex, enum steer_hook hook);

/* Removes the flows whose sockets are gone and that are older than @older_than_s. */
MUST_CHECK int steer_bpf_sweep(struct steer_bpf *b, unsigned older_than_s, uint32_t *ret_seen, uint32_t *ret_removed);
