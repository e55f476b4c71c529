/*
 * istio.security.Authorization from a stranger: decoded, evaluated, encoded
 * again. A policy that is not understood whole must not let anybody in.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>

#include "mesh/authz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const principals[] = { NULL, "", "spiffe://td/ns/a/sa/b", "spiffe://td/nic/x", "spiffe:///ns//sa/", "x" };

static struct authz_verdict ask(struct policy *p, const char *principal)
{
	static const struct ip ip = { .b = { [10] = 0xff, [11] = 0xff, [12] = 10, [15] = 1 } };
	const struct workload w = { .uid = "w", .name = "w", .namespace = p->namespace, .network = "", .trust_domain = "td",
				    .service_account = "s", .addresses = &ip, .n_addresses = 1, .capacity = 1 };
	const struct authz_conn conn = { { ip, 1000 }, { ip, 80 }, principal };
	struct snap_store *st;
	struct snapshot *s;

	if (snap_store_new("", &st) < 0 || snap_store_set_policies_known(st, true) < 0 || snap_store_put_workload(st, &w) < 0 ||
	    snap_store_put_policy(st, p) < 0 || snap_store_publish(st, &s) < 0)
		abort();

	struct authz_verdict v = authz_check(s, snapshot_workload(s, "w"), &conn);
	char text[AUTHZ_TEXT_LEN];
	authz_text(&v, text);
	snapshot_unref(s);
	snap_store_free(st);
	return v;
}

static void encode_again(const struct policy *p)
{
	struct policy again;
	struct bytes out;
	struct diag d;

	bytes_init(&out, 16 << 20);
	if (policy_encode(p, &out) < 0 || policy_decode(out.data, out.len, &again, &d) < 0)
		abort();
	policy_deinit(&again);
	bytes_deinit(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct policy p;
	struct diag d;

	for (size_t i = 0; i < ELEMENTS(principals); i++) {
		if (policy_decode(data, size, &p, &d) < 0)
			return 0;
		if (!i)
			encode_again(&p);

		bool strange = p.strange && !p.dry_run && p.scope != POLICY_WORKLOAD;
		struct authz_verdict v = ask(&p, principals[i]);
		if (strange)
			assert(v.outcome == AUTHZ_DENIED);
		policy_deinit(&p);
	}
	return 0;
}
