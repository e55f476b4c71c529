#include "lib/unit.h"
#include "lib/pki.h"

#include <errno.h>
#include <malloc.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "mesh/tls.h"

#define ALICE "spiffe://td.test/ns/a/sa/alice"
#define BOB "spiffe://td.test/ns/b/sa/bob"

enum { ROOM = 64 * 1024 };

static struct pki *pki, *other_pki;
static const struct pki_leaf *alice, *bob;
static const char *const h2[] = { "h2", NULL };

static int make_pki(void **state)
{
	(void)state;
	pki = pki_new();
	other_pki = pki_new();
	alice = pki_issue_san(pki, "URI:" ALICE);
	bob = pki_issue_san(pki, "URI:" BOB ",DNS:bob.example,IP:10.0.0.2");
	return 0;
}

static int drop_pki(void **state)
{
	(void)state;
	pki_free(pki);
	pki_free(other_pki);
	return 0;
}

static struct tls_config config_of(enum tls_role role, const struct pki_leaf *leaf)
{
	return (struct tls_config){
		.role = role,
		.cert_pem = leaf ? leaf->cert_pem : NULL,
		.key_pem = leaf ? leaf->key_pem : NULL,
		.roots_pem = pki_root_pem(pki),
		.alpn = h2,
	};
}

static struct tls_ctx *ctx_of(const struct tls_config *config)
{
	struct tls_ctx *ctx = NULL;
	struct diag d = {};

	assert_int_equal(tls_ctx_new(config, &ctx, &d), 0);
	return ctx;
}

/* Two ends and what they said last. */
struct pair {
	struct tls_session *c, *s;
	int r_c, r_s;
	uint8_t got_c[ROOM], got_s[ROOM];	/* plaintext, appended */
	size_t n_c, n_s;
	size_t chunk;				/* ciphertext is fed in pieces of this size; 0: whole */
};

static int feed(struct tls_session *t, const uint8_t *data, size_t len, uint8_t *got, size_t *n_got)
{
	uint8_t plain[TLS_PLAINTEXT_MAX];
	struct tls_in in = { .data = data, .len = len, .out = plain, .out_size = sizeof(plain) };
	int r;

	do {
		r = tls_feed(t, &in);
		assert_true(*n_got + in.out_len <= ROOM);
		memcpy(got + *n_got, plain, in.out_len);
		*n_got += in.out_len;
	} while (r == 0 && (in.len || in.out_len));
	return r;
}

static int feed_chunks(struct pair *p, struct tls_session *t, const uint8_t *data, size_t len, uint8_t *got, size_t *n_got)
{
	int r = 0;

	for (size_t at = 0; at < len && r == 0;) {
		size_t n = p->chunk && p->chunk < len - at ? p->chunk : len - at;

		r = feed(t, data + at, n, got, n_got);
		at += n;
	}
	return r;
}

/* Carries what is pending to and fro until nothing is. */
static void pump(struct pair *p)
{
	uint8_t bytes[ROOM];
	size_t n;

	while (tls_pending(p->c) || tls_pending(p->s)) {
		n = tls_take(p->c, bytes, sizeof(bytes));
		if (n && !p->r_s)
			p->r_s = feed_chunks(p, p->s, bytes, n, p->got_s, &p->n_s);
		n = tls_take(p->s, bytes, sizeof(bytes));
		if (n && !p->r_c)
			p->r_c = feed_chunks(p, p->c, bytes, n, p->got_c, &p->n_c);
	}
}

static struct pair *new_pair(struct tls_ctx *c, const struct tls_expect *expect_c, struct tls_ctx *s, const struct tls_expect *expect_s)
{
	struct pair *p = calloc(1, sizeof(*p));

	assert_non_null(p);
	assert_int_equal(tls_session_new(c, expect_c, &p->c), 0);
	assert_int_equal(tls_session_new(s, expect_s, &p->s), 0);
	assert_true(tls_pending(p->c) > 0);
	assert_int_equal(tls_pending(p->s), 0);
	return p;
}

static void free_pair(struct pair *p)
{
	tls_session_free(p->c);
	tls_session_free(p->s);
	free(p);
}

