/*
 * TLS sessions: libssl for the handshake, then our own records.
 *
 * While libssl is in charge it reads from a window over the caller's bytes
 * and writes into @out; a BIO of two functions is all that it sees of the
 * world. Its traffic secrets come through the key-log callback. When the
 * handshake is over and the secrets are there, the SSL object goes.
 */
#include "mesh/tls_internal.h"

#include <errno.h>
#include <openssl/err.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/ip.h"
#include "proto/tls13_record.h"

enum {
	OUT_MAX = 256 * 1024,		/* bytes of a handshake flight: chains are a few kB */
	HANDSHAKE_IN_MAX = 256 * 1024,	/* bytes a peer may spend on its handshake */
	LEGACY_OVERHEAD = 128,		/* of a TLS 1.2 record, whatever the suite */
};

struct handshake {			/* as long as libssl is in charge */
	SSL *ssl;
	const uint8_t *in;		/* window over the caller's bytes */
	size_t n_in;
	size_t total_in;
	struct tls_expect expect;
	uint8_t secrets[2][TLS13_SECRET_MAX];	/* client's, server's */
	uint8_t n_secrets[2];
	bool verify_failed;
	bool no_memory;
};

struct tls_session {
	/* fixed after the handshake */
	struct tls_ctx *ctx;
	struct tls_peer *peer;		/* NULL: no certificate */
	const char *alpn;		/* of @ctx */

	/* changes */
	struct handshake *hs;		/* libssl is in charge; NULL: @records are */
	struct tls13 records;
	struct bytes part;		/* of a record that is not all there */
	struct bytes out;		/* of the handshake */
	char *error;
	int failed;			/* what tls_feed() said last, if final */
	bool open;
	bool shut;			/* tls_shutdown() was called */
	bool holds;			/* tls_hold() was called */
};

/* --- errors --- */

static int failed(struct tls_session *s, int r, const char *text)
{
	if (!s->error)
		s->error = strdup(text);
	s->failed = r;
	return r;
}

const char *tls_error(const struct tls_session *s)
{
	return s->error ? s->error : "";
}

/* --- what libssl sees of the world --- */

static int bio_read(BIO *bio, char *data, int len)
{
	struct handshake *hs = BIO_get_data(bio);
	size_t n = MIN((size_t)len, hs->n_in);

	BIO_clear_retry_flags(bio);
	if (!n) {
		BIO_set_retry_read(bio);
		return -1;
	}
	memcpy(data, hs->in, n);
	hs->in += n;
	hs->n_in -= n;
	return (int)n;
}

static int bio_write(BIO *bio, const char *data, int len)
{
	struct handshake *hs = BIO_get_data(bio);
	struct tls_session *s = SSL_get_app_data(hs->ssl);

	BIO_clear_retry_flags(bio);
	if (bytes_append(&s->out, data, (size_t)len) < 0) {
		hs->no_memory = true;
		return -1;
	}
	return len;
}

static long bio_ctrl(BIO *bio, int cmd, long num, void *ptr)
{
	(void)bio;
	(void)num;
	(void)ptr;
	return cmd == BIO_CTRL_FLUSH;
}

