#include "lib/unit.h"

#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/slab.h"
#include "lib/alloc.h"
#include "mesh/snapshot.h"

static struct ip ip_of(const char *text)
{
	struct ip ip;

	assert_int_equal(ip_parse(text, &ip), 0);
	return ip;
}

static struct ip_port addr_of(const char *text)
{
	struct ip_port a;

	assert_int_equal(ip_port_parse(text, &a), 0);
	return a;
}

/* A workload with one address, in one service. */
struct wl {
	const char *uid;
	const char *ip;
	const char *service;
	bool unhealthy;
	const char *network;
	uint16_t target_port;
	uint32_t capacity;
};

static int put_wl(struct snap_store *st, const struct wl *in)
{
	struct ip ip = ip_of(in->ip);
	struct port_map port = { 80, in->target_port, APP_HTTP11 };
	struct workload_service service = { in->service, &port, 1 };
	struct workload w = {
		.uid = in->uid, .name = in->uid, .namespace = "shop", .network = in->network ? in->network : "",
		.trust_domain = "td", .service_account = "web", .addresses = &ip, .n_addresses = 1,
		.tunnel = TUNNEL_HBONE, .unhealthy = in->unhealthy, .capacity = in->capacity ? in->capacity : 1,
		.services = &service, .n_services = in->service ? 1 : 0, .workload_name = "web",
	};

	return snap_store_put_workload(st, &w);
}

static int put_service(struct snap_store *st, const char *hostname, const char *vip)
{
	struct service_address address = { .network = "", .prefix_len = 128, .ip = ip_of(vip) };
	struct port_map port = { 80, 8080, APP_HTTP11 };
	static const char *const sans[] = { "spiffe://td/ns/shop/sa/other" };
	struct service s = {
		.name = "web", .namespace = "shop", .hostname = hostname, .addresses = &address, .n_addresses = 1,
		.ports = &port, .n_ports = 1, .sans = sans, .n_sans = 1,
	};

	return snap_store_put_service(st, &s);
}

static struct snapshot *publish(struct snap_store *st)
{
	struct snapshot *s;

	assert_int_equal(snap_store_publish(st, &s), 0);
	return s;
}

static void a_service_leads_to_its_endpoints(void **state)
{
	struct snap_store *st;
	struct ip_port dst = addr_of("10.96.0.1:80");
	struct snap_route route;

	(void)state;
	assert_int_equal(snap_store_new("", &st), 0);
	assert_int_equal(put_wl(st, &(struct wl){ "a", "10.0.0.1", "shop/web.mesh", .target_port = 8081 }), 0);
	assert_int_equal(put_service(st, "web.mesh", "10.96.0.1"), 0);
	assert_int_equal(put_wl(st, &(struct wl){ "b", "10.0.0.2", "shop/web.mesh" }), 0);

	struct snapshot *s = publish(st);
	assert_int_equal(snapshot_route(s, &dst, &route), 0);
	assert_string_equal(snap_def_key(route.service->def), "shop/web.mesh");
	assert_int_equal(snap_service_size(route.service), 2);
	for (uint32_t i = 0; i < 2; i++) {
		const struct snap_workload *w = snap_service_endpoint(route.service, i);
		const char *ids[SNAP_IDS_MAX];
		struct snap_endpoint e;

		assert_true(snap_endpoint_of(s, &route, w, &e));
		assert_int_equal(e.target.port, strcmp(snap_workload_uid(w, (char[SNAP_UID_LEN]){ 0 }), "a") ? 80 : 8081);
		assert_int_equal(e.hbone.port, SNAP_HBONE_PORT);
		assert_int_equal(e.tunnel, TUNNEL_HBONE);
		assert_int_equal(snap_endpoint_ids(&e, ids), 2);
		assert_string_equal(ids[0], "spiffe://td/ns/shop/sa/web");
		assert_string_equal(ids[1], "spiffe://td/ns/shop/sa/other");
	}

	dst.port = 81;
	assert_int_equal(snapshot_route(s, &dst, &route), SNAP_E_NO_PORT);
	assert_int_equal(snapshot_route_host(s, "web.mesh:80", 8, 80, NULL, &route), 0);
	assert_int_equal(snapshot_route_host(s, "web.mes", 7, 80, NULL, &route), SNAP_E_UNKNOWN);

	dst = addr_of("10.0.0.2:5000");
	struct snap_endpoint e;
	assert_int_equal(snapshot_route(s, &dst, &route), 0);
	assert_null(route.service);
	assert_true(snap_endpoint_of(s, &route, route.workload, &e));
	assert_int_equal(e.target.port, 5000);
	snapshot_unref(s);
	snap_store_free(st);
}

