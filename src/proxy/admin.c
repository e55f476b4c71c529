/*
 * The admin socket: what the process knows and counts.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "base/log.h"
#include "proxy/proxy.h"
#include "proxy/sidecar.h"

/* --- /metrics --- */

static const struct {
	const char *name;
	size_t offset;
	bool both;		/* a pair, by direction */
} vm_rows[] = {
	{ "outrigger_vm_connections_opened_total", offsetof(struct vm_counters, opened), true },
	{ "outrigger_vm_connections_closed_total", offsetof(struct vm_counters, closed), true },
	{ "outrigger_vm_connections_refused_total", offsetof(struct vm_counters, refused), true },
	{ "outrigger_vm_connections_failed_total", offsetof(struct vm_counters, failed), true },
	{ "outrigger_vm_bytes_sent_total", offsetof(struct vm_counters, bytes_sent), true },
	{ "outrigger_vm_bytes_received_total", offsetof(struct vm_counters, bytes_received), true },
	{ "outrigger_vm_tunnels_opened_total", offsetof(struct vm_counters, tunnels_opened), true },
	{ "outrigger_vm_tunnels_failed_total", offsetof(struct vm_counters, tunnels_failed), true },
	{ "outrigger_vm_tls_refused_total", offsetof(struct vm_counters, tls_refused), false },
	{ "outrigger_vm_h2_errors_total", offsetof(struct vm_counters, h2_errors), false },
	{ "outrigger_vm_retries_total", offsetof(struct vm_counters, retries), false },
};

static uint64_t row_value(const struct vm_counters *c, size_t row, int i)
{
	uint64_t v;

	memcpy(&v, (const char *)c + vm_rows[row].offset + (size_t)i * sizeof(v), sizeof(v));
	return v;
}

static int write_vm_row(const struct proxy *p, size_t row, struct bytes *out)
{
	static const char *const directions[] = { [FLOW_OUTBOUND] = "outbound", [FLOW_INBOUND] = "inbound" };
	int r = bytes_appendf(out, "# TYPE %s counter\n", vm_rows[row].name);

	list_for_each(l, &p->shown) {
		const struct sidecar *s = list_entry(l, struct sidecar, shown);
		struct vm_counters c = {};

		if (!s->vm)
			continue;
		vm_count(s->vm, &c);
		for (int i = 0; i < (vm_rows[row].both ? 2 : 1) && r == 0; i++)
			r = bytes_appendf(out, "%s{vm=\"%s\"%s%s%s} %llu\n", vm_rows[row].name, s->put->vm_id,
					  vm_rows[row].both ? ",direction=\"" : "", vm_rows[row].both ? directions[i] : "",
					  vm_rows[row].both ? "\"" : "", (unsigned long long)row_value(&c, row, i));
	}
	return r;
}

/* One family after the other, as the format wants it. */
static int write_health(const struct proxy *p, struct bytes *out)
{
	static const char *const types[] = { "outrigger_vm_healthy gauge", "outrigger_vm_checks_total counter" };
	int r = 0;

	for (size_t family = 0; family < ELEMENTS(types) && r == 0; family++) {
		r = bytes_appendf(out, "# TYPE %s\n", types[family]);
		list_for_each(l, &p->shown) {
			const struct sidecar *s = list_entry(l, struct sidecar, shown);

			for (size_t i = 0; s->health && i < vm_health_n_ports(s->health) && r == 0; i++) {
				const struct vm_health_port h = vm_health_port(s->health, i);
				char labels[64 + IP_TEXT_LEN], at[IP_TEXT_LEN];

				snprintf(labels, sizeof(labels), "address=\"%s\",port=\"%u\"", ip_format(&h.at.ip, at), h.at.port);
				if (!family)
					r = bytes_appendf(out, "outrigger_vm_healthy{vm=\"%s\",%s} %d\n", s->put->vm_id, labels,
							  h.health->state == HEALTH_UP);
				else
					r = bytes_appendf(out, "outrigger_vm_checks_total{vm=\"%s\",%s,result=\"ok\"} %llu\n"
							  "outrigger_vm_checks_total{vm=\"%s\",%s,result=\"failed\"} %llu\n",
							  s->put->vm_id, labels, (unsigned long long)h.n_ok, s->put->vm_id, labels,
							  (unsigned long long)h.n_failed);
			}
		}
	}
	return r;
}

static int write_budgets(const struct proxy *p, struct bytes *out)
{
	int r = bytes_append_str(out, "# TYPE outrigger_vm_over_budget_total counter\n");

	list_for_each(l, &p->shown) {
		const struct sidecar *s = list_entry(l, struct sidecar, shown);
		struct vm_counters c = {};

		if (!s->vm)
			continue;
		vm_count(s->vm, &c);
		for (int b = 0; b < _VM_BUDGET_N && r == 0; b++)
			r = bytes_appendf(out, "outrigger_vm_over_budget_total{vm=\"%s\",budget=\"%s\"} %llu\n", s->put->vm_id,
					  vm_budget_name((enum vm_budget)b), (unsigned long long)c.over_budget[b]);
	}
	return r;
}

