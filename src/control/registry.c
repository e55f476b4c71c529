/*
 * The registry's life, its NICs, and the configuration.
 */
#include "control/registry.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"

enum { SWEEP_MS = 60000, SERVICE_LINGER_MS = 600000 };

static int on_settle(struct defer *d)
{
	registry_settle(container_of(d, struct registry, settle));
	return 0;
}

void reg_settle_later(struct registry *reg)
{
	loop_defer(reg->loop, &reg->settle, on_settle);
}

static int on_sweep(struct timer *t)
{
	struct registry *reg = container_of(t, struct registry, sweep);
	uint64_t now = loop_now_ms(reg->loop);

	map_for_each(l, &reg->services) {
		struct reg_service *s = container_of(l, struct reg_service, link);

		if (!s->declared && list_empty(&s->members) && s->empty_since_ms && now - s->empty_since_ms > SERVICE_LINGER_MS)
			reg_service_remove(reg, s);
	}
	reg_departed_sweep(reg, NULL, false);
	return timer_arm(reg->loop, t, SWEEP_MS, on_sweep);
}

int registry_new(struct loop *loop, struct resources *resources, struct store *store, const struct config *config,
		 struct registry **ret_registry)
{
	struct registry *reg = calloc(1, sizeof(*reg));
	int r;

	if (!reg)
		return -ENOMEM;
	reg->loop = loop;
	reg->resources = resources;
	reg->store = store;
	list_init(&reg->dirty_guests);
	list_init(&reg->dirty_services);
	list_init(&reg->dirty_workloads);
	list_init(&reg->dropped);
	list_init(&reg->departed);
	r = vips_init(&reg->vips, &config->virtual_addresses, store);
	if (r == 0)
		r = registry_apply(reg, config);
	if (r == 0)
		r = reg_store_restore(reg);
	if (r == 0)
		r = timer_arm(loop, &reg->sweep, SWEEP_MS, on_sweep);
	if (r < 0) {
		registry_free(reg);
		return r;
	}
	*ret_registry = reg;
	return 0;
}

static void nic_free(struct reg_nic *nic)
{
	timer_cancel(&nic->grace);
	list_for_each_safe(l, &nic->guests)
		registry_guest_remove(list_entry(l, struct reg_guest, in_nic));
	map_remove(&nic->registry->nics, &nic->link);
	free(nic->id);
	free(nic);
}

struct registry *registry_free(struct registry *reg)
{
	if (!reg)
		return NULL;
	reg_store_flush(reg);
	reg->store = reg->vips.store = NULL;	/* what goes now is not gone */
	reg_departed_sweep(reg, NULL, true);
	map_for_each(l, &reg->nics)
		nic_free(container_of(l, struct reg_nic, link));
	map_for_each(l, &reg->workloads)
		reg_workload_remove(reg, container_of(l, struct reg_workload, link));
	map_for_each(l, &reg->services)
		reg_service_remove(reg, container_of(l, struct reg_service, link));
	timer_cancel(&reg->sweep);
	reg_store_deinit(reg);
	defer_cancel(&reg->settle);
	vips_deinit(&reg->vips);
	map_deinit(&reg->nics);
	map_deinit(&reg->guests);
	map_deinit(&reg->services);
	map_deinit(&reg->declared);
	map_deinit(&reg->founders);
	map_deinit(&reg->workloads);
	map_deinit(&reg->addresses);
	free(reg);
	return NULL;
}

int registry_apply(struct registry *reg, const struct config *config)
{
	const struct config *before = reg->config;
	int r;

	reg->config = config;
	r = reg_services_apply(reg, config);
	if (r == 0)
		r = reg_workloads_apply(reg, config);
	if (r == 0)
		r = reg_publish_policies(reg);
	map_for_each(l, &reg->guests)		/* their policy is another object now, also where nothing changed */
		reg_guest_mark(reg, container_of(l, struct reg_guest, link));
	map_for_each(l, &reg->workloads)	/* selectors may have changed */
		reg_workload_mark(reg, container_of(l, struct reg_workload, link));
	registry_settle(reg);
	if (r < 0 && before)
		reg->config = before;
	return r;
}

static void settle_guests(struct registry *reg)
{
	while (!list_empty(&reg->dirty_guests) || reg->addresses_freed) {
		list_for_each_safe(l, &reg->dirty_guests) {
			list_unlink(l);
			reg_guest_settle(reg, list_entry(l, struct reg_guest, dirty));
		}
		if (!reg->addresses_freed)
			continue;
		reg->addresses_freed = false;	/* who waited for one may have it now */
		map_for_each(l, &reg->guests) {
			struct reg_guest *g = container_of(l, struct reg_guest, link);

			if (g->blocked[0])
				reg_guest_mark(reg, g);
		}
	}
}