static void an_address_is_unknown_then_absent_then_there(void **state)
{
	struct snap_store *st;
	struct ip_port dst = addr_of("10.0.0.1:80");
	struct snap_route route;

	(void)state;
	assert_int_equal(snap_store_new("", &st), 0);
	struct snapshot *s = publish(st);
	assert_int_equal(snapshot_route(s, &dst, &route), SNAP_E_UNKNOWN);
	snapshot_unref(s);

	assert_int_equal(snap_store_put_absent(st, &dst.ip), 0);
	s = publish(st);
	assert_int_equal(snapshot_route(s, &dst, &route), SNAP_E_ABSENT);
	snapshot_unref(s);

	assert_int_equal(put_wl(st, &(struct wl){ "a", "10.0.0.1", NULL }), 0);
	s = publish(st);
	assert_int_equal(snapshot_route(s, &dst, &route), 0);
	snapshot_unref(s);

	assert_int_equal(snap_store_remove_workload(st, "a"), 0);
	assert_int_equal(snap_store_remove_absent(st, &dst.ip), 0);
	s = publish(st);
	assert_int_equal(snapshot_route(s, &dst, &route), SNAP_E_UNKNOWN);
	snapshot_unref(s);
	snap_store_free(st);
}

static int put_behind(struct snap_store *st, const char *hostname, const char *vip, const struct model_gateway *waypoint)
{
	struct service_address address = { .network = "", .prefix_len = 128, .ip = ip_of(vip) };
	struct port_map port = { 80, 8080, APP_HTTP11 };
	struct service s = {
		.name = "x", .namespace = "shop", .hostname = hostname, .addresses = &address, .n_addresses = 1, .ports = &port, .n_ports = 1,
		.waypoint = *waypoint,
	};

	return snap_store_put_service(st, &s);
}

static struct workload behind(const struct ip *ip, const struct model_gateway *waypoint, const struct model_gateway *network_gateway)
{
	return (struct workload){
		.uid = "a", .name = "a", .namespace = "shop", .network = "", .trust_domain = "td", .service_account = "web", .addresses = ip,
		.n_addresses = 1, .capacity = 1, .workload_name = "web", .waypoint = *waypoint, .network_gateway = *network_gateway,
	};
}

static void what_has_a_waypoint_says_so(void **state)
{
	const struct model_gateway by_name = { .namespace = "shop", .hostname = "way", .network = "", .hbone_port = 80 };
	const struct model_gateway by_address = { .ip = ip_of("10.96.0.9"), .network = "n2" };
	const struct model_gateway none = { .network = "" };
	const struct ip ip = ip_of("10.0.0.1"), vip = ip_of("10.96.0.1"), nobody = ip_of("10.0.0.2");
	struct workload w = behind(&ip, &by_address, &by_name), back;
	const struct model_gateway *g;
	struct snap_store *st;
	struct snapshot *s;
	struct snap_route route;
	struct arena *arena;

	(void)state;
	assert_int_equal(snap_store_new("", &st), 0);
	assert_int_equal(put_behind(st, "web", "10.96.0.1", &by_name), 0);
	assert_int_equal(snap_store_put_workload(st, &w), 0);
	s = publish(st);
	assert_null(snapshot_waypoint(s, &nobody));
	g = snapshot_waypoint(s, &vip);
	assert_string_equal(g->hostname, "way");
	assert_int_equal(snapshot_route_gateway(s, g, &route), SNAP_E_UNKNOWN);
	g = snapshot_waypoint(s, &ip);
	assert_true(ip_equal(&g->ip, &by_address.ip));
	assert_null(g->hostname);
	assert_int_equal(snapshot_route_gateway(s, g, &route), SNAP_E_UNKNOWN);

	/* The way back, as a state file keeps it. */
	assert_int_equal(arena_new(65536, &arena), 0);
	assert_int_equal(snapshot_workload_model(s, snapshot_workload(s, "a"), arena, &back), 0);
	assert_true(ip_equal(&back.waypoint.ip, &by_address.ip));
	assert_string_equal(back.waypoint.network, "n2");
	assert_string_equal(back.network_gateway.namespace, "shop");
	assert_string_equal(back.network_gateway.hostname, "way");
	assert_int_equal(back.network_gateway.hbone_port, 80);
	arena_free(arena);
	snapshot_unref(s);

	/* A change of nothing else is seen; the waypoint is found when it is there, at its port or at none. */
	w = behind(&ip, &none, &none);
	assert_int_equal(snap_store_put_workload(st, &w), 0);
	assert_int_equal(put_behind(st, "way", "10.96.0.9", &none), 0);
	s = publish(st);
	assert_null(snapshot_waypoint(s, &ip));
	assert_int_equal(snapshot_route_gateway(s, &by_name, &route), 0);
	assert_string_equal(snap_def_key(route.service->def), "shop/way");
	assert_int_equal(snapshot_route_gateway(s, &by_address, &route), SNAP_E_NO_PORT);	/* 15008 is none of its ports */
	snapshot_unref(s);
	snap_store_free(st);
}

