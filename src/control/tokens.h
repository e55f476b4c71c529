#pragma once
#include <stdint.h>
#include "base/defs.h"
#include "control/config.h"
#include "control/issuer.h"
#include "control/kube_client.h"

/*
 * Tokens of VMs' workloads: what their proxies show to the mesh controller.
 * Signed here (issuer.h), or asked of Kubernetes: a token of the workload's
 * ServiceAccount, by TokenRequest. The right that this takes is narrow: create
 * serviceaccounts/token of the accounts that onboarding policies name.
 */
struct tokens;
struct token_ask;

/* @token NULL: @refused says why. May be called before tokens_ask() returns. */
typedef void token_done(void *data, const char *token, int64_t expires_at, const char *refused);

struct tokens_options {			/* borrowed for its life */
	struct issuer *issuer;
	struct kube_client *kube;	/* NULL: the issuer signs */
	const struct config *config;	/* until tokens_apply() */
};

struct tokens_info {
	uint64_t n_asked;
	uint64_t n_refused;
	int64_t refused_at;		/* seconds since 1970; 0: never */
	int64_t granted_at;
	const char *refusal;		/* the last one, or "" */
};

MUST_CHECK int tokens_new(const struct tokens_options *options, struct tokens **ret_tokens);
struct tokens *tokens_free(struct tokens *tokens);	/* forgets what is asked */

void tokens_apply(struct tokens *tokens, const struct config *config);

/* *ret_ask is NULL when done() has been called already; else it is valid until then. -ENOMEM: it is not called. */
MUST_CHECK int tokens_ask(struct tokens *tokens, const struct issuer_subject *subject, token_done *done, void *data, struct token_ask **ret_ask);
struct token_ask *token_ask_cancel(struct token_ask *ask);	/* NULL is allowed */
struct tokens_info tokens_info(const struct tokens *tokens);