static void send_both_ways(struct pair *p, size_t len)
{
	static uint8_t data[40000], sealed[ROOM];
	struct iovec iov[2] = { { data, len / 3 }, { data + len / 3, len - len / 3 } };
	size_t n;

	for (size_t i = 0; i < len; i++)
		data[i] = (uint8_t)(i * 7 + len);
	p->n_c = p->n_s = 0;
	assert_int_equal(tls_seal(p->c, iov, 2, sealed, sizeof(sealed), &n), 0);
	assert_true(n <= tls_seal_size(p->c, len));
	assert_int_equal(feed_chunks(p, p->s, sealed, n, p->got_s, &p->n_s), 0);
	assert_int_equal(p->n_s, len);
	assert_memory_equal(p->got_s, data, len);
	assert_int_equal(tls_seal(p->s, iov, 2, sealed, sizeof(sealed), &n), 0);
	assert_int_equal(feed_chunks(p, p->c, sealed, n, p->got_c, &p->n_c), 0);
	assert_int_equal(p->n_c, len);
	assert_memory_equal(p->got_c, data, len);
}

static struct pair *open_pair_of(const struct tls_config *cc, const struct tls_config *cs, size_t chunk)
{
	struct tls_ctx *c = ctx_of(cc), *s = ctx_of(cs);
	struct pair *p = new_pair(c, NULL, s, NULL);

	tls_ctx_unref(c);	/* sessions hold what they need */
	tls_ctx_unref(s);
	p->chunk = chunk;
	pump(p);
	assert_int_equal(p->r_c, 0);
	assert_int_equal(p->r_s, 0);
	assert_true(tls_is_open(p->c));
	assert_true(tls_is_open(p->s));
	return p;
}

static struct pair *open_pair(size_t chunk)
{
	struct tls_config c = config_of(TLS_CLIENT, alice), s = config_of(TLS_SERVER, bob);

	return open_pair_of(&c, &s, chunk);
}

static void two_ends_know_each_other(void **state)
{
	struct pair *p = open_pair(0);

	(void)state;
	assert_string_equal(tls_peer_id(p->c), BOB);
	assert_string_equal(tls_peer_id(p->s), ALICE);
	assert_string_equal(tls_alpn(p->c), "h2");
	assert_string_equal(tls_alpn(p->s), "h2");
	assert_non_null(tls_peer_fingerprint(p->c));
	assert_true(tls_peer_not_after(p->c) > 0);
	for (size_t len = 1; len < 40000; len = len * 3 + 1)
		send_both_ways(p, len);
	tls_rest(p->c);
	tls_rest(p->s);
	send_both_ways(p, 10);
	free_pair(p);
}

static void bytes_may_come_one_by_one(void **state)
{
	static const size_t chunks[] = { 1, 2, 3, 4, 5, 6, 7, 100, 1000 };

	(void)state;
	for (size_t i = 0; i < ELEMENTS(chunks); i++) {
		struct pair *p = open_pair(chunks[i]);

		send_both_ways(p, 1);
		send_both_ways(p, 500);
		send_both_ways(p, 20000);
		free_pair(p);
	}
}

static void tls_1_2_stays_on_libssl(void **state)
{
	struct tls_config cc = config_of(TLS_CLIENT, alice), cs = config_of(TLS_SERVER, bob);
	struct tls_ctx *c, *s;

	(void)state;
	cc.allow_tls12 = cs.allow_tls12 = true;
	c = ctx_of(&cc);
	s = ctx_of(&cs);
	for (size_t chunk = 0; chunk < 3; chunk++) {
		struct pair *p = new_pair(c, NULL, s, NULL);

		p->chunk = chunk;
		pump(p);
		assert_true(tls_is_open(p->c) && tls_is_open(p->s));
		send_both_ways(p, 30000);
		free_pair(p);
	}
	tls_ctx_unref(c);
	tls_ctx_unref(s);
}

