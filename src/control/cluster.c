/*
 * What is watched in the cluster, put together.
 */
#include "control/cluster.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "mesh/cert.h"

struct cluster {
	struct loop *loop;
	struct cluster_ops ops;
	void *data;
	struct kube_client *kube;
	struct kube_source *source;
	struct kube_watch *roots;	/* NULL: they come from a file */
	struct entries *entries;	/* NULL: no Istio */
	struct kube_manage *manage;	/* the same */
	struct kube_groups *groups;	/* the same */
	char *roots_pem;
	struct timer probe;
	struct kube_call *probe_call;	/* under way, or NULL */
	enum kube_error api_error;
	char api_text[KUBE_WATCH_TEXT_LEN];
};

enum { PROBE_MS = 5000 };

/*
 * A watch of an API server that hangs is as quiet as one of a cluster where
 * nothing happens, and credentials that have expired are noticed only when they
 * are used: it is asked now and then.
 */
static int on_probe(struct timer *t);

static void on_probed(struct kube_call *call, void *data, const struct kube_answer *a)
{
	struct cluster *c = data;
	/* Without the right to know its version: it answered, and that is all that was asked. */
	enum kube_error error = a->error == KUBE_FORBIDDEN || a->error == KUBE_NOT_FOUND ? KUBE_OK : a->error;

	(void)call;
	c->probe_call = NULL;
	if (error != c->api_error && error != KUBE_OK)
		log_warn("the Kubernetes API does not serve us: what was known stays in force", log_str("reason", a->text));
	else if (error != c->api_error)
		log_info("the Kubernetes API serves us again");
	c->api_error = error;
	snprintf(c->api_text, sizeof(c->api_text), "%s", error == KUBE_OK ? "" : a->text);
	(void)!timer_arm(c->loop, &c->probe, PROBE_MS, on_probe);
}

static int on_probe(struct timer *t)
{
	struct cluster *c = container_of(t, struct cluster, probe);
	const struct kube_request q = { .method = "GET", .path = "/version", .what = "ask for the version", .done = on_probed, .data = c };

	if (kube_start(c->kube, &q, &c->probe_call) == 0)
		return 0;
	c->probe_call = NULL;
	return timer_arm(c->loop, t, PROBE_MS, on_probe);
}

enum kube_error cluster_api(const struct cluster *c, const char **ret_text)
{
	*ret_text = c->api_text;
	return c->api_error;
}

/* --- Istio's roots --- */

static void take_roots(struct cluster *c, const char *pem)
{
	struct cert_list list = {};
	char *copy;

	if (c->roots_pem && !strcmp(c->roots_pem, pem))
		return;
	if (cert_list_add(&list, pem) < 0) {
		log_error("the ConfigMap istio-ca-root-cert has no certificates: the roots stay as they are");
		return;
	}
	cert_list_deinit(&list);
	copy = strdup(pem);
	if (!copy)
		return;
	log_info("Istio's roots were taken", log_str("why", c->roots_pem ? "they have changed" : "the first ones"));
	free(c->roots_pem);
	c->roots_pem = copy;
	c->ops.roots(c->data, copy);
}

static void on_roots(void *data, const json_t *object)
{
	const char *pem = json_string_value(json_object_get(json_object_get(object, "data"), "root-cert.pem"));

	if (pem)
		take_roots(data, pem);
}

/* What is trusted is not forgotten because an object is away. */
static void on_nothing(void *data)
{
	(void)data;
}

static void on_roots_gone(void *data, const json_t *object)
{
	(void)data;
	(void)object;
}

static int watch_roots(struct cluster *c, const char *namespace)
{
	char path[320];
	const struct kube_watch_options w = {
		.client = c->kube, .path = path, .what = "configmaps istio-ca-root-cert", .selector = "fieldSelector=metadata.name%3Distio-ca-root-cert",
		.data = c, .ops = { .begin = on_nothing, .put = on_roots, .gone = on_roots_gone, .synced = on_nothing },
	};

	snprintf(path, sizeof(path), "/api/v1/namespaces/%s/configmaps", namespace);
	return kube_watch_new(c->loop, &w, &c->roots);
}

/* --- life --- */

static void on_containers(void *data)
{
	struct cluster *c = data;

	c->ops.containers(c->data);
}

