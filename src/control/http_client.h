#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/loop.h"

/*
 * Requests over HTTP to other people's servers: libcurl's multi interface on
 * our loop. HTTP/1.1 and verified TLS; redirects are not followed. An answer is
 * handed over as it comes, so that one that never ends (a watch) works, too.
 *
 * One loop, no threads. Everything here may be called from every callback.
 */
struct http_client;
struct http_call;

struct http_request {			/* copied, but for @data */
	const char *method;		/* "GET" */
	const char *url;
	const char *const *headers;	/* "Accept: text/plain"; NULL ends it; may be NULL */
	const void *body;		/* NULL: none */
	size_t n_body;
	const char *ca_pem;		/* NULL: the system's roots */
	const char *cert_pem;		/* own chain, with @key_pem; NULL: none */
	const char *key_pem;
	uint32_t timeout_ms;		/* for the whole of it; 0: none */
	uint32_t silence_timeout_s;	/* without a byte; 0: none */
	void *data;
};

struct http_result {
	int status;			/* of HTTP; 0: there was no answer */
	const char *error;		/* "": the answer came whole */
	bool timed_out;
	uint32_t retry_after_s;		/* the header; 0: none */
};

struct http_ops {
	/* The head of the answer has come. May be NULL; nothing may be cancelled in it. */
	void (*head)(struct http_call *call, void *data, int status);
	/* A piece of the body of an answer with @status. < 0 ends the call with that as its error. */
	int (*body)(struct http_call *call, void *data, int status, const void *bytes, size_t len);
	/* The end, once; the call is freed after it. Not called after http_cancel(). */
	void (*done)(struct http_call *call, void *data, const struct http_result *result);
};

MUST_CHECK int http_client_new(struct loop *loop, struct http_client **ret_client);
struct http_client *http_client_free(struct http_client *client);	/* cancels what is under way */

/* -EINVAL, -ENOMEM; done() is never called before it returns. */
MUST_CHECK int http_start(struct http_client *client, const struct http_request *request, const struct http_ops *ops, struct http_call **ret_call);
struct http_call *http_cancel(struct http_call *call);	/* NULL is allowed */
