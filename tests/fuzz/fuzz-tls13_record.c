/*
 * Records of a TLS 1.3 peer. The first byte says what the rest is: bytes from
 * the wire as they are, or records that an authentic but ill-meaning peer
 * makes (type, length, content), so that the fuzzer gets behind the encryption.
 */
#include <stdlib.h>
#include <string.h>

#include "proto/tls13_record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t one[TLS13_SECRET_MAX] = { 1 }, two[TLS13_SECRET_MAX] = { 2 };

static void make_end(struct tls13 *t, bool client)
{
	if (tls13_init(t, tls13_suite_find(0x1301), &aead_evp, client, client ? one : two, client ? two : one) < 0)
		abort();
}

/* What a peer may do to us: nothing but what is documented. */
static bool take(struct tls13 *t, const uint8_t *record, size_t len)
{
	uint8_t out[TLS13_OPEN_ROOM], owed[TLS13_PENDING_MAX];
	size_t n_record, n, n_owed;
	int r;

	r = tls13_record_len(t, record, len, &n_record);
	if (r == 0 && n_record <= len) {
		r = tls13_open(t, record, n_record, out, &n);
		if (n > TLS13_PLAINTEXT_MAX || (r != 0 && n))
			abort();
	}
	if ((r == TLS13_E_BROKEN) != (t->why != NULL) || tls13_pending(t) > sizeof(owed))
		abort();
	size_t pending = tls13_pending(t);
	if (tls13_take(t, owed, sizeof(owed), &n_owed) < 0 || n_owed != pending || tls13_pending(t))
		abort();
	return r == 0 && n_record <= len;
}

static void raw(struct tls13 *t, const uint8_t *data, size_t size)
{
	while (size) {
		size_t n = size >= 5 ? 5 + (size_t)(data[3] << 8 | data[4]) : size;

		if (!take(t, data, size))
			break;
		data += n;
		size -= n;
	}
}

/* The peer's own record layer makes only good records: here is one that makes any. */
static size_t forge(struct tls13 *from, uint8_t type, const uint8_t *data, size_t len, uint8_t *out)
{
	struct iovec iov[2] = { { (void *)(uintptr_t)data, len }, { &type, 1 } };
	uint8_t nonce[AEAD_NONCE_LEN], key[AEAD_KEY_MAX];
	size_t n = len + 1 + AEAD_TAG_LEN;
	struct aead_key *k;

	out[0] = 23, out[1] = 3, out[2] = 3, out[3] = (uint8_t)(n >> 8), out[4] = (uint8_t)n;
	memcpy(nonce, from->tx.iv, sizeof(nonce));
	for (int i = 0; i < 8; i++)
		nonce[11 - i] ^= (uint8_t)(from->tx.seq >> (8 * i));
	from->tx.seq++;
	if (tls13_expand_label(from->suite, from->tx.secret, "key", key, 16) < 0 || aead_evp.key_new(AEAD_AES_128_GCM, AEAD_SEAL, key, &k) < 0 ||
	    aead_evp.seal(k, nonce, out, TLS13_HEADER_LEN, iov, 2, out + TLS13_HEADER_LEN) < 0)
		abort();
	aead_evp.key_free(k);
	return TLS13_HEADER_LEN + n;
}

static void authentic(struct tls13 *t, struct tls13 *peer, const uint8_t *data, size_t size)
{
	static uint8_t record[TLS13_RECORD_MAX];

	while (size >= 2) {
		size_t len = MIN((size_t)data[1], size - 2);

		if (!take(t, record, forge(peer, data[0], data + 2, len, record)))
			break;
		data += 2 + len;
		size -= 2 + len;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct tls13 t, peer;

	if (!size)
		return 0;
	make_end(&t, data[0] & 1);
	make_end(&peer, !(data[0] & 1));
	if (data[0] & 2)
		authentic(&t, &peer, data + 1, size - 1);
	else
		raw(&t, data + 1, size - 1);
	tls13_deinit(&t);
	tls13_deinit(&peer);
	return 0;
}