static bool on_wanted(void *data, const char *nic, const struct ip *address)
{
	struct cluster *c = data;

	return c->ops.wanted(c->data, nic, address);
}

static void on_seen(void *data, const char *nic, const struct ip *address)
{
	struct cluster *c = data;

	c->ops.seen(c->data, nic, address);
}

static void on_groups(void *data)
{
	struct cluster *c = data;

	c->ops.groups(c->data);
}

static int start_istio(struct cluster *c, const struct config *config)
{
	const struct entries_options entries = {
		.client = c->kube, .wanted = on_wanted, .seen = on_seen, .data = c, .remove = config->kubernetes.remove_entries,
	};
	const struct kube_manage_options manage = { .client = c->kube, .config = config };
	struct kube_groups_options groups = { .client = c->kube, .changed = on_groups, .data = c, .also = kube_manage_group_ops };
	int r = entries_new(c->loop, &entries, &c->entries);

	if (r == 0)
		r = kube_manage_new(c->loop, &manage, &c->manage);
	groups.also_data = c->manage;
	if (r == 0)
		r = kube_groups_new(c->loop, &groups, &c->groups);

	return r < 0 || config->mesh.roots_file ? r : watch_roots(c, config->kubernetes.istio_namespace);
}

int cluster_new(struct loop *loop, const struct config *config, const struct cluster_ops *ops, void *data, struct cluster **ret_cluster,
		struct diag *reterr_diag)
{
	const struct config_kubernetes *k = &config->kubernetes;
	const struct kube_options kube = { .kubeconfig = k->kubeconfig, .context = k->context, .timeout_ms = k->timeout_ms };
	struct cluster *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return -ENOMEM;
	c->loop = loop;
	c->ops = *ops;
	c->data = data;
	r = kube_client_new(loop, &kube, &c->kube, reterr_diag);
	if (r == 0) {
		const struct kube_source_options source = { .client = c->kube, .changed = on_containers, .data = c,
							     .reader = ops->reader, .reader_data = ops->reader_data };

		r = kube_source_new(loop, &source, &c->source);
	}
	if (r == 0 && config->mesh.kind == MESH_ISTIO)
		r = start_istio(c, config);
	if (r == 0)
		r = timer_arm(loop, &c->probe, 0, on_probe);
	if (r < 0) {
		cluster_free(c);
		return r;
	}
	log_info("watching a Kubernetes cluster", log_str("server", kube_client_server(c->kube)));
	*ret_cluster = c;
	return 0;
}

struct cluster *cluster_free(struct cluster *c)
{
	if (!c)
		return NULL;
	entries_free(c->entries);
	kube_groups_free(c->groups);
	kube_manage_free(c->manage);
	kube_watch_free(c->roots);
	kube_source_free(c->source);
	kube_cancel(c->probe_call);
	timer_cancel(&c->probe);
	kube_client_free(c->kube);
	free(c->roots_pem);
	free(c);
	return NULL;
}

struct kube_client *cluster_kube(const struct cluster *c)
{
	return c->kube;
}

const struct kube_source *cluster_source(const struct cluster *c)
{
	return c->source;
}

const struct entries *cluster_entries(const struct cluster *c)
{
	return c->entries;
}

const struct kube_groups *cluster_groups(const struct cluster *c)
{
	return c->groups;
}

const struct kube_manage *cluster_manage(const struct cluster *c)
{
	return c->manage;
}

int cluster_apply(struct cluster *c, const struct config *config)
{
	return c ? kube_manage_apply(c->manage, config) : 0;
}

void cluster_guests_changed(struct cluster *c)
{
	if (c && c->entries)
		entries_review(c->entries);
}

bool cluster_watch(const struct cluster *c, size_t i, struct kube_watch_info *ret_info)
{
	size_t n = kube_source_n_watches(c->source);

	if (i < n)
		*ret_info = kube_source_watch(c->source, i);
	else if (i == n && c->entries)
		*ret_info = entries_info(c->entries).watch;
	else if (i == n + 1 && c->groups)
		*ret_info = kube_groups_info(c->groups);
	else if (i == n + 2 && c->manage)
		*ret_info = kube_manage_accounts(c->manage);
	else if (i == n + 3 && c->roots)
		*ret_info = kube_watch_info(c->roots);
	else
		return false;
	return true;
}
