#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/diag.h"
#include "base/loop.h"
#include "control/http_client.h"

/*
 * Requests to the Kubernetes API, with errors in words that say what to do:
 * which verb on what was not permitted, whose credentials were refused, that
 * nothing answered.
 *
 * Credentials are read anew before each request, so that tokens and
 * certificates may rotate and the kubeconfig may be replaced.
 */
struct kube_client;
struct kube_call;

enum kube_error {
	KUBE_OK,
	KUBE_UNREACHABLE,	/* no connection, no answer in time, TLS failed */
	KUBE_CREDENTIALS,	/* ours were refused or cannot be read: 401 */
	KUBE_FORBIDDEN,		/* 403 */
	KUBE_NOT_FOUND,
	KUBE_CONFLICT,		/* it exists, or was changed meanwhile */
	KUBE_GONE,		/* 410: that resourceVersion is too old */
	KUBE_TOO_MANY,		/* 429 */
	KUBE_INVALID,		/* other 4xx */
	KUBE_SERVER,		/* 5xx, or an answer that is no answer */
	_KUBE_ERROR_N
};


struct kube_answer {
	enum kube_error error;
	int status;		/* of HTTP, 0: none */
	const char *text;	/* "create serviceaccounts/token demo/vm: not permitted: ..."; "" with KUBE_OK */
	json_t *json;		/* borrowed; NULL on errors without a body */
	uint32_t retry_after_s;	/* the server wants to be left alone for so long; 0: it did not say */
};

struct kube_options {			/* copied */
	const char *kubeconfig;		/* NULL: in a pod */
	const char *context;		/* NULL: the current one */
	uint32_t timeout_ms;		/* of requests but watches; 0: 10 s */
};

/* -EINVAL with the reason (the kubeconfig is read once here), -ENOMEM. */
MUST_CHECK int kube_client_new(struct loop *loop, const struct kube_options *options, struct kube_client **ret_client, struct diag *reterr_diag);
struct kube_client *kube_client_free(struct kube_client *client);	/* cancels what is under way */
const char *kube_client_server(const struct kube_client *client);

struct kube_request {			/* copied but for @data */
	const char *method;		/* "GET", "POST", "DELETE", "PATCH" */
	const char *path;		/* "/api/v1/pods?limit=500" */
	const char *what;		/* for people: "list pods" */
	json_t *body;			/* borrowed for the call; NULL: none */
	const char *content_type;	/* NULL: application/json */
	void (*done)(struct kube_call *call, void *data, const struct kube_answer *answer);
	/* For a watch: gets lines as they come; done() at its end, without json. < 0 ends it; it must not be cancelled here. */
	int (*line)(struct kube_call *call, void *data, json_t *object);
	void (*opened)(struct kube_call *call, void *data);	/* a watch was taken: its head has come; may be NULL */
	void *data;
};

/* done() is called once, never before this returns; not after kube_cancel(). -ENOMEM. */
MUST_CHECK int kube_start(struct kube_client *client, const struct kube_request *request, struct kube_call **ret_call);
struct kube_call *kube_cancel(struct kube_call *call);	/* NULL is allowed */