static void closing_is_told_and_the_other_way_stays_open(void **state)
{
	struct pair *p = open_pair(0);
	uint8_t sealed[256];
	struct iovec iov = { sealed, 5 };
	size_t n;

	(void)state;
	assert_int_equal(tls_shutdown(p->c), 0);
	assert_int_equal(tls_seal(p->c, &iov, 1, sealed, sizeof(sealed), &n), -EPIPE);
	pump(p);
	assert_int_equal(p->r_s, TLS_E_CLOSED);
	assert_int_equal(p->r_c, 0);
	memcpy(sealed, "bytes", 5);
	uint8_t out[256];
	assert_int_equal(tls_seal(p->s, &iov, 1, out, sizeof(out), &n), 0);
	assert_int_equal(feed(p->c, out, n, p->got_c, &p->n_c), 0);
	assert_memory_equal(p->got_c, "bytes", 5);
	assert_int_equal(tls_shutdown(p->s), 0);
	pump(p);
	assert_int_equal(p->r_c, TLS_E_CLOSED);
	free_pair(p);
}

/* --- who is let in --- */

struct refusal {
	const struct tls_config *c, *s;
	const struct tls_expect *expect_c, *expect_s;
	bool by_client;			/* who refuses */
	int r;
	const char *text, *other_text;	/* parts of the messages */
};

static void expect_refusal(const struct refusal *x)
{
	struct tls_ctx *c = ctx_of(x->c), *s = ctx_of(x->s);
	struct pair *p = new_pair(c, x->expect_c, s, x->expect_s);
	struct tls_session *by, *other;

	pump(p);
	by = x->by_client ? p->c : p->s;
	other = x->by_client ? p->s : p->c;
	assert_int_equal(x->by_client ? p->r_c : p->r_s, x->r);
	if (!strstr(tls_error(by), x->text))
		assert_string_equal(tls_error(by), x->text);
	assert_int_equal(x->by_client ? p->r_s : p->r_c, TLS_E_REFUSED);
	if (!strstr(tls_error(other), x->other_text))
		assert_string_equal(tls_error(other), x->other_text);
	assert_int_equal(tls_pending(p->c) + tls_pending(p->s), 0);
	free_pair(p);
	tls_ctx_unref(c);
	tls_ctx_unref(s);
}

static void a_peer_that_is_not_the_expected_one_is_refused(void **state)
{
	struct tls_config c = config_of(TLS_CLIENT, alice), s = config_of(TLS_SERVER, bob);
	const char *ids[] = { "spiffe://td.test/ns/x/sa/y", "spiffe://td.test/ns/x/sa/z" };
	struct tls_expect one = { .ids = ids, .n_ids = 1 }, two = { .ids = ids, .n_ids = 2 };
	struct tls_expect domain = { .trust_domain = "td.tes" }, name = { .server_name = "alice.example" };
	struct tls_expect address = { .server_name = "10.0.0.3" };

	(void)state;
	expect_refusal(&(struct refusal){ &c, &s, &one, NULL, true, TLS_E_VERIFY,
		"peer presented " BOB ", expected spiffe://td.test/ns/x/sa/y", "bad_certificate" });
	expect_refusal(&(struct refusal){ &c, &s, &two, NULL, true, TLS_E_VERIFY, "expected one of spiffe://td.test/ns/x/sa/y", "bad_certificate" });
	expect_refusal(&(struct refusal){ &c, &s, NULL, &one, false, TLS_E_VERIFY, "peer presented " ALICE ", expected", "bad_certificate" });
	expect_refusal(&(struct refusal){ &c, &s, &domain, NULL, true, TLS_E_VERIFY, "expected one of trust domain td.tes", "bad_certificate" });
	expect_refusal(&(struct refusal){ &c, &s, &name, NULL, true, TLS_E_VERIFY, "not for alice.example", "bad_certificate" });
	expect_refusal(&(struct refusal){ &c, &s, &address, NULL, true, TLS_E_VERIFY, "not for 10.0.0.3", "bad_certificate" });
}

static void a_peer_that_is_the_expected_one_is_let_in(void **state)
{
	struct tls_config cc = config_of(TLS_CLIENT, alice), cs = config_of(TLS_SERVER, bob);
	const char *ids[] = { "spiffe://td.test/ns/x/sa/y", BOB }, *alices[] = { ALICE };
	const struct tls_expect expects[] = {
		{ .ids = ids, .n_ids = 2 },
		{ .trust_domain = "td.test" },
		{ .server_name = "bob.example" },
		{ .server_name = "10.0.0.2", .trust_domain = "td.test", .ids = ids, .n_ids = 2 },
	};
	struct tls_expect back = { .ids = alices, .n_ids = 1 };
	struct tls_ctx *c = ctx_of(&cc), *s = ctx_of(&cs);

	(void)state;
	for (size_t i = 0; i < ELEMENTS(expects); i++) {	/* from the second on, certificates come from the cache */
		struct pair *p = new_pair(c, &expects[i], s, &back);

		pump(p);
		assert_true(tls_is_open(p->c) && tls_is_open(p->s));
		send_both_ways(p, 100);
		free_pair(p);
	}
	tls_ctx_unref(c);
	tls_ctx_unref(s);
}

