#pragma once
#include "base/list.h"
#include "discover/dns_update.h"
#include "discover/dnssd.h"
#include "discover/protocol.h"
#include "proto/dns.h"

/*
 * What the observer of DNS keeps of a guest: lookups, the queries that they are
 * made of, and SRV answers whose target's address is still to come.
 *
 * dns_lookup.c gathers queries into lookups, dns_answer.c pairs responses with
 * them and reports what they say, dns.c is the observer around both.
 */
enum {
	MAX_LOOKUPS = 128,		/* remembered, each guest */
	MAX_QUERIES = 512,		/* waiting for their answer, or answered not long ago */
	MAX_HELD = 128,			/* SRV answers waiting for their target's address */
	MAX_SEEN = 1024,		/* instances in the answers of a lookup; later ones are left out */
	MAX_ALIASES = 8,		/* CNAMEs in a row */

	PAIR_MS = 1000,			/* A and AAAA of one lookup begin within */
	SEARCH_MS = 200,		/* the next name of a search list comes so soon after a refusal */
	SETTLE_MS = 1000,		/* after a refusal: there was no next name */
	UNANSWERED_MS = 5000,
	HELD_MS = 3000,
	REMEMBER_MS = 60000,		/* a lookup that the same socket may repeat */
};

enum { ASKED_A = 1, ASKED_AAAA = 2, ASKED_SRV = 4, ASKED_HTTPS = 8, ASKED_SVCB = 16, ASKED_PTR = 32, ASKED_ANY = 64 };

struct lookup {
	struct list link;
	struct dns_name name;		/* lower-case, but for instances */
	struct ip_port client;
	struct ip_port server;
	uint64_t first_ns;
	uint64_t last_ns;		/* query or response */
	uint64_t frame;			/* of the first query; of the first name, in a search */
	unsigned head;			/* labels that the user gave: all, but for names of a search */
	uint8_t asked;			/* ASKED_* */
	uint8_t settled;		/* of those, answered for good or ill */
	uint8_t rcode;			/* of the last refusal */
	bool refused;			/* some name or type is not there */
	bool found;
	bool reported;			/* or not to be: superseded by the next name of the search, or of a target */
	size_t n_seen;
	size_t room;
	uint64_t *seen;			/* hashes of instances that were reported */
};

struct query {
	struct list link;
	struct lookup *lookup;
	struct ip_port client;
	struct ip_port server;
	uint16_t id;
	uint8_t asked;
	bool answered;
};

/* An SRV answer whose target's address is not known yet. */
struct held {
	struct list link;
	struct dns_name owner;
	struct dns_name target;
	struct ip_port server;
	uint16_t port;
	uint32_t ttl_s;
	uint64_t frame;
	uint64_t time_ns;
	bool resolved;
};

struct dns_guest {
	struct list lookups;		/* newest last */
	struct list queries;
	struct list held;
	size_t n_lookups, n_queries, n_held;
	struct dns_updates updates;
};

struct exchange {			/* one message and what it belongs to */
	struct dns_guest *guest;
	struct dns_message *message;
	struct ip_port client;
	struct ip_port server;
	const struct discover_ctx *ctx;
	struct lookup *lookup;
};

static inline uint64_t dns_ms_since(uint64_t now_ns, uint64_t then_ns)
{
	return now_ns > then_ns ? (now_ns - then_ns) / 1000000 : 0;
}

static inline bool dns_same_peer(const struct ip_port *a, const struct ip_port *b)
{
	return a->port == b->port && ip_equal(&a->ip, &b->ip);
}

uint8_t dns_asked_of(uint16_t type);	/* ASKED_*; 0: no question for a service */

struct observation dns_observation(enum observation_kind kind, const struct dnssd_name *d, const struct ip_port *server,
				   const struct discover_ctx *ctx);
/* The discover of a lookup, unless it was reported or is not to be. */
void lookup_report(struct lookup *l, const struct discover_ctx *ctx);
/* An answer, and before the first one the discover; not twice the same instance. */
void lookup_report_answer(struct exchange *x, const struct observation *o);
bool lookup_is_news(struct lookup *l, const struct observation *o);
void lookup_drop(struct dns_guest *g, struct lookup *l);

/* Is it the target of an SRV answer that came without its address? Then it is the same lookup still. */
bool dns_guest_is_target(const struct dns_guest *g, const struct dns_name *name);

/* The one question of class IN that a message of interest has. */
bool dns_take_question(struct dns_message *m, struct dns_record *ret_question);
void dns_take_query(struct exchange *x);
/* A question that was not captured, by its answer. NULL: it is not of interest, or was asked and answered. */
struct query *dns_adopt_question(struct exchange *x, struct dns_record *question);

void dns_take_response(struct exchange *x);
/* SRV answers whose target was not resolved in time, or all of them, are reported without an address. */
void dns_expire_held(struct dns_guest *g, const struct discover_ctx *ctx, bool all);
void held_drop(struct dns_guest *g, struct held *h);
