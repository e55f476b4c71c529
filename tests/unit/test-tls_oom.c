/*
 * TLS when memory ends: each allocation of two handshakes and what follows
 * fails once, libcrypto's included. A session may be lost, but says so.
 */
#include "lib/unit.h"
#include "lib/pki.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/alloc.h"
#include "mesh/tls.h"
#include "proto/aead.h"
#include "proto/tls13_record.h"

enum { ROOM = 64 * 1024 };

static struct pki *pki;
static const struct pki_leaf *leaf;
static uint8_t bytes[ROOM], plain[ROOM];

static int feed(struct tls_session *s, size_t len)
{
	int r = 0;

	for (size_t at = 0; at < len && r == 0; at += 700) {	/* so that records come in parts */
		struct tls_in in = { .data = bytes + at, .len = MIN(len - at, (size_t)700), .out = plain, .out_size = ROOM };

		r = tls_feed(s, &in);
	}
	return r;
}

static int carry(struct tls_session *a, struct tls_session *b)
{
	int r = 0;

	for (int i = 0; i < 8 && r == 0 && (tls_pending(a) || tls_pending(b)); i++) {
		r = feed(b, tls_take(a, bytes, ROOM));
		if (r == 0)
			r = feed(a, tls_take(b, bytes, ROOM));
	}
	return r;
}

static int talk(struct tls_session *a, struct tls_session *b)
{
	static uint8_t text[20000];
	struct iovec iov = { text, sizeof(text) };
	size_t n;
	int r;

	if (!tls_is_open(a) || !tls_is_open(b))
		return TLS_E_PROTOCOL;
	r = tls_seal(a, &iov, 1, bytes, ROOM, &n);
	if (r == 0)
		r = feed(b, n);
	if (r == 0)
		r = tls_shutdown(a);
	if (r == 0)
		r = carry(a, b);
	return r == TLS_E_CLOSED ? 0 : r;
}

static int meet(struct tls_ctx *c, struct tls_ctx *s)
{
	struct tls_session *a = NULL, *b = NULL;
	int r;

	r = tls_session_new(c, NULL, &a);
	if (r == 0)
		r = tls_session_new(s, NULL, &b);
	if (r == 0)
		r = carry(a, b);
	if (r == 0)
		r = talk(a, b);
	tls_session_free(a);
	tls_session_free(b);
	return r;
}

static struct tls_ctx *ctx_of(enum tls_role role)
{
	struct tls_config c = { .role = role, .cert_pem = leaf->cert_pem, .key_pem = leaf->key_pem, .roots_pem = pki_root_pem(pki) };
	struct tls_ctx *ctx;

	assert_int_equal(tls_ctx_new(&c, &ctx, NULL), 0);
	return ctx;
}

static void every_allocation_of_a_session_may_fail(void **state)
{
	struct tls_ctx *c = ctx_of(TLS_CLIENT), *s = ctx_of(TLS_SERVER);
	size_t total, step;

	(void)state;
	assert_int_equal(meet(c, s), 0);	/* what is made once has been made */
	alloc_fail_at(SIZE_MAX);
	assert_int_equal(meet(c, s), 0);
	total = alloc_fail_stop();
	step = 1 + total / 1500;		/* thousands, most of them in libcrypto: all kinds of them, in a second or two */
	for (size_t n = 1; n <= total; n += step) {
		int r;

		alloc_fail_once_at(n);
		r = meet(c, s);
		alloc_fail_stop();
		assert_true(r == 0 || r == -ENOMEM || r == TLS_E_PROTOCOL || r == TLS_E_REFUSED || r == TLS_E_VERIFY);
	}
	assert_int_equal(meet(c, s), 0);
	tls_ctx_unref(c);
	tls_ctx_unref(s);
}

/* An end that has sent something, so that its key is expanded and its number is not 0, and that owes a KeyUpdate. */
static void owing_end(struct tls13 *t)
{
	static const uint8_t secret[2][TLS13_SECRET_MAX] = { { 1 }, { 2 } };
	struct iovec iov = { plain, 100 };
	size_t n;

	assert_int_equal(tls13_init(t, tls13_suite_find(0x1301), aead_best(), true, secret[0], secret[1]), 0);
	assert_int_equal(tls13_seal(t, &iov, 1, bytes, ROOM, &n), 0);
	t->update_owed = true;
}

