/*
 * kubeconfigs: what is taken, what is refused, with which words.
 */
#include "control/kube_config.h"

#include "lib/unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char dir[64];

static const char *put(const char *name, const char *text)
{
	static char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
	return path;
}

#define HEAD "apiVersion: v1\nkind: Config\ncurrent-context: a\n"
#define CONTEXT "contexts: [{name: a, context: {cluster: c, user: u, namespace: shop}}, {name: b, context: {cluster: c, user: nobody}}]\n"
#define CLUSTER "clusters: [{name: c, cluster: {server: \"https://10.0.0.1:6443/\", certificate-authority-data: Q0E=}}]\n"

static int load(const char *text, struct kube_config *c, struct diag *d)
{
	return kube_config_load(put("config", text), NULL, c, d);
}

static void a_token_and_a_root_in_the_file_are_read(void **state)
{
	struct kube_config c;
	struct diag d = {};

	(void)state;
	assert_int_equal(load(HEAD CONTEXT CLUSTER "users: [{name: u, user: {token: abc.def}}]\n", &c, &d), 0);
	assert_string_equal(c.server, "https://10.0.0.1:6443");
	assert_string_equal(c.ca_pem, "CA");
	assert_string_equal(c.token, "abc.def");
	assert_string_equal(c.namespace, "shop");
	assert_null(c.cert_pem);
	kube_config_deinit(&c);
}

static void files_are_relative_to_the_kubeconfig_and_a_token_loses_its_newline(void **state)
{
	struct kube_config c;
	struct diag d = {};

	(void)state;
	put("token", "from-a-file\n");
	put("crt", "CERT");
	put("key", "KEY");
	assert_int_equal(load(HEAD CONTEXT CLUSTER "users: [{name: u, user: {token: old, tokenFile: token, client-certificate: crt, client-key: key}}]\n",
			      &c, &d), 0);
	assert_string_equal(c.token, "from-a-file");
	assert_string_equal(c.cert_pem, "CERT");
	assert_string_equal(c.key_pem, "KEY");
	kube_config_deinit(&c);
}

static void what_is_wrong_is_named(void **state)
{
	static const struct {
		const char *text;
		const char *words;
	} cases[] = {
		{ "kind: Config\n", "no current-context" },
		{ HEAD, "there is no context 'a' under 'contexts'" },
		{ HEAD CONTEXT, "there is no cluster 'c' under 'clusters'" },
		{ HEAD CONTEXT CLUSTER, "there is no user 'u' under 'users'" },
		{ HEAD CONTEXT CLUSTER "users: [{name: u, user: {exec: {command: aws}}}]\n", "'exec' is not supported" },
		{ HEAD CONTEXT CLUSTER "users: [{name: u, user: {namespace: x}}]\n", "neither a token nor a client-certificate" },
		{ HEAD CONTEXT CLUSTER "users: [{name: u, user: {token: \"a b\"}}]\n", "no token" },
		{ HEAD CONTEXT CLUSTER "users: [{name: u, user: {tokenFile: missing}}]\n", "cannot be read" },
		{ HEAD CONTEXT CLUSTER "users: [{name: u, user: {client-certificate-data: Q0E=}}]\n", "go together" },
		{ HEAD CONTEXT CLUSTER "users: [{name: u, user: {client-certificate-data: \"*\", client-key-data: Q0E=}}]\n", "not base64" },
		{ HEAD CONTEXT "clusters: [{name: c, cluster: {server: \"http://10.0.0.1\"}}]\n", "must be an https:// URL" },
		{ HEAD CONTEXT "clusters: [{name: c, cluster: {server: \"https://a\", insecure-skip-tls-verify: true}}]\n", "is refused" },
		{ "{", "" },
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTS(cases); i++) {
		struct kube_config c;
		struct diag d = {};

		assert_int_equal(load(cases[i].text, &c, &d), -EINVAL);
		if (!d.msg[0] || !strstr(d.msg, cases[i].words))
			fail_msg("case %zu says: %s", i, d.msg);
	}
}

static void outside_of_a_pod_there_is_no_account(void **state)
{
	struct kube_config c;
	struct diag d = {};

	(void)state;
	unsetenv("KUBERNETES_SERVICE_HOST");
	assert_int_equal(kube_config_load(NULL, NULL, &c, &d), -EINVAL);
	assert_non_null(strstr(d.msg, "give a kubeconfig"));
}

static int make_dir(void **state)
{
	(void)state;
	snprintf(dir, sizeof(dir), "/tmp/kube-config-XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	static const char *const names[] = { "config", "token", "crt", "key" };
	char path[128];

	(void)state;
	for (size_t i = 0; i < ELEMENTS(names); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		remove(path);
	}
	return remove(dir);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_token_and_a_root_in_the_file_are_read),
		cmocka_unit_test(files_are_relative_to_the_kubeconfig_and_a_token_loses_its_newline),
		cmocka_unit_test(what_is_wrong_is_named),
		cmocka_unit_test(outside_of_a_pod_there_is_no_account),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