static void a_held_snapshot_stays_as_it_was(void **state)
{
	struct snap_store *st;
	struct ip_port dst = addr_of("10.96.0.1:80");
	struct snap_route route;

	(void)state;
	assert_int_equal(snap_store_new("", &st), 0);
	assert_int_equal(put_service(st, "web.mesh", "10.96.0.1"), 0);
	assert_int_equal(put_wl(st, &(struct wl){ "a", "10.0.0.1", "shop/web.mesh" }), 0);

	struct snapshot *old = publish(st);
	assert_int_equal(put_wl(st, &(struct wl){ "a", "10.0.0.1", "shop/web.mesh", .unhealthy = true }), 0);
	struct snapshot *middle = publish(st);
	assert_int_equal(snap_store_remove_workload(st, "a"), 0);
	assert_int_equal(snap_store_remove_service(st, "shop/web.mesh"), 0);
	struct snapshot *new = publish(st);

	assert_int_equal(snapshot_route(old, &dst, &route), 0);
	assert_true(snap_service_endpoint(route.service, 0)->healthy);
	assert_int_equal(snapshot_route(middle, &dst, &route), 0);
	assert_false(snap_service_endpoint(route.service, 0)->healthy);
	assert_int_equal(snapshot_route(new, &dst, &route), SNAP_E_UNKNOWN);
	assert_int_equal(snapshot_n_services(new), 0);
	assert_int_equal(snapshot_n_workloads(new), 0);

	snapshot_unref(middle);
	assert_int_equal(snap_store_reclaim(st), 2);	/* the oldest keeps what came after it */
	snapshot_unref(old);
	assert_int_equal(snap_store_reclaim(st), 0);
	snapshot_unref(new);
	snap_store_free(st);
}

static void nothing_new_is_the_same_snapshot(void **state)
{
	struct snap_store *st;
	const struct wl a = { "a", "10.0.0.1", "shop/web.mesh" };

	(void)state;
	assert_int_equal(snap_store_new("", &st), 0);
	assert_int_equal(put_wl(st, &a), 0);
	struct snapshot *one = publish(st);
	assert_int_equal(put_wl(st, &a), 0);
	struct snapshot *two = publish(st);
	assert_ptr_equal(one, two);
	snapshot_unref(one);
	snapshot_unref(two);
	snap_store_free(st);
}

static void an_abort_goes_back_to_the_last_publication(void **state)
{
	struct snap_store *st;
	struct ip_port dst = addr_of("10.0.0.1:80");
	struct snap_route route;

	(void)state;
	assert_int_equal(snap_store_new("", &st), 0);
	assert_int_equal(put_wl(st, &(struct wl){ "a", "10.0.0.1", "shop/web.mesh" }), 0);
	snapshot_unref(publish(st));
	assert_int_equal(snap_store_remove_workload(st, "a"), 0);
	assert_int_equal(put_wl(st, &(struct wl){ "b", "10.0.0.2", "shop/other.mesh" }), 0);
	assert_int_equal(put_service(st, "third.mesh", "10.96.0.3"), 0);
	snap_store_abort(st);

	struct snapshot *s = publish(st);
	assert_int_equal(snapshot_route(s, &dst, &route), 0);
	assert_int_equal(snapshot_n_workloads(s), 1);
	assert_int_equal(snapshot_n_services(s), 1);
	snapshot_unref(s);
	snap_store_free(st);
}

