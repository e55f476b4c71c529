#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/ip.h"
#include "base/loop.h"

/*
 * Looks a service up in the registry itself: method (a) of the verdict. One
 * lookup is one question to one server, on our loop, with a time limit; it
 * changes nothing there.
 */
struct registry_lookup;

struct registry_query {			/* copied */
	const char *protocol;		/* "consul", "zookeeper" */
	struct ip_port registry;
	const char *service;
	const char *instance;		/* its id; NULL: any */
	uint32_t timeout_ms;		/* of the whole lookup; 0: REGISTRY_TIMEOUT_MS */
	const char *token;		/* ours, for registries that ask for one, or NULL. Never a guest's */
};

enum { REGISTRY_TIMEOUT_MS = 3000, REGISTRY_MAX_ENTRIES = 1024, REGISTRY_TEXT_LEN = 256 };

enum registry_result {
	REGISTRY_FOUND,			/* the entry is there */
	REGISTRY_NOT_FOUND,		/* the registry answers, and has none */
	REGISTRY_UNREACHABLE,		/* no connection, no answer in time, or one that makes no sense */
	REGISTRY_REFUSED,		/* it answers that we may not ask */
};

struct registry_entry {
	char *instance;
	char *host;			/* given instead of an address, or NULL */
	struct ip address;		/* none: not said */
	uint16_t port;
	const char *sign;		/* of an orchestrator (signs.h): it looks container-registered; or NULL */
};

struct registry_answer {		/* valid for the call */
	enum registry_result result;
	const char *evidence;		/* a sentence for people */
	const struct registry_entry *entries;	/* those that were asked for */
	size_t n_entries;
};

/* Called once, from the loop and never from within start; the lookup is gone when it returns. */
typedef void registry_fn(const struct registry_answer *a, void *data);

/* 0, -ENOTSUP (there is no lookup for that protocol), -ENOMEM. What goes wrong later is an answer. */
MUST_CHECK int registry_lookup_start(struct loop *loop, const struct registry_query *q, registry_fn *fn, void *data,
				     struct registry_lookup **ret_lookup);
/* Before the answer: there will be none. NULL is allowed; returns NULL. */
struct registry_lookup *registry_lookup_cancel(struct registry_lookup *l);

