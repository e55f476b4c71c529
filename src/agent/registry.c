/*
 * Registry lookups: what is common to all registries. See registry.h.
 */
#include "agent/registry.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/registry_backend.h"
#include "agent/signs.h"
#include "base/utf8.h"

static const struct registry_backend *const backends[] = { &registry_consul, &registry_zk };

static void lookup_free(struct registry_lookup *l)
{
	l->backend->stop(l);
	timer_cancel(&l->timer);
	defer_cancel(&l->defer);
	for (size_t i = 0; i < l->n_entries; i++) {
		free(l->entries[i].instance);
		free(l->entries[i].host);
	}
	free(l->entries);
	free(l->service);
	free(l->instance);
	if (l->token)
		explicit_bzero(l->token, strlen(l->token));
	free(l->token);
	free(l);
}

struct registry_lookup *registry_lookup_cancel(struct registry_lookup *l)
{
	if (l)
		lookup_free(l);
	return NULL;
}

static int give_answer(struct defer *d)
{
	struct registry_lookup *l = container_of(d, struct registry_lookup, defer);
	struct registry_answer a = { l->result, l->text, l->entries, l->n_entries };

	l->fn(&a, l->data);
	lookup_free(l);
	return 0;
}

void registry_finish(struct registry_lookup *l, enum registry_result result, const char *fmt, ...)
{
	char text[2 * sizeof(l->text)];
	va_list ap;

	if (l->done)
		return;
	l->done = true;
	l->result = result;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	utf8_clean(text, strlen(text), l->text, sizeof(l->text));	/* who registers there says what he likes */
	timer_cancel(&l->timer);
	loop_defer(l->loop, &l->defer, give_answer);
}

static const char *first_sign(const struct registry_lookup *l)
{
	for (size_t i = 0; i < l->n_entries; i++)
		if (l->entries[i].sign)
			return l->entries[i].sign;
	return NULL;
}

void registry_finish_counted(struct registry_lookup *l, const char *registry_name)
{
	const struct registry_entry *e = l->entries;
	char place[IP_PORT_TEXT_LEN] = "no address";
	const char *sign = first_sign(l);

	if (!l->n_entries) {
		registry_finish(l, REGISTRY_NOT_FOUND, "%s at %s has no %s%s%s (%zu other instances)", registry_name, l->where, l->service,
				l->instance ? " with the id " : "", l->instance ? l->instance : "", l->n_others);
		return;
	}
	if (!ip_is_none(&e->address))
		ip_port_format(&(struct ip_port){ e->address, e->port }, place);
	registry_finish(l, REGISTRY_FOUND, "%s at %s has %s, id %s, at %s%s%s", registry_name, l->where, l->service, e->instance,
			e->host ? e->host : place, sign ? "; " : "", sign ? sign : "");
}

bool registry_add(struct registry_lookup *l, const char *instance, const char *address, uint16_t port, const char *sign)
{
	struct registry_entry e = { .port = port, .sign = sign ? sign : sign_of_instance(instance) };
	struct registry_entry *grown;

	if ((l->instance && strcmp(l->instance, instance) != 0) || l->n_entries == REGISTRY_MAX_ENTRIES) {
		l->n_others++;
		return false;
	}
	grown = realloc(l->entries, (l->n_entries + 1) * sizeof(*grown));
	if (!grown)
		return false;
	l->entries = grown;
	e.instance = strdup(instance);
	if (address && ip_parse(address, &e.address) < 0)
		e.host = strdup(address);
	if (!e.instance) {
		free(e.host);
		return false;
	}
	l->entries[l->n_entries++] = e;
	return true;
}

static int on_timeout(struct timer *t)
{
	struct registry_lookup *l = container_of(t, struct registry_lookup, timer);

	registry_finish(l, REGISTRY_UNREACHABLE, "%s did not answer in time", l->where);
	return 0;
}

static const struct registry_backend *find_backend(const char *protocol)
{
	for (size_t i = 0; i < ELEMENTS(backends); i++)
		if (strcmp(backends[i]->protocol, protocol) == 0)
			return backends[i];
	return NULL;
}

int registry_lookup_start(struct loop *loop, const struct registry_query *q, registry_fn *fn, void *data,
			  struct registry_lookup **ret_lookup)
{
	const struct registry_backend *backend = find_backend(q->protocol);
	struct registry_lookup *l;
	int r = -ENOMEM;

	if (!backend)
		return -ENOTSUP;
	l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	l->loop = loop;
	l->backend = backend;
	l->registry = q->registry;
	l->fn = fn;
	l->data = data;
	ip_port_format(&q->registry, l->where);
	l->service = strdup(q->service);
	l->instance = q->instance ? strdup(q->instance) : NULL;
	l->token = q->token ? strdup(q->token) : NULL;
	if (l->service && (l->instance || !q->instance) && (l->token || !q->token))
		r = timer_arm(loop, &l->timer, q->timeout_ms ? q->timeout_ms : REGISTRY_TIMEOUT_MS, on_timeout);
	if (!r)
		r = backend->start(l);
	if (r < 0) {
		lookup_free(l);
		return r;
	}
	*ret_lookup = l;
	return 0;
}
