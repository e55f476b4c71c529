#pragma once
/*
 * A small mesh for tests of names, and messages of DNS made by hand.
 */
#include <string.h>

#include "mesh/snapshot.h"
#include "proto/dns_reply.h"
#include "proxy/dns_broker.h"

struct dns_mesh {
	struct snap_store *store;
	struct snapshot *snapshot;
	bool hidden;			/* it has not been told yet */
	unsigned n_asked;
};

static struct ip dns_mesh_ip(const char *text)
{
	struct ip ip = {};

	return ip_parse(text, &ip) == 0 ? ip : (struct ip){};
}

static inline int dns_mesh_service(struct dns_mesh *m, const char *namespace, const char *host, const char *vip, const struct port_map *ports, size_t n_ports)
{
	struct service_address address = { .network = "", .prefix_len = 128, .ip = dns_mesh_ip(vip) };
	struct service s = { .name = host, .namespace = namespace, .hostname = host, .addresses = &address, .n_addresses = *vip != 0,
			     .ports = ports, .n_ports = n_ports };

	return snap_store_put_service(m->store, &s);
}

static inline int dns_mesh_endpoint(struct dns_mesh *m, const char *uid, const char *ip, const char *key, bool unhealthy)
{
	struct ip address = dns_mesh_ip(ip);
	struct port_map port = { 80, 8080, APP_HTTP11 };
	struct workload_service service = { key, &port, 1 };
	struct workload w = { .uid = uid, .name = uid, .namespace = "demo", .network = "", .trust_domain = "td", .service_account = "web",
			      .addresses = &address, .n_addresses = 1, .unhealthy = unhealthy, .capacity = 1, .services = &service, .n_services = 1,
			      .workload_name = "web" };

	return snap_store_put_workload(m->store, &w);
}

/* 0, or what the first of it that failed said. */
static inline int dns_mesh_init(struct dns_mesh *m)
{
	static const struct port_map web[] = { { 80, 8080, APP_HTTP11 }, { 443, 8443, APP_TLS }, { 9000, 9000, APP_TCP } };
	static const struct port_map two[] = { { 80, 8080, APP_HTTP11 }, { 81, 8081, APP_HTTP11 } };
	int r;

	*m = (struct dns_mesh){};
	r = snap_store_new("", &m->store);
	r = r ?: dns_mesh_service(m, "demo", "web.demo.svc.cluster.local", "10.96.0.1", web, ELEMENTS(web));
	r = r ?: dns_mesh_service(m, "demo", "two.demo.svc.cluster.local", "fd00::96", two, ELEMENTS(two));
	r = r ?: dns_mesh_service(m, "demo", "headless.demo.svc.cluster.local", "", web, 1);
	r = r ?: dns_mesh_service(m, "shop", "orders.shop.mesh.internal", "10.99.0.1", web, 1);
	r = r ?: dns_mesh_service(m, "shop", "api.example.com", "10.99.0.2", web, 1);
	r = r ?: dns_mesh_endpoint(m, "a", "10.0.0.1", "demo/headless.demo.svc.cluster.local", false);
	r = r ?: dns_mesh_endpoint(m, "b", "10.0.0.2", "demo/headless.demo.svc.cluster.local", true);
	r = r ?: dns_mesh_endpoint(m, "c", "fd00::3", "demo/headless.demo.svc.cluster.local", false);
	return r ?: snap_store_publish(m->store, &m->snapshot);
}

static inline void dns_mesh_deinit(struct dns_mesh *m)
{
	snapshot_unref(m->snapshot);
	snap_store_free(m->store);
}

static inline int dns_mesh_subscribe(void *data, const char *key)
{
	struct dns_mesh *m = data;

	(void)key;
	m->n_asked++;
	return 0;
}

static inline void dns_mesh_ignore(void *data, const char *key)
{
	(void)data;
	(void)key;
}

static inline const struct snap_service *dns_mesh_find(void *data, const char *key)
{
	struct dns_mesh *m = data;

	return m->hidden ? NULL : snapshot_service(m->snapshot, key);
}

static inline const struct snap_service *dns_mesh_at(void *data, const struct ip *ip)
{
	struct dns_mesh *m = data;

	return m->hidden ? NULL : snapshot_service_of_ip(m->snapshot, ip);
}

static const struct dns_names_ops dns_mesh_ops = {
	.subscribe = dns_mesh_subscribe, .unsubscribe = dns_mesh_ignore, .ask_again = dns_mesh_ignore, .service = dns_mesh_find, .service_at = dns_mesh_at,
};

/* A query, or with @rcode >= 0 the answer to it that has no record. How long it is; 0: @name is no name. */
static inline size_t dns_message_make(uint8_t to[static 512], const char *name, uint16_t type, uint16_t id, int rcode)
{
	const uint8_t head[DNS_HEADER_LEN] = { (uint8_t)(id >> 8), (uint8_t)id, rcode < 0 ? 1 : 0x81, rcode < 0 ? 0 : (uint8_t)(0x80 | rcode), 0, 1 };
	struct dns_name wire;

	if (!dns_name_parse(name, &wire))
		return 0;
	memcpy(to, head, sizeof(head));
	memcpy(to + sizeof(head), wire.wire, wire.len);
	memcpy(to + sizeof(head) + wire.len, (const uint8_t[]){ (uint8_t)(type >> 8), (uint8_t)type, 0, 1 }, 4);
	return sizeof(head) + wire.len + 4;
}
