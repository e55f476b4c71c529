/*
 * agent.yaml is read again: on SIGHUP, or when the admin socket is asked to.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent/knowledge.h"
#include "agent/worker.h"
#include "base/clock.h"
#include "base/conf.h"
#include "base/log.h"

#define SWAP(a, b) do { __typeof__(a) swapped_ = (a); (a) = (b); (b) = swapped_; } while (0)

/* The first of each section: after a restart nobody waits any more. */
static json_t *waiting_for(const struct config *now, const struct config *next)
{
	const struct conf_table *all = config_table();
	json_t *list = json_array();

	for (size_t i = 0; i < all->n_items; i++) {
		const struct conf_table one = { .name = all->name, .size = all->size, .items = &all->items[i], .n_items = 1 };
		char path[CONF_PATH_LEN];

		if (!conf_differs(&one, now, next, CONF_RESTART, path))
			continue;
		log_warn("a changed setting takes effect after a restart", log_str("setting", path));
		json_array_append_new(list, json_string(path));
	}
	return list;
}

/* What is not written down was found at the start, and is the same still. */
static int complete(const struct config *now, struct config *next)
{
	if (next->proxy.path || !now->proxy.path)
		return 0;
	next->proxy.path = strdup(now->proxy.path);
	return next->proxy.path ? 0 : -ENOMEM;
}

static void apply_guests(struct worker *w, struct guest_rule *rules, size_t n_rules)
{
	const struct guest_limits limits = {
		.per_nic = w->conf->limits.guests, .per_port = w->conf->limits.guests_per_port,
		.address_ms = w->conf->limits.address_lifetime_ms,
	};
	struct guest_rule *before = w->rules;
	size_t n_before = w->n_rules;

	w->rules = rules;
	w->n_rules = n_rules;
	guest_table_change(&w->guests, rules, n_rules, &limits);
	w->catalog.claims_per_s = w->conf->limits.claims_per_s;
	config_rules_free(before, n_before);
	list_for_each(l, &w->places.places) {
		const struct place *p = list_entry(l, struct place, link);

		if (p->up && guest_port_up(&w->guests, p->port, clock_mono_ms()) < 0)
			log_error("no memory for the configured guests", log_str("port", p->port));
	}
}

static void apply_rest(struct worker *w)
{
	static const char *const levels[] = { "error", "warn", "info", "debug" };
	const struct config *c = w->conf;

	log_change((enum log_level)c->log.level, c->log.json);
	w->supervisor.conf.log_level = levels[c->log.level];
	w->supervisor.conf.log_json = c->log.json;
	w->supervisor.conf.drain_ms = c->proxy.drain_ms;
	w->supervisor.conf.upgrade_adopted = c->proxy.upgrade == CONFIG_UPGRADE_AUTO;
	w->supervisor.conf.upgrade_drain_ms = c->proxy.upgrade_drain_ms;
	w->court.registries = c->registries.v;
	w->court.n_registries = c->registries.n;
	w->court.probe = c->probe.enabled;
	w->court.own_address = c->probe.own_address;
	w->court.interval_ms = c->probe.interval_ms;
	w->court.timeout_ms = c->probe.timeout_ms;
	w->court.misses = c->probe.misses;
	knowledge_repeat_welcome(w);		/* level and access log of the proxies */
	worker_touch_everybody(w);		/* their VMs' limits */
}

/* Exchanges what may change, so that @next has what is to be freed. */
static void exchange(struct config *now, struct config *next)
{
	SWAP(now->guests, next->guests);
	SWAP(now->registries, next->registries);
	SWAP(now->limits, next->limits);
	SWAP(now->limits.sniffed_bytes, next->limits.sniffed_bytes);
	SWAP(now->probe, next->probe);
	SWAP(now->log, next->log);
	SWAP(now->proxy, next->proxy);
	SWAP(now->proxy.path, next->proxy.path);
	SWAP(now->proxy.workers, next->proxy.workers);
}

static int refuse(struct worker *w, int r, struct diag *d)
{
	char text[DIAG_TEXT_LEN];

	if (!d->msg[0])
		diag_set(d, "%s", strerror(-r));
	w->conf_error = *d;
	log_error("the configuration is refused, the last good one stays in force", log_str("reason", diag_format(d, text)));
	return r;
}

int reload_config(struct worker *w, json_t **ret_waiting, struct diag *reterr_diag)
{
	struct guest_rule *rules;
	struct config next;
	size_t n_rules;
	json_t *waiting;
	int r = config_load(w->conf_path, &next, reterr_diag);

	if (r < 0)
		return refuse(w, r, reterr_diag);
	r = complete(w->conf, &next);
	if (r == 0)
		r = config_rules(&next, &rules, &n_rules);
	if (r < 0) {
		config_free(&next);
		return refuse(w, r, reterr_diag);
	}
	waiting = waiting_for(w->conf, &next);
	exchange(w->conf, &next);
	apply_guests(w, rules, n_rules);
	apply_rest(w);
	config_free(&next);
	w->conf_error = (struct diag){};
	log_info("the configuration was read again", log_str("file", w->conf_path));
	*ret_waiting = waiting;
	return 0;
}
