/*
 * REST: what is wrong with the installation, and the metrics.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "control/rest.h"

enum { DAY_S = 86400, MAX_METRICS = 1 << 20 };

struct checks {
	const struct server *s;
	json_t *list;
	bool ok;		/* nothing fatal */
};

/* @what and what was @found, both taken; a hint where something can be done. */
static void add(struct checks *c, const char *section, bool ok, bool fatal, json_t *what, json_t *found, const char *hint)
{
	json_array_append_new(c->list, json_pack("{s:s, s:b, s:b, s:o, s:o, s:s}", "section", section, "ok", ok, "fatal", fatal, "what", what,
						 "found", found, "hint", hint));
	c->ok &= ok || !fatal;
}

static void check_controller(struct checks *c)
{
	const struct server *s = c->s;
	int64_t ca_left = authority_not_after(s->authority) - clock_wall_s();
	char text[DIAG_TEXT_LEN];

	add(c, "controller", !s->config_error.msg[0], true, json_string("the configuration file as it is now is in force"),
	    json_string(s->config_error.msg[0] ? diag_format(&s->config_error, text) : ""), "mend the file: it is read again by itself");
	add(c, "controller", !s->restart_needed[0], false, json_string("no changed setting waits for a restart"),
	    json_string(s->restart_needed), "restart outrigger-controller");
	add(c, "controller", !s->registry->last_store_error, true, json_string("the store can be written"),
	    json_string(s->registry->last_store_error ? store_error(s->store) : ""), "see that the disk of state_dir has room");
	add(c, "controller", ca_left > 30 * DAY_S, ca_left <= 0, json_string("the authority's certificate lives for another 30 days"),
	    json_sprintf("%lld days", (long long)(ca_left / DAY_S)), "see ca.extra_roots in docs/config-controller.md");
	add(c, "controller", s->server_not_after > clock_wall_s(), true, json_string("the listeners' certificates are valid"),
	    json_sprintf("until %lld", (long long)s->server_not_after), "restart outrigger-controller");
}

static void check_nic(const struct store_nic *n, void *data)
{
	struct checks *c = data;
	const struct reg_nic *nic = registry_nic(c->s->registry, n->id);
	struct session_info session = provisioner_session(c->s->provisioner, n->id);

	if (n->revoked_at)
		return;
	add(c, "NICs", session.connected, false, json_sprintf("NIC %s is connected", n->id), json_string(session.connected ? "" : "no session"),
	    "look at outrigger-agent there");
	if (!session.connected)
		return;
	add(c, "NICs", !session.policy_refused[0], true, json_sprintf("NIC %s has taken the policies", n->id), json_string(session.policy_refused),
	    "controller and agent are of different versions, or the policy is wrong");
	add(c, "NICs", !nic || !nic->n_refused, false, json_sprintf("NIC %s reports nothing that has to be refused", n->id),
	    json_sprintf("%llu refused", (unsigned long long)(nic ? nic->n_refused : 0)), "the controller's log says why");
}

/* What the mesh controller said, and what to do about it. The words are istiod's. */
static const struct {
	const char *said;
	const char *hint;
} mesh_hints[] = {
	{ "cannot find WorkloadGroup", "create the WorkloadGroup that onboarding's workload_group names, in its namespace" },
	{ "service account mismatch", "onboarding's service_account must be the one of the WorkloadGroup's template" },
	{ "RESOURCE_EXHAUSTED", "istiod limits new streams (PILOT_MAX_REQUESTS_PER_SECOND); it is tried again" },
	{ "PERMISSION_DENIED", "the token is of another namespace or account than the proxy's" },
	{ "UNAUTHENTICATED", "istiod refuses the token: tokens.audiences must have istio-ca, mesh.cluster_id must be istiod's CLUSTER_ID, "
			     "and with mesh.tokens oidc istiod needs our issuer in JWT_RULE" },
};

static const char *proxy_hint(const char *detail)
{
	for (size_t i = 0; i < ELEMENTS(mesh_hints); i++)
		if (strstr(detail, mesh_hints[i].said))
			return mesh_hints[i].hint;
	return "outrigger proxies, on its NIC";
}

