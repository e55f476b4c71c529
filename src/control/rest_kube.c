/*
 * REST: Services and Pods of a Kubernetes cluster that are in the embedded
 * mesh, as rows among the VMs' services.
 */
#include <stdio.h>
#include <string.h>

#include "control/rest.h"

/* What a row has that does not come from a NIC. */
static json_t *row_new(const char *kind, const struct reg_service *s, uint16_t port, const char *protocol)
{
	json_t *row = json_pack("{s:s, s:s, s:s#, s:i, s:s, s:s, s:s, s:s, s:b, s:b, s:s}", "kind", kind, "service", s->name,
				"namespace", s->key, (int)s->n_namespace, "port", (int)port, "transport", "tcp", "protocol", protocol,
				"source", "kubernetes", "verdict", "container", "admitted", true, "in_mesh", true, "hostname", s->hostname);
	static const char *const nulls[] = {
		"instance", "address", "registry", "health", "health_reason", "health_since_s", "guest", "nic", "refusal", "mode", "why_not", "proxy",
		"identity", "found_ms", "decided_ms", "ready_ms", "in_mesh_ms", "first_seen_ms",
	};

	for (size_t i = 0; row && i < ELEMENTS(nulls); i++)
		json_object_set_new(row, nulls[i], json_null());
	if (row)
		json_object_set_new(row, "evidence", json_array());
	return row;
}

static void add_row(json_t *list, json_t *row, const struct ip *address)
{
	char text[IP_TEXT_LEN];

	if (row && address)
		json_object_set_new(row, "address", json_string(ip_format(address, text)));
	json_array_append_new(list, row);
}

static const char *protocol_name(uint8_t protocol)
{
	static const char *const names[_APP_PROTOCOL_N] = {
		[APP_UNKNOWN] = "", [APP_HTTP11] = "http", [APP_HTTP2] = "http2", [APP_GRPC] = "grpc", [APP_TCP] = "tcp", [APP_TLS] = "tls",
	};

	return protocol < _APP_PROTOCOL_N ? names[protocol] : "";
}

/* A row a port and address; a headless one has none. */
static void add_service(json_t *list, const struct reg_service *s)
{
	for (size_t i = 0; i < s->n_ports; i++) {
		const struct port_map *p = &s->ports[i];

		for (size_t k = 0; k < s->n_addresses; k++)
			add_row(list, row_new("service", s, p->service_port, protocol_name(p->app_protocol)), &s->addresses[k]);
		if (!s->n_addresses)
			add_row(list, row_new("service", s, p->service_port, protocol_name(p->app_protocol)), NULL);
	}
}

/* A row a port that it serves. */
static void add_pod(const struct server *srv, json_t *list, const struct reg_member *m)
{
	const struct reg_workload *w = m->workload;

	for (size_t i = 0; w->n_addresses && i < m->n_ports; i++) {
		json_t *row = row_new("pod", m->service, m->ports[i].target_port, protocol_name(m->ports[i].app_protocol));

		if (row) {
			json_object_set_new(row, "instance", json_string(w->name));
			json_object_set_new(row, "health", json_string(m->unhealthy ? "critical" : "passing"));
			if (m->unhealthy)
				json_object_set_new(row, "health_reason", json_string("the Pod is not ready"));
			json_object_set_new(row, "identity", json_sprintf("spiffe://%s/ns/%s/sa/%s", srv->config->trust_domain, w->namespace, w->service_account));
		}
		add_row(list, row, &w->addresses[0].ip);
	}
}

void rest_add_kube(const struct server *srv, const char *name, json_t *list)
{
	map_for_each(l, &srv->registry->services) {
		const struct reg_service *s = container_of(l, struct reg_service, link);

		if (name && strcmp(name, s->name) != 0)
			continue;
		if (s->kube)
			add_service(list, s);
		list_for_each(k, &s->members) {
			const struct reg_member *m = list_entry(k, struct reg_member, in_service);

			if (m->workload->kube)
				add_pod(srv, list, m);
		}
	}
}