static void the_newer_of_two_workloads_has_the_address(void **state)
{
	struct snap_store *st;
	struct ip ip = ip_of("10.0.0.1");

	(void)state;
	assert_int_equal(snap_store_new("", &st), 0);
	assert_int_equal(put_wl(st, &(struct wl){ "old", "10.0.0.1", NULL }), 0);
	assert_int_equal(put_wl(st, &(struct wl){ "new", "10.0.0.1", NULL }), 0);

	struct snapshot *s = publish(st);
	assert_string_equal(snap_workload_uid(snapshot_workload_by_ip(s, &ip), (char[SNAP_UID_LEN]){ 0 }), "new");
	snapshot_unref(s);
	assert_int_equal(snap_store_remove_workload(st, "new"), 0);
	s = publish(st);
	assert_string_equal(snap_workload_uid(snapshot_workload_by_ip(s, &ip), (char[SNAP_UID_LEN]){ 0 }), "old");
	snapshot_unref(s);

	/* A VM that moved: the old one's late removal does not take the address from the new one. */
	assert_int_equal(put_wl(st, &(struct wl){ "new", "10.0.0.1", NULL }), 0);
	assert_int_equal(snap_store_remove_workload(st, "old"), 0);
	s = publish(st);
	assert_string_equal(snap_workload_uid(snapshot_workload_by_ip(s, &ip), (char[SNAP_UID_LEN]){ 0 }), "new");
	snapshot_unref(s);
	snap_store_free(st);
}

static void two_services_may_share_a_host_name_and_an_address(void **state)
{
	struct snap_store *st;
	struct ip_port dst = addr_of("10.96.0.1:80");
	struct service_address address = { .network = "", .prefix_len = 128, .ip = dst.ip };
	struct port_map port = { 80, 0, APP_UNKNOWN };
	struct service s = { .name = "web", .namespace = "shop", .hostname = "web", .addresses = &address, .n_addresses = 1,
			     .ports = &port, .n_ports = 1 };
	struct snap_route route;

	(void)state;
	assert_int_equal(snap_store_new("", &st), 0);
	assert_int_equal(snap_store_put_service(st, &s), 0);
	s.namespace = "prod";
	s.canonical = true;
	assert_int_equal(snap_store_put_service(st, &s), 0);

	struct snapshot *snap = publish(st);
	assert_int_equal(snapshot_route_host(snap, "web", 3, 80, "shop", &route), 0);
	assert_string_equal(snap_def_namespace(route.service->def), "shop");
	assert_int_equal(snapshot_route_host(snap, "web", 3, 80, "none", &route), 0);
	assert_string_equal(snap_def_namespace(route.service->def), "prod");
	assert_int_equal(snapshot_route(snap, &dst, &route), 0);
	assert_string_equal(snap_def_namespace(route.service->def), "prod");
	snapshot_unref(snap);

	assert_int_equal(snap_store_remove_service(st, "prod/web"), 0);
	snap = publish(st);
	assert_int_equal(snapshot_route(snap, &dst, &route), 0);
	assert_string_equal(snap_def_namespace(route.service->def), "shop");
	assert_int_equal(snapshot_route_host(snap, "web", 3, 80, NULL, &route), 0);
	snapshot_unref(snap);
	snap_store_free(st);
}

static void other_networks_are_not_dialled(void **state)
{
	struct snap_store *st;
	struct ip_port dst = addr_of("10.0.0.1:80");
	struct snap_route route;

	(void)state;
	assert_int_equal(snap_store_new("here", &st), 0);
	assert_int_equal(put_wl(st, &(struct wl){ "a", "10.0.0.1", NULL, .network = "there" }), 0);
	struct snapshot *s = publish(st);
	assert_int_equal(snapshot_route(s, &dst, &route), SNAP_E_UNKNOWN);
	assert_false(snapshot_workload(s, "a")->reachable);
	assert_string_equal(snap_workload_uid(snapshot_elsewhere(s, &dst.ip), (char[SNAP_UID_LEN]){ 0 }), "a");
	snapshot_unref(s);
	assert_int_equal(snap_store_set_network(st, "there"), -EBUSY);
	/* The same address on two other networks, and then here too. */
	assert_int_equal(put_wl(st, &(struct wl){ "b", "10.0.0.1", NULL, .network = "yonder" }), 0);
	assert_int_equal(snap_store_remove_workload(st, "b"), 0);
	assert_int_equal(put_wl(st, &(struct wl){ "c", "10.0.0.1", NULL, .network = "here" }), 0);
	s = publish(st);
	assert_null(snapshot_elsewhere(s, &dst.ip));
	assert_int_equal(snapshot_route(s, &dst, &route), 0);
	assert_string_equal(snap_workload_uid(route.workload, (char[SNAP_UID_LEN]){ 0 }), "c");
	snapshot_unref(s);
	assert_int_equal(snap_store_remove_workload(st, "c"), 0);
	s = publish(st);
	assert_string_equal(snap_workload_uid(snapshot_elsewhere(s, &dst.ip), (char[SNAP_UID_LEN]){ 0 }), "a");
	snapshot_unref(s);
	assert_int_equal(put_wl(st, &(struct wl){ "a", "10.0.0.1", NULL, .network = "here" }), 0);
	s = publish(st);
	assert_int_equal(snapshot_route(s, &dst, &route), 0);
	assert_null(snapshot_elsewhere(s, &dst.ip));
	snapshot_unref(s);
	assert_int_equal(snap_store_remove_workload(st, "a"), 0);
	s = publish(st);
	assert_null(snapshot_elsewhere(s, &dst.ip));
	snapshot_unref(s);
	snap_store_free(st);
}

