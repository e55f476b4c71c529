/*
 * Whether a peer is the one that was expected.
 */
#include "mesh/tls_internal.h"

#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>

#include "base/ip.h"

static bool name_matches(X509 *leaf, const char *name)
{
	struct ip ip;

	if (ip_parse(name, &ip) == 0)
		return X509_check_ip_asc(leaf, name, 0) == 1;
	return X509_check_host(leaf, name, 0, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS, NULL) == 1;
}

static bool id_is_one_of(const char *id, const char *const *ids, size_t n_ids)
{
	for (size_t i = 0; id && i < n_ids; i++)
		if (!strcmp(id, ids[i]))
			return true;
	return false;
}

static bool id_is_in(const char *id, const char *trust_domain)
{
	size_t n = strlen(trust_domain);

	return id && !strncmp(id, "spiffe://", 9) && !strncmp(id + 9, trust_domain, n) && id[9 + n] == '/';
}

bool tls_expect_met(const struct tls_expect *e, const struct tls_peer *p, X509 *leaf, char error[static TLS_PEER_ERROR_LEN])
{
	const char *who = p->id ? p->id : "a certificate without SPIFFE ID";

	if (e->n_ids && !id_is_one_of(p->id, e->ids, e->n_ids))
		snprintf(error, TLS_PEER_ERROR_LEN, "peer presented %s, expected %s%s", who, e->n_ids > 1 ? "one of " : "", e->ids[0]);
	else if (e->trust_domain && !id_is_in(p->id, e->trust_domain))
		snprintf(error, TLS_PEER_ERROR_LEN, "peer presented %s, expected one of trust domain %s", who, e->trust_domain);
	else if (e->server_name && !name_matches(leaf, e->server_name))
		snprintf(error, TLS_PEER_ERROR_LEN, "the certificate is not for %s", e->server_name);
	else
		return true;
	return false;
}
