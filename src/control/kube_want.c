/*
 * What policies want of a cluster.
 *
 * Source: networking/v1/workload_group.proto of istio/api.
 */
#include "control/kube_want.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "control/kube_groups.h"
#include "control/onboard.h"

const struct kube_kind_info kube_kinds[_KUBE_WANTED_N] = {
	[KUBE_ACCOUNT] = { "ServiceAccount", "v1", "", "/api/v1", "serviceaccounts" },
	[KUBE_GROUP] = { "WorkloadGroup", "networking.istio.io/v1", "networking.istio.io", "/apis/networking.istio.io/v1", "workloadgroups" },
};

void kube_key(enum kube_wanted_kind kind, const char *namespace, const char *name, char ret_key[static KUBE_KEY_LEN])
{
	snprintf(ret_key, KUBE_KEY_LEN, "%s %s/%s", kube_kinds[kind].kind, namespace, name);
}

/* --- a group's spec --- */

static json_t *labels_of(const struct config_onboarding *p)
{
	json_t *labels = json_object();

	for (size_t i = 0; labels && i < p->labels.n; i++)
		if (json_object_set_new(labels, p->labels.v[i].key, json_string(p->labels.v[i].value)) < 0) {
			json_decref(labels);
			return NULL;
		}
	if (labels && !p->labels.n)		/* what a Service selects it by */
		json_object_set_new(labels, "app", json_string(p->workload_group));
	return labels;
}

/* Seconds of at least one: Istio has no shorter ones. */
static json_int_t seconds(uint32_t ms)
{
	return ms ? (ms + 999) / 1000 : 0;
}

static json_t *http_probe(const struct config_health *h)
{
	json_t *headers = json_array();

	for (size_t i = 0; i < h->headers.n; i++)
		json_array_append_new(headers, json_pack("{s:s, s:s}", "name", h->headers.v[i].key, "value", h->headers.v[i].value));
	return json_pack("{s:s*, s:s, s:i, s:s*, s:o*}", "scheme", h->kind == HEALTH_CHECK_HTTPS ? "HTTPS" : NULL, "path", h->path, "port", (int)h->port,
			 "host", h->host, "httpHeaders", h->headers.n ? headers : (json_decref(headers), NULL));
}

/* A probe has one port: checks that go to each service's own cannot be said there. */
static json_t *probe_of(const struct config_health *h)
{
	json_t *probe;

	if (h->kind == HEALTH_CHECK_NONE || !h->port)
		return NULL;
	probe = json_pack("{s:I, s:I, s:I, s:i, s:i}", "initialDelaySeconds", seconds(h->initial_delay_ms), "periodSeconds", seconds(h->interval_ms),
			  "timeoutSeconds", seconds(h->timeout_ms), "successThreshold", (int)h->successes, "failureThreshold", (int)h->failures);
	if (h->kind == HEALTH_CHECK_HTTP || h->kind == HEALTH_CHECK_HTTPS)
		json_object_set_new(probe, "httpGet", http_probe(h));
	else if (h->kind == HEALTH_CHECK_TCP)
		json_object_set_new(probe, "tcpSocket", json_pack("{s:i}", "port", (int)h->port));
	else
		json_object_set_new(probe, "grpc", json_pack("{s:i, s:s*}", "port", (int)h->port, "service", h->service));
	return probe;
}

/* Sidecars and gateways of Istio, too, shall reach the VMs by HBONE: without this label they speak a protocol that ours do not. */
static json_t *labels_of_vms(const struct config_onboarding *p)
{
	json_t *labels = labels_of(p);

	if (labels && !json_object_get(labels, KUBE_TLS_MODE_LABEL))
		json_object_set_new(labels, KUBE_TLS_MODE_LABEL, json_string("disabled"));
	return labels;
}

static json_t *group_spec(const struct config_onboarding *p)
{
	return json_pack("{s:{s:o}, s:{s:s}, s:o*}", "metadata", "labels", labels_of_vms(p), "template", "serviceAccount", p->service_account,
			 "probe", probe_of(&p->health));
}

/* What istiod refuses a VM without, and what policies of the mesh select it by. */
static json_t *group_demand(const struct config_onboarding *p)
{
	json_t *demand = json_pack("{s:{s:{s:s}}}", "spec", "template", "serviceAccount", p->service_account);

	if (demand && p->labels.n)
		json_object_set_new(json_object_get(demand, "spec"), "metadata", json_pack("{s:o}", "labels", labels_of(p)));
	return demand;
}