void registry_settle(struct registry *reg)
{
	settle_guests(reg);
	list_for_each_safe(l, &reg->dirty_services) {	/* first: their ports follow from their members */
		list_unlink(l);
		if (reg_publish_service(reg, list_entry(l, struct reg_service, dirty)) < 0)
			log_error("a service could not be published", log_str("service", list_entry(l, struct reg_service, dirty)->key));
	}
	list_for_each_safe(l, &reg->dirty_workloads) {
		list_unlink(l);
		if (reg_publish_workload(reg, list_entry(l, struct reg_workload, dirty)) < 0)
			log_error("a workload could not be published", log_str("workload", list_entry(l, struct reg_workload, dirty)->uid));
	}
	if (reg->changed)
		reg->changed(reg->changed_data);
}

/* --- NICs --- */

struct reg_nic *registry_nic(const struct registry *reg, const char *id)
{
	struct map_link *l = map_find_str(&reg->nics, id);

	return l ? container_of(l, struct reg_nic, link) : NULL;
}

static int nic_new(struct registry *reg, const char *id, struct reg_nic **ret_nic)
{
	struct reg_nic *nic = calloc(1, sizeof(*nic));
	int r = -ENOMEM;

	if (!nic)
		return r;
	nic->registry = reg;
	list_init(&nic->guests);
	nic->id = strdup(id);
	if (nic->id)
		r = map_add(&reg->nics, &nic->link, nic->id, strlen(nic->id));
	if (r < 0) {
		free(nic->id);
		free(nic);
		return r;
	}
	*ret_nic = nic;
	return 0;
}

int registry_nic_connect(struct registry *reg, const char *id, struct reg_nic **ret_nic)
{
	struct reg_nic *nic = registry_nic(reg, id);

	if (!nic) {
		int r = nic_new(reg, id, &nic);

		if (r < 0)
			return r;
	}
	timer_cancel(&nic->grace);
	nic->connected = true;
	nic->synced = false;
	nic->epoch++;
	nic->connected_at = clock_wall_s();
	nic->lost_at = 0;
	*ret_nic = nic;
	return 0;
}

static int on_grace(struct timer *t)
{
	struct reg_nic *nic = container_of(t, struct reg_nic, grace);

	if (nic->n_guests)
		log_warn("NIC did not come back: its guests leave the mesh", log_str("nic", nic->id), log_int("guests", (int64_t)nic->n_guests));
	list_for_each_safe(l, &nic->guests)
		registry_guest_remove(list_entry(l, struct reg_guest, in_nic));
	return 0;
}

void registry_nic_lost(struct reg_nic *nic)
{
	struct registry *reg = nic->registry;

	nic->connected = false;
	nic->synced = false;
	nic->lost_at = clock_wall_s();
	if (timer_arm(reg->loop, &nic->grace, reg->config->session_grace_ms, on_grace) < 0)
		log_error("out of memory: a lost NIC's guests stay until it comes back", log_str("nic", nic->id));
}

void registry_nic_forget(struct registry *reg, const char *id)
{
	struct reg_nic *nic = registry_nic(reg, id);

	if (!nic)
		return;
	list_for_each_safe(l, &nic->guests)
		registry_guest_remove(list_entry(l, struct reg_guest, in_nic));
	reg_departed_sweep(reg, nic, true);
	timer_cancel(&nic->grace);
}

void reg_guest_detach(struct reg_guest *g)
{
	struct registry *reg = g->nic->registry;

	if (g->workload)
		reg_workload_remove(reg, g->workload);
	reg_store_drop(reg, g);
	map_remove(&reg->guests, &g->link);
	list_unlink(&g->in_nic);
	list_unlink(&g->dirty);
	g->nic->n_guests--;
	reg_settle_later(reg);
}

void reg_guest_free(struct reg_guest *g)
{
	list_for_each_safe(l, &g->claims)
		reg_claim_free(g, list_entry(l, struct reg_claim, link));
	list_for_each_safe(l, &g->verdicts)
		reg_verdict_free(g, list_entry(l, struct reg_verdict, link));
	reg_told_free(g->nic, &g->pb->base);
	if (g->proxy)
		reg_told_free(g->nic, &g->proxy->base);
	free(g);
}

void registry_guest_remove(struct reg_guest *g)
{
	reg_guest_detach(g);
	reg_guest_free(g);
}

void reg_guest_mark(struct registry *reg, struct reg_guest *g)
{
	if (list_empty(&g->dirty))
		list_append(&reg->dirty_guests, &g->dirty);
	reg_settle_later(reg);
}

void reg_service_mark(struct registry *reg, struct reg_service *s)
{
	if (list_empty(&s->dirty))
		list_append(&reg->dirty_services, &s->dirty);
	reg_settle_later(reg);
}

void reg_workload_mark(struct registry *reg, struct reg_workload *w)
{
	if (list_empty(&w->dirty))
		list_append(&reg->dirty_workloads, &w->dirty);
	reg_settle_later(reg);
}
