#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "base/defs.h"
#include "base/diag.h"
#include "base/ip.h"
#include "base/loop.h"
#include "mesh/tls.h"

/*
 * A small HTTP/1.1 server for people and scripts: the admin sockets of agent
 * and proxy, the controller's REST API. Not for the data path.
 *
 * One loop, no threads. Requests are read whole (head and body are bounded)
 * before a handler of the route table is called; answers are sent whole. One
 * request at a time on a connection, kept alive between them.
 */
struct httpd;
struct httpd_request;

enum {
	HTTPD_MAX_PARAMS = 4,
	HTTPD_MAX_LISTENERS = 4,
};

struct httpd_peer {
	bool is_unix;
	uid_t uid;		/* of a unix socket's other end, when it connected */
	gid_t gid;
	pid_t pid;
	struct ip_port addr;	/* of a TCP connection */
};

struct httpd_param {
	const char *name;	/* in the pattern, behind the brace: use httpd_param() */
	char *value;		/* percent-decoded; no slash, no zero */
};

/*
 * The strings are valid until the reply. @body ends with a zero that does not
 * count.
 */
struct httpd_request {
	const char *method;
	const char *path;	/* without the query, percent-encoded as it came */
	const char *query;	/* behind '?', or "" */
	const char *authorization;	/* header, or "" */
	const char *content_type;	/* header, or "" */
	const char *host;		/* header, or "" */
	const char *origin;		/* header, or "": set by browsers */
	const char *body;
	size_t n_body;
	struct httpd_peer peer;
	const char *tls_id;	/* SPIFFE ID of the client's certificate, or NULL */
	struct httpd_param params[HTTPD_MAX_PARAMS];
	size_t n_params;
	void *data;		/* of httpd_options */
};

/*
 * Replies, once, before it returns or later. When later: httpd_hold() first,
 * and the connection may end before the reply (then gone() is called, and the
 * request does not exist any more).
 */
typedef void httpd_handler(struct httpd_request *req);
typedef void httpd_gone(struct httpd_request *req, void *data);

struct httpd_route {
	const char *method;	/* "GET"; HEAD is answered by GET's handler */
	const char *pattern;	/* "/v1/guests/{id}": a part in braces takes one path segment, "{rest*}" at the end all that is left */
	httpd_handler *handler;
	const char *doc;	/* a sentence for the API's description */
};

struct httpd_options {
	const struct httpd_route *routes;
	size_t n_routes;
	void *data;
	/* NULL lets everybody in. Else: 0, or the status (401, 403) with which the request is refused. Asked before a body is read, too. */
	int (*admit)(const struct httpd_request *req);
	size_t max_body;	/* 0: 1 MiB */
	/*
	 * 0: 64, of each listener. Who has been silent for longest goes for a new one;
	 * while all are being answered, more wait in the kernel's queue.
	 */
	size_t max_connections;
	uint32_t idle_timeout_ms;	/* 0: 60000; a request has to come whole in it */
};

/* @options is copied; the routes are borrowed. -ENOMEM. */
MUST_CHECK int httpd_new(struct loop *loop, const struct httpd_options *options, struct httpd **ret_httpd);
struct httpd *httpd_free(struct httpd *h);

/*
 * Any number up to HTTPD_MAX_LISTENERS. A stale socket file is replaced, one on
 * which somebody answers is not. -EADDRINUSE and others with @reterr_diag, which
 * names the address. @tls NULL: plain HTTP.
 */
MUST_CHECK int httpd_listen_unix(struct httpd *h, const char *path, mode_t mode, struct diag *reterr_diag);
MUST_CHECK int httpd_listen_tcp(struct httpd *h, const struct ip_port *addr, struct tls_ctx *tls, struct diag *reterr_diag);
/* Another certificate for the connections to come, on all listeners that have one. A reference is taken. */
void httpd_set_tls(struct httpd *h, struct tls_ctx *tls);
/* The address of the @i-th TCP listener (port 0 was replaced by the kernel's choice). */
struct ip_port httpd_address(const struct httpd *h, size_t i);

void httpd_hold(struct httpd_request *req, httpd_gone *gone, void *data);

/* The value of a parameter of the route's pattern, or NULL. */
const char *httpd_param(const struct httpd_request *req, const char *name);
/* The decoded value of the query's parameter, or NULL. To be freed. */
char *httpd_query(const struct httpd_request *req, const char *name);
/* The body as JSON object, or NULL with the 400 already sent. */
json_t *httpd_body_json(struct httpd_request *req);

void httpd_reply(struct httpd_request *req, int status, const char *content_type, const void *body, size_t n_body);
/* Takes @json; NULL is out of memory: 500. */
void httpd_reply_json(struct httpd_request *req, int status, json_t *json);
/* {"error": "..."} */
void httpd_reply_error(struct httpd_request *req, int status, const char *fmt, ...) PRINTF_LIKE(3, 4);
