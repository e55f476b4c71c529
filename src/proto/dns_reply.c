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

/* A record's head, for @len bytes that follow. false: there is no room for them. */
static bool put_head(struct dns_reply *r, unsigned type, uint32_t ttl_s, size_t len)
{
	if (r->cut || r->len + 12 + len > r->max)
		return false;
	put_u16(r, QUESTION_POINTER);
	put_u16(r, type);
	put_u16(r, DNS_CLASS_IN);
	put_u32(r, ttl_s);
	put_u16(r, (unsigned)len);
	return true;
}

static bool put_answer(struct dns_reply *r, unsigned type, uint32_t ttl_s, size_t len)
{
	bool fits = put_head(r, type, ttl_s, len);

	r->cut |= !fits;
	r->n_answers += fits;
	return fits;
}

void dns_reply_address(struct dns_reply *r, const struct ip *ip, uint32_t ttl_s)
{
	bool v4 = ip_is_v4(ip);
	size_t len = v4 ? 4 : sizeof(ip->b);

	if (put_answer(r, v4 ? DNS_TYPE_A : DNS_TYPE_AAAA, ttl_s, len))
		put(r, ip->b + sizeof(ip->b) - len, len);
}

void dns_reply_ptr(struct dns_reply *r, const struct dns_name *target, uint32_t ttl_s)
{
	if (put_answer(r, DNS_TYPE_PTR, ttl_s, target->len))
		put(r, target->wire, target->len);
}

/* RFC 2782: the target is not compressed. */
void dns_reply_srv(struct dns_reply *r, uint16_t port, const struct dns_name *target, uint32_t ttl_s)
{
	if (!put_answer(r, DNS_TYPE_SRV, ttl_s, 6u + target->len))
		return;
	put_u16(r, 0);			/* priority and weight: there is one */
	put_u16(r, 0);
	put_u16(r, port);
	put(r, target->wire, target->len);
}

/*
 * The name that was asked for is said to be a zone's: nobody can ask for another
 * name of it, and no name of others is made up.
 */
static void put_soa(struct dns_reply *r)
{
	enum { NAMES_LEN = 2 + 1, NUMBERS = 5 };

	if (!put_head(r, DNS_TYPE_SOA, DNS_NO_DATA_TTL_S, NAMES_LEN + NUMBERS * 4))
		return;
	put_u16(r, QUESTION_POINTER);	/* MNAME */
	put(r, "", 1);			/* RNAME: nobody to write to */
	for (int i = 0; i < NUMBERS; i++)	/* serial, refresh, retry, expire; the last is the TTL of what there is not */
		put_u32(r, i ? DNS_NO_DATA_TTL_S : 1);
	r->n_authorities = 1;
}

void dns_reply_end(struct dns_reply *r)
{
	if (!r->n_answers && !r->cut)
		put_soa(r);
	if (r->cut)
		r->data[2] |= BIT_TRUNCATED >> 8;
	r->data[6] = (uint8_t)(r->n_answers >> 8);
	r->data[7] = (uint8_t)r->n_answers;
	r->data[9] = (uint8_t)r->n_authorities;
	if (!r->edns)
		return;
	put(r, "", 1);			/* the root */
	put_u16(r, DNS_TYPE_OPT);
	put_u16(r, DNS_UDP_MAX);
	put_u32(r, 0);			/* no extended error, version 0, no DNSSEC */
	put_u16(r, 0);
}

/* --- names of addresses --- */

static bool decimal(const uint8_t *label, uint8_t len, uint8_t *ret_value)
{
	unsigned v = 0;

	if (!len || len > 3 || (len > 1 && label[0] == '0'))
		return false;
	for (uint8_t i = 0; i < len; i++) {
		if (label[i] < '0' || label[i] > '9')
			return false;
		v = v * 10 + label[i] - '0';
	}
	*ret_value = (uint8_t)v;
	return v <= 255;
}

static bool nibble(const uint8_t *label, uint8_t len, uint8_t *ret_value)
{
	static const char digits[] = "0123456789abcdef0123456789ABCDEF";
	const char *at = len == 1 && label[0] ? strchr(digits, label[0]) : NULL;

	*ret_value = at ? (uint8_t)((at - digits) & 15) : 0;
	return at != NULL;
}

static bool reverse_v4(const struct dns_name *name, struct ip *ret_ip)
{
	uint8_t b[4], len;

	for (unsigned i = 0; i < sizeof(b); i++) {
		const uint8_t *label = dns_name_label(name, i, &len);

		if (!decimal(label, len, &b[sizeof(b) - 1 - i]))
			return false;
	}
	*ret_ip = ip_from_v4(b);
	return true;
}

static bool reverse_v6(const struct dns_name *name, struct ip *ret_ip)
{
	uint8_t b[16] = {}, len, v;

	for (unsigned i = 0; i < 2 * sizeof(b); i++) {
		const uint8_t *label = dns_name_label(name, i, &len);

		if (!nibble(label, len, &v))
			return false;
		b[sizeof(b) - 1 - i / 2] |= (uint8_t)(i % 2 ? v << 4 : v);
	}
	*ret_ip = ip_from_v6(b);
	return true;
}

bool dns_reverse_address(const struct dns_name *name, struct ip *ret_ip)
{
	if (dns_name_labels(name) == 4 + 2 && dns_name_ends_with(name, "in-addr.arpa"))
		return reverse_v4(name, ret_ip);
	if (dns_name_labels(name) == 32 + 2 && dns_name_ends_with(name, "ip6.arpa"))
		return reverse_v6(name, ret_ip);
	return false;
}
