/*
 * TLS 1.3 records: keys, nonces, content types, and the few messages that
 * may follow a handshake.
 */
#include "proto/tls13_record.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <string.h>

#include "base/wire.h"

enum {
	MESSAGE_NEW_SESSION_TICKET = 4,
	MESSAGE_KEY_UPDATE = 24,

	ALERT_LEN = 2,
	KEY_UPDATE_LEN = 5,
	UPDATE_NOT_REQUESTED = 0,
	UPDATE_REQUESTED = 1,

	TICKET_MAX_LEN = 132 * 1024,	/* the longest that section 4.6.1 allows, rounded up */
	MAX_TICKETS = 64,		/* of a connection; we never use one */
	MAX_UPDATES = 32,		/* between application data */
	MAX_EMPTY = 32,			/* the same, of records that carry nothing */
};

struct tls13_suite {
	uint16_t number;
	enum aead_alg alg;
	const EVP_MD *(*hash)(void);
	uint8_t secret_len;
	uint64_t tx_limit;
};

/* Section 5.5: AES-GCM 2^24.5 records of full size; ChaCha20 has no limit that could be reached. */
static const struct tls13_suite suites[] = {
	{ 0x1301, AEAD_AES_128_GCM, EVP_sha256, 32, 1u << 23 },
	{ 0x1302, AEAD_AES_256_GCM, EVP_sha384, 48, 1u << 23 },
	{ 0x1303, AEAD_CHACHA20_POLY1305, EVP_sha256, 32, (uint64_t)1 << 40 },
};

static const struct {
	uint8_t alert;
	const char *name;
} alert_names[] = {
	{ 0, "close_notify" }, { 10, "unexpected_message" }, { 20, "bad_record_mac" }, { 22, "record_overflow" },
	{ 40, "handshake_failure" }, { 42, "bad_certificate" }, { 43, "unsupported_certificate" },
	{ 44, "certificate_revoked" }, { 45, "certificate_expired" }, { 46, "certificate_unknown" },
	{ 47, "illegal_parameter" }, { 48, "unknown_ca" }, { 49, "access_denied" }, { 50, "decode_error" },
	{ 51, "decrypt_error" }, { 70, "protocol_version" }, { 71, "insufficient_security" },
	{ 80, "internal_error" }, { 86, "inappropriate_fallback" }, { 90, "user_canceled" },
	{ 109, "missing_extension" }, { 110, "unsupported_extension" }, { 112, "unrecognized_name" },
	{ 113, "bad_certificate_status_response" }, { 115, "unknown_psk_identity" },
	{ 116, "certificate_required" }, { 120, "no_application_protocol" },
};

const char *tls13_alert_name(uint8_t alert)
{
	for (size_t i = 0; i < ELEMENTS(alert_names); i++)
		if (alert_names[i].alert == alert)
			return alert_names[i].name;
	return "unknown alert";
}

const struct tls13_suite *tls13_suite_find(uint16_t number)
{
	for (size_t i = 0; i < ELEMENTS(suites); i++)
		if (suites[i].number == number)
			return &suites[i];
	return NULL;
}

size_t tls13_suite_secret_len(const struct tls13_suite *suite)
{
	return suite->secret_len;
}

/* --- keys, section 7 --- */

int tls13_expand_label(const struct tls13_suite *suite, const uint8_t *secret, const char *label,
		       uint8_t *ret_key, size_t len)
{
	size_t n_label = strlen(label);
	uint8_t info[32], mac[EVP_MAX_MD_SIZE];
	unsigned int n_mac;
	size_t n = 0;

	if (n_label > sizeof(info) - 11 || len > suite->secret_len)
		return -EINVAL;
	info[n++] = 0;
	info[n++] = (uint8_t)len;
	info[n++] = (uint8_t)(n_label + 6);
	memcpy(info + n, "tls13 ", 6);
	memcpy(info + n + 6, label, n_label);
	n += 6 + n_label;
	info[n++] = 0;		/* no context */
	info[n++] = 1;		/* HKDF-Expand: the first block is all we need */
	if (!HMAC(suite->hash(), secret, suite->secret_len, info, n, mac, &n_mac))
		return -ENOMEM;
	memcpy(ret_key, mac, len);
	OPENSSL_cleanse(mac, sizeof(mac));
	return 0;
}

static void half_rest(struct tls13 *t, struct tls13_half *h)
{
	if (h->expanded)
		t->aead->key_free(h->expanded);
	h->expanded = NULL;
}