static bool proxy_ails(const struct reg_guest *g)
{
	if (!g->proxy)
		return false;
	if (!strcmp(g->proxy->state, "failed") || !strcmp(g->proxy->state, "degraded"))
		return true;
	return g->proxy->detail[0] && (!strcmp(g->proxy->state, "starting") || !strcmp(g->proxy->state, "certificate"));
}

/* Of a proxy that has been at work for a while, with Istio. */
static bool entry_is_missing(const struct checks *c, const struct reg_guest *g)
{
	enum { A_WHILE_MS = 3000 };
	const struct entries *es = c->s->cluster ? cluster_entries(c->s->cluster) : NULL;

	if (!es || !g->policy || !g->policy->workload_group || !g->nic->connected || !g->proxy || strcmp(g->proxy->state, "ready") != 0 ||
	    clock_mono_ms() - g->proxy_received_ms < A_WHILE_MS || !entries_info(es).watch.synced)
		return false;
	for (size_t i = 0; i < g->n_ips; i++)
		if (entries_has(es, g->nic->id, &g->ips[i]))
			return false;
	return true;
}

static void check_guests(struct checks *c)
{
	map_for_each(l, &c->s->registry->guests) {
		const struct reg_guest *g = container_of(l, struct reg_guest, link);

		if (g->blocked[0])
			add(c, "guests", false, false, json_sprintf("guest %s has addresses of its own", g->pb->guest_id), json_string(g->blocked),
			    "two machines have the same address");
		if (proxy_ails(g))
			add(c, "guests", false, false, json_sprintf("the proxy of guest %s works", g->pb->guest_id),
			    json_sprintf("%s: %s", g->proxy->state, g->proxy->detail), proxy_hint(g->proxy->detail));
		if (entry_is_missing(c, g))
			add(c, "guests", false, false, json_sprintf("guest %s is registered with Istio", g->pb->guest_id),
			    json_sprintf("it has no WorkloadEntry of WorkloadGroup %s/%s", g->policy->namespace, g->policy->workload_group),
			    "see that the WorkloadGroup is there; the entry is then made anew by itself, within a minute");
	}
}

static const char *kube_hint(enum kube_error e)
{
	switch (e) {
	case KUBE_FORBIDDEN:
		return "apply packaging/kubernetes/outrigger-controller.yaml: it grants what the controller needs";
	case KUBE_CREDENTIALS:
		return "renew the token or certificate of kubernetes.kubeconfig; it is read again by itself";
	case KUBE_NOT_FOUND:
		return "are Istio's CustomResourceDefinitions installed?";
	default:
		return "see that the API server answers from here; what was known stays in force";
	}
}

static void check_groups(struct checks *c, const struct kube_groups *groups)
{
	const char *group, *why;

	for (size_t i = 0; kube_groups_problem(groups, i, &group, &why); i++)
		add(c, "Kubernetes", false, false, json_sprintf("the probe of WorkloadGroup %s is made", group), json_string(why),
		    "docs/health.md says which probes are; an onboarding policy's own 'health' counts instead");
}

static bool is_said(const struct config *config, const struct config_onboarding *p)
{
	config_for_each(const struct config_onboarding, q, &config->onboarding) {
		if (q == p)
			break;
		if (q->workload_group && !strcmp(q->workload_group, p->workload_group) && !strcmp(q->namespace, p->namespace))
			return true;
	}
	return false;
}

/* Their Envoys speak what the label says, and our proxies HBONE only. */
static void check_sidecars(struct checks *c)
{
	size_t n = kube_things_n_sidecars(kube_source_things(cluster_source(c->s->cluster)));

	config_for_each(const struct config_onboarding, p, &c->s->config->onboarding) {
		if (!n || !p->workload_group || !p->namespace || is_said(c->s->config, p) ||
		    kube_groups_by_hbone(cluster_groups(c->s->cluster), p->namespace, p->workload_group))
			continue;
		add(c, "Kubernetes", false, false, json_sprintf("sidecars speak HBONE to the VMs of WorkloadGroup %s/%s", p->namespace, p->workload_group),
		    json_sprintf("%zu pods have a sidecar or are gateways, and it has no label " KUBE_TLS_MODE_LABEL ": disabled", n),
		    "add the label to its spec.metadata.labels; with PILOT_PREFER_SENDING_HBONE=true in istiod it is not needed (docs/istio.md)");
	}
}