static struct workload model_with(const struct model_gateway *gateway, struct arena *arena)
{
	struct ip ip = ip_of("10.0.0.1");
	struct workload w = { .uid = "g", .name = "g", .namespace = "shop", .network = "far", .trust_domain = "td", .service_account = "web", .workload_name = "web",
			      .addresses = &ip, .n_addresses = 1, .capacity = 1, .network_gateway = *gateway }, out;
	struct snap_store *st;

	assert_int_equal(snap_store_new("", &st), 0);
	assert_int_equal(snap_store_put_workload(st, &w), 0);
	struct snapshot *s = publish(st);
	assert_int_equal(snapshot_workload_model(s, snapshot_workload(s, "g"), arena, &out), 0);
	if (out.network_gateway.hostname) {
		out.network_gateway.hostname = arena_str(arena, out.network_gateway.hostname);
		out.network_gateway.namespace = arena_str(arena, out.network_gateway.namespace);
	}
	snapshot_unref(s);
	snap_store_free(st);
	return out;
}

static void a_networks_gateway_is_kept(void **state)
{
	struct arena *arena;
	struct workload w;

	(void)state;
	assert_int_equal(arena_new(1 << 16, &arena), 0);
	w = model_with(&(struct model_gateway){ .namespace = "istio-gateways", .hostname = "east.example", .network = "", .hbone_port = 15008 }, arena);
	assert_string_equal(w.network_gateway.hostname, "east.example");
	assert_string_equal(w.network_gateway.namespace, "istio-gateways");
	assert_int_equal(w.network_gateway.hbone_port, 15008);
	w = model_with(&(struct model_gateway){ .ip = ip_of("10.9.0.9"), .network = "far", .hbone_port = 15443 }, arena);
	assert_true(ip_equal(&w.network_gateway.ip, &(struct ip[]){ ip_of("10.9.0.9") }[0]));
	assert_int_equal(w.network_gateway.hbone_port, 15443);
	w = model_with(&(struct model_gateway){ .network = "" }, arena);
	assert_true(ip_is_none(&w.network_gateway.ip));
	assert_null(w.network_gateway.hostname);
	arena_free(arena);
}

/* Every allocation of a few changes fails once; after an abort the same changes go through. */
static int some_changes(struct snap_store *st)
{
	int r = put_wl(st, &(struct wl){ "a", "10.0.0.9", "shop/web.mesh" });

	if (r == 0)
		r = put_wl(st, &(struct wl){ "c", "10.0.0.3", "shop/new.mesh" });
	if (r == 0)
		r = put_service(st, "web.mesh", "10.96.0.7");
	if (r == 0)
		r = snap_store_remove_workload(st, "b");
	if (r == 0)
		r = snap_store_remove_service(st, "shop/gone.mesh");
	if (r == 0)
		r = snap_store_put_absent(st, &(struct ip){ .b = { 1 } });
	return r;
}