/* --- an object --- */

static int mark(json_t *object, const char *owner)
{
	CLEANUP_FREE char *text = json_dumps(object, JSON_COMPACT | JSON_SORT_KEYS);
	json_t *meta = json_object_get(object, "metadata");
	uint8_t digest[EVP_MAX_MD_SIZE];
	char hex[17];

	if (!text || EVP_Digest(text, strlen(text), digest, NULL, EVP_sha256(), NULL) != 1)
		return -ENOMEM;
	for (size_t i = 0; i < 8; i++)
		snprintf(hex + 2 * i, 3, "%02x", digest[i]);
	if (json_object_set_new(meta, "labels", json_pack("{s:s}", KUBE_OWNER_LABEL, owner)) < 0 ||
	    json_object_set_new(meta, "annotations", json_pack("{s:s}", KUBE_APPLIED_ANNOTATION, hex)) < 0)
		return -ENOMEM;
	return 0;
}

static int fill(struct kube_want *w, const struct config_onboarding *p, const char *owner)
{
	const struct kube_kind_info *kind = &kube_kinds[w->kind];
	const char *name = w->kind == KUBE_GROUP ? p->workload_group : p->service_account;

	kube_key(w->kind, p->namespace, name, w->key);
	w->object = json_pack("{s:s, s:s, s:{s:s, s:s}}", "apiVersion", kind->version, "kind", kind->kind, "metadata", "name", name,
			      "namespace", p->namespace);
	w->demand = w->kind == KUBE_GROUP ? group_demand(p) : json_object();
	if (!w->object || !w->demand)
		return -ENOMEM;
	if (w->kind == KUBE_GROUP && json_object_set_new(w->object, "spec", group_spec(p)) < 0)
		return -ENOMEM;
	w->namespace = json_string_value(json_object_get(json_object_get(w->object, "metadata"), "namespace"));
	w->name = json_string_value(json_object_get(json_object_get(w->object, "metadata"), "name"));
	return owner ? mark(w->object, owner) : 0;
}

static struct kube_want *find(struct kube_wants *w, const char *key)
{
	for (size_t i = 0; i < w->n; i++)
		if (!strcmp(w->v[i].key, key))
			return &w->v[i];
	return NULL;
}

/* The first policy says what its group is like; another that wants something else of it is told. */
static void compare(struct kube_want *w, const struct config_onboarding *p)
{
	const char *account = json_string_value(json_object_get(json_object_get(json_object_get(w->object, "spec"), "template"), "serviceAccount"));

	if (w->kind == KUBE_GROUP && strcmp(account, p->service_account) != 0 && !w->conflict[0])
		snprintf(w->conflict, sizeof(w->conflict), "onboarding '%s' wants the account %s for it, an earlier policy %s", p->name,
			 p->service_account, account);
}

static int want(struct kube_wants *w, enum kube_wanted_kind kind, const struct config_onboarding *p, const char *owner)
{
	char key[KUBE_KEY_LEN];
	struct kube_want *known, *more;

	kube_key(kind, p->namespace, kind == KUBE_GROUP ? p->workload_group : p->service_account, key);
	known = find(w, key);
	if (known) {
		compare(known, p);
		return 0;
	}
	more = realloc(w->v, (w->n + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	w->v = more;
	more[w->n] = (struct kube_want){ .kind = kind };
	return fill(&more[w->n++], p, owner);
}

int kube_wants_init(struct kube_wants *w, const struct config *c, bool owned)
{
	const char *owner = owned ? c->kubernetes.manage_as : NULL;
	int r = 0;

	*w = (struct kube_wants){};
	config_for_each(const struct config_onboarding, p, &c->onboarding)
		if (r == 0 && p->namespace && (p->workload_group || onboard_joins(p)))
			r = want(w, KUBE_ACCOUNT, p, owner);
	config_for_each(const struct config_onboarding, p, &c->onboarding)
		if (r == 0 && p->namespace && p->workload_group)
			r = want(w, KUBE_GROUP, p, owner);
	return r;
}

void kube_wants_deinit(struct kube_wants *w)
{
	for (size_t i = 0; i < w->n; i++) {
		json_decref(w->v[i].object);
		json_decref(w->v[i].demand);
	}
	free(w->v);
	*w = (struct kube_wants){};
}
