/*
 * From the workload API to Envoy's listener.
 *
 *	a service's address and port	its cluster, whose endpoints the controller tells
 *	an HBONE workload's address	into the tunnel as it is; the peer must be that workload
 *	anything else			passed through
 */
#include "ctl/envoy_capture.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "base/log.h"
#include "base/map.h"
#include "ctl/envoy_json.h"
#include "mesh/model.h"
#include "mesh/xds_client.h"

enum {
	CAPTURE_PORT = 15001,
	SETTLE_MS = 50,			/* changes that come together are written together */
	CHAINS_MAX = 8192,
};

#define TYPE	"type.googleapis.com/envoy."

struct entry {
	struct map_link link;
	struct address address;
	char name[];
};

struct envoy_capture {
	struct loop *loop;
	const struct envoy_config *config;
	struct envoy_dir *dir;
	struct xds_client *xds;
	struct timer settle;
	struct map entries;		/* by the resource's name */
	char *written[2];		/* lds.json, cds.json */
};

/* --- the workload API --- */

static struct entry *find(const struct envoy_capture *c, const char *name)
{
	struct map_link *l = map_find_str(&c->entries, name);

	return l ? container_of(l, struct entry, link) : NULL;
}

static void drop(struct envoy_capture *c, struct entry *e)
{
	map_remove(&c->entries, &e->link);
	address_deinit(&e->address);
	free(e);
}

static int put(void *data, const struct xds_resource *resource, struct diag *reterr_diag)
{
	struct envoy_capture *c = data;
	struct entry *old = find(c, resource->name);
	size_t len = strlen(resource->name);
	struct entry *e = malloc(sizeof(*e) + len + 1);
	int r = e ? address_decode(resource->value, resource->len, &e->address, reterr_diag) : -ENOMEM;

	if (r < 0) {
		free(e);
		return r;
	}
	memcpy(e->name, resource->name, len + 1);
	if (old)
		drop(c, old);
	r = map_add(&c->entries, &e->link, e->name, len);
	if (r < 0) {
		address_deinit(&e->address);
		free(e);
	}
	return r;
}

static void gone(void *data, const char *name)
{
	struct envoy_capture *c = data;
	struct entry *e = find(c, name);

	if (e)
		drop(c, e);
}

/* --- files --- */

struct files {
	const struct envoy_config *config;
	json_t *chains;
	json_t *clusters;
	json_t *seen;			/* addresses that have a chain: Envoy refuses a listener with two of one */
};

static json_t *match_of(const struct ip *ip, uint16_t port)
{
	char text[IP_TEXT_LEN];
	json_t *o = json_pack("{s:[{s:s, s:i}]}", "prefix_ranges", "address_prefix", ip_format(ip, text), "prefix_len", ip_is_v4(ip) ? 32 : 128);

	if (o && port)
		json_object_set_new(o, "destination_port", json_integer(port));
	return o;
}

/* False when there is one already, or too many. */
static bool is_new(struct files *f, const struct ip *ip, uint16_t port)
{
	struct ip_port addr = { *ip, port };
	char text[IP_PORT_TEXT_LEN];

	if (json_object_get(f->seen, ip_port_format(&addr, text)) || json_object_size(f->seen) >= CHAINS_MAX)
		return false;
	json_object_set_new(f->seen, text, json_true());
	return true;
}

static void add_service(struct files *f, const struct service *s)
{
	for (size_t p = 0; p < s->n_ports; p++) {
		const struct port_map *port = &s->ports[p];
		bool http = port->app_protocol == APP_HTTP11 || port->app_protocol == APP_HTTP2 || port->app_protocol == APP_GRPC;
		bool used = false;

		for (size_t i = 0; i < s->n_addresses; i++) {
			const struct ip *ip = &s->addresses[i].ip;

			if (s->addresses[i].prefix_len != 128 || !is_new(f, ip, port->service_port))
				continue;
			used = true;
			json_array_append_new(f->chains, json_pack("{s:o, s:[o]}", "filter_chain_match", match_of(ip, port->service_port),
				"filters", envoy_service_filter(s->hostname, port->service_port, http)));
		}
		if (!used || envoy_config_has_cluster(f->config, f->config->n_outbound, s->hostname, port->service_port))
			continue;
		json_t *cluster = envoy_service_cluster(s->hostname, port->service_port);
		if (cluster)
			json_object_set_new(cluster, "@type", json_string(TYPE "config.cluster.v3.Cluster"));
		json_array_append_new(f->clusters, cluster);
	}
}

