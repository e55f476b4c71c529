#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/ip.h"
#include "mesh/snapshot.h"
#include "proto/dns_reply.h"
#include "proxy/dns_names.h"

/*
 * What a query is about, as far as that can be the mesh's, and the mesh's
 * answer to it. No I/O, nothing is kept.
 */
enum {
	DNS_SERVICE_TTL_S = 30,		/* of a service's own address, as ztunnel's */
	DNS_ENDPOINT_TTL_S = 5,
};

struct dns_subject {
	char key[DNS_NAMES_KEY_LEN];	/* of a service; "": the name of @ip is asked for */
	struct ip ip;
	uint8_t protocol;		/* enum app_protocol, of "_http._tcp.<service>"; 0: the service itself */
};

/* false: it is nothing of the mesh, whatever there is in it. @namespace, @domains: as dns_names_key(). */
MUST_CHECK bool dns_subject_of(const struct dns_query *q, const char *namespace, char *const *domains, size_t n_domains,
			       struct dns_subject *ret_subject);

/*
 * The answer about @s, which is there: at the worst that it has no such record.
 * false: the mesh cannot say, somebody else may. @turn: the endpoint to begin
 * with.
 */
MUST_CHECK bool dns_subject_answer(const struct dns_subject *subject, const struct dns_query *q, const struct snap_service *s, uint32_t turn,
				   struct dns_reply *ret_reply);
/* The answer that an address's name is @host; false: it is no name. */
MUST_CHECK bool dns_subject_answer_host(const struct dns_query *q, const char *host, struct dns_reply *ret_reply);
