#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/defs.h"
#include "mesh/identity.h"
#include "outrigger/provisioner.pb-c.h"

/*
 * The NIC's key and certificate: in memory, and in the state directory (0600),
 * since an agent has to start again without a new join token.
 */
struct nic_cert {
	const char *nic;		/* borrowed */
	const char *state_dir;		/* borrowed */
	char *key_pem;			/* NULL: not enrolled */
	char *chain_pem;
	char *new_key_pem;		/* of the request that is under way */
	char trust_domain[IDENTITY_TRUST_DOMAIN_MAX + 1];	/* "" before the first enrolment */
	int64_t not_after;		/* seconds since 1970 */
	int64_t renew_at;		/* half of its life */
	bool unsaved;
};

void nic_cert_init(struct nic_cert *c, const char *nic, const char *state_dir);
void nic_cert_deinit(struct nic_cert *c);	/* wipes the keys */

/* From disk. What cannot be used is named in the log and left. */
void nic_cert_load(struct nic_cert *c);
bool nic_cert_usable(const struct nic_cert *c);
bool nic_cert_expired(const struct nic_cert *c);	/* there is one, and it was */

/* A new key, which waits for its certificate, and the request for that. @trust_domain "": not known yet, the controller fills it in. */
MUST_CHECK int nic_cert_request(struct nic_cert *c, const char *trust_domain, char **ret_csr);
/* For what has expired: a request by the key that is there. -ENOENT: there is none. */
MUST_CHECK int nic_cert_request_again(struct nic_cert *c, char **ret_csr);
/* The answer: in force at once, and on disk (what goes wrong there is in the log, and for nic_cert_save_again()). -EKEYREJECTED: for another NIC; -EBADMSG. */
MUST_CHECK int nic_cert_take(struct nic_cert *c, const Outrigger__V1__EnrollResponse *m);
/* If it could not be written to disk. */
void nic_cert_save_again(struct nic_cert *c);