static void out_of_memory_leaves_the_published_whole(void **state)
{
	(void)state;
	for (size_t n = 1; ; n++) {
		struct snap_store *st;
		struct ip_port dst = addr_of("10.96.0.1:80");
		struct snap_route route;

		assert_int_equal(snap_store_new("", &st), 0);
		assert_int_equal(put_service(st, "web.mesh", "10.96.0.1"), 0);
		assert_int_equal(put_service(st, "gone.mesh", "10.96.0.2"), 0);
		assert_int_equal(put_wl(st, &(struct wl){ "a", "10.0.0.1", "shop/web.mesh" }), 0);
		assert_int_equal(put_wl(st, &(struct wl){ "b", "10.0.0.2", "shop/gone.mesh" }), 0);
		struct snapshot *old = publish(st);
		struct snapshot *s = NULL;

		alloc_fail_at(n);
		int r = some_changes(st);
		if (r == 0)
			r = snap_store_publish(st, &s);
		bool enough = alloc_fail_stop() < n;
		if (r < 0) {
			assert_int_equal(r, -ENOMEM);
			snap_store_abort(st);
			assert_int_equal(snapshot_route(old, &dst, &route), 0);
			assert_int_equal(snap_service_size(route.service), 1);
			assert_int_equal(some_changes(st), 0);
			s = publish(st);
		}
		dst = addr_of("10.96.0.7:80");
		assert_int_equal(snapshot_route(s, &dst, &route), 0);
		assert_int_equal(snap_service_size(route.service), 1);
		assert_int_equal(snapshot_n_workloads(s), 2);
		snapshot_unref(old);
		snapshot_unref(s);
		snap_store_free(st);
		if (enough)
			break;
	}
}

/* --- readers on other threads, while the mesh changes --- */

enum { READERS = 2, CHANGES = 3000, ENDPOINTS = 40 };

struct reader {
	pthread_t thread;
	_Atomic(struct snapshot *) next;	/* handed over with a reference; the reader gives it back */
	_Atomic bool stop;
	unsigned n_looked;
};

static void *read_all_the_time(void *data)
{
	struct reader *r = data;
	struct ip_port dst = { .port = 80 };
	struct snapshot *s = NULL;

	dst.ip = ip_of("10.96.0.1");
	while (!atomic_load(&r->stop)) {
		struct snapshot *next = atomic_exchange(&r->next, NULL);
		struct snap_route route;

		if (next) {
			snapshot_unref(s);
			s = next;
		}
		if (!s || snapshot_route(s, &dst, &route))
			continue;
		for (uint32_t i = 0; i < snap_service_size(route.service); i++) {
			const struct snap_workload *w = snap_service_endpoint(route.service, i);
			const struct ip ip = snap_workload_ip(w);
			struct snap_endpoint e;

			if (!snap_endpoint_of(s, &route, w, &e) || strcmp(snap_kind_text(w->kind, SNAP_WORKLOAD_NAME), "web") ||
			    snapshot_workload_by_ip(s, &ip) != w)
				abort();
		}
		r->n_looked++;
	}
	snapshot_unref(s);
	snapshot_unref(atomic_exchange(&r->next, NULL));
	return NULL;
}

static void readers_need_no_lock(void **state)
{
	struct reader readers[READERS] = {};
	struct snap_store *st;
	unsigned seed = 1;

	(void)state;
	assert_int_equal(snap_store_new("", &st), 0);
	assert_int_equal(put_service(st, "web.mesh", "10.96.0.1"), 0);
	for (size_t i = 0; i < READERS; i++)
		assert_int_equal(pthread_create(&readers[i].thread, NULL, read_all_the_time, &readers[i]), 0);
	for (int i = 0; i < CHANGES; i++) {
		unsigned k = (unsigned)rand_r(&seed) % ENDPOINTS;
		char uid[16], ip[16];

		snprintf(uid, sizeof(uid), "w%u", k);
		snprintf(ip, sizeof(ip), "10.0.0.%u", k + 1);
		if (rand_r(&seed) % 4)
			assert_int_equal(put_wl(st, &(struct wl){ uid, ip, "shop/web.mesh", .unhealthy = rand_r(&seed) % 2 }), 0);
		else
			assert_int_equal(snap_store_remove_workload(st, uid), 0);
		struct snapshot *s = publish(st);
		for (size_t n = 0; n < READERS; n++)
			snapshot_unref(atomic_exchange(&readers[n].next, snapshot_ref(s)));
		snapshot_unref(s);
	}
	for (size_t i = 0; i < READERS; i++) {
		atomic_store(&readers[i].stop, true);
		pthread_join(readers[i].thread, NULL);
	}
	assert_int_equal(snap_store_reclaim(st), 0);
	snap_store_free(st);
}

