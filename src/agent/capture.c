/*
 * Reader of the BPF ring buffer: the consumer's page, the producer's page and
 * the data, mapped twice in a row so that no record wraps. It takes no
 * privilege but the descriptor.
 */
#include "agent/capture.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/bpf.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>

#include "api/record.h"

_Static_assert((int)CAPTURE_UDP == (int)STEER_RECORD_UDP && (int)CAPTURE_TCP == (int)STEER_RECORD_TCP &&
	       (int)CAPTURE_LEARN == (int)STEER_RECORD_LEARN, "one set of kinds");
_Static_assert((int)CAPTURE_MAX_CHUNK == (int)STEER_RECORD_LARGE, "one size");

enum { RECORDS_PER_TURN = 32 };		/* then others of the loop get their turn */

struct capture {
	struct watch watch;
	int fd;
	size_t page;
	uint32_t size;			/* of the ring: a power of two */
	unsigned long *consumer;	/* ours */
	const unsigned long *producer;	/* the kernel's; the data follow on the next page */
	const uint8_t *data;
	capture_fn *fn;
	void *fn_data;
	struct capture_stats stats;
};

static bool is_record(const struct steer_record *h, size_t len)
{
	return len >= sizeof(*h) && h->kind <= STEER_RECORD_LEARN && h->len <= len - sizeof(*h) &&
	       h->offset <= h->total && h->len <= h->total - h->offset;
}

static void fill(const struct steer_record *h, struct capture_record *r)
{
	*r = (struct capture_record){
		.time_ns = h->time_ns, .ifindex = h->ifindex, .vm = h->vm, .vlan = h->vlan, .lost = h->lost,
		.kind = h->kind, .direction = h->flags & STEER_RECORD_TO_VM ? CAPTURE_TO_VM : CAPTURE_FROM_VM,
		.seq = h->seq, .ack = h->ack, .tcp_flags = h->tcp_flags,
		.total = h->total, .offset = h->offset, .data = (const uint8_t *)(h + 1), .len = h->len,
	};
	if (h->flags & STEER_RECORD_UNVERIFIED)
		r->flags |= CAPTURE_UNVERIFIED;
	if (h->flags & STEER_RECORD_CUT)
		r->flags |= CAPTURE_CUT;
	memcpy(r->src_mac, h->smac, sizeof(r->src_mac));
	memcpy(r->dst_mac, h->dmac, sizeof(r->dst_mac));
	if (h->kind == STEER_RECORD_LEARN)
		return;
	memcpy(&r->src.ip, &h->saddr, sizeof(r->src.ip));
	memcpy(&r->dst.ip, &h->daddr, sizeof(r->dst.ip));
	r->src.port = ntohs(h->sport);
	r->dst.port = ntohs(h->dport);
}

static int deliver(struct capture *c, const uint8_t *data, size_t len)
{
	const struct steer_record *h = (const void *)data;
	struct capture_record r;

	if (!is_record(h, len)) {
		c->stats.bad++;
		return 0;
	}
	c->stats.records++;
	c->stats.bytes += h->len;
	fill(h, &r);
	return c->fn(&r, c->fn_data);
}

/* linux/bpf.h: a record is a header of 8 bytes, its length with two flags first, then data rounded up to 8. */
static int on_ring(struct watch *w, uint32_t events)
{
	struct capture *c = container_of(w, struct capture, watch);
	unsigned long at = __atomic_load_n(c->consumer, __ATOMIC_RELAXED);
	int r = 0;

	(void)events;
	for (int i = 0; r == 0 && i < RECORDS_PER_TURN; i++) {
		if (at >= __atomic_load_n(c->producer, __ATOMIC_ACQUIRE))
			break;

		const uint8_t *header = c->data + (at & (c->size - 1));
		uint32_t len = __atomic_load_n((const uint32_t *)(const void *)header, __ATOMIC_ACQUIRE);
		if (len & BPF_RINGBUF_BUSY_BIT)
			break;		/* being written: its end wakes us */
		bool discarded = len & BPF_RINGBUF_DISCARD_BIT;
		len &= ~(BPF_RINGBUF_DISCARD_BIT | BPF_RINGBUF_BUSY_BIT);
		if (len > c->size)
			return -EPROTO;
		if (!discarded)
			r = deliver(c, header + BPF_RINGBUF_HDR_SZ, len);
		at += (len + BPF_RINGBUF_HDR_SZ + 7) & ~7UL;
		__atomic_store_n(c->consumer, at, __ATOMIC_RELEASE);
	}
	return r;
}

static int map_ring(struct capture *c)
{
	void *consumer = mmap(NULL, c->page, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, 0);
	if (consumer == MAP_FAILED)
		return -errno;
	c->consumer = consumer;

	void *producer = mmap(NULL, c->page + 2 * (size_t)c->size, PROT_READ, MAP_SHARED, c->fd, (off_t)c->page);
	if (producer == MAP_FAILED)
		return -errno;
	c->producer = producer;
	c->data = (const uint8_t *)producer + c->page;
	return 0;
}

int capture_new(struct loop *l, int ring_fd, uint32_t ring_bytes, capture_fn *fn, void *data,
		struct capture **ret_capture)
{
	struct capture *c = calloc(1, sizeof(*c));

	if (!c) {
		close_fd(ring_fd);
		return -ENOMEM;
	}
	c->fd = ring_fd;
	c->page = (size_t)sysconf(_SC_PAGESIZE);
	c->size = ring_bytes;
	c->fn = fn;
	c->fn_data = data;

	int r = map_ring(c);
	if (r == 0)
		r = watch_add(l, &c->watch, ring_fd, EPOLLIN, false, on_ring);
	if (r < 0) {
		capture_free(c);
		return r;
	}
	*ret_capture = c;
	return 0;
}

struct capture *capture_free(struct capture *c)
{
	if (!c)
		return NULL;
	watch_remove(&c->watch);
	if (c->consumer)
		munmap(c->consumer, c->page);
	if (c->producer)
		munmap((void *)(uintptr_t)c->producer, c->page + 2 * (size_t)c->size);
	close_fd(c->fd);
	free(c);
	return NULL;
}

void capture_get_stats(const struct capture *c, struct capture_stats *ret_stats)
{
	*ret_stats = c->stats;
}