static json_t *shared_state(const char *key, const char *value, const char *how)
{
	return json_pack("{s:s, s:{s:{s:s}}, s:s}", "object_key", key, "format_string", "text_format_source", "inline_string", value,
			 "shared_with_upstream", how);
}

static bool is_own(const struct envoy_config *c, const struct ip *ip)
{
	for (size_t i = 0; i < c->n_addresses; i++)
		if (ip_equal(&c->addresses[i], ip))
			return true;
	return false;
}

/* The tunnel's target and the peer's identity go along as filter state: to the internal listener, and on to its upstream. */
static void add_workload(struct files *f, const struct workload *w)
{
	char identity[1024];

	if (w->tunnel != TUNNEL_HBONE || workload_identity(w, identity, sizeof(identity)) >= sizeof(identity))
		return;
	for (size_t i = 0; i < w->n_addresses; i++) {
		if (is_own(f->config, &w->addresses[i]) || !is_new(f, &w->addresses[i], 0))
			continue;
		json_t *state = envoy_filter("envoy.filters.network.set_filter_state", "extensions.filters.network.set_filter_state.v3.Config",
			json_pack("{s:[o, o]}", "on_new_connection",
				  shared_state("envoy.filters.listener.original_dst.local_ip", "%DOWNSTREAM_LOCAL_ADDRESS%", "ONCE"),
				  shared_state("envoy.network.upstream_subject_alt_names", identity, "TRANSITIVE")));
		json_array_append_new(f->chains, json_pack("{s:o, s:[o, o]}", "filter_chain_match", match_of(&w->addresses[i], 0), "filters", state,
							   envoy_tcp_proxy("direct", "direct")));
	}
}

static int compare_entries(const void *a, const void *b)
{
	return strcmp((*(const struct entry *const *)a)->name, (*(const struct entry *const *)b)->name);
}

/* In the order of their names, so that equal knowledge makes equal files. */
static int add_entries(const struct envoy_capture *c, struct files *f)
{
	const struct entry **list = calloc(c->entries.n + 1, sizeof(const struct entry *));
	size_t n = 0;

	if (!list)
		return -ENOMEM;
	map_for_each(l, &c->entries)
		list[n++] = container_of(l, struct entry, link);
	qsort(list, n, sizeof(const struct entry *), compare_entries);
	for (size_t i = 0; i < n; i++) {
		if (list[i]->address.type == ADDRESS_SERVICE)
			add_service(f, &list[i]->address.service);
		else
			add_workload(f, &list[i]->address.workload);
	}
	free(list);
	return 0;
}

static json_t *capture_listener(json_t *chains)
{
	struct ip_port any = { .port = CAPTURE_PORT };

	if (ip_parse("0.0.0.0", &any.ip) < 0)
		return NULL;
	return json_pack("{s:s, s:s, s:o, s:[o], s:O, s:{s:[o]}}", "@type", TYPE "config.listener.v3.Listener", "name", "capture", "address",
			 envoy_address(&any), "listener_filters", envoy_original_dst_filter(), "filter_chains", chains, "default_filter_chain",
			 "filters", envoy_tcp_proxy("passthrough", "passthrough"));
}

/* @resources is stolen. */
static int write_file(struct envoy_capture *c, unsigned which, json_t *resources, struct diag *d)
{
	static const char *const names[] = { "lds.json", "cds.json" };
	json_t *o = json_pack("{s:o}", "resources", resources);
	char *text = o ? json_dumps(o, JSON_INDENT(1)) : NULL;
	int r = text ? 0 : -ENOMEM;

	json_decref(o);
	if (r == 0 && !(c->written[which] && !strcmp(c->written[which], text)))
		r = envoy_dir_write(c->dir, names[which], text, d);
	if (r < 0) {
		free(text);
		return r;
	}
	free(c->written[which]);
	c->written[which] = text;
	return 0;
}

