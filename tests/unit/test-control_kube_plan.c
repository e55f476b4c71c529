#include "lib/unit.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "control/kube_plan.h"

static const char policies[] =
	"onboarding:\n"
	"  - { name: orders, match: { guest_name: \"orders-*\" }, mode: strict, namespace: shop, service_account: orders, workload_group: orders,\n"
	"      services: [orders], labels: { app: orders, tier: back }, health: { kind: http, port: 8080, path: /h, interval: 1500ms, timeout: 100ms } }\n"
	"  - { name: more, match: { guest_name: \"more-*\" }, mode: strict, namespace: shop, service_account: other, workload_group: orders, services: [x] }\n"
	"  - { name: callers, match: { guest_name: \"caller-*\" }, mode: permissive, namespace: shop, service_account: callers, client: true }\n"
	"  - { name: map, match: { guest_name: \"*\" }, mode: shadow, namespace: shop }\n";

static struct config *config_of(const char *text)
{
	struct config *c;
	struct diag d = {};

	assert_int_equal(config_parse("c.yaml", text, strlen(text), &c, &d), 0);
	return c;
}

static void make(const char *text, bool owned, struct kube_wants *ret_wants)
{
	struct config *c = config_of(text);

	assert_int_equal(kube_wants_init(ret_wants, c, owned), 0);
	config_free(c);
}

/* A cluster where all of it is, as the API server gives it back. */
static json_t *cluster_of(const struct kube_wants *w)
{
	json_t *all = json_object();

	for (size_t i = 0; i < w->n; i++) {
		json_t *copy = json_deep_copy(w->v[i].object);

		json_object_set_new(json_object_get(copy, "metadata"), "uid", json_string("u-1"));
		json_object_set_new(all, w->v[i].key, copy);
	}
	return all;
}

static json_t *at(json_t *object, const char *a, const char *b)
{
	json_t *found = json_object_get(json_object_get(object, a), b);

	assert_non_null(found);
	return found;
}

/* "create ServiceAccount shop/orders; ..." of everything that does not fit. */
static const char *plan_of(const struct kube_wants *w, const json_t *existing, bool manage)
{
	static char text[2000];
	struct kube_plan plan;
	size_t n = 0;

	text[0] = 0;
	assert_int_equal(kube_plan_init(&plan, w, existing, "outrigger", manage), 0);
	for (size_t i = 0; i < plan.n; i++)
		if (plan.v[i].action != KUBE_FITS)
			n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%s %s%s%s", n ? "; " : "", kube_action_name(plan.v[i].action), plan.v[i].key,
					      plan.v[i].why[0] ? ": " : "", plan.v[i].why);
	kube_plan_deinit(&plan);
	return text;
}

static void policies_want_accounts_and_groups_with_labels_and_probe(void **state)
{
	struct kube_wants w;
	char *text;

	(void)state;
	make(policies, false, &w);
	assert_int_equal(w.n, 4);
	assert_string_equal(w.v[0].key, "ServiceAccount shop/orders");
	assert_string_equal(w.v[1].key, "ServiceAccount shop/other");
	assert_string_equal(w.v[2].key, "ServiceAccount shop/callers");
	assert_string_equal(w.v[3].key, "WorkloadGroup shop/orders");
	assert_string_equal(w.v[3].conflict, "onboarding 'more' wants the account other for it, an earlier policy orders");
	text = json_dumps(json_object_get(w.v[3].object, "spec"), JSON_COMPACT | JSON_SORT_KEYS);
	assert_string_equal(text, "{\"metadata\":{\"labels\":{\"app\":\"orders\",\"security.istio.io/tlsMode\":\"disabled\",\"tier\":\"back\"}},"
		"\"probe\":{\"failureThreshold\":3,\"httpGet\":{\"path\":\"/h\",\"port\":8080},\"initialDelaySeconds\":0,\"periodSeconds\":2,\"successThreshold\":1,"
		"\"timeoutSeconds\":1},\"template\":{\"serviceAccount\":\"orders\"}}");
	free(text);
	kube_wants_deinit(&w);
}

static void what_is_missing_is_created_or_only_named(void **state)
{
	static const char all[] = "create ServiceAccount shop/orders; create ServiceAccount shop/other; create ServiceAccount shop/callers; create WorkloadGroup shop/orders";
	json_t *none = json_object(), *existing;
	struct kube_wants w;

	(void)state;
	make(policies, true, &w);
	assert_string_equal(plan_of(&w, none, true), all);
	assert_true(strstr(plan_of(&w, none, false), "missing WorkloadGroup shop/orders"));
	assert_null(strstr(plan_of(&w, none, false), "create"));
	existing = cluster_of(&w);
	assert_string_equal(plan_of(&w, existing, true), "");
	assert_string_equal(plan_of(&w, existing, false), "");
	json_decref(existing);
	json_decref(none);
	kube_wants_deinit(&w);
}

