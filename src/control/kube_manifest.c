/*
 * Kubernetes objects of onboarding policies, as YAML.
 */
#include "control/kube_manifest.h"

#include <errno.h>
#include <jansson.h>
#include <stdbool.h>
#include <string.h>

#include "control/kube_want.h"

static const char rbac[] = "rbac.authorization.k8s.io", rbac_version[] = "rbac.authorization.k8s.io/v1";

/* --- YAML --- */

static void print_text(const json_t *value, FILE *out)
{
	CLEANUP_FREE char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);

	fputs(text ? text : "null", out);
}

/* A key that is no other thing in YAML: "on" is true there. */
static bool is_plain(const char *key)
{
	static const char *const words[] = { "y", "n", "yes", "no", "on", "off", "true", "false", "null" };

	for (size_t i = 0; i < ELEMENTS(words); i++)
		if (!strcasecmp(key, words[i]))
			return false;
	return *key && !key[strspn(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")];
}

static void print_key(const char *key, FILE *out)
{
	json_t *text = is_plain(key) ? NULL : json_string(key);

	if (text)
		print_text(text, out);
	else
		fputs(key, out);
	json_decref(text);
}

/* Objects as indented blocks, lists and all else as JSON, which is YAML: so no text needs to be looked at for what it might mean. */
static void print_object(const json_t *object, int indent, FILE *out)
{
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)(uintptr_t)object, key, value) {
		fprintf(out, "%*s", indent, "");
		print_key(key, out);
		if (json_is_object(value) && json_object_size(value)) {
			fputs(":\n", out);
			print_object(value, indent + 2, out);
		} else {
			fputs(": ", out);
			print_text(value, out);
			fputs("\n", out);
		}
	}
}

/* @object is taken. */
static int print(json_t *object, FILE *out)
{
	if (!object)
		return -ENOMEM;
	fputs("---\n", out);
	print_object(object, 0, out);
	json_decref(object);
	return 0;
}

/* --- rights --- */

/* A role of that name with these rules (taken), for the controller. */
static int print_role(const char *name, const char *namespace, json_t *rules, FILE *out)
{
	int r = print(json_pack("{s:s, s:s, s:{s:s, s:s}, s:o}", "apiVersion", rbac_version, "kind", "Role", "metadata", "name", name, "namespace",
				namespace, "rules", rules), out);

	if (r < 0)
		return r;
	return print(json_pack("{s:s, s:s, s:{s:s, s:s}, s:{s:s, s:s, s:s}, s:[{s:s, s:s, s:s}]}", "apiVersion", rbac_version, "kind", "RoleBinding",
			       "metadata", "name", name, "namespace", namespace, "roleRef", "apiGroup", rbac, "kind", "Role", "name", name, "subjects",
			       "kind", "ServiceAccount", "name", "outrigger-controller", "namespace", "outrigger-system"), out);
}

static int print_token_role(const struct kube_want *account, FILE *out)
{
	char name[320];

	snprintf(name, sizeof(name), "outrigger-token-%s", account->name);
	return print_role(name, account->namespace, json_pack("[{s:[s], s:[s], s:[s], s:[s]}]", "apiGroups", "", "resources", "serviceaccounts/token",
							      "resourceNames", account->name, "verbs", "create"), out);
}

/* By namespace, not for the whole cluster: a controller that is taken over reaches no further than its policies. */
static int print_manage_role(const char *namespace, FILE *out)
{
	return print_role("outrigger-manage", namespace, json_pack("[{s:[s], s:[s], s:[s,s,s]}, {s:[s], s:[s], s:[s,s,s]}]",
		"apiGroups", kube_kinds[KUBE_ACCOUNT].group, "resources", kube_kinds[KUBE_ACCOUNT].plural, "verbs", "create", "patch", "delete",
		"apiGroups", kube_kinds[KUBE_GROUP].group, "resources", kube_kinds[KUBE_GROUP].plural, "verbs", "create", "patch", "delete"), out);
}

static bool is_first_of_namespace(const struct kube_wants *w, size_t i)
{
	for (size_t k = 0; k < i; k++)
		if (!strcmp(w->v[k].namespace, w->v[i].namespace))
			return false;
	return true;
}

static int print_rights(const struct config *c, const struct kube_wants *w, FILE *out)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < w->n; i++) {
		if (w->v[i].kind == KUBE_ACCOUNT && c->mesh.tokens == TOKENS_REQUEST)
			r = print_token_role(&w->v[i], out);
		if (r == 0 && c->kubernetes.manage && is_first_of_namespace(w, i))
			r = print_manage_role(w->v[i].namespace, out);
	}
	return r;
}

int kube_manifest_print(const struct config *c, FILE *out)
{
	struct kube_wants w;
	int r = kube_wants_init(&w, c, c->kubernetes.manage);

	fprintf(out, "# What the onboarding policies need. Services that select the labels are yours to write.\n");
	fprintf(out, c->kubernetes.manage ? "# kubernetes.manage is on: the Roles and RoleBindings are yours to apply, the rest is what the controller makes with them.\n"
					  : "# kubernetes.manage is off: all of it is yours to apply.\n");
	for (size_t i = 0; i < w.n; i++)
		if (is_first_of_namespace(&w, i))
			fprintf(out, "# The namespace %s has to be there.\n", w.v[i].namespace);
	if (r == 0)
		r = print_rights(c, &w, out);
	for (size_t i = 0; r == 0 && i < w.n; i++)
		r = print(json_incref(w.v[i].object), out);
	kube_wants_deinit(&w);
	return r < 0 ? r : fflush(out) ? -EIO : 0;
}
