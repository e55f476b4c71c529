/*
 * Kubernetes objects of onboarding policies. All names in them are checked
 * (config.c): DNS labels and names need no quotes in YAML but for numbers, so
 * they have them.
 */
#include "control/kube_manifest.h"

#include <errno.h>
#include <jansson.h>
#include <stdbool.h>
#include <string.h>

static bool needs_objects(const struct config_onboarding *p)
{
	return p->workload_group && p->namespace;
}

/* An earlier policy names the same account (and group). */
static bool said(const struct config *c, const struct config_onboarding *p, bool group)
{
	config_for_each(const struct config_onboarding, q, &c->onboarding) {
		if (q == p)
			return false;
		if (needs_objects(q) && !strcmp(q->namespace, p->namespace) &&
		    (group ? !strcmp(q->workload_group, p->workload_group) : !strcmp(q->service_account, p->service_account)))
			return true;
	}
	return false;
}

static void print_account(const struct config_onboarding *p, FILE *out)
{
	const char *ns = p->namespace, *account = p->service_account;

	fprintf(out, "---\napiVersion: v1\nkind: ServiceAccount\nmetadata: { name: \"%s\", namespace: \"%s\" }\n", account, ns);
	fprintf(out, "---\napiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: { name: \"outrigger-token-%s\", namespace: \"%s\" }\n"
		     "rules:\n  - { apiGroups: [\"\"], resources: [serviceaccounts/token], resourceNames: [\"%s\"], verbs: [create] }\n", account, ns, account);
	fprintf(out, "---\napiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: { name: \"outrigger-token-%s\", namespace: \"%s\" }\n"
		     "roleRef: { apiGroup: rbac.authorization.k8s.io, kind: Role, name: \"outrigger-token-%s\" }\n"
		     "subjects: [{ kind: ServiceAccount, name: outrigger-controller, namespace: outrigger-system }]\n", account, ns, account);
}

static int print_group(const struct config_onboarding *p, FILE *out)
{
	json_t *labels = json_object();
	char *text;

	for (size_t i = 0; labels && i < p->labels.n; i++)
		json_object_set_new(labels, p->labels.v[i].key, json_string(p->labels.v[i].value));
	if (labels && !p->labels.n)		/* what a Service selects it by */
		json_object_set_new(labels, "app", json_string(p->workload_group));
	text = labels ? json_dumps(labels, JSON_COMPACT) : NULL;
	json_decref(labels);
	if (!text)
		return -ENOMEM;
	fprintf(out, "---\napiVersion: networking.istio.io/v1\nkind: WorkloadGroup\nmetadata: { name: \"%s\", namespace: \"%s\" }\n"
		     "spec:\n  metadata: { labels: %s }\n  template: { serviceAccount: \"%s\" }\n", p->workload_group, p->namespace, text, p->service_account);
	free(text);
	return 0;
}

int kube_manifest_print(const struct config *c, FILE *out)
{
	int r = 0;

	fprintf(out, "# What the onboarding policies need. Services that select the labels are yours to write.\n");
	config_for_each(const struct config_onboarding, p, &c->onboarding) {
		if (!needs_objects(p))
			continue;
		if (!said(c, p, false))
			print_account(p, out);
		if (r == 0 && !said(c, p, true))
			r = print_group(p, out);
	}
	return r < 0 ? r : fflush(out) ? -EIO : 0;
}