/* What uids begin with is the kind's where replicas share it, and their own where they do not. */
static void uids_are_whole_whatever_they_share(void **state)
{
	static const struct wl list[] = {
		{ "cluster//Pod/shop/web-1", "10.0.0.1", "shop/web.mesh" }, { "cluster//Pod/shop/web-2", "10.0.0.2", "shop/web.mesh" },
		{ "vm/nic/port-1/mac", "10.0.0.3", "shop/vms.mesh" }, { "vm/nic/port-2/mac", "10.0.0.4", "shop/vms.mesh" },
		{ "ends/", "fd00::1", "shop/odd.mesh" }, { "/", "10.0.0.6", "shop/odd.mesh" }, { "alone/of/all", "10.0.0.7", NULL },
	};
	struct snap_store *st;
	char uid[SNAP_UID_LEN];

	(void)state;
	assert_int_equal(snap_store_new("", &st), 0);
	for (size_t i = 0; i < ELEMENTS(list); i++)
		assert_int_equal(put_wl(st, &list[i]), 0);

	struct snapshot *s = publish(st);
	for (size_t i = 0; i < ELEMENTS(list); i++) {
		const struct snap_workload *w = snapshot_workload(s, list[i].uid);
		struct ip ip = ip_of(list[i].ip);

		assert_non_null(w);
		assert_string_equal(snap_workload_uid(w, uid), list[i].uid);
		assert_string_equal(snap_workload_name(w), list[i].uid);
		assert_ptr_equal(snapshot_workload_by_ip(s, &ip), w);
	}
	assert_null(snapshot_workload(s, "cluster//Pod/shop/web-"));
	assert_ptr_equal(snapshot_workload(s, list[0].uid)->kind, snapshot_workload(s, list[1].uid)->kind);
	snapshot_unref(s);
	for (size_t i = 0; i < ELEMENTS(list); i++)
		assert_int_equal(snap_store_remove_workload(st, list[i].uid), 0);
	s = publish(st);
	assert_int_equal(snapshot_n_workloads(s), 0);
	assert_int_equal(snapshot_n_services(s), 0);
	snapshot_unref(s);
	snap_store_free(st);
}

static void an_endpoint_is_found_by_each_of_its_addresses(void **state)
{
	const struct ip all[] = { ip_of("10.0.0.1"), ip_of("fd00::1"), ip_of("10.0.0.2"), ip_of("fd00::2"), ip_of("10.0.0.1") };
	struct workload w = { .uid = "a", .name = "a", .namespace = "shop", .network = "", .trust_domain = "td", .service_account = "web", .capacity = 1 };
	struct snap_store *st;

	(void)state;
	assert_int_equal(snap_store_new("", &st), 0);
	for (size_t first = 0; first < ELEMENTS(all); first++) {
		for (size_t n = 0; first + n <= ELEMENTS(all); n++) {
			w.addresses = all + first;
			w.n_addresses = n;
			assert_int_equal(snap_store_put_workload(st, &w), 0);

			struct snapshot *s = publish(st);
			const struct snap_workload *a = snapshot_workload(s, "a");
			struct snap_addresses has = snap_workload_addresses(a);
			struct ip ip;
			for (size_t i = 0; i < n; i++) {
				assert_true(snap_address_next(&has, &ip));
				assert_true(ip_equal(&ip, &all[first + i]));
				assert_ptr_equal(snapshot_workload_by_ip(s, &ip), a);
			}
			assert_false(snap_address_next(&has, &ip));
			for (size_t i = 0; i < ELEMENTS(all); i++) {
				bool its = false;

				for (size_t k = 0; k < n; k++)
					its |= ip_equal(&all[i], &all[first + k]);
				assert_ptr_equal(snapshot_workload_by_ip(s, &all[i]), its ? a : NULL);
			}
			snapshot_unref(s);
		}
	}
	snap_store_free(st);
}

/* Nodes made anew say the same, whatever memory there is; then no more holes are left than before. */
static void what_is_made_anew_is_the_same(void **state)
{
	enum { N = 600 };
	struct snap_store *st;
	struct snapshot *s;
	char uid[16], ip[16];

	(void)state;
	assert_int_equal(snap_store_new("", &st), 0);
	for (unsigned i = 0; i < N; i++) {
		snprintf(uid, sizeof(uid), "w/%u", i);
		snprintf(ip, sizeof(ip), "10.0.%u.%u", i / 250, i % 250 + 1);
		assert_int_equal(put_wl(st, &(struct wl){ uid, ip, i % 2 ? "shop/web.mesh" : "shop/other.mesh" }), 0);
	}
	snapshot_unref(publish(st));
	for (size_t n = 1; ; n += 7) {
		alloc_fail_at(n);
		int r = snap_store_renew(st);
		if (alloc_fail_stop() < n) {
			assert_int_equal(r, 0);
			break;
		}
		assert_int_equal(r, -ENOMEM);
		snap_store_abort(st);
	}
	snapshot_unref(publish(st));
	assert_int_equal(snap_store_reclaim(st), 0);
	assert_false(snap_store_is_sparse(st));
	s = publish(st);
	assert_int_equal(snapshot_n_workloads(s), N);
	for (unsigned i = 0; i < N; i++) {
		snprintf(uid, sizeof(uid), "w/%u", i);
		snprintf(ip, sizeof(ip), "10.0.%u.%u", i / 250, i % 250 + 1);
		assert_ptr_equal(snapshot_workload_by_ip(s, &(struct ip[]){ ip_of(ip) }[0]), snapshot_workload(s, uid));
	}
	for (uint32_t i = 0; i < snapshot_n_services(s); i++)
		assert_int_equal(snap_service_size(snapshot_service_at(s, i)), N / 2);
	snapshot_unref(s);
	snap_store_free(st);
}

