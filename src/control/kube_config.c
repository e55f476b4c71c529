/*
 * kubeconfig (https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/)
 * and the service account's files (https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/).
 */
#include "control/kube_config.h"

#include <ctype.h>
#include <errno.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/conf_tree.h"

static const char account_dir[] = "/var/run/secrets/kubernetes.io/serviceaccount";

/* --- files --- */

static void close_file(FILE **f)
{
	if (*f)
		fclose(*f);
}

static int read_file(const char *path, char **ret_text, struct diag *d)
{
	CLEANUP(close_file) FILE *f = fopen(path, "re");
	CLEANUP_FREE char *text = malloc(KUBE_CONFIG_FILE_MAX + 1);
	size_t n;

	if (!text)
		return -ENOMEM;
	if (!f)
		return diag_at(d, path, 0, "cannot be read: %m");
	n = fread(text, 1, KUBE_CONFIG_FILE_MAX + 1, f);
	if (ferror(f))
		return diag_at(d, path, 0, "cannot be read: %m");
	if (n > KUBE_CONFIG_FILE_MAX || memchr(text, 0, n))
		return diag_at(d, path, 0, "is no text of at most %d bytes", KUBE_CONFIG_FILE_MAX);
	text[n] = 0;
	*ret_text = realloc(text, n + 1);
	if (*ret_text)
		text = NULL;
	return *ret_text ? 0 : -ENOMEM;
}

/* A token goes into a header: without the newline at its end, and without any other. */
static int check_token(const char *file, char *token, struct diag *d)
{
	size_t n = strlen(token);

	while (n && isspace((unsigned char)token[n - 1]))
		token[--n] = 0;
	for (size_t i = 0; i < n; i++)
		if (!isgraph((unsigned char)token[i]))
			return diag_at(d, file, 0, "what is there is no token");
	return n ? 0 : diag_at(d, file, 0, "the token is empty");
}

/* --- a kubeconfig --- */

struct reader {
	const char *path;
	const struct conf_node *root;
	struct diag *diag;
};

static const struct conf_node *get(const struct conf_node *map, const char *key)
{
	const struct conf_node *n = map && map->kind == CONF_NODE_MAP ? conf_node_get(map, key) : NULL;

	return n && !conf_node_is_null(n) ? n : NULL;
}

static unsigned line_of(const struct conf_node *n)
{
	return n ? n->line : 0;
}

/* NULL when it is not given, or not a text. */
static const char *get_text(const struct conf_node *map, const char *key)
{
	const struct conf_node *n = get(map, key);

	return n && n->kind == CONF_NODE_SCALAR && n->text[0] ? n->text : NULL;
}

static int copy_text(const char *text, char **ret_copy)
{
	char *copy = text ? strdup(text) : NULL;

	if (text && !copy)
		return -ENOMEM;
	*ret_copy = copy;
	return 0;
}

/* The entry @name of the list @list ("clusters"), its member @what ("cluster"). */
static int find_named(const struct reader *rd, const char *list, const char *what, const char *name, const struct conf_node **ret_node)
{
	const struct conf_node *l = get(rd->root, list);

	for (const struct conf_node *n = l ? l->children : NULL; n; n = n->next) {
		const char *text = get_text(n, "name");
		const struct conf_node *found = get(n, what);

		if (text && !strcmp(text, name) && found) {
			*ret_node = found;
			return 0;
		}
	}
	return diag_at(rd->diag, rd->path, line_of(l), "there is no %s '%s' under '%s'", what, name, list);
}

static int resolve(const struct reader *rd, const char *file, char **ret_path)
{
	const char *slash = strrchr(rd->path, '/');

	if (file[0] == '/' || !slash)
		return copy_text(file, ret_path);
	return asprintf(ret_path, "%.*s/%s", (int)(slash - rd->path), rd->path, file) < 0 ? -ENOMEM : 0;
}

