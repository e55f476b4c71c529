#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/ip.h"
#include "proto/dns.h"

/*
 * Answers to queries of DNS: what a stub resolver asks, and the message that
 * answers it. No I/O, no allocation.
 */
enum {
	DNS_UDP_MIN = 512,		/* what everybody can take: RFC 1035, section 4.2.1 */
	DNS_UDP_MAX = 1232,		/* what we say and send at most: no fragments on any link of IPv6 */
	DNS_NO_DATA_TTL_S = 5,		/* for how long it may be believed that a name has no record of a type */
};

/* The one question of a message. */
struct dns_query {
	uint16_t id;
	struct dns_name name;		/* as it was written: a resolver may look at its upper case (0x20) */
	uint16_t type;
	uint8_t rcode;			/* of an answer */
	bool recursion_desired;
	bool checking_disabled;
	bool edns;			/* RFC 6891 */
	uint16_t udp_max;		/* what the asker takes; at least DNS_UDP_MIN */
};

/* An ordinary query of one question of class IN. false: it is something else, for somebody else. */
MUST_CHECK bool dns_query_decode(const void *data, size_t size, struct dns_query *ret_query);
/* A response to such a query; only its question and header are looked at. */
MUST_CHECK bool dns_response_decode(const void *data, size_t size, struct dns_query *ret_query);

struct dns_reply {
	uint8_t data[DNS_UDP_MAX];
	size_t len;
	size_t max;			/* of the records; room for OPT is kept */
	uint16_t n_answers;
	uint16_t n_authorities;
	bool cut;			/* a record had no room: the TC bit will be set */
	bool edns;
};

/* An authoritative answer without an error, and with no record yet. */
void dns_reply_begin(struct dns_reply *r, const struct dns_query *q);
/* A or AAAA, by @ip's family. */
void dns_reply_address(struct dns_reply *r, const struct ip *ip, uint32_t ttl_s);
void dns_reply_ptr(struct dns_reply *r, const struct dns_name *target, uint32_t ttl_s);
void dns_reply_srv(struct dns_reply *r, uint16_t port, const struct dns_name *target, uint32_t ttl_s);
/*
 * After the last record: r->data, r->len are the message. One without an
 * answer gets the SOA record by which it can be told from a referral, and be
 * remembered for a while: RFC 2308, sections 2.2 and 3.
 */
void dns_reply_end(struct dns_reply *r);

/* The address whose name is asked for: "1.2.0.192.in-addr.arpa" (RFC 1035, section 3.5), and of "ip6.arpa" (RFC 3596, section 2.5). */
MUST_CHECK bool dns_reverse_address(const struct dns_name *name, struct ip *ret_ip);
