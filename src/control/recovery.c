/*
 * Whether an expired certificate of a NIC is worth another one.
 */
#include "control/recovery.h"

#include <errno.h>
#include <string.h>

#include "mesh/cert_ca.h"
#include "mesh/identity.h"

static int reject(struct diag *d, const char *why)
{
	diag_set(d, "%s", why);
	return -EKEYREJECTED;
}

static int check_name(const struct recovery_rules *rules, const char *nic, const struct cert_info *info, struct diag *d)
{
	struct identity id;

	if (identity_parse(info->id, &id) < 0 || id.kind != IDENTITY_NIC || strcmp(id.trust_domain, rules->trust_domain) != 0)
		return reject(d, "the expired certificate is not a NIC's of this trust domain");
	if (!strcmp(id.nic, nic))
		return 0;
	diag_set(d, "the expired certificate is NIC '%.100s's, not '%.100s's", id.nic, nic);
	return -EKEYREJECTED;
}

/* All the way up as it was before the certificate's last second: an authority does not issue what outlives it. */
static int check_chain(const struct recovery_rules *rules, const char *chain_pem, int64_t at, struct diag *d)
{
	struct cert_list chain = {};
	int r = cert_list_add(&chain, chain_pem);

	if (r == 0)
		r = cert_list_verify_at(&chain, rules->roots_pem, at, d);
	cert_list_deinit(&chain);
	return r == 0 || r == -ENOMEM || r == -EKEYREJECTED ? r : reject(d, "the expired certificate's chain cannot be read");
}

static int check_times(const struct recovery_rules *rules, const struct cert_info *info, struct diag *d)
{
	int64_t ago = rules->now - info->not_after;

	/* Of a clock that was set back: who has an old key could wait for that as well. */
	if (info->not_before > rules->now + CERT_BACKDATE_S)
		return reject(d, "the expired certificate's life has not begun: the controller's clock is wrong");
	if (ago <= rules->grace_s)
		return 0;
	diag_set(d, "the certificate expired %lld s ago, which is more than ca.nic_grace: the NIC needs a new join token", (long long)ago);
	return -EKEYREJECTED;
}

int recovery_check(const struct recovery_rules *rules, const struct recovery_claim *claim,
		   uint8_t ret_fingerprint[static CERT_FINGERPRINT_LEN], struct diag *reterr_diag)
{
	struct cert_info info;
	int r;

	if (!rules->grace_s)
		return reject(reterr_diag, "an expired certificate gets no other here (ca.nic_grace is 0): the NIC needs a new join token");
	if (cert_info(claim->chain_pem, &info) < 0)
		return reject(reterr_diag, "the expired certificate cannot be read");
	r = check_name(rules, claim->nic, &info, reterr_diag);
	if (r < 0)
		return r;
	if (cert_has_key(claim->chain_pem, claim->key) < 0)
		return reject(reterr_diag, "the request is not signed by the expired certificate's key");
	r = check_chain(rules, claim->chain_pem, info.not_after - 1, reterr_diag);
	if (r == 0)
		r = check_times(rules, &info, reterr_diag);
	if (r < 0)
		return r;
	return cert_fingerprint(claim->chain_pem, ret_fingerprint) < 0 ? -ENOMEM : 0;
}
