/*
 * Asking for a certificate, and asking again in time.
 */
#include "mesh/ca_client.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "base/backoff.h"
#include "base/clock.h"
#include "base/secret.h"
#include "istio/ca.pb-c.h"
#include "mesh/bearer.h"
#include "mesh/cert.h"
#include "mesh/pb.h"
#include "mesh/tls.h"

enum {
	BACKOFF_MIN_MS = 100,
	BACKOFF_MAX_MS = 60000,
	CALL_TIMEOUT_MS = 15000,
	TTL_S = 86400,
	JITTER_PERCENT = 5,
	RENEW_MIN_MS = 1000,		/* whatever the certificate says */
	TIMER_MAX_MS = 600000,		/* the clock on the wall may be set meanwhile: look again */
};

static const char PATH[] = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

struct ca_client {
	struct loop *loop;
	struct channel_user user;
	char *id;
	char *authorization;
	char *cluster_id;
	char *roots_pem;
	int64_t ttl_s;
	bool needs_token;
	bool renews_itself;
	struct tls_ctx *own;		/* with the last certificate; NULL: it does not renew itself */
	struct channel *own_channel;	/* while it does */
	struct channel_user own_user;

	struct grpc_call *call;
	EVP_PKEY *key;			/* of the request that is under way */
	struct timer timer;
	struct backoff backoff;
	bool due;			/* a certificate is wanted now */
	bool refused;			/* the last attempt: for its token */
	int64_t renew_at;		/* seconds since 1970; 0: no certificate yet */
	int64_t not_after;

	unsigned entered;
	bool zombie;
	const struct ca_client_ops *ops;
	void *data;
};

/* --- life --- */

static void enter(struct ca_client *c)
{
	c->entered++;
}

static void leave(struct ca_client *c)
{
	if (--c->entered || !c->zombie)
		return;
	EVP_PKEY_free(c->key);
	tls_ctx_unref(c->own);
	secret_free(c->authorization);
	free(c->cluster_id);
	free(c->roots_pem);
	free(c->id);
	free(c);
}

static void end_renewal(struct ca_client *c)
{
	struct channel *own = c->own_channel;

	channel_detach(&c->own_user);
	c->own_channel = NULL;		/* its calls may hear of it */
	channel_free(own);
}

struct ca_client *ca_client_free(struct ca_client *c)
{
	if (!c)
		return NULL;
	enter(c);
	c->zombie = true;
	channel_detach(&c->user);
	timer_cancel(&c->timer);
	grpc_call_cancel(c->call);
	c->call = NULL;
	end_renewal(c);
	leave(c);
	return NULL;
}

/* --- failure --- */

static int on_timer(struct timer *t);

/* After a while of our own, or the one that the authority asks for: some later, so that not all come together. */
static void retry_later(struct ca_client *c, uint32_t asked_ms)
{
	uint64_t wait = MAX((uint64_t)backoff_next(&c->backoff), asked_ms + backoff_jitter(asked_ms, JITTER_PERCENT) / 4);

	c->due = true;
	if (timer_arm(c->loop, &c->timer, wait, on_timer) < 0)
		return;		/* no memory: the channel's next up() starts it */
}

static void attempt_failed(struct ca_client *c, const struct grpc_status *status)
{
	enter(c);
	c->refused = status->code == GRPC_UNAUTHENTICATED || status->code == GRPC_PERMISSION_DENIED;
	retry_later(c, status->retry_ms);
	if (c->ops->failed)
		c->ops->failed(c, c->data, status);
	leave(c);
}

static void fail(struct ca_client *c, enum grpc_code code, const char *text)
{
	struct grpc_status status = { .code = code };

	snprintf(status.message, sizeof(status.message), "%s", text);
	attempt_failed(c, &status);
}

/* --- the answer --- */

static int take_chain(const Istio__V1__Auth__IstioCertificateResponse *answer, struct cert_list *list)
{
	int r = answer->n_cert_chain ? 0 : -EINVAL;

	for (size_t i = 0; i < answer->n_cert_chain && r == 0; i++)	/* the last may hold several */
		r = cert_list_add(list, answer->cert_chain[i]);
	return r;
}

/* What follows the leaf is ours to show as long as it is not a root. */
static int split(const struct cert_list *list, char **ret_chain, char **ret_roots)
{
	size_t end = 1;
	struct cert_info info;
	int r;

	while (end < list->n && cert_info(list->pem[end], &info) == 0 && !info.self_signed)
		end++;
	r = cert_list_join(list, 0, end, ret_chain);
	return r < 0 ? r : cert_list_join(list, end, list->n, ret_roots);
}

static int check(const struct ca_client *c, const struct cert_list *list, struct cert_info *ret_info, struct diag *reterr_diag)
{
	int r = cert_info(list->pem[0], ret_info);

	if (r < 0)
		return diag_set(reterr_diag, "the certificate cannot be read");
	if (strcmp(ret_info->id, c->id) != 0)
		return diag_set(reterr_diag, "the certificate is for %.200s, asked for was %.200s", ret_info->id[0] ? ret_info->id : "nobody", c->id);
	if (cert_has_key(list->pem[0], c->key) < 0)
		return diag_set(reterr_diag, "the certificate is not for our key");
	return cert_list_verify(list, c->roots_pem, reterr_diag);
}