/* The key and the IV that follow from its secret. */
static int half_derive(const struct tls13 *t, struct tls13_half *h)
{
	int r = tls13_expand_label(t->suite, h->secret, "iv", h->iv, sizeof(h->iv));

	return r < 0 ? r : tls13_expand_label(t->suite, h->secret, "key", h->key, aead_key_len(t->suite->alg));
}

static int half_start(const struct tls13 *t, struct tls13_half *h, const uint8_t *secret)
{
	memcpy(h->secret, secret, t->suite->secret_len);
	return half_derive(t, h);
}

/*
 * Section 7.2: what comes after @h, which stays in use until half_replace().
 * Never in part: numbers that start anew under the old key would be its nonces
 * for a second time.
 */
static int half_next(const struct tls13 *t, const struct tls13_half *h, struct tls13_half *ret_next)
{
	int r;

	*ret_next = (struct tls13_half){};
	r = tls13_expand_label(t->suite, h->secret, "traffic upd", ret_next->secret, t->suite->secret_len);
	if (r == 0)
		r = half_derive(t, ret_next);
	if (r < 0)
		OPENSSL_cleanse(ret_next, sizeof(*ret_next));
	return r;
}

static void half_replace(struct tls13 *t, struct tls13_half *h, struct tls13_half *next)
{
	half_rest(t, h);
	*h = *next;
	OPENSSL_cleanse(next, sizeof(*next));
}

static int half_update(struct tls13 *t, struct tls13_half *h)
{
	struct tls13_half next;
	int r = half_next(t, h, &next);

	if (r == 0)
		half_replace(t, h, &next);
	return r;
}

static struct aead_key *half_expand(struct tls13 *t, struct tls13_half *h)
{
	unsigned use = h == &t->tx ? AEAD_SEAL : AEAD_OPEN;

	if (t->aead->key_new(t->suite->alg, use, h->key, &h->expanded) < 0)
		return aead_spare(t->aead, t->suite->alg, h->key);
	aead_spare_make(t->aead, t->suite->alg);
	return h->expanded;
}

/* The expanded key for one record, to be given back by half_done(). NULL: out of memory, without a spare one too. */
static inline struct aead_key *half_ready(struct tls13 *t, struct tls13_half *h)
{
	return h->expanded ? h->expanded : half_expand(t, h);
}

static inline void half_done(struct tls13 *t, struct tls13_half *h, struct aead_key *k)
{
	if (k != h->expanded)
		aead_spare_done(t->aead, k);
}

/* Section 5.3 */
static void half_nonce(struct tls13_half *h, uint8_t nonce[static AEAD_NONCE_LEN])
{
	uint64_t seq = h->seq++;

	memcpy(nonce, h->iv, AEAD_NONCE_LEN);
	for (int i = 0; i < 8; i++)
		nonce[AEAD_NONCE_LEN - 1 - i] ^= (uint8_t)(seq >> (8 * i));
}

int tls13_init(struct tls13 *t, const struct tls13_suite *suite, const struct aead *aead, bool client,
	       const uint8_t *rx_secret, const uint8_t *tx_secret)
{
	int r;

	*t = (struct tls13){ .suite = suite, .aead = aead, .client = client, .tx_limit = suite->tx_limit };
	r = half_start(t, &t->rx, rx_secret);
	if (r == 0)
		r = half_start(t, &t->tx, tx_secret);
	if (r < 0)
		tls13_deinit(t);
	return r;
}

void tls13_rest(struct tls13 *t)
{
	half_rest(t, &t->rx);
	half_rest(t, &t->tx);
}

void tls13_deinit(struct tls13 *t)
{
	if (t->suite)
		tls13_rest(t);
	OPENSSL_cleanse(t, sizeof(*t));
}

/* --- out --- */

void tls13_close(struct tls13 *t, enum tls13_alert alert)
{
	if (t->tx_closed || t->alert_owed)
		return;
	t->alert = (uint8_t)alert;
	t->alert_owed = true;
}

static int broken(struct tls13 *t, enum tls13_alert alert, const char *why)
{
	t->why = why;
	t->rx_closed = true;
	tls13_close(t, alert);
	return TLS13_E_BROKEN;
}

