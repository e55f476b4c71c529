/*
 * TLS contexts: own certificate, trust roots and rules, made once and shared.
 */
#include "mesh/tls_internal.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <string.h>

/* AES-128 first: as strong as anything else in the handshake, and the fastest. */
static const char suites_13[] = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";
static const char suites_12[] = "ECDHE+AESGCM:ECDHE+CHACHA20";
static const char groups[] = "X25519:P-256:P-384";

/* "what: the library's reason" */
static int refuse(struct diag *d, const char *what)
{
	unsigned long code = ERR_peek_last_error();
	const char *reason = code ? ERR_reason_error_string(code) : NULL;

	ERR_clear_error();
	return reason ? diag_set(d, "%s: %s", what, reason) : diag_set(d, "%s", what);
}

static BIO *bio_of(const char *pem)
{
	return BIO_new_mem_buf(pem, -1);
}

/* Ends a loop over a PEM text: true when it ended because there is no more. */
static bool pem_at_end(void)
{
	unsigned long code = ERR_peek_last_error();
	bool end = ERR_GET_LIB(code) == ERR_LIB_PEM && ERR_GET_REASON(code) == PEM_R_NO_START_LINE;

	if (end)
		ERR_clear_error();
	return end;
}

/*
 * What the library works out of a certificate when it first needs it, and
 * keeps in it, is worked out here: afterwards threads that share the context
 * only read. One whose extensions make no sense is refused when it is used.
 */
static void settle(X509 *x)
{
	(void)X509_check_purpose(x, -1, 0);
	ERR_clear_error();
}

static int load_chain(struct tls_ctx *ctx, const char *pem, struct diag *d)
{
	BIO *bio = bio_of(pem);
	char why[TLS_PEER_ERROR_LEN];
	X509 *x;
	int n = 0, r = 0;

	if (!bio)
		return -ENOMEM;
	while (r == 0 && (x = PEM_read_bio_X509(bio, NULL, NULL, NULL))) {
		settle(x);
		if (n++ == 0) {
			r = tls_peer_new(x, NULL, &ctx->own, why);
			if (r > 0)
				r = diag_set(d, "own certificate: %s", why);
			else if (r == 0 && SSL_CTX_use_certificate(ctx->ssl, x) != 1)
				r = refuse(d, "own certificate");
		} else if (X509_check_issued(x, x) != X509_V_OK && SSL_CTX_add1_chain_cert(ctx->ssl, x) != 1) {
			r = refuse(d, "certificate chain");	/* a root need not be sent, the others must */
		}
		X509_free(x);
	}
	BIO_free(bio);
	if (r == 0 && (!n || !pem_at_end()))
		r = refuse(d, n ? "a broken certificate in the chain" : "no certificate in the PEM text");
	return r;
}

static int load_key(struct tls_ctx *ctx, const struct tls_config *config, struct diag *d)
{
	EVP_PKEY *key = config->key;
	int ok;

	if (config->key_pem) {
		BIO *bio = bio_of(config->key_pem);

		key = bio ? PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL) : NULL;
		BIO_free(bio);
	}
	if (!key)
		return refuse(d, "no private key that can be read");
	ok = SSL_CTX_use_PrivateKey(ctx->ssl, key) == 1 && SSL_CTX_check_private_key(ctx->ssl) == 1;
	if (config->key_pem)
		EVP_PKEY_free(key);
	return ok ? 0 : refuse(d, "the private key does not fit the certificate");
}

static int load_roots(struct tls_ctx *ctx, const char *pem, struct diag *d)
{
	X509_STORE *store = SSL_CTX_get_cert_store(ctx->ssl);
	BIO *bio = bio_of(pem);
	bool ok = true;
	X509 *x;
	int n = 0;

	if (!bio)
		return -ENOMEM;
	while (ok && (x = PEM_read_bio_X509(bio, NULL, NULL, NULL))) {
		settle(x);
		ok = X509_STORE_add_cert(store, x) == 1;
		X509_free(x);
		n++;
	}
	BIO_free(bio);
	if (!ok || !n || !pem_at_end())
		return refuse(d, n ? "a broken certificate among the roots" : "no root certificate in the PEM text");
	return 0;
}

static int load_alpn(struct tls_ctx *ctx, const char *const *alpn, struct diag *d)
{
	for (; alpn && *alpn; alpn++) {
		size_t n = strlen(*alpn);

		if (ctx->n_alpn == TLS_MAX_ALPN || !n || n > 255 || ctx->n_alpn_wire + 1 + n > sizeof(ctx->alpn_wire))
			return diag_set(d, "too many or too long ALPN names");
		ctx->alpn[ctx->n_alpn] = strdup(*alpn);
		if (!ctx->alpn[ctx->n_alpn])
			return -ENOMEM;
		ctx->n_alpn++;
		ctx->alpn_wire[ctx->n_alpn_wire++] = (uint8_t)n;
		memcpy(ctx->alpn_wire + ctx->n_alpn_wire, *alpn, n);
		ctx->n_alpn_wire += (unsigned)n;
	}
	if (ctx->n_alpn && ctx->role == TLS_CLIENT && SSL_CTX_set_alpn_protos(ctx->ssl, ctx->alpn_wire, ctx->n_alpn_wire) != 0)
		return -ENOMEM;
	return 0;
}

/* RFC 7301, section 3.2: a server that supports none of those offered ends the handshake. */
static int on_alpn(SSL *ssl, const unsigned char **ret_name, unsigned char *ret_len, const unsigned char *offered, unsigned n, void *data)
{
	const struct tls_ctx *ctx = data;

	(void)ssl;
	if (!ctx->n_alpn)
		return SSL_TLSEXT_ERR_NOACK;
	if (SSL_select_next_proto((unsigned char **)(uintptr_t)ret_name, ret_len, ctx->alpn_wire, ctx->n_alpn_wire, offered, n) !=
	    OPENSSL_NPN_NEGOTIATED)
		return SSL_TLSEXT_ERR_ALERT_FATAL;
	return SSL_TLSEXT_ERR_OK;
}