/* Numbers that start anew while the old key is in place would be the same nonces again. */
static int update(struct tls13 *t, bool with_data)
{
	struct tls13_half before = t->tx;
	struct iovec iov = { plain, 100 };
	size_t n;
	int r = with_data ? tls13_seal(t, &iov, 1, bytes, ROOM, &n) : tls13_take(t, bytes, ROOM, &n);
	bool same = !memcmp(before.secret, t->tx.secret, sizeof(before.secret));

	alloc_fail_stop();
	assert_int_equal(same, !memcmp(before.key, t->tx.key, sizeof(before.key)));
	assert_int_equal(same, !memcmp(before.iv, t->tx.iv, sizeof(before.iv)));
	assert_true(!same || t->tx.seq >= before.seq);
	return r;
}

/* What was lost on the way is not followed by anything, an alert neither. */
static void assert_over(struct tls13 *t)
{
	struct iovec iov = { plain, 100 };
	size_t n;

	tls13_close(t, TLS13_ALERT_CLOSE_NOTIFY);
	assert_int_equal(tls13_pending(t), 0);
	assert_int_equal(tls13_take(t, bytes, ROOM, &n), 0);
	assert_int_equal(n, 0);
	assert_int_equal(tls13_seal(t, &iov, 1, bytes, ROOM, &n), -EPIPE);
}

static void a_key_update_is_whole_or_is_not(void **state)
{
	enum { MORE_THAN_IT_TAKES = 64 };

	(void)state;
	for (int with_data = 0; with_data < 2; with_data++) {
		size_t failures = 0;

		for (size_t at = 1; at <= MORE_THAN_IT_TAKES; at++) {
			struct tls13 t;

			owing_end(&t);
			alloc_fail_once_at(at);
			if (update(&t, with_data) < 0) {
				failures++;
				assert_over(&t);
			} else {
				assert_int_equal(t.tx.seq, with_data);
			}
			tls13_deinit(&t);
		}
		assert_true(failures > 0 && failures < MORE_THAN_IT_TAKES);
	}
}

enum { SHORT = 100, LONG = 20000 };	/* whole, and in parts */

static int say(struct tls_session *a, struct tls_session *b, size_t len)
{
	static uint8_t text[LONG];
	struct iovec iov = { text, len };
	size_t n;
	int r = tls_seal(a, &iov, 1, bytes, ROOM, &n);

	return r < 0 ? r : feed(b, n);
}

/* Both ends of an open connection. */
static void open_pair(struct tls_session **ret_a, struct tls_session **ret_b)
{
	struct tls_ctx *c = ctx_of(TLS_CLIENT), *s = ctx_of(TLS_SERVER);

	assert_int_equal(tls_session_new(c, NULL, ret_a), 0);
	assert_int_equal(tls_session_new(s, NULL, ret_b), 0);
	assert_int_equal(carry(*ret_a, *ret_b), 0);
	tls_ctx_unref(c);
	tls_ctx_unref(s);
}

/* What it may need for them it has, until it rests. */
static void a_session_that_holds_takes_records_without_memory(void **state)
{
	struct tls_session *a, *b;

	(void)state;
	open_pair(&a, &b);
	tls_hold(b);
	assert_int_equal(say(a, b, SHORT), 0);		/* it has its keys */
	alloc_fail_at(1);
	for (int i = 0; i < 10; i++)
		assert_int_equal(say(a, b, LONG), 0);
	assert_int_equal(alloc_fail_stop(), 0);

	tls_rest(b);
	assert_int_equal(say(a, b, LONG), 0);
	alloc_fail_at(1);
	assert_int_equal(say(a, b, LONG), 0);
	assert_int_equal(alloc_fail_stop(), 0);
	/* It says that it would need some, and wakes when there is some. */
	tls_rest(b);
	alloc_fail_at(1);
	assert_int_equal(tls_wake(b), -ENOMEM);
	assert_true(alloc_fail_stop() > 0);
	assert_int_equal(tls_wake(b), 0);
	alloc_fail_at(1);
	assert_int_equal(say(a, b, LONG), 0);
	assert_true(alloc_fail_stop() > 0);	/* keys: the spare one did */

	tls_rest(b);
	alloc_fail_at(1);
	assert_int_equal(say(a, b, LONG), -ENOMEM);
	assert_true(alloc_fail_stop() > 0);
	tls_session_free(a);
	tls_session_free(b);
}

