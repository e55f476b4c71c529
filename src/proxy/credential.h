#pragma once
#include "proxy/sidecar.h"

/*
 * A VM's key and certificate, left with the agent for the process that comes
 * after this one: after a crash or at an upgrade it serves at once, also while
 * the mesh controller is away.
 *
 * They travel as a descriptor of sealed memory: never a file, gone with the
 * last process that holds it. The agent keeps it and never reads it.
 */

/* Gives the agent what @s has now; nothing when it has none, or when there is no agent. */
void credential_give(struct sidecar *s);
/* Uses what is in @fd (borrowed) unless @s has a credential already, or it is not of its identity, or too old, or broken. */
void credential_take(struct sidecar *s, int fd);

/*
 * The format: "outrigger-proxy credential 1\n", the identity and '\n', then PEM:
 * the key (PKCS #8), the chain. encode() gives a descriptor or -errno.
 */
MUST_CHECK int credential_encode(const char *identity, EVP_PKEY *key, const char *chain_pem);
/* -EINVAL with a reason. Both results are the caller's. */
MUST_CHECK int credential_decode(int fd, const char *identity, EVP_PKEY **ret_key, char **ret_chain_pem, struct diag *reterr_diag);