/* The objects that onboarding names. */
static void check_objects(struct checks *c, const struct kube_manage *manage)
{
	json_t *problems = kube_manage_problems(manage), *p;
	size_t i;

	json_array_foreach(problems, i, p)
		add(c, "Kubernetes", false, false, json_incref(json_object_get(p, "what")), json_incref(json_object_get(p, "found")),
		    json_string_value(json_object_get(p, "hint")));
	json_decref(problems);
}

static void check_cluster(struct checks *c)
{
	const struct cluster *cluster = c->s->cluster;
	struct kube_watch_info w;
	const char *text;

	if (cluster) {
		enum kube_error error = cluster_api(cluster, &text);

		add(c, "Kubernetes", error == KUBE_OK, false, json_string("the API serves us"), json_string(text), kube_hint(error));
	}
	for (size_t i = 0; cluster && cluster_watch(cluster, i, &w); i++)
		add(c, "Kubernetes", w.error == KUBE_OK && w.synced, false, json_sprintf("%s are watched", w.what),
		    json_string(w.text[0] ? w.text : w.synced ? "" : "not listed yet"), kube_hint(w.error));
	if (c->s->kube_mesh) {
		struct kube_mesh_info info = kube_mesh_info(c->s->kube_mesh);

		add(c, "Kubernetes", !info.n_left_out, false, json_string("Services and Pods are in the mesh"),
		    info.n_left_out ? json_sprintf("%zu are not, among them %s is taken", info.n_left_out, info.left_out) : json_string(""),
		    "the file's services and workloads come first: rename them, or leave the Service out by kubernetes.services");
		add(c, "Kubernetes", !info.n_affinity, false, json_string("what Services ask for is done"),
		    info.n_affinity ? json_sprintf("%zu want session affinity (ClientIP), among them %s", info.n_affinity, info.affinity) : json_string(""),
		    "the mesh balances each connection by itself: a service that needs its clients to stay must not need it, or stays out by kubernetes.services");
	}
	if (!cluster || !cluster_entries(cluster))
		return;
	check_groups(c, cluster_groups(cluster));
	check_sidecars(c);
	check_objects(c, cluster_manage(cluster));
	struct entries_info e = entries_info(cluster_entries(cluster));
	add(c, "Kubernetes", !e.failure[0], false, json_string("WorkloadEntries whose VM is gone can be removed"), json_string(e.failure),
	    kube_hint(KUBE_FORBIDDEN));
}

static void check_mesh(struct checks *c)
{
	const struct tokens_info t = tokens_info(c->s->tokens);

	add(c, "mesh", !t.refusal[0], false, json_string("workload tokens are granted"), json_string(t.refusal),
	    "token_request needs 'create' on serviceaccounts/token of the accounts that onboarding names, and those accounts");
}

static void check_stream(const struct ads_stream_info *info, void *data)
{
	if (*info->last_nack)
		add(data, "mesh", false, false, json_sprintf("%s takes what it is sent", info->identity), json_string(info->last_nack),
		    "controller and proxy are of different versions");
}

void rest_get_check(struct httpd_request *req)
{
	struct checks c = { req->data, json_array(), true };

	check_controller(&c);
	if (store_nic_each(c.s->store, check_nic, &c) < 0)
		add(&c, "NICs", false, true, json_string("the store can be read"), json_string(store_error(c.s->store)), "see state_dir");
	check_guests(&c);
	check_cluster(&c);
	check_mesh(&c);
	ads_each_stream(c.s->ads, check_stream, &c);
	httpd_reply_json(req, 200, json_pack("{s:b, s:o}", "ok", c.ok, "checks", c.list));
}

/* --- metrics --- */

