#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"

/*
 * Consul's HTTP API, as far as registration and discovery go: which call a
 * request is, and what its bodies say. (developer.hashicorp.com/consul/api-docs,
 * and what clients really send.)
 *
 * Everything returned is borrowed from the caller's path buffer or JSON.
 */
enum consul_call {
	CONSUL_OTHER,			/* not ours: KV, ACL, status, ... */
	CONSUL_AGENT_REGISTER,
	CONSUL_AGENT_DEREGISTER,	/* arg: instance id */
	CONSUL_AGENT_MAINTENANCE,	/* arg: instance id */
	CONSUL_CHECK_REGISTER,
	CONSUL_CHECK_DEREGISTER,	/* arg: check id, as in the next ones */
	CONSUL_CHECK_PASS,
	CONSUL_CHECK_WARN,
	CONSUL_CHECK_FAIL,
	CONSUL_CHECK_UPDATE,
	CONSUL_CATALOG_REGISTER,
	CONSUL_CATALOG_DEREGISTER,
	CONSUL_TXN,
	CONSUL_GET_HEALTH_SERVICE,	/* arg: service name; also health/connect, health/ingress */
	CONSUL_GET_CATALOG_SERVICE,	/* arg: service name; also catalog/connect */
	CONSUL_GET_CATALOG_SERVICES,
	CONSUL_GET_AGENT_SERVICES,
	CONSUL_GET_AGENT_SERVICE,	/* arg: instance id */
	CONSUL_GET_AGENT_HEALTH,	/* arg: service name */
	CONSUL_GET_QUERY,		/* arg: query id or name */
	CONSUL_GET_CHECKS,		/* arg: service name (health/checks) */
	CONSUL_GET_STATE,		/* arg: state */
};

enum { CONSUL_MAX_ARG = 512 };

/* The call of a request; @ret_arg is percent-decoded, "" when the call has none. */
enum consul_call consul_call_parse(const char *method, const char *path, char ret_arg[static CONSUL_MAX_ARG]);
static inline bool consul_call_is_query(enum consul_call c)
{
	return c >= CONSUL_GET_HEALTH_SERVICE;
}

/* The value of @key in a query string, percent-decoded; false when it is not there or does not fit. */
bool consul_query_get(const char *query, const char *key, char *ret_value, size_t size);

/* In the order of severity, so that the worst of several is the greatest. */
enum consul_status { CONSUL_STATUS_UNKNOWN, CONSUL_STATUS_PASSING, CONSUL_STATUS_WARNING, CONSUL_STATUS_CRITICAL };
enum consul_status consul_status_parse(const char *text);

struct consul_instance {
	const char *node;		/* NULL in agent calls */
	const char *id;			/* defaults to the name, as at the server */
	const char *service;
	const char *address;		/* of the service, else of its node; NULL: not said */
	uint16_t port;
	const char *kind;		/* NULL: a typical service; "connect-proxy", "mesh-gateway", ... */
	const json_t *meta;		/* object or NULL */
	const json_t *tags;		/* array or NULL */
	uint32_t ttl_s;			/* the shortest TTL check; 0: none */
	enum consul_status status;	/* the worst of its checks */
	bool udp;			/* it has UDP checks only */
};

/*
 * Agent form: PUT agent/service/register and the values of agent/services, which
 * say "Service" for the name. False when there is neither name nor id.
 */
bool consul_instance_agent(const json_t *o, struct consul_instance *ret_i);
/* {"Node", "Address", "Service": {...}, "Check(s)"}: catalog/register. False without a service. */
bool consul_instance_catalog(const json_t *o, struct consul_instance *ret_i);
/* {"Node": {...}, "Service": {...}, "Checks": [...]}: elements of health and query answers. */
bool consul_instance_health(const json_t *o, struct consul_instance *ret_i);
/* {"Node", "Address", "ServiceName", "ServiceID", ...}: elements of catalog/service answers. */
bool consul_instance_flat(const json_t *o, struct consul_instance *ret_i);

/* The id of a check in a check or service registration: "CheckID", "ID", or its name. NULL when not said. */
const char *consul_check_id(const json_t *check);