static void what_is_ours_is_changed_back_and_what_others_added_stays(void **state)
{
	struct kube_wants w;
	json_t *existing, *group;

	(void)state;
	make(policies, true, &w);
	existing = cluster_of(&w);
	group = json_object_get(existing, "WorkloadGroup shop/orders");
	json_object_set_new(at(group, "spec", "metadata"), "annotations", json_pack("{s:s}", "a", "b"));
	json_object_set_new(at(group, "metadata", "labels"), "team", json_string("x"));
	assert_string_equal(plan_of(&w, existing, true), "");
	json_object_set_new(at(group, "spec", "template"), "serviceAccount", json_string("other"));
	assert_string_equal(plan_of(&w, existing, true), "change WorkloadGroup shop/orders: spec.template.serviceAccount is \"other\", not \"orders\"");
	assert_string_equal(plan_of(&w, existing, false), "clash WorkloadGroup shop/orders: spec.template.serviceAccount is \"other\", not \"orders\"");
	json_object_set_new(at(group, "spec", "template"), "serviceAccount", json_string("orders"));
	/* What is wanted no more is seen by the hash of what was applied. */
	json_object_set_new(at(group, "metadata", "annotations"), KUBE_APPLIED_ANNOTATION, json_string("0123456789abcdef"));
	assert_true(strstr(plan_of(&w, existing, true), "change WorkloadGroup shop/orders: metadata.annotations." KUBE_APPLIED_ANNOTATION));
	json_decref(existing);
	kube_wants_deinit(&w);
}

static void somebody_elses_does_as_well_or_is_a_clash_but_is_never_changed(void **state)
{
	struct kube_wants w;
	json_t *existing, *group;

	(void)state;
	make(policies, true, &w);
	existing = cluster_of(&w);
	group = json_object_get(existing, "WorkloadGroup shop/orders");
	json_object_set_new(at(group, "metadata", "labels"), KUBE_OWNER_LABEL, json_string("another"));
	json_object_del(json_object_get(group, "spec"), "probe");
	assert_string_equal(plan_of(&w, existing, true), "");
	json_object_del(json_object_get(at(group, "spec", "metadata"), "labels"), "tier");
	assert_string_equal(plan_of(&w, existing, true), "clash WorkloadGroup shop/orders: spec.metadata.labels.tier is not there, wanted is \"back\"");
	json_object_del(json_object_get(group, "metadata"), "labels");
	assert_true(strstr(plan_of(&w, existing, true), "clash"));
	json_decref(existing);
	kube_wants_deinit(&w);
}

static void only_what_is_ours_is_deleted_groups_first(void **state)
{
	struct kube_wants w, none;
	json_t *existing;

	(void)state;
	make(policies, true, &w);
	make("onboarding: []\n", true, &none);
	existing = cluster_of(&w);
	json_object_set_new(at(json_object_get(existing, "ServiceAccount shop/other"), "metadata", "labels"), KUBE_OWNER_LABEL, json_string("another"));
	json_object_del(json_object_get(json_object_get(existing, "ServiceAccount shop/callers"), "metadata"), "labels");
	assert_string_equal(plan_of(&none, existing, true), "delete WorkloadGroup shop/orders; delete ServiceAccount shop/orders");
	assert_string_equal(plan_of(&none, existing, false), "");
	json_decref(existing);
	kube_wants_deinit(&w);
	kube_wants_deinit(&none);
}

/* Whatever somebody has put there. */
static void objects_of_any_shape_are_survived(void **state)
{
	static const char *const shapes[] = { "null", "3", "[]", "{}", "{\"metadata\": 3}", "{\"metadata\": {\"labels\": []}}", "{\"spec\": \"x\"}",
		"{\"spec\": {\"template\": [\"serviceAccount\"]}}", "{\"metadata\": {\"labels\": {\"outrigger.dev/managed-by\": 3}}}" };
	struct kube_wants w;

	(void)state;
	make(policies, true, &w);
	for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
		json_t *existing = cluster_of(&w);

		json_object_set_new(existing, "WorkloadGroup shop/orders", json_loads(shapes[i], JSON_DECODE_ANY, NULL));
		assert_true(strstr(plan_of(&w, existing, true), "clash WorkloadGroup shop/orders: "));
		json_decref(existing);
	}
	kube_wants_deinit(&w);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(policies_want_accounts_and_groups_with_labels_and_probe),
		cmocka_unit_test(what_is_missing_is_created_or_only_named),
		cmocka_unit_test(what_is_ours_is_changed_back_and_what_others_added_stays),
		cmocka_unit_test(somebody_elses_does_as_well_or_is_a_clash_but_is_never_changed),
		cmocka_unit_test(only_what_is_ours_is_deleted_groups_first),
		cmocka_unit_test(objects_of_any_shape_are_survived),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