static void certificates_that_are_no_good_are_refused(void **state)
{
	struct tls_config s = config_of(TLS_SERVER, bob);
	const struct {
		const struct pki_leaf *leaf;
		const char *text, *other_text;
	} table[] = {
		{ pki_issue_san(other_pki, "URI:" ALICE), "unknown CA", "unknown_ca" },
		{ pki_issue(pki, &(struct pki_want){ .san = "URI:" ALICE, .from_s = -7200, .until_s = -3600 }),
		  "certificate expired: " ALICE, "certificate_expired" },
		{ pki_issue(pki, &(struct pki_want){ .san = "URI:" ALICE, .from_s = 3600, .until_s = 7200 }),
		  "not valid yet", "bad_certificate" },
		{ pki_issue(pki, &(struct pki_want){ .san = "URI:" ALICE, .eku = "serverAuth" }), "purpose", "unsupported_certificate" },
		{ pki_issue_san(pki, "URI:" ALICE ",URI:" BOB), "more than one URI", "bad_certificate" },
		{ pki_issue_san(pki, "URI:spiffe://td.test/ns//sa/x"), "malformed", "bad_certificate" },
		{ pki_issue(pki, &(struct pki_want){ .san = "URI:" ALICE, .is_ca = 1 }), "authority presented itself", "bad_certificate" },
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTS(table); i++) {
		struct tls_config c = config_of(TLS_CLIENT, table[i].leaf);
		struct tls_ctx *ctx;
		struct diag d = {};

		if (tls_ctx_new(&c, &ctx, &d) == -EINVAL) {	/* we do not even start with those */
			assert_non_null(strstr(d.msg, table[i].text));
			continue;
		}
		tls_ctx_unref(ctx);
		expect_refusal(&(struct refusal){ &c, &s, NULL, NULL, false, TLS_E_VERIFY, table[i].text, table[i].other_text });
	}
}

static void a_server_with_a_clients_certificate_is_refused(void **state)
{
	struct tls_config c = config_of(TLS_CLIENT, alice), s = config_of(TLS_SERVER, NULL);
	const struct pki_leaf *leaf = pki_issue(pki, &(struct pki_want){ .san = "URI:" BOB, .eku = "clientAuth" });

	(void)state;
	s.cert_pem = leaf->cert_pem;
	s.key_pem = leaf->key_pem;
	expect_refusal(&(struct refusal){ &c, &s, NULL, NULL, true, TLS_E_VERIFY, "purpose", "unsupported_certificate" });
}

static void chains_may_have_intermediates(void **state)
{
	struct pki *one = pki_under(pki), *two = pki_under(one);
	const struct pki_leaf *leaves[] = { pki_issue_san(one, "URI:" ALICE), pki_issue_san(two, "URI:" ALICE) };
	struct tls_config c, s = config_of(TLS_SERVER, bob);
	struct pair *p;
	char *end;

	(void)state;
	for (size_t i = 0; i < ELEMENTS(leaves); i++) {
		c = config_of(TLS_CLIENT, leaves[i]);
		p = open_pair_of(&c, &s, 0);
		assert_string_equal(tls_peer_id(p->s), ALICE);
		send_both_ways(p, 100);
		free_pair(p);
	}
	end = strstr(leaves[1]->cert_pem, "-----END CERTIFICATE-----\n") + strlen("-----END CERTIFICATE-----\n");
	*end = 0;			/* the leaf alone: nobody knows who signed it */
	c = config_of(TLS_CLIENT, leaves[1]);
	expect_refusal(&(struct refusal){ &c, &s, NULL, NULL, false, TLS_E_VERIFY, "unknown CA", "unknown_ca" });
	pki_free(one);
	pki_free(two);
}