/* What a VM uses of its budgets now. */
static int write_uses(const struct proxy *p, struct bytes *out)
{
	static const struct { const char *name; size_t offset, size; } rows[] = {
		{ "outrigger_vm_connections", offsetof(struct vm, n_connections), sizeof(uint32_t) },
		{ "outrigger_vm_tunnels_in", offsetof(struct vm, n_tunnels), sizeof(uint32_t) },
		{ "outrigger_vm_handshakes", offsetof(struct vm, n_handshakes), sizeof(uint32_t) },
		{ "outrigger_vm_buffered_bytes", offsetof(struct vm, buffered_bytes), sizeof(uint64_t) },
	};
	int r = 0;

	for (size_t i = 0; i < ELEMENTS(rows) && r == 0; i++) {
		r = bytes_appendf(out, "# TYPE %s gauge\n", rows[i].name);
		list_for_each(l, &p->shown) {
			const struct sidecar *s = list_entry(l, struct sidecar, shown);
			const void *at = (const char *)s->vm + rows[i].offset;
			uint64_t v;

			if (!s->vm || r < 0)
				continue;
			v = rows[i].size == sizeof(uint64_t) ? __atomic_load_n((const uint64_t *)at, __ATOMIC_RELAXED) :
							       __atomic_load_n((const uint32_t *)at, __ATOMIC_RELAXED);
			r = bytes_appendf(out, "%s{vm=\"%s\"} %llu\n", rows[i].name, s->put->vm_id, (unsigned long long)v);
		}
	}
	return r;
}

/* Names as ztunnel's where it counts the same. */
static int write_dns(const struct proxy *p, struct bytes *out)
{
	static const struct { const char *name; size_t offset; } rows[] = {
		{ "istio_dns_requests_total", offsetof(struct vm_dns_counters, queries) },
		{ "istio_dns_upstream_requests_total", offsetof(struct vm_dns_counters, forwarded) },
		{ "outrigger_dns_answered_total", offsetof(struct vm_dns_counters, answered) },
		{ "outrigger_dns_filled_total", offsetof(struct vm_dns_counters, filled) },
		{ "outrigger_dns_malformed_total", offsetof(struct vm_dns_counters, malformed) },
		{ "outrigger_dns_over_budget_total", offsetof(struct vm_dns_counters, over_budget) },
		{ "outrigger_dns_strays_total", offsetof(struct vm_dns_counters, strays) },
		{ "outrigger_dns_send_errors_total", offsetof(struct vm_dns_counters, send_errors) },
		{ "outrigger_dns_connections_total", offsetof(struct vm_dns_counters, connections) },
	};
	int r = 0;

	for (size_t i = 0; i < ELEMENTS(rows) && r == 0; i++) {
		r = bytes_appendf(out, "# TYPE %s counter\n", rows[i].name);
		list_for_each(l, &p->shown) {
			const struct sidecar *s = list_entry(l, struct sidecar, shown);
			struct vm_dns_counters c;

			if (!s->dns || r < 0)
				continue;
			c = vm_dns_counters(s->dns);
			r = bytes_appendf(out, "%s{vm=\"%s\"} %llu\n", rows[i].name, s->put->vm_id,
					  (unsigned long long)*(const uint64_t *)(const void *)((const char *)&c + rows[i].offset));
		}
	}
	return r;
}

static int write_gauges(const struct proxy *p, struct bytes *out)
{
	struct snapshot *s = knowledge_snapshot(p->knowledge);
	const struct { const char *name, *type; uint64_t v; } rows[] = {
		{ "outrigger_proxy_vms", "gauge", p->sidecars.n },
		{ "outrigger_proxy_workers", "gauge", p->n_workers },
		{ "outrigger_proxy_workloads", "gauge", snapshot_n_workloads(s) },
		{ "outrigger_proxy_services", "gauge", snapshot_n_services(s) },
		{ "outrigger_proxy_snapshot_serial", "gauge", snapshot_serial(s) },
		{ "outrigger_proxy_agent_connected", "gauge", agent_link_connected(p->link) },
		{ "outrigger_proxy_uptime_seconds", "gauge", (clock_mono_ms() - p->start_ms) / 1000 },
		{ "outrigger_proxy_access_log_dropped_total", "counter", p->access_log ? access_log_dropped(p->access_log) : 0 },
		{ "outrigger_proxy_tee_lost_bytes_total", "counter", p->tee.lost },
	};
	int r = 0;

	for (size_t i = 0; i < ELEMENTS(rows) && r == 0; i++)
		r = metrics_line(out, rows[i].name, rows[i].type, NULL, NULL, rows[i].v);
	return r;
}

