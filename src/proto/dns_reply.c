/*
 * Queries taken apart and answered.
 */
#include "proto/dns_reply.h"

#include <string.h>

enum {
	/* RFC 1035, section 4.1.1; RFC 4035, section 3.2.2 */
	BIT_RESPONSE = 0x8000, BIT_AUTHORITATIVE = 0x0400, BIT_TRUNCATED = 0x0200, BIT_RECURSION_DESIRED = 0x0100,
	BIT_RECURSION_AVAILABLE = 0x0080, BIT_CHECKING_DISABLED = 0x0010,
	OPT_LEN = 11,
	QUESTION_POINTER = 0xc000 | DNS_HEADER_LEN,	/* RFC 1035, section 4.1.4: the name of the question */
};

/* RFC 6891, section 6.1.1: at most one, anywhere in the additional section. Other versions than 0 are not ours to answer. */
static bool decode_opt(const struct dns_record *r, struct dns_query *q)
{
	if (r->type != DNS_TYPE_OPT)
		return true;
	if (q->edns || r->ttl_s >> 16 & 0xff)
		return false;
	q->edns = true;
	q->udp_max = r->class_ > DNS_UDP_MIN ? r->class_ : DNS_UDP_MIN;
	return true;
}

static bool decode_question(struct dns_message *m, struct dns_query *q)
{
	struct dns_record r;

	if (!dns_next(m, &r) || r.section != DNS_QUESTION || r.class_ != DNS_CLASS_IN || r.top_bit)
		return false;
	q->name = r.name;
	q->type = r.type;
	return true;
}

static bool decode(const void *data, size_t size, struct dns_message *m, struct dns_query *q)
{
	if (!dns_open(m, data, size) || m->header.opcode != DNS_OPCODE_QUERY || m->header.counts[DNS_QUESTION] != 1)
		return false;

	struct wire flags = wire_init((const uint8_t *)data + 2, 2);
	uint16_t bits = wire_u16(&flags);

	*q = (struct dns_query){
		.id = m->header.id, .rcode = m->header.rcode, .udp_max = DNS_UDP_MIN,
		.recursion_desired = bits & BIT_RECURSION_DESIRED, .checking_disabled = bits & BIT_CHECKING_DISABLED,
	};
	return decode_question(m, q);
}

bool dns_query_decode(const void *data, size_t size, struct dns_query *ret_query)
{
	struct dns_message m;
	struct dns_query q;
	struct dns_record r;

	if (!decode(data, size, &m, &q) || m.header.response || m.header.truncated || m.header.counts[DNS_ANSWER] ||
	    m.header.counts[DNS_AUTHORITY])
		return false;
	while (dns_next(&m, &r))
		if (!decode_opt(&r, &q))
			return false;
	if (m.bad)
		return false;
	*ret_query = q;
	return true;
}

bool dns_response_decode(const void *data, size_t size, struct dns_query *ret_query)
{
	struct dns_message m;
	struct dns_query q;

	if (!decode(data, size, &m, &q) || !m.header.response)
		return false;
	*ret_query = q;
	return true;
}

static void put(struct dns_reply *r, const void *data, size_t len)
{
	memcpy(r->data + r->len, data, len);
	r->len += len;
}

static void put_u16(struct dns_reply *r, unsigned v)
{
	const uint8_t b[2] = { (uint8_t)(v >> 8), (uint8_t)v };

	put(r, b, sizeof(b));
}

static void put_u32(struct dns_reply *r, uint32_t v)
{
	put_u16(r, v >> 16);
	put_u16(r, v & 0xffff);
}

void dns_reply_begin(struct dns_reply *r, const struct dns_query *q)
{
	unsigned flags = BIT_RESPONSE | BIT_AUTHORITATIVE | BIT_RECURSION_AVAILABLE;

	if (q->recursion_desired)
		flags |= BIT_RECURSION_DESIRED;
	if (q->checking_disabled)
		flags |= BIT_CHECKING_DISABLED;
	*r = (struct dns_reply){ .max = MIN((size_t)q->udp_max, (size_t)DNS_UDP_MAX), .edns = q->edns };
	if (r->edns)
		r->max -= OPT_LEN;
	put_u16(r, q->id);
	put_u16(r, flags);
	put_u16(r, 1);
	put_u16(r, 0);
	put_u16(r, 0);
	put_u16(r, q->edns);
	put(r, q->name.wire, q->name.len);
	put_u16(r, q->type);
	put_u16(r, DNS_CLASS_IN);
}

void dns_reply_address(struct dns_reply *r, const struct ip *ip, uint32_t ttl_s)
{
	bool v4 = ip_is_v4(ip);
	size_t len = v4 ? 4 : sizeof(ip->b);

	if (r->cut || r->len + 12 + len > r->max) {
		r->cut = true;
		return;
	}
	put_u16(r, QUESTION_POINTER);
	put_u16(r, v4 ? DNS_TYPE_A : DNS_TYPE_AAAA);
	put_u16(r, DNS_CLASS_IN);
	put_u32(r, ttl_s);
	put_u16(r, (unsigned)len);
	put(r, ip->b + sizeof(ip->b) - len, len);
	r->n_answers++;
}

void dns_reply_end(struct dns_reply *r)
{
	if (r->cut)
		r->data[2] |= BIT_TRUNCATED >> 8;
	r->data[6] = (uint8_t)(r->n_answers >> 8);
	r->data[7] = (uint8_t)r->n_answers;
	if (!r->edns)
		return;
	put(r, "", 1);			/* the root */
	put_u16(r, DNS_TYPE_OPT);
	put_u16(r, DNS_UDP_MAX);
	put_u32(r, 0);			/* no extended error, version 0, no DNSSEC */
	put_u16(r, 0);
}