static void a_spare_key_takes_no_memory(void **state)
{
	static const uint8_t key[AEAD_KEY_MAX] = { 1, 2, 3 };
	const struct aead *all[] = { &aead_evp, aead_best() };

	(void)state;
	for (size_t i = 0; i < ELEMENTS(all); i++)
		for (enum aead_alg alg = 0; alg < _AEAD_ALG_N; alg++) {
			struct aead_key *k;
			struct iovec iov = { plain, LONG / 2 };
			uint8_t nonce[AEAD_NONCE_LEN] = {};

			aead_spare_make(all[i], alg);
			alloc_fail_at(1);
			k = aead_spare(all[i], alg, key);
			assert_non_null(k);
			assert_int_equal(all[i]->seal(k, nonce, key, 5, &iov, 1, bytes), 0);
			assert_true(all[i]->open(k, nonce, key, 5, bytes, LONG / 2 + AEAD_TAG_LEN, bytes));
			aead_spare_done(all[i], k);
			alloc_fail_stop();
		}
}

/* Keys that were given back are not needed to go on. */
static void a_rested_session_goes_on_without_memory(void **state)
{
	struct tls_session *a, *b;

	(void)state;
	open_pair(&a, &b);
	tls_hold(a);
	tls_hold(b);
	assert_int_equal(say(a, b, SHORT), 0);
	assert_int_equal(say(b, a, SHORT), 0);
	for (int i = 0; i < 3; i++) {
		tls_rest(a);
		tls_rest(b);
		assert_int_equal(tls_wake(a), 0);
		assert_int_equal(tls_wake(b), 0);
		alloc_fail_at(1);
		assert_int_equal(say(a, b, LONG), 0);
		assert_int_equal(say(b, a, LONG), 0);
		assert_int_equal(say(b, a, SHORT), 0);
		assert_true(alloc_fail_stop() > 0);
	}
	assert_int_equal(say(a, b, LONG), 0);
	assert_int_equal(say(b, a, LONG), 0);
	tls_session_free(a);
	tls_session_free(b);
}

static void every_allocation_of_a_context_may_fail(void **state)
{
	struct tls_config c = { .role = TLS_SERVER, .cert_pem = leaf->cert_pem, .key_pem = leaf->key_pem, .roots_pem = pki_root_pem(pki) };
	struct tls_ctx *ctx;
	size_t total, step;

	(void)state;
	alloc_fail_at(SIZE_MAX);
	tls_ctx_unref(ctx_of(TLS_SERVER));
	total = alloc_fail_stop();
	step = 1 + total / 500;
	for (size_t n = 1; n <= total; n += step) {
		int r;

		ctx = NULL;
		alloc_fail_once_at(n);
		r = tls_ctx_new(&c, &ctx, NULL);
		alloc_fail_stop();
		assert_true(r == 0 || r == -ENOMEM || r == -EINVAL);	/* libcrypto does not always say that it was memory */
		if (r == 0)
			tls_ctx_unref(ctx);
	}
}

static int make_pki(void **state)
{
	(void)state;
	pki = pki_new();
	leaf = pki_issue_san(pki, "URI:spiffe://td/ns/a/sa/b");
	return 0;
}

static int drop_pki(void **state)
{
	(void)state;
	pki_free(pki);
	return 0;
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_allocation_of_a_session_may_fail),
		cmocka_unit_test(a_key_update_is_whole_or_is_not),
		cmocka_unit_test(a_session_that_holds_takes_records_without_memory),
		cmocka_unit_test(a_spare_key_takes_no_memory),
		cmocka_unit_test(a_rested_session_goes_on_without_memory),
		cmocka_unit_test(every_allocation_of_a_context_may_fail),
	};

	if (pki_take_malloc() != 1)
		return 1;
	return cmocka_run_group_tests(tests, make_pki, drop_pki);
}
