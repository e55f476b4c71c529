#pragma once
#include <openssl/types.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/diag.h"
#include "mesh/cert.h"

/*
 * A NIC that comes with a certificate that has expired: one that was away, or
 * whose controller was, for longer than a certificate lives. It shows the
 * certificate, and that it has the key by a request for another one that the
 * same key has signed. So what it gets is for a key that nobody else has, and
 * whoever copies and repeats its message gains nothing.
 *
 * Here is what can be seen from that alone. Whether it is the last certificate
 * of a NIC that is still trusted, the store knows.
 */
struct recovery_claim {			/* what the caller says */
	const char *nic;
	const char *chain_pem;		/* the certificate, and those between it and the root */
	EVP_PKEY *key;			/* of its request: cert_csr_parse() has checked that it signed it */
};

struct recovery_rules {
	const char *trust_domain;
	const char *roots_pem;		/* what has no way to one of them is nobody's, whenever it was issued */
	int64_t grace_s;		/* so long after its end a certificate still counts; 0: never */
	int64_t now;			/* seconds since 1970 */
};

/*
 * -EKEYREJECTED with the reason in @reterr_diag, -ENOMEM. A certificate that has not
 * expired yet counts, too: the clocks of both ends may differ.
 */
MUST_CHECK int recovery_check(const struct recovery_rules *rules, const struct recovery_claim *claim,
			      uint8_t ret_fingerprint[static CERT_FINGERPRINT_LEN], struct diag *reterr_diag);