/* Threads that have very different loads are what makes a process with room slow. */
static int write_workers(const struct proxy *p, struct bytes *out)
{
	static const struct { const char *name; size_t offset; } rows[] = {
		{ "outrigger_proxy_worker_connections", offsetof(struct worker_load, n_flows) },
		{ "outrigger_proxy_worker_tunnels", offsetof(struct worker_load, n_tunnels) },
	};
	int r = 0;

	for (size_t i = 0; i < ELEMENTS(rows) && r == 0; i++) {
		r = bytes_appendf(out, "# TYPE %s gauge\n", rows[i].name);
		for (size_t w = 0; w < p->n_workers && r == 0; w++) {
			struct worker_load load;

			worker_load(p->workers[w], &load);
			r = bytes_appendf(out, "%s{worker=\"%zu\"} %llu\n", rows[i].name, w,
					  (unsigned long long)*(const uint64_t *)(const void *)((const char *)&load + rows[i].offset));
		}
	}
	return r;
}

static int write_xds(const struct proxy *p, struct bytes *out)
{
	struct xds_counters sum = {};
	int r;

	list_for_each(l, &p->shown) {
		const struct sidecar *s = list_entry(l, struct sidecar, shown);
		struct xds_counters c = s->xds ? xds_counters(xds_client_state(s->xds)) : (struct xds_counters){};

		sum.streams += c.streams;
		sum.answers += c.answers;
		sum.resources += c.resources;
		sum.removed += c.removed;
		sum.refused += c.refused;
	}
	r = metrics_line(out, "outrigger_xds_streams_total", "counter", NULL, NULL, sum.streams);
	if (r == 0)
		r = metrics_line(out, "outrigger_xds_answers_total", "counter", NULL, NULL, sum.answers);
	if (r == 0)
		r = metrics_line(out, "outrigger_xds_resources_total", "counter", NULL, NULL, sum.resources);
	if (r == 0)
		r = metrics_line(out, "outrigger_xds_removed_total", "counter", NULL, NULL, sum.removed);
	if (r == 0)
		r = metrics_line(out, "outrigger_xds_refused_total", "counter", NULL, NULL, sum.refused);
	return r;
}

static void get_metrics(struct httpd_request *req)
{
	const struct proxy *p = req->data;
	struct bytes out;
	int r;

	bytes_init(&out, METRICS_TEXT_MAX);
	r = metrics_write(p->metrics, &out);
	if (r == 0)
		r = write_gauges(p, &out);
	if (r == 0)
		r = write_workers(p, &out);
	if (r == 0)
		r = write_xds(p, &out);
	if (r == 0)
		r = write_health(p, &out);
	for (size_t i = 0; i < ELEMENTS(vm_rows) && r == 0; i++)
		r = write_vm_row(p, i, &out);
	if (r == 0)
		r = write_budgets(p, &out);
	if (r == 0)
		r = write_uses(p, &out);
	if (r == 0)
		r = write_dns(p, &out);
	if (r < 0)
		httpd_reply_error(req, 500, "the metrics could not be written: %s", strerror(-r));
	else
		httpd_reply(req, 200, "text/plain; version=0.0.4", out.data, out.len);
	bytes_deinit(&out);
}

/* --- JSON --- */

static json_t *vm_json(const struct sidecar *s)
{
	json_t *addresses = json_array();

	for (size_t i = 0; i < s->put->n_addresses && addresses; i++)
		json_array_append_new(addresses, json_string(s->put->addresses[i]));
	return json_pack("{s:s s:s s:s s:s s:s s:I s:I s:o s:b s:b s:I}", "id", s->put->vm_id, "state", sidecar_state_name(s->state),
			 "detail", s->detail, "identity", s->identity, "uid", s->uid, "cert_not_before", (json_int_t)s->not_before,
			 "cert_not_after", (json_int_t)s->not_after, "addresses", addresses, "serving", s->serving,
			 "in_sync", s->in_sync, "connections",
			 s->vm ? (json_int_t)__atomic_load_n(&s->vm->n_connections, __ATOMIC_RELAXED) : (json_int_t)0);
}

static void get_vms(struct httpd_request *req)
{
	const struct proxy *p = req->data;
	json_t *list = json_array();

	list_for_each(l, &p->shown)
		if (list && json_array_append_new(list, vm_json(list_entry(l, struct sidecar, shown))) < 0) {
			json_decref(list);
			list = NULL;
		}
	httpd_reply_json(req, 200, list);
}

enum { CONNECTIONS_MAX = 1000 };

