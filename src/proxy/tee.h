#pragma once
#include "proxy/flow.h"

/*
 * Copies of streams to registries for the main thread (vm_conf.tee_ports).
 * When the main thread is slow, or the VM has had its bytes of this second,
 * bytes are left out and counted; the stream itself never waits.
 */
enum {
	TEE_MAX_OUTSTANDING = 8 * 1024 * 1024,	/* bytes on their way, of a worker */
	TEE_MAX_OF_VM = TEE_MAX_OUTSTANDING / 4,	/* of one VM, all workers: what its neighbours say is copied, too */
	TEE_PIECE_COST = 512,			/* what a piece costs besides its bytes, as a packet that the agent captures does */
	TEE_BURST_MS = 250,			/* so much of vm_limits.teed_bytes at once */
};

void tee_begin(struct flow *f);			/* decides whether @f is one */
void tee_parts_slow(struct flow *f, bool by_client, const struct iovec *iov, size_t n_iov, size_t len);
void tee_end_slow(struct flow *f, bool by_client);

static inline void tee_parts(struct flow *f, bool by_client, const struct iovec *iov, size_t n_iov, size_t len)
{
	if (f->tee)
		tee_parts_slow(f, by_client, iov, n_iov, len);
}

static inline void tee_end(struct flow *f, bool by_client)
{
	if (f->tee)
		tee_end_slow(f, by_client);
}
