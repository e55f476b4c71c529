#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/ip.h"
#include "base/wire.h"

/*
 * DNS messages (RFC 1035) as they are on the wire, also of multicast DNS
 * (RFC 6762): decoding only. A message is read record by record, without
 * allocation; names are copied out of their compression.
 */
enum dns_type {
	DNS_TYPE_A = 1, DNS_TYPE_NS = 2, DNS_TYPE_CNAME = 5, DNS_TYPE_SOA = 6, DNS_TYPE_PTR = 12, DNS_TYPE_TXT = 16,
	DNS_TYPE_AAAA = 28, DNS_TYPE_SRV = 33, DNS_TYPE_OPT = 41, DNS_TYPE_SVCB = 64, DNS_TYPE_HTTPS = 65,
	DNS_TYPE_ANY = 255,
};
enum { DNS_CLASS_IN = 1, DNS_CLASS_NONE = 254, DNS_CLASS_ANY = 255 };
enum dns_opcode { DNS_OPCODE_QUERY = 0, DNS_OPCODE_NOTIFY = 4, DNS_OPCODE_UPDATE = 5 };
enum dns_rcode { DNS_RCODE_NOERROR = 0, DNS_RCODE_SERVFAIL = 2, DNS_RCODE_NXDOMAIN = 3, DNS_RCODE_REFUSED = 5 };
enum dns_section { DNS_QUESTION, DNS_ANSWER, DNS_AUTHORITY, DNS_ADDITIONAL, _DNS_SECTION_N };

enum {
	DNS_HEADER_LEN = 12,
	DNS_NAME_MAX = 255,		/* bytes on the wire, with the root's zero */
	DNS_LABEL_MAX = 63,
	DNS_NAME_TEXT_LEN = 1024,	/* of dns_name_text(), with the zero: every byte may need \DDD */
	DNS_LABEL_TEXT_LEN = 256,
};

/* A name without compression: length, label, ..., 0. Case is kept as it was sent. */
struct dns_name {
	uint8_t len;			/* bytes, with the last zero; 0: no name at all */
	uint8_t wire[DNS_NAME_MAX];
};

struct dns_header {
	uint16_t id;
	bool response;			/* QR */
	bool authoritative;		/* AA */
	bool truncated;			/* TC */
	uint8_t opcode;
	uint8_t rcode;			/* the four bits of the header */
	uint16_t counts[_DNS_SECTION_N];
};

struct dns_record {
	enum dns_section section;
	struct dns_name name;
	uint16_t type;
	uint16_t class_;		/* without the top bit of multicast DNS */
	bool top_bit;			/* of the class. Question: unicast answer wanted; record: cache-flush. RFC 6762, 5.4 and 10.2 */
	uint32_t ttl_s;			/* not for questions; the top bit set means 0 (RFC 2181, section 8) */
	struct wire rdata;		/* not for questions */
};

struct dns_message {
	struct dns_header header;
	const uint8_t *data;
	size_t size;
	struct wire at;			/* the next record */
	unsigned section;
	uint16_t left;			/* records of @section to come */
	bool bad;			/* the message ends too early or a record makes no sense */
};

/* false: too short for a header. @data must outlive the message. */
MUST_CHECK bool dns_open(struct dns_message *m, const void *data, size_t size);
/* The next record, questions first; false at the end, and with m->bad when it comes too early. */
bool dns_next(struct dns_message *m, struct dns_record *ret_record);
/* Back to the first record. */
void dns_rewind(struct dns_message *m);
/* Reads all of it once: false when any record is bad. Leaves @m rewound. */
bool dns_check(struct dns_message *m);

/* What is in the records. false: malformed. */
MUST_CHECK bool dns_address(const struct dns_record *r, struct ip *ret_ip);		/* A, AAAA */
MUST_CHECK bool dns_target(const struct dns_message *m, const struct dns_record *r, struct dns_name *ret_name);	/* CNAME, PTR, NS */

struct dns_srv {		/* RFC 2782 */
	uint16_t priority;
	uint16_t weight;
	uint16_t port;
	struct dns_name target;
};
MUST_CHECK bool dns_srv(const struct dns_message *m, const struct dns_record *r, struct dns_srv *ret_srv);

/* The next character string of a TXT record; false at the end or where it is malformed. */
bool dns_txt_next(struct wire *rdata, const uint8_t **ret_data, size_t *ret_len);

enum { DNS_SVCB_MAX_HINTS = 8 };
struct dns_svcb {		/* RFC 9460: SVCB, HTTPS */
	uint16_t priority;	/* 0: an alias */
	struct dns_name target;	/* the root: the owner itself */
	uint16_t port;		/* 0: not said */
	char alpn[16];		/* the first one, or "" */
	struct ip hints[DNS_SVCB_MAX_HINTS];
	size_t n_hints;
};
MUST_CHECK bool dns_svcb(const struct dns_message *m, const struct dns_record *r, struct dns_svcb *ret_svcb);

/* Names. ASCII letters compare without case (RFC 4343). */
bool dns_name_equal(const struct dns_name *a, const struct dns_name *b);
bool dns_name_is_root(const struct dns_name *n);
bool dns_name_ends_with(const struct dns_name *n, const char *suffix);	/* "in-addr.arpa"; plain labels only */
unsigned dns_name_labels(const struct dns_name *n);			/* without the root */
/* The label @i, from 0 at the left; NULL when there are fewer. */
const uint8_t *dns_name_label(const struct dns_name *n, unsigned i, uint8_t *ret_len);
/* The name without its first @n_labels labels. */
void dns_name_tail(const struct dns_name *n, unsigned n_labels, struct dns_name *ret_tail);
/* How many labels at the left are the same. */
unsigned dns_name_common_head(const struct dns_name *a, const struct dns_name *b);
void dns_name_lower(struct dns_name *n);
/* "a.b.example", "." for the root: no last dot, dots and backslashes in labels escaped, bad bytes as \DDD. */
const char *dns_name_text(const struct dns_name *n, char text[static DNS_NAME_TEXT_LEN]);
/* The first @n_labels only. */
const char *dns_name_head_text(const struct dns_name *n, unsigned n_labels, char text[static DNS_NAME_TEXT_LEN]);
/* One label as a person wrote it: dots as they are, bad bytes as \DDD. */
const char *dns_label_text(const uint8_t *label, size_t len, char text[static DNS_LABEL_TEXT_LEN]);
/* Text without escapes to a name; false: a label or the whole is too long or empty. */
MUST_CHECK bool dns_name_parse(const char *text, struct dns_name *ret_name);

/*
 * RFC 2782 and RFC 6763, section 4.1: where the labels "_service._proto" begin.
 * @ret_at 0: the name of a type of service; else of an instance, whose label is
 * in front. (Labels: some clients split a name with dots in it, against section
 * 4.3.) false: neither; names of subtypes are neither.
 */
bool dns_name_service(const struct dns_name *n, unsigned *ret_at);