int tls13_seal_record(struct tls13 *t, enum tls13_content type, struct iovec *iov, size_t n_iov, size_t len, uint8_t *out)
{
	uint8_t nonce[AEAD_NONCE_LEN], inner = (uint8_t)type;
	struct aead_key *key = half_ready(t, &t->tx);
	size_t n = len + 1 + AEAD_TAG_LEN;
	int r;

	if (!key)
		return -ENOMEM;
	out[0] = TLS13_CONTENT_DATA;
	out[1] = 3;
	out[2] = 3;
	out[3] = (uint8_t)(n >> 8);
	out[4] = (uint8_t)n;
	iov[n_iov++] = (struct iovec){ &inner, 1 };
	half_nonce(&t->tx, nonce);
	r = t->aead->seal(key, nonce, out, TLS13_HEADER_LEN, iov, n_iov, out + TLS13_HEADER_LEN);
	half_done(t, &t->tx, key);
	return r;
}

static int seal_small(struct tls13 *t, enum tls13_content type, void *data, size_t len, uint8_t *out)
{
	struct iovec iov[2] = { { data, len } };

	return tls13_seal_record(t, type, iov, 1, len, out);
}

/* Section 4.6.3. Our own never ask for one in return. */
static int seal_key_update(struct tls13 *t, uint8_t *out)
{
	uint8_t message[KEY_UPDATE_LEN] = { MESSAGE_KEY_UPDATE, 0, 0, 1, UPDATE_NOT_REQUESTED };
	struct tls13_half next;
	int r;

	r = half_next(t, &t->tx, &next);
	if (r < 0)
		return r;
	r = seal_small(t, TLS13_CONTENT_HANDSHAKE, message, sizeof(message), out);
	if (r < 0) {
		OPENSSL_cleanse(&next, sizeof(next));
		return r;
	}
	t->update_owed = false;
	half_replace(t, &t->tx, &next);
	return 0;
}

static int seal_alert(struct tls13 *t, uint8_t *out)
{
	enum { WARNING = 1, FATAL = 2 };
	uint8_t message[ALERT_LEN] = { t->alert == TLS13_ALERT_CLOSE_NOTIFY ? WARNING : FATAL, t->alert };

	t->alert_owed = false;
	t->tx_closed = true;
	return seal_small(t, TLS13_CONTENT_ALERT, message, sizeof(message), out);
}

/* Records that were sealed and not handed out leave a gap that the peer sees in what comes after: nothing does. */
static int tx_lost(struct tls13 *t, int r)
{
	t->tx_closed = true;
	t->alert_owed = false;
	return r;
}

static bool update_due(const struct tls13 *t)
{
	return t->update_owed && !t->tx_closed;
}

size_t tls13_pending(const struct tls13 *t)
{
	return (update_due(t) ? TLS13_OVERHEAD + KEY_UPDATE_LEN : 0) + (t->alert_owed ? TLS13_OVERHEAD + ALERT_LEN : 0);
}

int tls13_take(struct tls13 *t, uint8_t *out, size_t size, size_t *ret_len)
{
	size_t n = 0;
	int r;

	if (update_due(t) && size >= TLS13_OVERHEAD + KEY_UPDATE_LEN) {
		r = seal_key_update(t, out);
		if (r < 0)
			return tx_lost(t, r);
		n += TLS13_OVERHEAD + KEY_UPDATE_LEN;
	}
	if (t->alert_owed && !t->update_owed && size - n >= TLS13_OVERHEAD + ALERT_LEN) {
		r = seal_alert(t, out + n);
		if (r < 0)
			return tx_lost(t, r);
		n += TLS13_OVERHEAD + ALERT_LEN;
	}
	*ret_len = n;
	return 0;
}

size_t tls13_seal_size(const struct tls13 *t, size_t len)
{
	size_t n_records = (len + TLS13_PLAINTEXT_MAX - 1) / TLS13_PLAINTEXT_MAX;
	size_t updates = 1 + (t->tx.seq + n_records >= t->tx_limit ? 1 + n_records / t->tx_limit : 0);

	return len + n_records * TLS13_OVERHEAD + updates * (TLS13_OVERHEAD + KEY_UPDATE_LEN);
}

/* The parts of the next record: as much of @iov as fits into one. Moves on in @iov. */
static size_t next_parts(const struct iovec *iov, size_t n_iov, size_t *at, size_t *offset, struct iovec *ret_parts, size_t *ret_n)
{
	size_t len = 0, n = 0;

	while (*at < n_iov && len < TLS13_PLAINTEXT_MAX) {
		size_t part = MIN(iov[*at].iov_len - *offset, TLS13_PLAINTEXT_MAX - len);

		if (part)
			ret_parts[n++] = (struct iovec){ (uint8_t *)iov[*at].iov_base + *offset, part };
		len += part;
		*offset += part;
		if (*offset == iov[*at].iov_len) {
			(*at)++;
			*offset = 0;
		}
	}
	*ret_n = n;
	return len;
}