static void arm(struct ca_client *c)
{
	int64_t left_ms = (c->renew_at - clock_wall_s()) * 1000;
	uint64_t wait = (uint64_t)MIN(MAX(left_ms, (int64_t)RENEW_MIN_MS), (int64_t)TIMER_MAX_MS);

	if (timer_arm(c->loop, &c->timer, wait, on_timer) < 0)
		c->due = true;		/* the channel's next up() starts it */
}

static void take_times(struct ca_client *c, const struct cert_info *info)
{
	int64_t now = clock_wall_s();
	int64_t half = info->not_before + (info->not_after - info->not_before) / 2;
	int64_t wait = half > now ? half - now : (info->not_after - now) / 2;

	c->not_after = info->not_after;
	c->renew_at = now + (int64_t)backoff_jitter((uint64_t)MAX(wait, (int64_t)0), JITTER_PERCENT);
	arm(c);
}

/* Without memory for it the next one is had by token. */
static void keep_own(struct ca_client *c, const char *chain)
{
	static const char *const alpn[] = { "h2", NULL };
	const struct tls_config config = {
		.role = TLS_CLIENT, .verify = TLS_VERIFY_REQUIRE, .roots_pem = c->roots_pem, .alpn = alpn, .allow_tls12 = true, .cert_pem = chain, .key = c->key,
	};
	struct diag d = {};

	tls_ctx_unref(c->own);
	c->own = NULL;
	if (c->renews_itself && tls_ctx_new(&config, &c->own, &d) < 0)
		c->own = NULL;
}

static void take_certificate(struct ca_client *c, const struct cert_list *list)
{
	CLEANUP_FREE char *chain = NULL, *roots = NULL;
	struct cert_info info;
	struct diag diag = {};
	int r = check(c, list, &info, &diag);

	if (r < 0) {
		fail(c, r == -ENOMEM ? GRPC_RESOURCE_EXHAUSTED : GRPC_DATA_LOSS, diag.msg[0] ? diag.msg : strerror(-r));
		return;
	}
	if (split(list, &chain, &roots) < 0) {
		fail(c, GRPC_RESOURCE_EXHAUSTED, "out of memory");
		return;
	}
	c->due = c->refused = false;
	backoff_reset(&c->backoff);
	take_times(c, &info);
	keep_own(c, chain);
	struct ca_credential credential = {
		.key = c->key, .chain_pem = chain, .roots_pem = roots, .not_before = info.not_before, .not_after = info.not_after,
		.renewed_itself = c->own_channel,
	};
	c->ops->issued(c, c->data, &credential);
}

static void start_by_token(struct ca_client *c);

static void fall_back(struct ca_client *c, const struct grpc_status *status)
{
	end_renewal(c);
	if (c->ops->fell_back)
		c->ops->fell_back(c, c->data, status);
	if (!c->zombie)
		start_by_token(c);
}

static void on_done(struct grpc_call *call, void *data, const struct grpc_status *status, const uint8_t *bytes, size_t len)
{
	struct ca_client *c = data;
	struct cert_list list = {};
	ProtobufCMessage *message = NULL;

	(void)call;
	enter(c);
	c->call = NULL;
	if (status->code != GRPC_OK && c->own_channel) {
		fall_back(c, status);
	} else if (status->code != GRPC_OK) {
		attempt_failed(c, status);
	} else if (pb_unpack(&istio__v1__auth__istio_certificate_response__descriptor, bytes, len, 0, &message) < 0 ||
		   take_chain((Istio__V1__Auth__IstioCertificateResponse *)(void *)message, &list) < 0) {
		fail(c, GRPC_DATA_LOSS, "the answer is not a chain of certificates");
	} else {
		take_certificate(c, &list);
	}
	pb_free(message);
	cert_list_deinit(&list);
	if (!c->call)
		end_renewal(c);
	if (!c->zombie && !c->call) {
		EVP_PKEY_free(c->key);
		c->key = NULL;
	}
	leave(c);
}

/* --- the request --- */

static int ask(struct ca_client *c, struct grpc_client *client)
{
	Istio__V1__Auth__IstioCertificateRequest request = ISTIO__V1__AUTH__ISTIO_CERTIFICATE_REQUEST__INIT;
	struct grpc_metadata metadata[2];
	struct grpc_call_options options = { .path = PATH, .metadata = metadata, .deadline_ms = CALL_TIMEOUT_MS };
	CLEANUP_FREE char *csr = NULL;
	int r;

	EVP_PKEY_free(c->key);
	c->key = NULL;
	r = cert_key_new(&c->key);
	if (r == 0)
		r = cert_csr_new(c->key, c->id, &csr);
	if (r < 0)
		return r;
	options.n_metadata = bearer_metadata(c->own_channel ? NULL : c->authorization, c->cluster_id, metadata);
	request.csr = csr;
	request.validity_duration = c->ttl_s;
	return grpc_client_unary(client, &options, &request.base, on_done, c, &c->call);
}