/* A name with @n further names. */
static const struct pki_leaf *large_leaf(size_t n)
{
	char *san = calloc(n + 2, 64), *at;
	const struct pki_leaf *leaf;

	assert_non_null(san);
	at = stpcpy(san, "URI:" ALICE);
	for (size_t i = 0; i < n; i++)
		at += sprintf(at, ",DNS:a-host-with-a-long-name-%06zu.example.com", i);
	leaf = pki_issue_san(pki, san);
	free(san);
	return leaf;
}

/* Longer than a record, both ways. */
static void certificates_may_be_large_but_not_endless(void **state)
{
	struct tls_config c = config_of(TLS_CLIENT, large_leaf(500)), s = config_of(TLS_SERVER, NULL);
	struct pair *p;

	(void)state;
	s.cert_pem = c.cert_pem;
	s.key_pem = c.key_pem;
	assert_true(strlen(c.cert_pem) > 20000);
	for (size_t chunk = 0; chunk < 2000; chunk += 999) {
		p = open_pair_of(&c, &s, chunk);
		send_both_ways(p, 100);
		free_pair(p);
	}
	c = config_of(TLS_CLIENT, large_leaf(4000));
	s = config_of(TLS_SERVER, bob);
	expect_refusal(&(struct refusal){ &c, &s, NULL, NULL, false, TLS_E_PROTOCOL, "excessive message size", "illegal_parameter" });
}

static void two_uris_from_a_foreign_stack_are_refused(void **state)
{
	const struct pki_leaf *bad = pki_issue_san(pki, "URI:" ALICE ",URI:" BOB);
	struct tls_config cs = config_of(TLS_SERVER, bob);
	struct tls_ctx *s = ctx_of(&cs);
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
	BIO *cert = BIO_new_mem_buf(bad->cert_pem, -1), *key = BIO_new_mem_buf(bad->key_pem, -1);
	X509 *x = PEM_read_bio_X509(cert, NULL, NULL, NULL);
	EVP_PKEY *k = PEM_read_bio_PrivateKey(key, NULL, NULL, NULL);
	SSL *ssl = SSL_new(ctx);
	struct tls_session *session;
	uint8_t bytes[ROOM], got[ROOM];
	size_t n_got = 0;
	int r = 0;

	(void)state;
	assert_int_equal(SSL_use_certificate(ssl, x), 1);
	assert_int_equal(SSL_use_PrivateKey(ssl, k), 1);
	SSL_set_bio(ssl, in, out);
	SSL_set_connect_state(ssl);
	assert_int_equal(tls_session_new(s, NULL, &session), 0);
	for (int round = 0; round < 3 && r == 0; round++) {
		int n;

		SSL_do_handshake(ssl);
		n = BIO_read(out, bytes, sizeof(bytes));
		if (n > 0)
			r = feed(session, bytes, (size_t)n, got, &n_got);
		n = (int)tls_take(session, bytes, sizeof(bytes));
		BIO_write(in, bytes, n);
	}
	assert_int_equal(r, TLS_E_VERIFY);
	assert_non_null(strstr(tls_error(session), "more than one URI"));
	tls_session_free(session);
	SSL_free(ssl);
	SSL_CTX_free(ctx);
	X509_free(x);
	EVP_PKEY_free(k);
	BIO_free(cert);
	BIO_free(key);
	tls_ctx_unref(s);
}

static void a_server_says_who_may_come_without_a_certificate(void **state)
{
	struct tls_config c = config_of(TLS_CLIENT, NULL), s = config_of(TLS_SERVER, bob);
	struct pair *p;

	(void)state;
	expect_refusal(&(struct refusal){ &c, &s, NULL, NULL, false, TLS_E_VERIFY, "presented no certificate", "certificate_required" });
	s.verify = TLS_VERIFY_REQUEST;
	p = open_pair_of(&c, &s, 0);
	assert_null(tls_peer_id(p->s));
	assert_null(tls_peer_fingerprint(p->s));
	send_both_ways(p, 77);
	free_pair(p);
	s.verify = TLS_VERIFY_NONE;
	s.roots_pem = NULL;
	p = open_pair_of(&c, &s, 0);
	send_both_ways(p, 77);
	free_pair(p);
}

