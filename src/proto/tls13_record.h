#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>
#include "base/defs.h"
#include "proto/aead.h"

/*
 * The TLS 1.3 record layer after the handshake (RFC 8446, section 5): records
 * in, plaintext out, and back. No sockets, no buffers: it sees whole records.
 *
 * What may come after the handshake is handled here: alerts, KeyUpdate in both
 * directions, NewSessionTicket (ignored). Answers that are owed to the peer
 * are not stored as bytes but as the fact that they are owed: tls13_take() or
 * the next tls13_seal() makes them.
 *
 * The expanded keys are a kilobyte each. They are made at first use, and
 * tls13_rest() drops them, so that an idle connection keeps its secrets only.
 * Without memory for them the thread's spare one does (aead_spare()): a
 * connection that has rested wakes in any case.
 */
enum {
	TLS13_HEADER_LEN = 5,
	TLS13_PLAINTEXT_MAX = 16384,			/* section 5.1 */
	TLS13_CIPHERTEXT_MAX = TLS13_PLAINTEXT_MAX + 256,	/* section 5.2, header not counted */
	TLS13_RECORD_MAX = TLS13_HEADER_LEN + TLS13_CIPHERTEXT_MAX,
	TLS13_OVERHEAD = TLS13_HEADER_LEN + 1 + AEAD_TAG_LEN,	/* of a record that we make */
	TLS13_OPEN_ROOM = TLS13_CIPHERTEXT_MAX - AEAD_TAG_LEN,	/* least room for tls13_open() */
	TLS13_SECRET_MAX = 48,
	TLS13_SEAL_PARTS = 62,			/* most parts of one tls13_seal() */
	TLS13_UPDATE_WORK = 48,			/* a KeyUpdate, compared with a short record */
	TLS13_PENDING_MAX = 2 * (TLS13_OVERHEAD + 5),
};

enum {
	_TLS13_E_SUCCESS,

	TLS13_E_MORE,		/* the record is not all there yet */
	TLS13_E_CLOSED,		/* close_notify: the peer will send no more */
	TLS13_E_REFUSED,	/* a fatal alert, see @peer_alert */
	TLS13_E_BROKEN,		/* the peer broke the protocol: an alert is owed, @why says what it was */
};

/* RFC 8446, section 6; those that we send. */
enum tls13_alert {
	TLS13_ALERT_CLOSE_NOTIFY = 0,
	TLS13_ALERT_UNEXPECTED_MESSAGE = 10,
	TLS13_ALERT_BAD_RECORD_MAC = 20,
	TLS13_ALERT_RECORD_OVERFLOW = 22,
	TLS13_ALERT_ILLEGAL_PARAMETER = 47,
	TLS13_ALERT_DECODE_ERROR = 50,
	TLS13_ALERT_INTERNAL_ERROR = 80,
	TLS13_ALERT_USER_CANCELED = 90,
};

enum tls13_content {		/* RFC 8446, section 5.1 */
	TLS13_CONTENT_ALERT = 21,
	TLS13_CONTENT_HANDSHAKE = 22,
	TLS13_CONTENT_DATA = 23,
};

const char *tls13_alert_name(uint8_t alert);	/* "unknown_ca"; "unknown alert" */

struct tls13_suite;
/* By the number in the handshake: 0x1301, 0x1302, 0x1303. NULL for others. */
const struct tls13_suite *tls13_suite_find(uint16_t number);
size_t tls13_suite_secret_len(const struct tls13_suite *suite);

struct tls13_half {			/* one direction */
	struct aead_key *expanded;	/* NULL until it is needed */
	uint64_t seq;
	uint8_t key[AEAD_KEY_MAX];
	uint8_t iv[AEAD_NONCE_LEN];
	uint8_t secret[TLS13_SECRET_MAX];
};