static int decode_base64(const struct reader *rd, const struct conf_node *n, char **ret_text)
{
	EVP_ENCODE_CTX *ctx = EVP_ENCODE_CTX_new();
	size_t len = strlen(n->text);
	char *out = len < KUBE_CONFIG_FILE_MAX ? malloc(len + 4) : NULL;
	int n_out = 0, n_end = 0;
	bool good = false;

	if (ctx && out) {
		EVP_DecodeInit(ctx);
		good = EVP_DecodeUpdate(ctx, (uint8_t *)out, &n_out, (const uint8_t *)n->text, (int)len) >= 0 &&
		       EVP_DecodeFinal(ctx, (uint8_t *)out + n_out, &n_end) == 1;
	}
	EVP_ENCODE_CTX_free(ctx);
	if (!good || !n_out) {
		free(out);
		return ctx && out ? diag_at(rd->diag, rd->path, n->line, "%s is not base64", n->key) : -ENOMEM;
	}
	out[n_out + n_end] = 0;
	*ret_text = out;
	return 0;
}

/* "<key>-data" in base64, or the file "<key>". Neither: NULL. */
static int read_pem(const struct reader *rd, const struct conf_node *map, const char *key, char **ret_pem)
{
	CLEANUP_FREE char *path = NULL;
	const char *file = get_text(map, key);
	const struct conf_node *data;
	char data_key[64];
	int r;

	snprintf(data_key, sizeof(data_key), "%s-data", key);
	data = get(map, data_key);
	if (data && data->kind == CONF_NODE_SCALAR)
		return decode_base64(rd, data, ret_pem);
	if (!file)
		return 0;
	r = resolve(rd, file, &path);
	return r < 0 ? r : read_file(path, ret_pem, rd->diag);
}

static int read_cluster(const struct reader *rd, const char *name, struct kube_config *c)
{
	const struct conf_node *cluster;
	const char *server, *insecure;
	int r = find_named(rd, "clusters", "cluster", name, &cluster);

	if (r < 0)
		return r;
	server = get_text(cluster, "server");
	insecure = get_text(cluster, "insecure-skip-tls-verify");
	if (!server || strncmp(server, "https://", 8) != 0)
		return diag_at(rd->diag, rd->path, cluster->line, "cluster '%s': server must be an https:// URL", name);
	if (insecure && !strcmp(insecure, "true"))
		return diag_at(rd->diag, rd->path, line_of(get(cluster, "insecure-skip-tls-verify")),
			       "cluster '%s': insecure-skip-tls-verify is refused: tokens are sent there; give certificate-authority", name);
	r = copy_text(server, &c->server);
	for (size_t n = r == 0 ? strlen(c->server) : 0; n && c->server[n - 1] == '/'; n--)
		c->server[n - 1] = 0;
	return r < 0 ? r : read_pem(rd, cluster, "certificate-authority", &c->ca_pem);
}

static int read_token(const struct reader *rd, const struct conf_node *user, struct kube_config *c)
{
	CLEANUP_FREE char *path = NULL;
	const char *file = get_text(user, "tokenFile");	/* wins over "token" */
	int r;

	if (!file) {
		r = copy_text(get_text(user, "token"), &c->token);
		return r < 0 || !c->token ? r : check_token(rd->path, c->token, rd->diag);
	}
	r = resolve(rd, file, &path);
	if (r == 0)
		r = read_file(path, &c->token, rd->diag);
	return r < 0 ? r : check_token(path, c->token, rd->diag);
}