static void protocols_must_have_something_in_common(void **state)
{
	static const char *const other[] = { "http/1.1", NULL };
	struct tls_config c = config_of(TLS_CLIENT, alice), s = config_of(TLS_SERVER, bob);
	struct pair *p;

	(void)state;
	c.alpn = other;
	expect_refusal(&(struct refusal){ &c, &s, NULL, NULL, false, TLS_E_PROTOCOL, "no application protocol", "no_application_protocol" });
	c.alpn = NULL;
	p = open_pair_of(&c, &s, 0);
	assert_null(tls_alpn(p->c));
	assert_null(tls_alpn(p->s));
	free_pair(p);
}

static void what_is_no_tls_is_refused(void **state)
{
	struct tls_config cs = config_of(TLS_SERVER, bob);
	struct tls_ctx *s = ctx_of(&cs);
	static const char *const rubbish[] = { "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x16\x03\x01\xff\xff........" };

	(void)state;
	for (size_t i = 0; i < ELEMENTS(rubbish); i++) {
		struct tls_session *t;
		uint8_t got[ROOM];
		size_t n = 0;

		assert_int_equal(tls_session_new(s, NULL, &t), 0);
		assert_int_equal(feed(t, (const uint8_t *)rubbish[i], strlen(rubbish[i]), got, &n), TLS_E_PROTOCOL);
		assert_int_equal(feed(t, (const uint8_t *)"more", 4, got, &n), TLS_E_PROTOCOL);
		assert_true(strlen(tls_error(t)) > 0);
		tls_session_free(t);
	}
	tls_ctx_unref(s);
}

static void a_broken_record_ends_the_session_with_an_alert(void **state)
{
	struct pair *p = open_pair(0);
	uint8_t sealed[256];
	struct iovec iov = { (void *)(uintptr_t)"hello", 5 };
	size_t n;

	(void)state;
	assert_int_equal(tls_seal(p->c, &iov, 1, sealed, sizeof(sealed), &n), 0);
	sealed[n - 1] ^= 1;
	assert_int_equal(feed(p->s, sealed, n, p->got_s, &p->n_s), TLS_E_PROTOCOL);
	assert_int_equal(p->n_s, 0);
	assert_non_null(strstr(tls_error(p->s), "does not decrypt"));
	pump(p);
	assert_int_equal(p->r_c, TLS_E_REFUSED);
	assert_non_null(strstr(tls_error(p->c), "bad_record_mac"));
	free_pair(p);
}

/* --- contexts --- */

static void expect_bad_config(struct tls_config config, const char *text)
{
	struct tls_ctx *ctx = NULL;
	struct diag d = {};

	assert_int_equal(tls_ctx_new(&config, &ctx, &d), -EINVAL);
	assert_null(ctx);
	if (!strstr(d.msg, text))
		assert_string_equal(d.msg, text);
}

static void wrong_configurations_are_explained(void **state)
{
	struct tls_config c = config_of(TLS_SERVER, bob);

	(void)state;
	c.key_pem = alice->key_pem;
	expect_bad_config(c, "private key does not fit");
	c.key_pem = "nonsense";
	expect_bad_config(c, "no private key");
	c = config_of(TLS_SERVER, bob);
	c.cert_pem = "nonsense";
	expect_bad_config(c, "no certificate in the PEM");
	c.cert_pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
	expect_bad_config(c, "certificate");
	c = config_of(TLS_SERVER, bob);
	c.roots_pem = "nonsense";
	expect_bad_config(c, "no root certificate");
	c.roots_pem = NULL;
	expect_bad_config(c, "no trust roots");
	expect_bad_config(config_of(TLS_SERVER, NULL), "server needs a certificate");
	c = config_of(TLS_CLIENT, NULL);
	c.verify = TLS_VERIFY_NONE;
	expect_bad_config(c, "has to verify");
}

