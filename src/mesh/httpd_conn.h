#pragma once
#include "base/bytes.h"
#include "base/list.h"
#include "mesh/httpd.h"
#include "mesh/tls_conn.h"
#include "proto/http1.h"

/*
 * Inside of httpd: a connection and the server it belongs to.
 */
struct httpd_listener {
	struct httpd *httpd;
	int fd;
	struct watch watch;
	struct timer pause;	/* no descriptors are left */
	size_t n_conns;
	struct tls_ctx *tls;
	bool is_unix;
	bool loopback;		/* plain HTTP on a loopback address: browsers reach it */
	struct ip_port addr;
	char *path;		/* of the unix socket, unlinked at the end */
};

struct httpd {
	struct loop *loop;
	struct httpd_options options;
	struct httpd_listener listeners[HTTPD_MAX_LISTENERS];
	size_t n_listeners;
	struct list conns;	/* who has waited longest for a request is first */
};

struct httpd_conn {
	struct list link;
	struct httpd *httpd;
	struct httpd_listener *listener;
	int fd;			/* -1: @tls has it */
	struct watch watch;
	struct tls_conn *tls;
	struct timer idle;	/* from a reply to the next request, whole */
	struct defer resume;	/* go on with @in after a late reply */
	struct defer dead;

	struct http1 parser;
	struct bytes in;	/* came while a request was being answered */
	struct bytes body;
	struct bytes out;
	char *head;		/* the request's strings */
	struct httpd_request req;
	httpd_gone *gone;
	void *gone_data;

	bool busy;		/* a handler owes the reply */
	bool in_input;
	bool too_large;
	bool keep_alive;
	bool is_head;
	bool closing;		/* when @out is sent */
	bool lingering;		/* it is; what still comes is dropped, so that a reset does not overtake the reply */
	bool ended;		/* is going to be freed */
};

/* Takes @fd. */
MUST_CHECK int httpd_conn_new(struct httpd_listener *l, int fd);
void httpd_conn_free(struct httpd_conn *c);	/* at once */
void httpd_accept_more(struct httpd_listener *l);	/* a connection of it has gone */

/* Finds the route and its parameters; answers 404 and 405 itself (NULL). */
const struct httpd_route *httpd_route_find(struct httpd *h, struct httpd_request *req);
void httpd_params_free(struct httpd_request *req);
