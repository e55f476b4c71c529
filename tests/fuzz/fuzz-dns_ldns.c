/*
 * DNS messages against ldns: what is exact both read alike, and whatever ldns
 * can read and then writes anew, we can read. What we answer ldns reads as it
 * was meant.
 */
#include <ldns/ldns.h>
#include <stdlib.h>
#include <string.h>

#include "proto/dns_reply.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int __lsan_is_turned_off(void);

/* ldns loses memory with messages that it refuses; our decoder has none to lose. */
int __lsan_is_turned_off(void)
{
	return 1;
}

static void same_name(const struct dns_name *ours, const ldns_rdf *theirs)
{
	if (!theirs || ours->len != ldns_rdf_size(theirs) || memcmp(ours->wire, ldns_rdf_data(theirs), ours->len) != 0)
		abort();
}

static void same_address(const struct dns_record *r, const ldns_rdf *theirs)
{
	struct ip ip, oracle;

	if (!dns_address(r, &ip))
		abort();
	oracle = r->type == DNS_TYPE_A ? ip_from_v4(ldns_rdf_data(theirs)) : ip_from_v6(ldns_rdf_data(theirs));
	if (!ip_equal(&ip, &oracle))
		abort();
}

static void same_srv(const struct dns_message *m, const struct dns_record *r, const ldns_rr *rr)
{
	struct dns_srv s;

	if (ldns_rr_rd_count(rr) != 4) {	/* it takes half a record for what is there of it */
		if (dns_srv(m, r, &s))
			abort();
		return;
	}
	if (!dns_srv(m, r, &s) || s.priority != ldns_rdf2native_int16(ldns_rr_rdf(rr, 0)) || s.weight != ldns_rdf2native_int16(ldns_rr_rdf(rr, 1)) ||
	    s.port != ldns_rdf2native_int16(ldns_rr_rdf(rr, 2)))
		abort();
	same_name(&s.target, ldns_rr_rdf(rr, 3));
}

static void same_txt(const struct dns_record *r, const ldns_rr *rr)
{
	struct wire w = r->rdata;
	const uint8_t *data;
	size_t len, i = 0;

	for (; dns_txt_next(&w, &data, &len); i++) {
		const ldns_rdf *s = ldns_rr_rdf(rr, i);

		if (!s || ldns_rdf_size(s) != len + 1 || memcmp(ldns_rdf_data(s) + 1, data, len) != 0)
			abort();
	}
	if (i != ldns_rr_rd_count(rr))
		abort();
}

static void same_data(const struct dns_message *m, const struct dns_record *r, const ldns_rr *rr)
{
	struct dns_name target;

	if (!ldns_rr_rd_count(rr))		/* of an UPDATE */
		return;
	switch (r->type) {
	case DNS_TYPE_A:
	case DNS_TYPE_AAAA:
		same_address(r, ldns_rr_rdf(rr, 0));
		break;
	case DNS_TYPE_NS:
	case DNS_TYPE_CNAME:
	case DNS_TYPE_PTR:
		if (!dns_target(m, r, &target))
			abort();
		same_name(&target, ldns_rr_rdf(rr, 0));
		break;
	case DNS_TYPE_SRV:
		same_srv(m, r, rr);
		break;
	case DNS_TYPE_TXT:
		same_txt(r, rr);
		break;
	default:
		break;
	}
}

static void same_record(const struct dns_message *m, const struct dns_record *r, const ldns_rr *rr)
{
	same_name(&r->name, ldns_rr_owner(rr));
	if (r->type != ldns_rr_get_type(rr) || (r->class_ | (r->top_bit ? 0x8000 : 0)) != ldns_rr_get_class(rr))
		abort();
	if (r->section == DNS_QUESTION)
		return;
	if (r->ttl_s != (ldns_rr_ttl(rr) >> 31 ? 0 : ldns_rr_ttl(rr)))
		abort();
	same_data(m, r, rr);
}

/* ldns keeps it apart, and knows it but once, in the additional section. TSIG, which it cannot write again, is left out. */
static bool is_apart(const struct dns_record *r)
{
	return r->type == DNS_TYPE_OPT && r->section != DNS_QUESTION;
}

static bool is_in_place(const uint8_t *data, size_t size)
{
	struct dns_message m;
	struct dns_record r;
	unsigned n = 0;

	if (!dns_open(&m, data, size))
		return false;
	while (dns_next(&m, &r)) {
		if (r.type == LDNS_RR_TYPE_TSIG || (r.type == DNS_TYPE_OPT && (r.section != DNS_ADDITIONAL || n++)))
			return false;
	}
	return true;
}

