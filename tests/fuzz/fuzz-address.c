/*
 * istio.workload.Address from a stranger: decoded, put into a store twice (the
 * second time over itself), looked up, encoded again.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>

#include "mesh/model.h"
#include "mesh/snapshot.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void look(const struct snapshot *s)
{
	for (uint32_t i = 0; i < snapshot_n_workloads(s); i++) {
		const struct snap_workload *w = snapshot_workload_at(s, i);

		assert(snapshot_workload(s, snap_workload_uid(w)) == w);
		if (w->reachable)
			assert(snapshot_workload_by_ip(s, &w->ip) == w);
	}
	for (uint32_t i = 0; i < snapshot_n_services(s); i++) {
		const struct snap_service *service = snapshot_service_at(s, i);

		assert(snapshot_service(s, service->def->key) == (service->def->defined ? service : NULL));
		for (unsigned k = 0; k < service->def->n_vips && service->def->n_ports; k++) {
			const struct ip_port dst = { service->def->vips[k], service->def->ports[0].port };
			struct snap_route route;

			assert(snapshot_route(s, &dst, &route) == 0 && route.service == service);
		}
	}
}

static void store(const struct address *a)
{
	struct snap_store *st;
	struct snapshot *s;

	if (snap_store_new("", &st) < 0)
		abort();
	for (int i = 0; i < 2; i++) {
		int r = a->type == ADDRESS_WORKLOAD ? snap_store_put_workload(st, &a->workload) : snap_store_put_service(st, &a->service);

		if (r < 0 || snap_store_publish(st, &s) < 0)
			abort();
		look(s);
		snapshot_unref(s);
	}
	snap_store_free(st);
}

static void encode_again(const struct address *a)
{
	struct address again;
	struct bytes out;
	struct diag d;

	bytes_init(&out, 16 << 20);
	if ((a->type == ADDRESS_WORKLOAD ? workload_encode(&a->workload, &out) : service_encode(&a->service, &out)) < 0)
		abort();
	if (address_decode(out.data, out.len, &again, &d) < 0)
		abort();
	assert(again.type == a->type);
	address_deinit(&again);
	bytes_deinit(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct address a;
	struct diag d;

	if (address_decode(data, size, &a, &d) < 0)
		return 0;
	store(&a);
	encode_again(&a);
	address_deinit(&a);
	return 0;
}
