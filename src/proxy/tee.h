#pragma once
#include "proxy/flow.h"

/*
 * Copies of streams to registries for the main thread (vm_conf.tee_ports).
 * When the main thread is slow, bytes are left out and counted; the stream
 * itself never waits.
 */
enum { TEE_MAX_OUTSTANDING = 8 * 1024 * 1024 };	/* bytes on their way, of a worker */

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