static void get_connections(struct httpd_request *req)
{
	const struct proxy *p = req->data;

	httpd_reply_json(req, 200, metrics_connections(p->metrics, CONNECTIONS_MAX, clock_wall_ms()));
}

static json_t *workload_json(const struct snap_workload *w)
{
	const struct ip first = snap_workload_ip(w);
	char uid[SNAP_UID_LEN];
	char ip[IP_TEXT_LEN];

	return json_pack("{s:s s:s s:s s:s s:s s:b s:b s:i}", "uid", snap_workload_uid(w, uid), "name", snap_workload_name(w),
			 "namespace", snap_kind_text(w->kind, SNAP_NAMESPACE), "identity", snap_kind_text(w->kind, SNAP_IDENTITY), "address", ip_format(&first, ip),
			 "healthy", w->healthy, "hbone", w->tunnel == TUNNEL_HBONE, "weight", (int)w->kind->weight);
}

static json_t *service_json(const struct snap_service *s)
{
	json_t *vips = json_array();
	json_t *endpoints = json_array();
	struct snap_addresses a = snap_def_addresses(s->def);
	char uid[SNAP_UID_LEN];
	char text[IP_TEXT_LEN];
	struct ip ip;

	while (vips && snap_address_next(&a, &ip))
		json_array_append_new(vips, json_string(ip_format(&ip, text)));
	for (uint32_t i = 0; i < MIN(snap_service_size(s), (uint32_t)CONNECTIONS_MAX) && endpoints; i++)
		json_array_append_new(endpoints, json_string(snap_workload_uid(snap_service_endpoint(s, i), uid)));
	return json_pack("{s:s s:b s:o s:i s:o}", "key", snap_def_key(s->def), "defined", s->def->defined, "addresses", vips,
			 "n_endpoints", (int)snap_service_size(s), "endpoints", endpoints);
}

static void get_snapshot(struct httpd_request *req)
{
	const struct proxy *p = req->data;
	struct snapshot *s = knowledge_snapshot(p->knowledge);
	json_t *workloads = json_array();
	json_t *services = json_array();

	for (uint32_t i = 0; i < MIN(snapshot_n_workloads(s), (uint32_t)CONNECTIONS_MAX) && workloads; i++)
		json_array_append_new(workloads, workload_json(snapshot_workload_at(s, i)));
	for (uint32_t i = 0; i < MIN(snapshot_n_services(s), (uint32_t)CONNECTIONS_MAX) && services; i++)
		json_array_append_new(services, service_json(snapshot_service_at(s, i)));
	httpd_reply_json(req, 200, json_pack("{s:I s:I s:b s:o s:o}", "serial", (json_int_t)snapshot_serial(s), "policy_serial",
					     (json_int_t)snapshot_policy_serial(s), "policies_known", snapshot_policies_known(s),
					     "workloads", workloads, "services", services));
}

static void put_log(struct httpd_request *req)
{
	const struct proxy *p = req->data;
	CLEANUP_FREE char *name = httpd_query(req, "level");
	enum log_level level;

	if (!name || log_level_parse(name, &level) < 0) {
		httpd_reply_error(req, 400, "level must be error, warn, info or debug");
		return;
	}
	log_change(level, p->setup ? p->setup->log_json : p->options.log_json);
	httpd_reply_json(req, 200, json_pack("{s:s}", "level", name));
}

static const struct httpd_route routes[] = {
	{ "GET", "/metrics", get_metrics, "Prometheus metrics." },
	{ "GET", "/vms", get_vms, "The VMs that this process serves, or while it ends, has served." },
	{ "GET", "/connections", get_connections, "Connections that are open." },
	{ "GET", "/snapshot", get_snapshot, "What is known of the mesh." },
	{ "PUT", "/log", put_log, "Changes the log level: ?level=debug." },
};

/* The socket is open to all, since the agent's worker is another user; who asks is told by the kernel. */
static int admit(const struct httpd_request *req)
{
	const struct proxy *p = req->data;

	return req->peer.is_unix && agent_link_trusts(p->link, req->peer.uid) ? 0 : 403;
}

int admin_listen(struct proxy *p, const char *path, struct diag *reterr_diag)
{
	const struct httpd_options options = { .routes = routes, .n_routes = ELEMENTS(routes), .data = p, .admit = admit };
	char *copy;
	int r;

	if (p->admin_path && !strcmp(p->admin_path, path))
		return 0;
	copy = strdup(path);
	if (!copy)
		return -ENOMEM;
	p->admin = httpd_free(p->admin);
	r = httpd_new(p->loop, &options, &p->admin);
	if (r == 0)
		r = httpd_listen_unix(p->admin, path, 0666, reterr_diag);
	if (r < 0) {
		p->admin = httpd_free(p->admin);
		free(copy);
		return r;
	}
	free(p->admin_path);
	p->admin_path = copy;
	return 0;
}