static void start_by_token(struct ca_client *c)
{
	struct grpc_client *client = c->user.channel ? channel_client(c->user.channel) : NULL;

	if (c->call || !client || (c->needs_token && !c->authorization))
		return;		/* answered soon; up() or a token will come */
	timer_cancel(&c->timer);
	int r = ask(c, client);
	if (r < 0)
		fail(c, GRPC_UNAVAILABLE, strerror(-r));
}

static void on_own_up(struct channel_user *user, struct grpc_client *client)
{
	struct ca_client *c = container_of(user, struct ca_client, own_user);
	struct grpc_status status = { .code = GRPC_UNAVAILABLE };

	if (c->call)
		return;
	int r = ask(c, client);
	if (r < 0) {
		snprintf(status.message, sizeof(status.message), "%s", strerror(-r));
		enter(c);
		fall_back(c, &status);
		leave(c);
	}
}

/* Refused at the handshake, or not reached. A call that was under way has told already. */
static void on_own_down(struct channel_user *user, int r, const char *text)
{
	struct ca_client *c = container_of(user, struct ca_client, own_user);
	struct grpc_status status = { .code = GRPC_UNAVAILABLE };

	(void)r;
	if (c->call)
		return;
	snprintf(status.message, sizeof(status.message), "%s", text);
	enter(c);
	fall_back(c, &status);
	leave(c);
}

static bool start_by_itself(struct ca_client *c)
{
	if (!c->own || !c->renews_itself || !c->user.channel || clock_wall_s() >= c->not_after)
		return false;
	if (channel_like(c->loop, c->user.channel, c->own, &c->own_channel) < 0) {
		c->own_channel = NULL;
		return false;
	}
	timer_cancel(&c->timer);
	c->own_user.up = on_own_up;
	c->own_user.down = on_own_down;
	channel_attach(c->own_channel, &c->own_user);
	return true;
}

static void start(struct ca_client *c)
{
	if (!c->call && !c->own_channel && !start_by_itself(c))
		start_by_token(c);
}

static int on_timer(struct timer *t)
{
	struct ca_client *c = container_of(t, struct ca_client, timer);

	if (!c->due && clock_wall_s() < c->renew_at) {
		arm(c);
		return 0;
	}
	c->due = true;
	start(c);
	return 0;
}

static void on_up(struct channel_user *user, struct grpc_client *client)
{
	struct ca_client *c = container_of(user, struct ca_client, user);

	(void)client;
	if (c->due)
		start(c);
}

/* --- interface --- */

static int set_text(char **to, const char *text)
{
	char *copy = strdup(text);

	if (!copy)
		return -ENOMEM;
	free(*to);
	*to = copy;
	return 0;
}

static int set_authorization(struct ca_client *c, const char *token)
{
	char *text;
	int r = bearer_from_token(token, &text);

	if (r < 0)
		return r;
	secret_free(c->authorization);
	c->authorization = text;
	return 0;
}

int ca_client_new(struct loop *loop, const struct ca_client_options *o, const struct ca_client_ops *ops, void *data,
		  struct ca_client **ret_client)
{
	struct ca_client *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return -ENOMEM;
	c->loop = loop;
	c->ops = ops;
	c->data = data;
	ca_client_set_ttl(c, o->ttl_s);
	c->needs_token = o->needs_token;
	c->renews_itself = o->renews_itself;
	c->backoff = (struct backoff){ .min_ms = BACKOFF_MIN_MS, .max_ms = BACKOFF_MAX_MS };
	c->due = true;
	c->user.up = on_up;
	r = set_text(&c->id, o->id);
	if (r == 0)
		r = set_text(&c->roots_pem, o->roots_pem);
	if (r == 0 && o->cluster_id)
		r = set_text(&c->cluster_id, o->cluster_id);
	if (r == 0 && o->token)
		r = set_authorization(c, o->token);
	if (r < 0) {
		ca_client_free(c);
		return r;
	}
	channel_attach(o->channel, &c->user);
	*ret_client = c;
	return 0;
}

int ca_client_set_token(struct ca_client *c, const char *token)
{
	int r = 0;

	if (token) {
		r = set_authorization(c, token);
	} else {
		c->authorization = secret_free(c->authorization);
		c->needs_token = false;
	}
	if (r < 0)
		return r;
	if (c->due && (c->refused || !c->timer.loop)) {
		c->refused = false;
		backoff_reset(&c->backoff);
		if (!c->call && !c->own_channel)
			return timer_arm(c->loop, &c->timer, 0, on_timer);
	}
	return 0;
}

int ca_client_set_roots(struct ca_client *c, const char *roots_pem)
{
	return set_text(&c->roots_pem, roots_pem);
}

void ca_client_set_ttl(struct ca_client *c, int64_t ttl_s)
{
	c->ttl_s = ttl_s ?: TTL_S;
}

void ca_client_set_renewal(struct ca_client *c, bool renews_itself)
{
	c->renews_itself = renews_itself;
}

int64_t ca_client_not_after(const struct ca_client *c)
{
	return c->not_after;
}
