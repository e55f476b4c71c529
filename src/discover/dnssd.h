#pragma once
#include <stddef.h>
#include "discover/observation.h"
#include "proto/dns.h"

/*
 * What names and TXT records say of a service (RFC 2782, RFC 6763): shared by
 * the observers of DNS and of multicast DNS.
 */
struct dnssd_name {
	char service[DNS_NAME_TEXT_LEN];	/* what to report as the service */
	char instance[DNS_NAME_TEXT_LEN];	/* the full name, of an instance; else "" */
	char type[2 * DNS_LABEL_TEXT_LEN];	/* "_http._tcp", or "" */
	const char *transport;			/* "tcp", "udp" or NULL */
	const char *app_protocol;		/* "http", ... or NULL */
};

/*
 * `Billing._http._tcp.local` is an instance: its service is "Billing".
 * Everything else is reported under its whole name, lower-case.
 */
void dnssd_describe(const struct dns_name *name, struct dnssd_name *ret_name);

/* Not the name of a service: reverse zones, and the names by which DNS-SD is administered. */
bool dnssd_is_housekeeping(const struct dns_name *name);

struct dnssd_text {
	struct observation_meta meta[OBS_MAX_METADATA];
	size_t n_meta;
	char store[8192];
	size_t used;
};

/* Adds a pair; copies both. What does not fit is left out. The first of equal keys counts. */
void dnssd_text_add(struct dnssd_text *t, const char *key, const char *value);
/* RFC 6763, section 6 */
void dnssd_text_decode(struct dnssd_text *t, struct wire rdata);
