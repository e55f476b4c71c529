#pragma once
#include "agent/registry.h"

/*
 * Between registry.c and the kinds of registries: a row and two functions each.
 */
struct registry_lookup {
	struct loop *loop;
	const struct registry_backend *backend;
	void *impl;			/* the backend's */
	char *service;
	char *instance;			/* or NULL */
	char *token;			/* or NULL */
	struct ip_port registry;
	char where[IP_PORT_TEXT_LEN];	/* the same as text */
	registry_fn *fn;
	void *data;
	struct timer timer;
	struct defer defer;
	bool done;
	enum registry_result result;
	char text[REGISTRY_TEXT_LEN];
	struct registry_entry *entries;
	size_t n_entries;
	size_t n_others;		/* instances of the service that were not asked for */
};

struct registry_backend {
	const char *protocol;
	int (*start)(struct registry_lookup *l);	/* 0, -ENOMEM and the like */
	void (*stop)(struct registry_lookup *l);	/* frees l->impl, which may be NULL */
};

extern const struct registry_backend registry_consul;
extern const struct registry_backend registry_zk;

/*
 * An instance that the registry has; @address is text or NULL. False when
 * it is not the one asked for, or memory is short: then nothing is added.
 */
bool registry_add(struct registry_lookup *l, const char *instance, const char *address, uint16_t port, const char *sign);
/* Ends the lookup; the answer is given after this turn's callbacks. */
void registry_finish(struct registry_lookup *l, enum registry_result result, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* Ends it as found or not found, by what was added. */
void registry_finish_counted(struct registry_lookup *l, const char *registry_name);