static void a_context_knows_its_own_certificate(void **state)
{
	struct tls_config c = config_of(TLS_CLIENT, alice), anonymous = config_of(TLS_CLIENT, NULL);
	struct tls_ctx *a = ctx_of(&c), *b = ctx_of(&anonymous);

	(void)state;
	assert_string_equal(tls_ctx_id(a), ALICE);
	assert_true(tls_ctx_not_after(a) - tls_ctx_not_before(a) == 3600);
	assert_null(tls_ctx_id(b));
	assert_int_equal(tls_ctx_not_after(b), 0);
	tls_ctx_unref(a);
	tls_ctx_unref(b);
}

struct shared {
	struct tls_ctx *c, *s;
	bool known;
};

static void *shake_hands(void *data)
{
	struct shared *x = data;
	struct pair *p = new_pair(x->c, NULL, x->s, NULL);

	pump(p);
	x->known = tls_is_open(p->c) && tls_is_open(p->s);
	free_pair(p);
	return NULL;
}

/* What it is made of does not change once it is shared: with the thread sanitizer it fails if something in it is written yet. */
static void a_context_serves_several_threads(void **state)
{
	struct tls_config c = config_of(TLS_CLIENT, alice), s = config_of(TLS_SERVER, bob);

	(void)state;
	for (int i = 0; i < 10; i++) {
		struct shared both[2] = { { .c = ctx_of(&c), .s = ctx_of(&s) } };
		pthread_t threads[2];

		both[1] = both[0];
		for (int k = 0; k < 2; k++)
			assert_int_equal(pthread_create(&threads[k], NULL, shake_hands, &both[k]), 0);
		for (int k = 0; k < 2; k++)
			pthread_join(threads[k], NULL);
		assert_true(both[0].known && both[1].known);
		tls_ctx_unref(both[0].c);
		tls_ctx_unref(both[0].s);
	}
}

static void an_idle_session_is_small(void **state)
{
	enum { N = 200, LIMIT = 700 };
	static struct tls_session *idle[2 * N];
	struct tls_config cc = config_of(TLS_CLIENT, alice), cs = config_of(TLS_SERVER, bob);
	struct tls_ctx *c = ctx_of(&cc), *s = ctx_of(&cs);
	size_t before = 0;

	(void)state;
	for (int i = 0; i < N; i++) {
		struct pair *p = new_pair(c, NULL, s, NULL);

		pump(p);
		send_both_ways(p, 20000);
		tls_rest(p->c);
		tls_rest(p->s);
		idle[2 * i] = p->c;
		idle[2 * i + 1] = p->s;
		free(p);
		if (i == N / 2 - 1)	/* libssl has warmed up by now */
			before = mallinfo2().uordblks;
	}
	size_t each = (mallinfo2().uordblks - before) / N;
	print_message("an idle session: %zu bytes of heap\n", each);
	assert_true(before == 0 || each <= LIMIT);	/* sanitizers' allocators count nothing */
	for (int i = 0; i < 2 * N; i++)
		tls_session_free(idle[i]);
	tls_ctx_unref(c);
	tls_ctx_unref(s);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(two_ends_know_each_other),
		cmocka_unit_test(a_context_serves_several_threads),
		cmocka_unit_test(bytes_may_come_one_by_one),
		cmocka_unit_test(tls_1_2_stays_on_libssl),
		cmocka_unit_test(closing_is_told_and_the_other_way_stays_open),
		cmocka_unit_test(a_peer_that_is_not_the_expected_one_is_refused),
		cmocka_unit_test(a_peer_that_is_the_expected_one_is_let_in),
		cmocka_unit_test(certificates_that_are_no_good_are_refused),
		cmocka_unit_test(a_server_with_a_clients_certificate_is_refused),
		cmocka_unit_test(chains_may_have_intermediates),
		cmocka_unit_test(certificates_may_be_large_but_not_endless),
		cmocka_unit_test(two_uris_from_a_foreign_stack_are_refused),
		cmocka_unit_test(a_server_says_who_may_come_without_a_certificate),
		cmocka_unit_test(protocols_must_have_something_in_common),
		cmocka_unit_test(what_is_no_tls_is_refused),
		cmocka_unit_test(a_broken_record_ends_the_session_with_an_alert),
		cmocka_unit_test(wrong_configurations_are_explained),
		cmocka_unit_test(a_context_knows_its_own_certificate),
		cmocka_unit_test(an_idle_session_is_small),
	};

	return cmocka_run_group_tests(tests, make_pki, drop_pki);
}