int tls13_seal(struct tls13 *t, const struct iovec *iov, size_t n_iov, uint8_t *out, size_t size, size_t *ret_len)
{
	struct iovec parts[TLS13_SEAL_PARTS + 1];
	size_t n_out = 0, at = 0, offset = 0, total = 0, n_parts, len;
	int r;

	if (t->tx_closed || t->alert_owed)
		return -EPIPE;
	if (n_iov > TLS13_SEAL_PARTS)
		return -EINVAL;
	for (size_t i = 0; i < n_iov; i++)
		total += iov[i].iov_len;
	if (size < tls13_seal_size(t, total))
		return -ENOBUFS;

	while ((len = next_parts(iov, n_iov, &at, &offset, parts, &n_parts))) {
		if (t->update_owed || t->tx.seq >= t->tx_limit) {
			r = seal_key_update(t, out + n_out);
			if (r < 0)
				return tx_lost(t, r);
			n_out += TLS13_OVERHEAD + KEY_UPDATE_LEN;
		}
		r = tls13_seal_record(t, TLS13_CONTENT_DATA, parts, n_parts, len, out + n_out);
		if (r < 0)
			return tx_lost(t, r);
		n_out += len + TLS13_OVERHEAD;
	}
	*ret_len = n_out;
	return 0;
}

/* --- in --- */

int tls13_record_len(struct tls13 *t, const uint8_t *data, size_t len, size_t *ret_len)
{
	struct wire w = wire_init(data, len);
	uint8_t type = wire_u8(&w);
	uint8_t major = wire_u8(&w);

	wire_u8(&w);
	size_t body = wire_u16(&w);
	if (len && type != TLS13_CONTENT_DATA)	/* everything is encrypted by now, section 5 */
		return broken(t, TLS13_ALERT_UNEXPECTED_MESSAGE, "a record that is not encrypted");
	if (w.bad)
		return TLS13_E_MORE;
	if (major != 3)
		return broken(t, TLS13_ALERT_DECODE_ERROR, "not a TLS record");
	if (body > TLS13_CIPHERTEXT_MAX)
		return broken(t, TLS13_ALERT_RECORD_OVERFLOW, "a record longer than allowed");
	if (body < 1 + AEAD_TAG_LEN)
		return broken(t, TLS13_ALERT_DECODE_ERROR, "a record too short to be one");
	*ret_len = TLS13_HEADER_LEN + body;
	return 0;
}

/* Section 6: alone in its record and whole. */
static int on_alert(struct tls13 *t, const uint8_t *data, size_t len)
{
	if (len != ALERT_LEN)
		return broken(t, TLS13_ALERT_DECODE_ERROR, "a fragmented or joined alert");
	t->peer_alert = data[1];
	if (data[1] == TLS13_ALERT_USER_CANCELED) {	/* close_notify follows */
		if (t->n_empty++ >= MAX_EMPTY)
			return broken(t, TLS13_ALERT_UNEXPECTED_MESSAGE, "too many warnings");
		return 0;
	}
	t->rx_closed = true;
	if (data[1] == TLS13_ALERT_CLOSE_NOTIFY)
		return TLS13_E_CLOSED;
	t->tx_closed = true;		/* fatal: nothing may be sent any more, section 6.2 */
	t->alert_owed = t->update_owed = false;
	return TLS13_E_REFUSED;
}

static int on_message_header(struct tls13 *t)
{
	struct wire w = wire_init(t->message, sizeof(t->message));
	uint8_t type = wire_u8(&w);
	uint32_t len = wire_u24(&w);

	if (type == MESSAGE_KEY_UPDATE) {
		if (len != 1)
			return broken(t, TLS13_ALERT_DECODE_ERROR, "a KeyUpdate of the wrong length");
		if (t->n_updates++ >= MAX_UPDATES)
			return broken(t, TLS13_ALERT_UNEXPECTED_MESSAGE, "too many KeyUpdates");
	} else if (type == MESSAGE_NEW_SESSION_TICKET && t->client) {
		if (!len || len > TICKET_MAX_LEN)
			return broken(t, TLS13_ALERT_DECODE_ERROR, "a NewSessionTicket of impossible length");
		if (t->n_tickets++ >= MAX_TICKETS)
			return broken(t, TLS13_ALERT_UNEXPECTED_MESSAGE, "too many NewSessionTickets");
	} else {
		return broken(t, TLS13_ALERT_UNEXPECTED_MESSAGE, "a handshake message after the handshake");
	}
	t->message_left = len;
	return 0;
}

