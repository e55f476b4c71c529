#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/ip.h"

/*
 * What was seen on the wire about one instance of one service: the common
 * currency between the decoders of discovery protocols and the catalog.
 *
 * One observation is one service instance and one event. A register is made
 * only when the registry has said yes.
 */
enum observation_kind {
	OBS_REGISTER,		/* this instance is offered now (new, or changed) */
	OBS_RENEW,		/* it still is */
	OBS_DEREGISTER,		/* it is not offered any more */
	OBS_DISCOVER,		/* somebody asked for @service */
	OBS_ANSWER,		/* the registry's answer named this instance */
	_OBS_KIND_N
};

enum observation_health { OBS_HEALTH_UNKNOWN, OBS_HEALTH_PASSING, OBS_HEALTH_WARNING, OBS_HEALTH_CRITICAL, _OBS_HEALTH_N };

enum { OBS_MAX_METADATA = 64, OBS_MAX_STR = 1024 };

struct observation_meta {
	const char *key;
	const char *value;
};

/*
 * Strings belong to whoever made the observation and live as long as the call
 * that hands it over; NULL means "not said". They are valid UTF-8 without
 * control characters and no longer than OBS_MAX_STR.
 */
struct observation {
	enum observation_kind kind;
	const char *protocol;		/* "dns", "mdns", "consul", "zookeeper": a row of the protocol table */
	const char *service;		/* the name a user would use; NULL: only @instance was named, or all were asked for */
	const char *instance;		/* the registry's id of the instance, or NULL */
	struct ip address;		/* none: not known. What the protocol leaves out is the guest's own */
	const char *host;		/* given instead of an address: a host name, to be resolved; @address is none */
	uint16_t port;			/* 0: not known */
	const char *transport;		/* "tcp", "udp" or NULL */
	const char *app_protocol;	/* "http", "grpc", ... or NULL */
	uint32_t ttl_s;			/* 0: none said */
	enum observation_health health;
	const struct observation_meta *metadata;
	size_t n_metadata;

	struct ip guest;		/* the VM's side of the exchange */
	struct ip_port registry;	/* the other side; none for multicast */
	uint64_t frame;			/* capture: number of the frame that completed it, from 1; live: packet counter */
	uint64_t time_ns;		/* capture: its time stamp; live: CLOCK_MONOTONIC of the packet */
};

const char *observation_kind_name(enum observation_kind kind);
const char *observation_health_name(enum observation_health health);	/* NULL for unknown */

/* Called for each observation, in order. */
typedef void observation_fn(const struct observation *o, void *data);
