#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/ip.h"
#include "base/loop.h"
#include "mesh/tls.h"
#include "outrigger/health.pb-c.h"

/*
 * One check of a server's health, on a socket whose connect() is under way: that
 * it is accepted (tcp), that GET is answered by 200 to 399 (http; https: by TLS,
 * whatever the certificate, as kubelets do), or that grpc.health.v1.Health says
 * SERVING (grpc).
 *
 * The server is a stranger: it gets until the timeout, its answer has a maximum,
 * and nothing of it but a status is kept.
 */
struct attempt;

enum attempt_result {
	ATTEMPT_OK,
	ATTEMPT_REFUSED,	/* somebody is there: he refused, or answered what is no good */
	ATTEMPT_SILENT,		/* nothing came back at all */
};

/* @why: "" when it is OK. The attempt is gone: not to be freed any more. */
typedef void attempt_fn(void *data, enum attempt_result result, const char *why);

struct attempt_options {
	struct ip_port at;		/* where the socket goes to */
	const Outrigger__Health__Check *check;	/* borrowed for the attempt's life */
	struct tls_ctx *tls;		/* https: of attempt_tls_new(); borrowed for the call */
	uint32_t timeout_ms;
};

/* @fd becomes the attempt's, also when this fails. Never calls @fn itself. -ENOMEM, -EINVAL: no such kind. */
MUST_CHECK int attempt_start(struct loop *loop, int fd, const struct attempt_options *options, attempt_fn *fn, void *data,
			     struct attempt **ret_attempt);
/* What https attempts have in common; many may share one. -ENOMEM, -EINVAL. */
MUST_CHECK int attempt_tls_new(struct tls_ctx **ret_tls);
struct attempt *attempt_free(struct attempt *a);	/* @fn is not called */
