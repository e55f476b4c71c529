/*
 * Workload tokens, from us or from Kubernetes.
 *
 * Source: https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-request-v1/
 */
#include "control/tokens.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/list.h"
#include "base/secret.h"
#include "mesh/identity.h"

enum { TTL_MIN_S = 600, REFUSAL_LEN = 900 };	/* the API server's own minimum */

struct tokens {
	struct tokens_options o;
	struct list asks;
	struct tokens_info info;
	char refusal[REFUSAL_LEN];
};

struct token_ask {
	struct list link;
	struct tokens *tokens;
	struct kube_call *call;
	token_done *done;
	void *data;
};

static void granted(struct tokens *t)
{
	t->info.granted_at = clock_wall_s();
	t->refusal[0] = 0;
}

static void refused(struct tokens *t, const char *why)
{
	t->info.n_refused++;
	t->info.refused_at = clock_wall_s();
	snprintf(t->refusal, sizeof(t->refusal), "%s", why);
}

/* --- signed here --- */

static int sign(struct tokens *t, const struct issuer_subject *s, token_done *done, void *data)
{
	CLEANUP_SECRET char *text = NULL;
	int64_t expires_at;
	char why[128];
	int r = issuer_sign(t->o.issuer, s, &text, &expires_at);

	if (r == 0) {
		granted(t);
		done(data, text, expires_at, NULL);
		return 0;
	}
	snprintf(why, sizeof(why), "the token cannot be signed: %s", strerror(-r));
	refused(t, why);
	done(data, NULL, 0, why);
	return 0;
}

/* --- asked of Kubernetes --- */

static void ask_free(struct token_ask *ask)
{
	kube_cancel(ask->call);
	list_unlink(&ask->link);
	free(ask);
}

struct token_ask *token_ask_cancel(struct token_ask *ask)
{
	if (ask)
		ask_free(ask);
	return NULL;
}

static int64_t expiry(const json_t *status)
{
	const char *text = json_string_value(json_object_get(status, "expirationTimestamp"));
	struct tm tm = {};

	return text && strptime(text, "%Y-%m-%dT%H:%M:%SZ", &tm) ? timegm(&tm) : 0;
}

static void on_answer(struct kube_call *call, void *data, const struct kube_answer *a)
{
	struct token_ask *ask = data;
	struct tokens *t = ask->tokens;
	const json_t *status = json_object_get(a->json, "status");
	const char *token = json_string_value(json_object_get(status, "token"));
	int64_t expires_at = expiry(status);
	token_done *done = ask->done;
	void *done_data = ask->data;
	const char *why = a->error != KUBE_OK ? a->text : "the API server's answer has no token";

	(void)call;
	ask->call = NULL;
	ask_free(ask);
	if (a->error == KUBE_OK && token && expires_at) {
		granted(t);
		done(done_data, token, expires_at, NULL);
		return;
	}
	refused(t, why);
	done(done_data, NULL, 0, why);
}

static const char *audience_of(const struct token_ask *ask, const struct issuer_subject *s)
{
	const struct conf_strings *list = &ask->tokens->o.config->tokens.audiences;

	if (s->audience && s->audience[0])
		return s->audience;
	return list->n ? list->v[0] : "istio-ca";
}

static int start(struct token_ask *ask, const struct issuer_subject *s)
{
	int64_t ttl_s = MAX(s->ttl_s, (int64_t)TTL_MIN_S);
	char path[2 * IDENTITY_NAME_MAX + 80], what[2 * IDENTITY_NAME_MAX + 80];
	const struct kube_request q = {
		.method = "POST", .path = path, .what = what, .done = on_answer, .data = ask,
		.body = json_pack("{s:s, s:s, s:{s:[s], s:I}}", "apiVersion", "authentication.k8s.io/v1", "kind", "TokenRequest", "spec", "audiences",
				  audience_of(ask, s), "expirationSeconds", (json_int_t)ttl_s),
	};
	int r;

	/* They are checked names (config.c): nothing in them has to be encoded. */
	snprintf(path, sizeof(path), "/api/v1/namespaces/%s/serviceaccounts/%s/token", s->namespace, s->service_account);
	snprintf(what, sizeof(what), "create serviceaccounts/token of %s/%s", s->namespace, s->service_account);
	r = q.body ? kube_start(ask->tokens->o.kube, &q, &ask->call) : -ENOMEM;
	json_decref(q.body);
	return r;
}

int tokens_ask(struct tokens *t, const struct issuer_subject *s, token_done *done, void *data, struct token_ask **ret_ask)
{
	struct token_ask *ask;
	int r;

	t->info.n_asked++;
	*ret_ask = NULL;
	if (!t->o.kube)
		return sign(t, s, done, data);
	ask = calloc(1, sizeof(*ask));
	if (!ask)
		return -ENOMEM;
	ask->tokens = t;
	ask->done = done;
	ask->data = data;
	list_append(&t->asks, &ask->link);
	r = start(ask, s);
	if (r < 0) {
		ask_free(ask);
		return r;
	}
	*ret_ask = ask;
	return 0;
}

/* --- life --- */

void tokens_apply(struct tokens *t, const struct config *config)
{
	t->o.config = config;
}

struct tokens_info tokens_info(const struct tokens *t)
{
	struct tokens_info info = t->info;

	info.refusal = t->refusal;
	return info;
}

int tokens_new(const struct tokens_options *options, struct tokens **ret_tokens)
{
	struct tokens *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->o = *options;
	list_init(&t->asks);
	*ret_tokens = t;
	return 0;
}

struct tokens *tokens_free(struct tokens *t)
{
	if (!t)
		return NULL;
	list_for_each_safe(l, &t->asks)
		ask_free(list_entry(l, struct token_ask, link));
	free(t);
	return NULL;
}
