#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "base/defs.h"

/*
 * SPIFFE IDs and the two forms that the mesh uses.
 *
 *	workload	spiffe://<trust domain>/ns/<namespace>/sa/<service account>
 *	NIC agent	spiffe://<trust domain>/nic/<NIC id>
 *
 * Source: SPIFFE-ID section 2 (trust domain: lower-case letters, digits, '.',
 * '-', '_', at most 255 bytes; path segments: letters, digits, '.', '-', '_',
 * neither empty nor "." or ".."; 2048 bytes in all; no query, fragment, port,
 * user or percent-encoding).
 */
enum {
	IDENTITY_MAX = 2048,		/* bytes of a SPIFFE ID */
	IDENTITY_TRUST_DOMAIN_MAX = 255,
	IDENTITY_NAME_MAX = 253,	/* namespace, service account, NIC id: a DNS name's length (Kubernetes) */
	IDENTITY_TEXT_LEN = IDENTITY_TRUST_DOMAIN_MAX + 2 * IDENTITY_NAME_MAX + 32,	/* of both forms, with the zero */
};

enum identity_kind {
	IDENTITY_OTHER,			/* a valid SPIFFE ID of neither form */
	IDENTITY_WORKLOAD,
	IDENTITY_NIC,
};

struct identity {
	enum identity_kind kind;
	char trust_domain[IDENTITY_TRUST_DOMAIN_MAX + 1];
	char ns[IDENTITY_NAME_MAX + 1];			/* workload */
	char service_account[IDENTITY_NAME_MAX + 1];	/* workload */
	char nic[IDENTITY_NAME_MAX + 1];		/* NIC */
};

/* -EINVAL when it is no SPIFFE ID, or one of our forms with a name that is too long. */
MUST_CHECK int identity_parse(const char *text, struct identity *ret_id);
MUST_CHECK int identity_parse_n(const char *text, size_t len, struct identity *ret_id);

/* -EINVAL when a part is not valid. */
MUST_CHECK int identity_workload(const char *trust_domain, const char *ns, const char *service_account, struct identity *ret_id);
MUST_CHECK int identity_nic(const char *trust_domain, const char *nic, struct identity *ret_id);

/* The text of a workload's or NIC's identity; "" of others. Returns @text. */
const char *identity_format(const struct identity *id, char text[static IDENTITY_TEXT_LEN]);

bool identity_trust_domain_valid(const char *text);
/* One path segment: what a namespace, a service account or a NIC id has to be. */
bool identity_name_valid(const char *text);