/* Made by the first thread that wants it. Not pthread_once(): where there was no memory, there may be some the next time. */
static const BIO_METHOD *bio_method(void)
{
	static BIO_METHOD *shared;
	BIO_METHOD *m = __atomic_load_n(&shared, __ATOMIC_ACQUIRE), *none = NULL;

	if (m)
		return m;
	m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "window");
	if (!m)
		return NULL;
	BIO_meth_set_read(m, bio_read);
	BIO_meth_set_write(m, bio_write);
	BIO_meth_set_ctrl(m, bio_ctrl);
	if (__atomic_compare_exchange_n(&shared, &none, m, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
		return m;
	BIO_meth_free(m);
	return none;
}

static int attach_bio(struct handshake *hs)
{
	const BIO_METHOD *m = bio_method();
	BIO *bio = m ? BIO_new(m) : NULL;

	if (!bio)
		return -ENOMEM;
	BIO_set_data(bio, hs);
	BIO_set_init(bio, 1);
	SSL_set_bio(hs->ssl, bio, bio);
	return 0;
}

/* --- callbacks of the handshake --- */

static int hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* "LABEL <client random> <secret>", both in hex: the NSS key log format */
void tls_on_secret(const SSL *ssl, const char *line)
{
	static const char *const labels[2] = { "CLIENT_TRAFFIC_SECRET_0 ", "SERVER_TRAFFIC_SECRET_0 " };
	struct tls_session *s = SSL_get_app_data(ssl);
	const char *hex = strrchr(line, ' ');

	for (int i = 0; i < 2; i++) {
		size_t n = 0;

		if (strncmp(line, labels[i], strlen(labels[i])) != 0)
			continue;
		for (hex++; n < TLS13_SECRET_MAX && hex_value(hex[0]) >= 0 && hex_value(hex[1]) >= 0; hex += 2)
			s->hs->secrets[i][n++] = (uint8_t)(hex_value(hex[0]) << 4 | hex_value(hex[1]));
		s->hs->n_secrets[i] = (uint8_t)n;
		return;
	}
}

int tls_on_verify(X509_STORE_CTX *store, void *data)
{
	SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
	struct tls_session *s = SSL_get_app_data(ssl);
	char error[TLS_PEER_ERROR_LEN] = "out of memory";
	struct tls_peer *peer = NULL;
	struct tls_ctx *ctx = data;
	int r;

	r = tls_peer_verify(&ctx->peers, store, &peer, error);
	if (r == 0 && !tls_expect_met(&s->hs->expect, peer, X509_STORE_CTX_get0_cert(store), error)) {
		X509_STORE_CTX_set_error(store, X509_V_ERR_CERT_REJECTED);
		peer = tls_peer_unref(peer);
		r = TLS_PEER_E_BAD;
	}
	if (r != 0) {
		s->hs->verify_failed = r > 0;
		s->hs->no_memory = r < 0;
		failed(s, r > 0 ? TLS_E_VERIFY : r, error);
		return 0;
	}
	tls_peer_unref(s->peer);
	s->peer = peer;
	return 1;
}

/* --- life --- */

static struct handshake *handshake_free(struct handshake *hs)
{
	if (!hs)
		return NULL;
	if (hs->ssl)
		SSL_set_shutdown(hs->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);	/* else it is counted as broken */
	SSL_free(hs->ssl);
	OPENSSL_cleanse(hs, sizeof(*hs));
	free(hs);
	return NULL;
}

static int handshake_new(struct tls_session *s, const struct tls_expect *expect)
{
	const char *name = expect ? expect->server_name : NULL;
	struct handshake *hs = calloc(1, sizeof(*hs));
	struct ip ip;
	int r;

	if (!hs)
		return -ENOMEM;
	s->hs = hs;
	if (expect)
		hs->expect = *expect;
	hs->ssl = SSL_new(s->ctx->ssl);
	if (!hs->ssl)
		return -ENOMEM;
	if (SSL_set_app_data(hs->ssl, s) != 1)
		return -ENOMEM;
	r = attach_bio(hs);
	if (r < 0)
		return r;
	if (s->ctx->role == TLS_SERVER) {
		SSL_set_accept_state(hs->ssl);
		return 0;
	}
	SSL_set_connect_state(hs->ssl);
	if (name && ip_parse(name, &ip) < 0 && SSL_set_tlsext_host_name(hs->ssl, name) != 1)
		return -ENOMEM;
	return 0;
}

static int advance(struct tls_session *s);

int tls_session_new(struct tls_ctx *ctx, const struct tls_expect *expect, struct tls_session **ret_session)
{
	struct tls_session *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return -ENOMEM;
	s->ctx = tls_ctx_ref(ctx);
	bytes_init(&s->part, TLS13_RECORD_MAX);
	bytes_init(&s->out, OUT_MAX);
	ERR_clear_error();
	r = handshake_new(s, expect);
	if (r == 0 && ctx->role == TLS_CLIENT)
		r = advance(s);
	if (r != 0) {
		tls_session_free(s);
		return r < 0 ? r : -ENOMEM;	/* a ClientHello needs nothing but memory */
	}
	*ret_session = s;
	return 0;
}

struct tls_session *tls_session_free(struct tls_session *s)
{
	if (!s)
		return NULL;
	handshake_free(s->hs);
	tls13_deinit(&s->records);
	bytes_deinit(&s->part);
	bytes_deinit(&s->out);
	tls_peer_unref(s->peer);
	tls_ctx_unref(s->ctx);
	free(s->error);
	free(s);
	return NULL;
}

bool tls_rest(struct tls_session *s)
{
	if (!s->hs)
		tls13_rest(&s->records);
	if (s->part.len || !s->part.size)
		return false;
	bytes_clear(&s->part);
	return true;
}

void tls_hold(struct tls_session *s)
{
	s->holds = true;
	if (!s->hs)
		(void)!bytes_reserve(&s->part, TLS13_RECORD_MAX);	/* without memory it comes with the first that needs it */
}

int tls_wake(struct tls_session *s)
{
	if (!s->holds || s->hs || s->part.len || s->part.size)
		return 0;
	return bytes_reserve(&s->part, TLS13_RECORD_MAX) ? 0 : -ENOMEM;
}

/* --- the handshake --- */

/* Why libssl gave up, in our words. */
static int handshake_failed(struct tls_session *s)
{
	enum { ALERT_BASE = 1000 };	/* SSL_AD_REASON_OFFSET: a reason above is an alert of the peer's */
	unsigned long code = ERR_peek_error();
	int reason = ERR_GET_REASON(code);
	char text[TLS_ERROR_LEN];

	ERR_clear_error();
	if (s->hs->no_memory || reason == ERR_R_MALLOC_FAILURE)
		return failed(s, -ENOMEM, "out of memory");
	if (s->hs->verify_failed)
		return s->failed;
	if (ERR_GET_LIB(code) == ERR_LIB_SSL && reason >= ALERT_BASE) {
		snprintf(text, sizeof(text), "the peer refused us: %s", tls13_alert_name((uint8_t)(reason - ALERT_BASE)));
		return failed(s, TLS_E_REFUSED, text);
	}
	if (ERR_GET_LIB(code) == ERR_LIB_SSL && reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE)
		return failed(s, TLS_E_VERIFY, "the peer presented no certificate");

	const char *words = ERR_reason_error_string(code);
	snprintf(text, sizeof(text), "TLS handshake failed: %s", words ? words : "protocol error");
	return failed(s, TLS_E_PROTOCOL, text);
}

static void note_alpn(struct tls_session *s)
{
	const unsigned char *name;
	unsigned n;

	SSL_get0_alpn_selected(s->hs->ssl, &name, &n);
	for (size_t i = 0; n && i < s->ctx->n_alpn; i++)
		if (strlen(s->ctx->alpn[i]) == n && !memcmp(s->ctx->alpn[i], name, n))
			s->alpn = s->ctx->alpn[i];
}

/* From here on the records are ours, if we know how. */
static int take_over(struct tls_session *s)
{
	const SSL_CIPHER *cipher = SSL_get_current_cipher(s->hs->ssl);
	const struct tls13_suite *suite = cipher ? tls13_suite_find(SSL_CIPHER_get_protocol_id(cipher)) : NULL;
	bool client = s->ctx->role == TLS_CLIENT;
	int r;

	if (SSL_version(s->hs->ssl) != TLS1_3_VERSION || !suite || SSL_has_pending(s->hs->ssl) ||
	    s->hs->n_secrets[0] != tls13_suite_secret_len(suite) || s->hs->n_secrets[1] != tls13_suite_secret_len(suite))
		return 0;
	r = tls13_init(&s->records, suite, aead_best(), client, s->hs->secrets[client ? 1 : 0], s->hs->secrets[client ? 0 : 1]);
	if (r < 0)
		return failed(s, r, "out of memory");
	s->hs = handshake_free(s->hs);
	return 0;
}

static int advance(struct tls_session *s)
{
	int r = SSL_do_handshake(s->hs->ssl);

	if (r != 1) {
		if (SSL_get_error(s->hs->ssl, r) == SSL_ERROR_WANT_READ && !s->hs->no_memory)
			return s->hs->total_in > HANDSHAKE_IN_MAX ? failed(s, TLS_E_PROTOCOL, "the handshake has no end") : 0;
		return handshake_failed(s);
	}
	note_alpn(s);
	s->open = true;
	memset(&s->hs->expect, 0, sizeof(s->hs->expect));	/* was only borrowed */
	return 0;
}

static int feed_handshake(struct tls_session *s, struct tls_in *in)
{
	struct handshake *hs = s->hs;
	int r;

	hs->in = in->data;
	hs->n_in = in->len;
	r = advance(s);
	hs->total_in += in->len - hs->n_in;
	in->data = hs->in;
	in->len = hs->n_in;
	hs->in = NULL;
	hs->n_in = 0;
	if (r == 0 && s->open)
		r = take_over(s);
	return r;
}

/* --- plaintext, libssl in charge (TLS 1.2 and what we do not know) --- */

static int feed_legacy(struct tls_session *s, struct tls_in *in)
{
	struct handshake *hs = s->hs;
	int r = 0;

	hs->in = in->data;
	hs->n_in = in->len;
	while (in->out_size - in->out_len >= TLS_PLAINTEXT_MAX) {
		r = SSL_read(hs->ssl, in->out + in->out_len, (int)MIN(in->out_size - in->out_len, (size_t)1 << 30));
		if (r <= 0)
			break;
		in->out_len += (size_t)r;
	}
	in->data = hs->in;
	in->len = hs->n_in;
	hs->in = NULL;
	hs->n_in = 0;
	if (r > 0)
		return 0;
	switch (SSL_get_error(hs->ssl, r)) {
	case SSL_ERROR_WANT_READ:
		return 0;
	case SSL_ERROR_ZERO_RETURN:
		s->failed = TLS_E_CLOSED;
		return s->failed;
	default:
		return handshake_failed(s);
	}
}

static int seal_legacy(struct tls_session *s, const struct iovec *iov, size_t n_iov, uint8_t *out, size_t size, size_t *ret_len)
{
	size_t n_out = tls_take(s, out, size);

	for (size_t i = 0; i < n_iov; i++) {
		const uint8_t *data = iov[i].iov_base;
		size_t left = iov[i].iov_len;

		while (left) {
			int r = SSL_write(s->hs->ssl, data, (int)MIN(left, (size_t)TLS13_PLAINTEXT_MAX));

			if (r <= 0)
				return -ENOMEM;
			data += r;
			left -= (size_t)r;
			n_out += tls_take(s, out + n_out, size - n_out);
		}
	}
	*ret_len = n_out;
	return 0;
}

/* --- plaintext, our own records --- */

static int records_failed(struct tls_session *s, int r)
{
	char text[TLS_ERROR_LEN];

	switch (r) {
	case TLS13_E_CLOSED:
		s->failed = TLS_E_CLOSED;
		return s->failed;
	case TLS13_E_REFUSED:
		snprintf(text, sizeof(text), "the peer refused us: %s", tls13_alert_name(s->records.peer_alert));
		return failed(s, TLS_E_REFUSED, text);
	case TLS13_E_BROKEN:
		snprintf(text, sizeof(text), "the peer sent %s", s->records.why);
		return failed(s, TLS_E_PROTOCOL, text);
	default:
		return failed(s, r, "out of memory");
	}
}

/* Moves bytes from @in to @part until it holds @want. true: it does. */
static bool fill_part(struct tls_session *s, struct tls_in *in, size_t want, int *ret_r)
{
	size_t n = s->part.len < want ? MIN(want - s->part.len, in->len) : 0;

	*ret_r = bytes_append(&s->part, in->data, n);
	if (*ret_r < 0)
		return false;
	in->data += n;
	in->len -= n;
	return s->part.len >= want;
}

/* The rest of a record whose beginning came earlier. TLS13_E_MORE: not yet. */
static int feed_part(struct tls_session *s, struct tls_in *in)
{
	size_t len, n;
	int r;

	if (s->holds && !s->part.len)
		(void)!bytes_reserve(&s->part, TLS13_RECORD_MAX);	/* without memory for the longest, this one may be shorter */
	if (!fill_part(s, in, TLS13_HEADER_LEN, &r))
		return r < 0 ? r : TLS13_E_MORE;
	r = tls13_record_len(&s->records, s->part.data, s->part.len, &len);
	if (r != 0)
		return r;
	if (!fill_part(s, in, len, &r))
		return r < 0 ? r : TLS13_E_MORE;
	r = tls13_open(&s->records, s->part.data, len, in->out + in->out_len, &n);
	in->out_len += n;
	if (s->holds)
		bytes_empty(&s->part);
	else
		bytes_clear(&s->part);
	return r;
}

static int feed_records(struct tls_session *s, struct tls_in *in)
{
	size_t len, n;
	int r = 0;

	while (r == 0 && (in->len || s->part.len) && in->out_size - in->out_len >= TLS_PLAINTEXT_MAX) {
		if (s->part.len) {
			r = feed_part(s, in);
			continue;
		}
		r = tls13_record_len(&s->records, in->data, in->len, &len);
		if (r == TLS13_E_MORE || (r == 0 && len > in->len)) {
			r = feed_part(s, in);
			continue;
		}
		if (r != 0)
			break;
		r = tls13_open(&s->records, in->data, len, in->out + in->out_len, &n);
		in->data += len;
		in->len -= len;
		in->out_len += n;
	}
	if (r == TLS13_E_MORE)
		return 0;
	return r == 0 ? 0 : records_failed(s, r);
}

int tls_feed(struct tls_session *s, struct tls_in *in)
{
	int r = 0;

	in->out_len = 0;
	if (s->failed)
		return s->failed;
	if (s->hs) {
		ERR_clear_error();
		if (!s->open)
			r = feed_handshake(s, in);
		if (r != 0 || !s->open)
			return r;
	}
	return s->hs ? feed_legacy(s, in) : feed_records(s, in);
}

/* --- out --- */

size_t tls_pending(const struct tls_session *s)
{
	return s->out.len + (s->hs ? 0 : tls13_pending(&s->records));
}

size_t tls_take(struct tls_session *s, uint8_t *out, size_t size)
{
	size_t n = MIN(size, s->out.len), n_more = 0;

	if (n) {
		memcpy(out, s->out.data, n);
		bytes_consume(&s->out, n);
	}
	if (!s->hs && !s->out.len && tls13_take(&s->records, out + n, size - n, &n_more) < 0)
		failed(s, -ENOMEM, "out of memory");
	return n + n_more;
}

size_t tls_seal_size(const struct tls_session *s, size_t len)
{
	if (s->hs)
		return s->out.len + len + (len / TLS13_PLAINTEXT_MAX + TLS_SEAL_PARTS) * LEGACY_OVERHEAD;
	return s->out.len + tls13_seal_size(&s->records, len);
}

int tls_seal(struct tls_session *s, const struct iovec *iov, size_t n_iov, uint8_t *out, size_t size, size_t *ret_len)
{
	size_t n = 0, n_sealed;
	int r;

	if (!s->open || s->shut || (s->failed && s->failed != TLS_E_CLOSED))
		return -EPIPE;
	if (n_iov > TLS_SEAL_PARTS)
		return -EINVAL;
	if (s->hs) {
		ERR_clear_error();
		return seal_legacy(s, iov, n_iov, out, size, ret_len);
	}
	if (s->out.len) {
		n = MIN(size, s->out.len);
		memcpy(out, s->out.data, n);
		bytes_consume(&s->out, n);
	}
	r = tls13_seal(&s->records, iov, n_iov, out + n, size - n, &n_sealed);
	if (r < 0)
		return r;
	*ret_len = n + n_sealed;
	return 0;
}

int tls_shutdown(struct tls_session *s)
{
	if (s->shut || !s->open)
		return 0;
	s->shut = true;
	if (!s->hs) {
		tls13_close(&s->records, TLS13_ALERT_CLOSE_NOTIFY);
		return 0;
	}
	ERR_clear_error();
	return SSL_shutdown(s->hs->ssl) < 0 ? -ENOMEM : 0;
}

/* --- what became of it --- */

uint32_t tls_work(const struct tls_session *s)
{
	return s->hs ? 0 : s->records.work;
}

bool tls_is_open(const struct tls_session *s)
{
	return s->open;
}

const char *tls_alpn(const struct tls_session *s)
{
	return s->alpn;
}

const char *tls_peer_id(const struct tls_session *s)
{
	return s->peer ? s->peer->id : NULL;
}

const uint8_t *tls_peer_fingerprint(const struct tls_session *s)
{
	return s->peer ? s->peer->fingerprint : NULL;
}

const uint8_t *tls_peer_serial(const struct tls_session *s, size_t *ret_len)
{
	*ret_len = s->peer ? s->peer->n_serial : 0;
	return s->peer ? s->peer->serial : NULL;
}

int64_t tls_peer_not_after(const struct tls_session *s)
{
	return s->peer ? s->peer->not_after : 0;
}