/* --- size and cost: printed, and the size bounded --- */

enum { BIG_SERVICES = 1000, BIG_REPLICAS = 10, BIG = BIG_SERVICES * BIG_REPLICAS };

static int put_big(struct snap_store *st, unsigned i, bool unhealthy)
{
	char uid[32], ip[16], service[48];

	snprintf(uid, sizeof(uid), "vm/shop/web-%u", i);
	snprintf(ip, sizeof(ip), "10.%u.%u.%u", 1 + i / 62500, i / 250 % 250, i % 250 + 1);
	snprintf(service, sizeof(service), "shop/web-%u.shop.mesh.internal", i / BIG_REPLICAS);
	return put_wl(st, &(struct wl){ uid, ip, service, .unhealthy = unhealthy });
}

static void ten_thousand_endpoints_are_small_and_quick_to_change(void **state)
{
	struct snap_store *st;

	(void)state;
	assert_int_equal(snap_store_new("", &st), 0);
	for (unsigned i = 0; i < BIG_SERVICES; i++) {
		char host[48], vip[16];

		snprintf(host, sizeof(host), "web-%u.shop.mesh.internal", i);
		snprintf(vip, sizeof(vip), "10.96.%u.%u", i / 250, i % 250 + 1);
		assert_int_equal(put_service(st, host, vip), 0);
	}
	snapshot_unref(publish(st));

	size_t before = mallinfo2().uordblks + slab_bytes();
	uint64_t t0 = clock_mono_ns();
	for (unsigned i = 0; i < BIG; i++)
		assert_int_equal(put_big(st, i, false), 0);
	snapshot_unref(publish(st));
	uint64_t t1 = clock_mono_ns();
	snap_store_reclaim(st);
	size_t bytes = mallinfo2().uordblks + slab_bytes() - before;

	for (unsigned i = 0; i < BIG; i++) {
		assert_int_equal(put_big(st, i * 7919 % BIG, true), 0);
		snapshot_unref(publish(st));
	}
	uint64_t t2 = clock_mono_ns();
	print_message("10,000 endpoints in %.1f ms, %.0f bytes each; one changed and published: %.2f us\n",
		      (double)(t1 - t0) / 1e6, (double)bytes / BIG, (double)(t2 - t1) / 1e3 / BIG);
#ifndef __SANITIZE_ADDRESS__
	assert_true(bytes < (size_t)BIG * 150);
#endif
	snap_store_free(st);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_service_leads_to_its_endpoints),
		cmocka_unit_test(an_address_is_unknown_then_absent_then_there),
		cmocka_unit_test(what_has_a_waypoint_says_so),
		cmocka_unit_test(a_held_snapshot_stays_as_it_was),
		cmocka_unit_test(uids_are_whole_whatever_they_share),
		cmocka_unit_test(an_endpoint_is_found_by_each_of_its_addresses),
		cmocka_unit_test(what_is_made_anew_is_the_same),
		cmocka_unit_test(nothing_new_is_the_same_snapshot),
		cmocka_unit_test(an_abort_goes_back_to_the_last_publication),
		cmocka_unit_test(the_newer_of_two_workloads_has_the_address),
		cmocka_unit_test(two_services_may_share_a_host_name_and_an_address),
		cmocka_unit_test(other_networks_are_not_dialled),
		cmocka_unit_test(a_networks_gateway_is_kept),
		cmocka_unit_test(out_of_memory_leaves_the_published_whole),
		cmocka_unit_test(readers_need_no_lock),
		cmocka_unit_test(ten_thousand_endpoints_are_small_and_quick_to_change),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
