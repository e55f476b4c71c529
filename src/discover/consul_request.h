#pragma once
#include <jansson.h>
#include "base/ip.h"
#include "discover/consul_guest.h"
#include "discover/http_flow.h"
#include "discover/observation.h"
#include "proto/consul.h"

/*
 * Inside of the observer of Consul: a request on its way from consul.c, which
 * has its connection, to consul_write.c or consul_query.c, which know what it
 * means, and what both tell by consul_emit.c. Nobody else includes this.
 */
struct consul_stream {
	struct consul_guest *guest;
	struct consul_guest *own;	/* the same, when there is no guest to share it */
	struct http_flow *flow;
	struct ip_port client;
	struct ip_port server;
};

struct consul_request {
	struct consul_stream *s;
	const struct discover_ctx *ctx;
	const struct http_exchange *x;
	enum consul_call call;
	char arg[CONSUL_MAX_ARG];
	json_t *body;			/* of the request, or NULL */
};

/* A write that was answered with a 2xx; @c->body is there. What is no write is ignored. */
void consul_on_write(struct consul_request *c);

void consul_on_query(struct consul_request *c);		/* it is asked */
void consul_on_answer(struct consul_request *c);	/* it is answered with a 2xx */

/* The mesh's own furniture, by its Kind, which may be NULL. */
bool consul_is_infrastructure(const char *kind);
void consul_emit_instance(struct consul_stream *s, enum observation_kind kind, const struct consul_instance *i, const char *service,
			  const struct discover_ctx *ctx);
/* Of an instance known by id only; @k may be NULL. */
void consul_emit_known(struct consul_stream *s, enum observation_kind kind, const char *id, const struct consul_known *k,
		       enum consul_status status, const struct discover_ctx *ctx);