static void same_header(const struct dns_message *m, const ldns_pkt *p)
{
	const struct dns_header *h = &m->header;

	if (h->id != ldns_pkt_id(p) || h->response != ldns_pkt_qr(p) || h->authoritative != ldns_pkt_aa(p) || h->truncated != ldns_pkt_tc(p) ||
	    h->opcode != ldns_pkt_get_opcode(p) || h->rcode != ldns_pkt_get_rcode(p))
		abort();
}

static void compare(const uint8_t *data, size_t size, const ldns_pkt *p)
{
	const ldns_rr_list *lists[] = { ldns_pkt_question(p), ldns_pkt_answer(p), ldns_pkt_authority(p), ldns_pkt_additional(p) };
	size_t at[_DNS_SECTION_N] = { 0 };
	struct dns_message m;
	struct dns_record r;

	if (!dns_open(&m, data, size))
		abort();		/* they had a header */
	same_header(&m, p);
	if (!dns_check(&m))
		abort();
	while (dns_next(&m, &r)) {
		if (is_apart(&r))
			continue;
		if (at[r.section] >= ldns_rr_list_rr_count(lists[r.section]))
			abort();
		same_record(&m, &r, ldns_rr_list_rr(lists[r.section], at[r.section]++));
	}
	for (int i = 0; i < _DNS_SECTION_N; i++)
		if (at[i] != ldns_rr_list_rr_count(lists[i]))
			abort();
}

/*
 * Does every record end where its data do? ldns reads on behind the data and
 * not behind the record, so it finds other records than there are.
 */
static bool is_exact(const uint8_t *data, size_t size)
{
	struct dns_message m;
	struct dns_record r;
	bool exact = dns_open(&m, data, size) && dns_check(&m);

	while (exact && dns_next(&m, &r)) {
		struct dns_name name;
		struct dns_srv srv;
		struct ip ip;

		switch (r.section == DNS_QUESTION ? DNS_TYPE_ANY : r.type) {
		case DNS_TYPE_ANY:
			break;
		case DNS_TYPE_A:
		case DNS_TYPE_AAAA:
			exact = dns_address(&r, &ip);
			break;
		case DNS_TYPE_SRV:
			exact = dns_srv(&m, &r, &srv);
			break;
		default:
			exact = (r.type == DNS_TYPE_NS || r.type == DNS_TYPE_CNAME || r.type == DNS_TYPE_PTR) && dns_target(&m, &r, &name);
			break;
		}
	}
	return exact;
}

/* An answer with records of one kind, or, with none, the SOA record of what there is not. */
static void answer(const struct dns_query *q, unsigned kind, struct dns_reply *r)
{
	static const struct ip four = { .b = { [10] = 0xff, [11] = 0xff, [12] = 10, [15] = 1 } };

	dns_reply_begin(r, q);
	if (kind == 1)
		dns_reply_address(r, &four, 30);
	else if (kind == 2)
		dns_reply_ptr(r, &q->name, 5);
	else if (kind == 3)
		dns_reply_srv(r, 8080, &q->name, 30);
	dns_reply_end(r);
}

static void check_answers(const struct dns_query *q)
{
	for (unsigned kind = 0; kind < 4; kind++) {
		struct dns_reply r;
		ldns_pkt *p;

		answer(q, kind, &r);
		if (ldns_wire2pkt(&p, r.data, r.len) != LDNS_STATUS_OK)
			abort();
		if (ldns_pkt_id(p) != q->id || !ldns_pkt_qr(p) || ldns_pkt_get_rcode(p) != LDNS_RCODE_NOERROR || ldns_pkt_tc(p) != r.cut ||
		    ldns_pkt_ancount(p) != (kind && !r.cut) || ldns_pkt_edns(p) != q->edns)
			abort();
		if (!kind && ldns_pkt_nscount(p) && ldns_rr_get_type(ldns_rr_list_rr(ldns_pkt_authority(p), 0)) != LDNS_RR_TYPE_SOA)
			abort();
		compare(r.data, r.len, p);
		ldns_pkt_free(p);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct dns_query q;
	ldns_pkt *p, *again;
	uint8_t *wire;
	size_t len;

	if (dns_query_decode(data, size, &q))
		check_answers(&q);
	if (size > 4096 || !is_in_place(data, size) || ldns_wire2pkt(&p, data, size) != LDNS_STATUS_OK)
		return 0;
	if (is_exact(data, size))
		compare(data, size, p);
	if (!ldns_pkt_tsig(p) && ldns_pkt2wire(&wire, p, &len) == LDNS_STATUS_OK) {
		if (is_in_place(wire, len) && ldns_wire2pkt(&again, wire, len) == LDNS_STATUS_OK) {
			compare(wire, len, again);
			ldns_pkt_free(again);
		}
		LDNS_FREE(wire);
	}
	ldns_pkt_free(p);
	return 0;
}