static int write_files(struct envoy_capture *c, struct diag *d)
{
	struct files f = { .config = c->config, .chains = json_array(), .clusters = json_array(), .seen = json_object() };
	int r = f.chains && f.clusters && f.seen ? add_entries(c, &f) : -ENOMEM;

	if (r == 0)
		r = write_file(c, 1, json_incref(f.clusters), d);	/* first what the listener leads to */
	if (r == 0)
		r = write_file(c, 0, json_pack("[o]", capture_listener(f.chains)), d);
	json_decref(f.chains);
	json_decref(f.clusters);
	json_decref(f.seen);
	if (r == -ENOMEM)
		diag_set(d, "out of memory");
	return r;
}

static int on_settled(struct timer *t)
{
	struct envoy_capture *c = container_of(t, struct envoy_capture, settle);
	char text[DIAG_TEXT_LEN];
	struct diag d = {};

	if (write_files(c, &d) < 0)
		log_error("cannot tell Envoy of a change in the mesh", log_str("error", diag_format(&d, text)));
	return 0;
}

static int done(void *data)
{
	struct envoy_capture *c = data;

	if (!c->settle.loop && timer_arm(c->loop, &c->settle, SETTLE_MS, on_settled) < 0)
		log_error("cannot tell Envoy of a change in the mesh", log_str("error", "out of memory"));
	return 0;
}

/* --- life --- */

static void on_lost(struct xds_client *xds, void *data, const struct grpc_status *status)
{
	(void)xds;
	(void)data;
	LOG_LIMITED(LOG_L_WARN, "the mesh is not followed for now", log_str("code", grpc_code_name(status->code)), log_str("error", status->message));
}

static int follow(struct envoy_capture *c, struct channel *channel)
{
	static const struct xds_type types[] = { { .url = MODEL_TYPE_ADDRESS, .put = put, .gone = gone, .done = done } };
	static const struct xds_client_ops ops = { .lost = on_lost };
	const struct envoy_config *config = c->config;
	const struct xds_node_field metadata[] = { { "NAMESPACE", config->ns }, { "SERVICE_ACCOUNT", config->service_account } };
	char id[1024], ip[IP_TEXT_LEN];
	struct xds_client_options options = {
		.channel = channel, .node_id = id, .node_cluster = config->name, .metadata = metadata, .n_metadata = ELEMENTS(metadata),
		.types = types, .n_types = ELEMENTS(types), .data = c,
	};

	snprintf(id, sizeof(id), "sidecar~%s~%s.%s~%s.svc.cluster.local", ip_format(&config->addresses[0], ip), config->name, config->ns, config->ns);
	return xds_client_new(c->loop, &options, &ops, &c->xds);
}

int envoy_capture_new(struct loop *loop, struct channel *channel, const struct envoy_config *config, struct envoy_dir *dir,
		      struct envoy_capture **ret_capture, struct diag *d)
{
	struct envoy_capture *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return diag_set(d, "out of memory");
	c->loop = loop;
	c->config = config;
	c->dir = dir;
	map_init(&c->entries);
	r = write_files(c, d);
	if (r == 0) {
		r = follow(c, channel);
		if (r < 0)
			diag_set(d, "cannot follow the mesh: %s", strerror(-r));
	}
	if (r < 0) {
		envoy_capture_free(c);
		return r;
	}
	*ret_capture = c;
	return 0;
}

struct envoy_capture *envoy_capture_free(struct envoy_capture *c)
{
	if (!c)
		return NULL;
	xds_client_free(c->xds);
	timer_cancel(&c->settle);
	map_for_each(l, &c->entries)
		drop(c, container_of(l, struct entry, link));
	map_deinit(&c->entries);
	free(c->written[0]);
	free(c->written[1]);
	free(c);
	return NULL;
}