static void set_rules(struct tls_ctx *ctx, enum tls_verify verify)
{
	static const int modes[] = {
		[TLS_VERIFY_REQUIRE] = SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT,
		[TLS_VERIFY_REQUEST] = SSL_VERIFY_PEER,
		[TLS_VERIFY_NONE] = SSL_VERIFY_NONE,
		[TLS_VERIFY_NOTHING] = SSL_VERIFY_NONE,
	};

	SSL_CTX_set_verify(ctx->ssl, modes[verify], NULL);
	if (verify != TLS_VERIFY_NOTHING)
		SSL_CTX_set_cert_verify_callback(ctx->ssl, tls_on_verify, ctx);
	SSL_CTX_set_keylog_callback(ctx->ssl, tls_on_secret);
	SSL_CTX_set_alpn_select_cb(ctx->ssl, on_alpn, ctx);
	SSL_CTX_set_session_cache_mode(ctx->ssl, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_num_tickets(ctx->ssl, 0);
	SSL_CTX_set_mode(ctx->ssl, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_AUTO_RETRY);
	SSL_CTX_set_options(ctx->ssl, SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION |
				      SSL_OP_CIPHER_SERVER_PREFERENCE);
}

/* What is asked for has to be something that protects. */
static int check_config(const struct tls_config *config, struct diag *d)
{
	if (config->role == TLS_CLIENT && config->verify != TLS_VERIFY_REQUIRE && config->verify != TLS_VERIFY_NOTHING)
		return diag_set(d, "a TLS client has to verify its server");
	if (config->role == TLS_SERVER && config->verify == TLS_VERIFY_NOTHING)
		return diag_set(d, "a TLS server has to say what it asks of its clients");
	if (config->role == TLS_SERVER && !config->cert_pem)
		return diag_set(d, "a TLS server needs a certificate");
	if (config->verify != TLS_VERIFY_NONE && config->verify != TLS_VERIFY_NOTHING && !config->roots_pem)
		return diag_set(d, "peers are to be verified, but there are no trust roots");
	return 0;
}

static int set_suites(SSL_CTX *ssl, bool allow_tls12, struct diag *d)
{
	if (SSL_CTX_set_min_proto_version(ssl, allow_tls12 ? TLS1_2_VERSION : TLS1_3_VERSION) != 1 || SSL_CTX_set_ciphersuites(ssl, suites_13) != 1 ||
	    SSL_CTX_set_cipher_list(ssl, suites_12) != 1 || SSL_CTX_set1_groups_list(ssl, groups) != 1)
		return refuse(d, "this OpenSSL lacks the cipher suites that we need");
	return 0;
}

static int load(struct tls_ctx *ctx, const struct tls_config *config, struct diag *d)
{
	int r = load_alpn(ctx, config->alpn, d);

	if (r == 0 && config->roots_pem)
		r = load_roots(ctx, config->roots_pem, d);
	if (r == 0 && config->cert_pem)
		r = load_chain(ctx, config->cert_pem, d);
	if (r == 0 && config->cert_pem)
		r = load_key(ctx, config, d);
	return r;
}

static int configure(struct tls_ctx *ctx, const struct tls_config *config, struct diag *d)
{
	int r = check_config(config, d);

	if (r == 0)
		r = set_suites(ctx->ssl, config->allow_tls12, d);
	if (r < 0)
		return r;
	set_rules(ctx, config->verify);
	return load(ctx, config, d);
}

int tls_ctx_new(const struct tls_config *config, struct tls_ctx **ret_ctx, struct diag *reterr_diag)
{
	struct tls_ctx *ctx = calloc(1, sizeof(*ctx));
	int r;

	if (!ctx)
		return -ENOMEM;
	ctx->n_refs = 1;
	ctx->role = config->role;
	tls_peer_cache_init(&ctx->peers);
	ERR_clear_error();
	ctx->ssl = SSL_CTX_new(config->role == TLS_CLIENT ? TLS_client_method() : TLS_server_method());
	r = ctx->ssl ? configure(ctx, config, reterr_diag) : -ENOMEM;
	if (r < 0) {
		tls_ctx_unref(ctx);
		return r;
	}
	*ret_ctx = ctx;
	return 0;
}

struct tls_ctx *tls_ctx_ref(struct tls_ctx *ctx)
{
	__atomic_add_fetch(&ctx->n_refs, 1, __ATOMIC_RELAXED);
	return ctx;
}

struct tls_ctx *tls_ctx_unref(struct tls_ctx *ctx)
{
	if (!ctx || __atomic_sub_fetch(&ctx->n_refs, 1, __ATOMIC_ACQ_REL) != 0)
		return NULL;
	SSL_CTX_free(ctx->ssl);
	for (size_t i = 0; i < ctx->n_alpn; i++)
		free(ctx->alpn[i]);
	tls_peer_unref(ctx->own);
	tls_peer_cache_deinit(&ctx->peers);
	free(ctx);
	return NULL;
}

const char *tls_ctx_id(const struct tls_ctx *ctx)
{
	return ctx->own ? ctx->own->id : NULL;
}

int64_t tls_ctx_not_before(const struct tls_ctx *ctx)
{
	return ctx->own ? ctx->own->not_before : 0;
}

int64_t tls_ctx_not_after(const struct tls_ctx *ctx)
{
	return ctx->own ? ctx->own->not_after : 0;
}