static int on_key_update(struct tls13 *t, uint8_t request, bool last)
{
	if (request != UPDATE_NOT_REQUESTED && request != UPDATE_REQUESTED)
		return broken(t, TLS13_ALERT_ILLEGAL_PARAMETER, "a KeyUpdate that asks for something unknown");
	if (!last)			/* section 5.1: a key change ends its record */
		return broken(t, TLS13_ALERT_UNEXPECTED_MESSAGE, "a message behind a KeyUpdate");
	t->work += TLS13_UPDATE_WORK;
	if (request == UPDATE_REQUESTED)
		t->update_owed = true;	/* one answer will do for several, section 4.6.3 */
	return half_update(t, &t->rx);
}

static int on_handshake(struct tls13 *t, const uint8_t *data, size_t len)
{
	int r = 0;

	if (!len)
		return broken(t, TLS13_ALERT_UNEXPECTED_MESSAGE, "an empty handshake record");
	while (len && r == 0) {
		if (t->n_message < sizeof(t->message)) {
			t->message[t->n_message++] = *data++;
			len--;
			if (t->n_message == sizeof(t->message))
				r = on_message_header(t);
			continue;
		}

		size_t n = MIN(len, (size_t)t->message_left);
		if (t->message[0] == MESSAGE_KEY_UPDATE)
			r = on_key_update(t, data[0], len == 1);
		data += n;
		len -= n;
		t->message_left -= (uint32_t)n;
		if (!t->message_left)
			t->n_message = 0;
	}
	return r;
}

static int on_content(struct tls13 *t, uint8_t type, const uint8_t *data, size_t len, size_t *ret_len)
{
	if (type != TLS13_CONTENT_HANDSHAKE && t->n_message)	/* section 5.1 */
		return broken(t, TLS13_ALERT_UNEXPECTED_MESSAGE, "another record inside a handshake message");
	switch (type) {
	case TLS13_CONTENT_DATA:
		if (!len && t->n_empty++ >= MAX_EMPTY)
			return broken(t, TLS13_ALERT_UNEXPECTED_MESSAGE, "too many empty records");
		if (len)
			t->n_empty = t->n_updates = 0;
		*ret_len = len;
		return 0;
	case TLS13_CONTENT_HANDSHAKE:
		return on_handshake(t, data, len);
	case TLS13_CONTENT_ALERT:
		return on_alert(t, data, len);
	default:
		return broken(t, TLS13_ALERT_UNEXPECTED_MESSAGE, "a record of unknown content");
	}
}

/* What the end was, for those who ask again. */
static int over(const struct tls13 *t)
{
	if (t->why)
		return TLS13_E_BROKEN;
	return t->peer_alert == TLS13_ALERT_CLOSE_NOTIFY ? TLS13_E_CLOSED : TLS13_E_REFUSED;
}

int tls13_open_record(struct tls13 *t, const uint8_t *record, size_t len, uint8_t *out, uint8_t *ret_type, size_t *ret_len)
{
	size_t n = len - TLS13_HEADER_LEN - AEAD_TAG_LEN;
	uint8_t nonce[AEAD_NONCE_LEN];
	struct aead_key *key = half_ready(t, &t->rx);
	bool authentic;

	if (!key)
		return -ENOMEM;
	t->work++;
	half_nonce(&t->rx, nonce);
	authentic = t->aead->open(key, nonce, record, TLS13_HEADER_LEN, record + TLS13_HEADER_LEN, len - TLS13_HEADER_LEN, out);
	half_done(t, &t->rx, key);
	if (!authentic)
		return broken(t, TLS13_ALERT_BAD_RECORD_MAC, "a record that does not decrypt");

	if (n > TLS13_PLAINTEXT_MAX + 1)	/* section 5.4: with type and padding */
		return broken(t, TLS13_ALERT_RECORD_OVERFLOW, "a record longer than allowed");
	while (n && !out[n - 1])		/* the last byte that is not zero is the type */
		n--;
	if (!n)
		return broken(t, TLS13_ALERT_UNEXPECTED_MESSAGE, "a record of padding only");
	*ret_type = out[n - 1];
	*ret_len = n - 1;
	return 0;
}

int tls13_open(struct tls13 *t, const uint8_t *record, size_t len, uint8_t *out, size_t *ret_len)
{
	uint8_t type;
	size_t n;
	int r;

	*ret_len = 0;
	if (t->rx_closed)
		return over(t);
	r = tls13_open_record(t, record, len, out, &type, &n);
	return r ? r : on_content(t, type, out, n, ret_len);
}