static int read_user(const struct reader *rd, const char *name, struct kube_config *c)
{
	static const char *const foreign[] = { "exec", "auth-provider", "username", "as", "impersonate" };
	const struct conf_node *user;
	int r = find_named(rd, "users", "user", name, &user);

	if (r < 0)
		return r;
	for (size_t i = 0; i < ELEMENTS(foreign); i++)
		if (get(user, foreign[i]))
			return diag_at(rd->diag, rd->path, line_of(get(user, foreign[i])),
				       "user '%s': '%s' is not supported; give a token, a tokenFile or a client-certificate", name, foreign[i]);
	r = read_token(rd, user, c);
	if (r == 0)
		r = read_pem(rd, user, "client-certificate", &c->cert_pem);
	if (r == 0)
		r = read_pem(rd, user, "client-key", &c->key_pem);
	if (r == 0 && !c->cert_pem != !c->key_pem)
		return diag_at(rd->diag, rd->path, user->line, "user '%s': client-certificate and client-key go together", name);
	if (r == 0 && !c->token && !c->cert_pem)
		return diag_at(rd->diag, rd->path, user->line, "user '%s' has neither a token nor a client-certificate", name);
	return r;
}

static int read_root(const struct reader *rd, const char *context_name, struct kube_config *c)
{
	const char *name = context_name ? context_name : get_text(rd->root, "current-context");
	const struct conf_node *context;
	const char *ns;
	int r;

	if (!name)
		return diag_at(rd->diag, rd->path, 0, "it has no current-context");
	r = find_named(rd, "contexts", "context", name, &context);
	if (r < 0)
		return r;
	if (!get_text(context, "cluster") || !get_text(context, "user"))
		return diag_at(rd->diag, rd->path, context->line, "context '%s' needs a cluster and a user", name);
	ns = get_text(context, "namespace");
	r = copy_text(ns ? ns : "default", &c->namespace);
	if (r == 0)
		r = read_cluster(rd, get_text(context, "cluster"), c);
	return r < 0 ? r : read_user(rd, get_text(context, "user"), c);
}

static int load_file(const char *path, const char *context, struct kube_config *c, struct diag *d)
{
	CLEANUP_FREE char *text = NULL;
	struct conf_node *root;
	int r = read_file(path, &text, d);

	if (r == 0)
		r = conf_tree_parse(path, text, strlen(text), &root, d);
	if (r < 0)
		return r;
	const struct reader rd = { path, root, d };
	r = read_root(&rd, context, c);
	conf_tree_free(root);
	return r;
}

/* --- in a pod --- */

static int account_file(const char *name, char **ret_text, struct diag *d)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", account_dir, name);
	return read_file(path, ret_text, d);
}

static int load_account(struct kube_config *c, struct diag *d)
{
	const char *host = getenv("KUBERNETES_SERVICE_HOST"), *port = getenv("KUBERNETES_SERVICE_PORT");
	int r;

	if (!host || !port)
		return diag_set(d, "not in a pod of a Kubernetes cluster (KUBERNETES_SERVICE_HOST is not set): give a kubeconfig");
	if (asprintf(&c->server, strchr(host, ':') ? "https://[%s]:%s" : "https://%s:%s", host, port) < 0) {
		c->server = NULL;
		return -ENOMEM;
	}
	r = account_file("ca.crt", &c->ca_pem, d);
	if (r == 0)
		r = account_file("token", &c->token, d);
	if (r == 0)
		r = account_file("namespace", &c->namespace, d);
	return r < 0 ? r : check_token(account_dir, c->token, d);
}

int kube_config_load(const char *path, const char *context, struct kube_config *ret_config, struct diag *reterr_diag)
{
	struct kube_config c = {};
	int r = path ? load_file(path, context, &c, reterr_diag) : load_account(&c, reterr_diag);

	if (r < 0) {
		kube_config_deinit(&c);
		return r;
	}
	*ret_config = c;
	return 0;
}

static void forget(char *secret)
{
	if (secret)
		explicit_bzero(secret, strlen(secret));
	free(secret);
}

void kube_config_deinit(struct kube_config *c)
{
	free(c->server);
	free(c->ca_pem);
	forget(c->token);
	free(c->cert_pem);
	forget(c->key_pem);
	free(c->namespace);
	*c = (struct kube_config){};
}
