/*
 * What a guest or its server sends, and the answer to it: whatever was asked,
 * our own decoder reads the answer whole, and it fits.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "proto/dns_reply.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_reply(const struct dns_query *q, unsigned n_addresses)
{
	static const struct ip ips[2] = { { .b = { [10] = 0xff, [11] = 0xff, [12] = 10, [15] = 1 } }, { .b = { 0xfd, [15] = 1 } } };
	struct dns_message m;
	struct dns_query back;
	struct dns_reply r;

	dns_reply_begin(&r, q);
	for (unsigned i = 0; i < n_addresses; i++)
		dns_reply_address(&r, &ips[i % 2], i);
	dns_reply_end(&r);
	if (r.len > q->udp_max || r.len > DNS_UDP_MAX || !dns_open(&m, r.data, r.len) || !dns_check(&m))
		abort();
	if (!m.header.response || m.header.counts[DNS_ANSWER] != r.n_answers || m.header.truncated != r.cut)
		abort();
	if (!dns_response_decode(r.data, r.len, &back) || back.id != q->id || back.type != q->type || back.rcode ||
	    back.name.len != q->name.len || memcmp(back.name.wire, q->name.wire, q->name.len) != 0)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct dns_query q;

	if (dns_response_decode(data, size, &q) && dns_query_decode(data, size, &q))
		abort();	/* it cannot be both */
	if (dns_query_decode(data, size, &q))
		check_reply(&q, (unsigned)(size % 200));
	return 0;
}