struct tls13 {
	const struct tls13_suite *suite;
	const struct aead *aead;
	struct tls13_half rx;
	struct tls13_half tx;
	uint64_t tx_limit;		/* records under one key, then KeyUpdate (section 5.5) */
	const char *why;		/* after TLS13_E_BROKEN */
	uint32_t work;			/* records that have come, and what else costs beside bytes; wraps */
	uint32_t message_left;		/* bytes of a handshake message still to come */
	uint8_t message[4];		/* its header */
	uint8_t n_message;		/* bytes of the header that are there */
	uint8_t n_tickets;
	uint8_t n_updates;		/* KeyUpdates since the last application data */
	uint8_t n_empty;		/* records without content since then */
	uint8_t alert;			/* to be sent, when @alert_owed */
	uint8_t peer_alert;
	bool client : 1;
	bool update_owed : 1;
	bool alert_owed : 1;
	bool tx_closed : 1;		/* an alert ended our direction */
	bool rx_closed : 1;
};

/*
 * Starts with the application traffic secrets of a handshake that is over;
 * @client: we are the client. -ENOMEM. Copies the secrets.
 */
MUST_CHECK int tls13_init(struct tls13 *t, const struct tls13_suite *suite, const struct aead *aead, bool client,
			  const uint8_t *rx_secret, const uint8_t *tx_secret);
void tls13_deinit(struct tls13 *t);	/* wipes; a zeroed @t is fine */
void tls13_rest(struct tls13 *t);	/* drops the expanded keys */

/*
 * Length of the record that starts at @data, header included. TLS13_E_MORE
 * when the header is not all there, TLS13_E_BROKEN (an alert is owed) when
 * this is no record.
 */
MUST_CHECK int tls13_record_len(struct tls13 *t, const uint8_t *data, size_t len, size_t *ret_len);

/*
 * Opens one whole record. @ret_len bytes of application data are in @out, which
 * has TLS13_OPEN_ROOM, or is where the record's ciphertext begins (@record +
 * TLS13_HEADER_LEN). 0 bytes are common: the record carried something else.
 * 0, TLS13_E_CLOSED, TLS13_E_REFUSED, TLS13_E_BROKEN, -ENOMEM.
 */
MUST_CHECK int tls13_open(struct tls13 *t, const uint8_t *record, size_t len, uint8_t *out, size_t *ret_len);

size_t tls13_pending(const struct tls13 *t);	/* bytes that tls13_take() would make */
size_t tls13_seal_size(const struct tls13 *t, size_t len);	/* at most so many come of tls13_seal() */

/* Makes what is owed, as far as whole records fit. -ENOMEM: our direction has ended, without an alert. */
MUST_CHECK int tls13_take(struct tls13 *t, uint8_t *out, size_t size, size_t *ret_len);

/*
 * Makes records of application data, what is owed before them. @n_iov is at
 * most TLS13_SEAL_PARTS, @size at least tls13_seal_size(). -EPIPE when our
 * direction has ended, -ENOBUFS, -EINVAL; -ENOMEM: it has ended by that, since
 * what was made is lost, and no alert is owed any more.
 */
MUST_CHECK int tls13_seal(struct tls13 *t, const struct iovec *iov, size_t n_iov, uint8_t *out, size_t size, size_t *ret_len);

/*
 * One record as it is, whatever its content: what the functions above are made
 * of (section 5.2). Sealing takes @len bytes in @n_iov parts, at most
 * TLS13_PLAINTEXT_MAX; @iov has room for one more part, and @out for @len +
 * TLS13_OVERHEAD. Opening is as tls13_open() in what it wants and returns, but
 * for the ends that a content makes.
 */
MUST_CHECK int tls13_seal_record(struct tls13 *t, enum tls13_content type, struct iovec *iov, size_t n_iov, size_t len, uint8_t *out);
MUST_CHECK int tls13_open_record(struct tls13 *t, const uint8_t *record, size_t len, uint8_t *out, uint8_t *ret_type, size_t *ret_len);

/* Ends our direction with @alert, unless it has ended. */
void tls13_close(struct tls13 *t, enum tls13_alert alert);

/* HKDF-Expand-Label with an empty context (section 7.1), @len at most the hash's length. */
MUST_CHECK int tls13_expand_label(const struct tls13_suite *suite, const uint8_t *secret, const char *label,
				  uint8_t *ret_key, size_t len);