void rest_get_metrics(struct httpd_request *req)
{
	const struct server *s = req->data;
	const struct registry *reg = s->registry;
	struct provisioner_counters p = provisioner_counters(s->provisioner);
	struct ads_counters a = ads_counters(s->ads);
	size_t connected = 0;
	struct bytes out;
	int r = 0;

	map_for_each(l, &reg->nics)
		connected += container_of(l, struct reg_nic, link)->connected;
	const struct { const char *name, *type, *help; uint64_t value; } rows[] = {
		{ "outrigger_nics_connected", "gauge", "NICs with a session.", connected },
		{ "outrigger_guests", "gauge", "VMs that were reported.", reg->guests.n },
		{ "outrigger_workloads", "gauge", "Workloads of the mesh.", reg->workloads.n },
		{ "outrigger_services", "gauge", "Services of the mesh.", reg->services.n },
		{ "outrigger_discovery_streams", "gauge", "Discovery streams that are open.", ads_n_streams(s->ads) },
		{ "outrigger_discovery_requests_total", "counter", "Requests on discovery streams.", a.n_requests },
		{ "outrigger_discovery_answers_total", "counter", "Answers on them.", a.n_answers },
		{ "outrigger_discovery_resources_total", "counter", "Resources in them.", a.n_resources },
		{ "outrigger_discovery_removed_total", "counter", "Removed resources in them.", a.n_removed },
		{ "outrigger_discovery_nacks_total", "counter", "Answers that a client refused.", a.n_nacks },
		{ "outrigger_discovery_refused_total", "counter", "Streams that were refused.", a.n_refused },
		{ "outrigger_nic_enrolled_total", "counter", "NICs enrolled.", p.n_enrolled },
		{ "outrigger_nic_renewed_total", "counter", "Certificates of NICs renewed.", p.n_renewed },
		{ "outrigger_nic_recovered_total", "counter", "Expired certificates of NICs that got them others.", p.n_recovered },
		{ "outrigger_nic_refused_total", "counter", "Enrolments, renewals and sessions refused.", p.n_refused },
		{ "outrigger_nic_limited_total", "counter", "Of enrolments, renewals, sessions and workload tokens: refused because they were asked for too often.",
		  p.n_limited },
		{ "outrigger_tokens_total", "counter", "Workload tokens given to NICs.", p.n_tokens },
		{ "outrigger_tokens_refused_total", "counter", "Workload tokens refused.", p.n_tokens_refused },
		{ "outrigger_certificates_total", "counter", "Certificates issued to workloads.", s->signing.n_issued },
		{ "outrigger_certificates_limited_total", "counter", "Certificates refused because they were asked for too often.",
		  s->signing.per_vm.n_refused + s->signing.per_nic.n_refused + s->signing.per_identity.n_refused },
		{ "outrigger_callers_limited_total", "counter", "Certificate requests and discovery streams refused because too many of their address were nobody's.",
		  s->authn.failures.n_refused },
		{ "outrigger_reports_delayed_total", "counter", "Times that a NIC's reports had to wait because there were too many.", p.n_delayed },
		{ "outrigger_revocations", "gauge", "Enrolments of NICs whose certificates peers refuse.", revoker_n(s->revoker) },
		{ "outrigger_certificates_refused_total", "counter", "Certificates refused.", s->signing.n_refused },
		{ "outrigger_config_reloads_total", "counter", "Configurations that were taken.", s->n_reloads },
		{ "outrigger_config_refused_total", "counter", "Configurations that were refused.", s->n_refusals },
		{ "outrigger_services_over_share_total", "counter", "Times that a service was not made because VMs of its NIC have made as many as they may.",
		  reg->n_over_share },
		{ "outrigger_store_failures_total", "counter", "Writes to the store that failed.", reg->n_store_failures },
	};
	bytes_init(&out, MAX_METRICS);
	for (size_t i = 0; r == 0 && i < ELEMENTS(rows); i++)
		r = bytes_appendf(&out, "# HELP %s %s\n# TYPE %s %s\n%s %llu\n", rows[i].name, rows[i].help, rows[i].name, rows[i].type, rows[i].name,
				  (unsigned long long)rows[i].value);
	if (r == 0)
		httpd_reply(req, 200, "text/plain; version=0.0.4", out.data, out.len);
	else
		httpd_reply_error(req, 500, "out of memory");
	bytes_deinit(&out);
}
