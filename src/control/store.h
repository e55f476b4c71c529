#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/diag.h"
#include "base/ip.h"

/*
 * What the controller must still know after a restart. The interface is free of
 * SQL, so that another back end can take its place (meson links one).
 *
 * A write that fails changes nothing. Errors: -ENOSPC (disk full, or read-only),
 * -EBUSY, -EIO, -EBADMSG (damaged), -ENOMEM; store_error() says it in words.
 * Times are seconds since 1970, 0: never. Not thread-safe.
 */
struct store;

enum { STORE_HASH_LEN = 32, STORE_ID_LEN = 17, STORE_NAME_LEN = 256 };

/*
 * Opens or creates <dir>/controller.db. A database of a newer or unknown
 * version, or one that another process has open, is refused: -EINVAL with
 * @reterr_diag.
 */
MUST_CHECK int store_open(const char *dir, struct store **ret_store, struct diag *reterr_diag);
struct store *store_close(struct store *s);
const char *store_error(const struct store *s);

/* --- join tokens: only the hash of the secret is kept --- */

struct store_token {
	char id[STORE_ID_LEN];
	uint8_t hash[STORE_HASH_LEN];
	char nic[STORE_NAME_LEN];	/* "": any NIC */
	char note[STORE_NAME_LEN];
	int64_t created_at;
	int64_t expires_at;
	int64_t used_at;
	char used_by[STORE_NAME_LEN];
	int64_t revoked_at;
};

MUST_CHECK int store_token_add(struct store *s, const struct store_token *t);
MUST_CHECK int store_token_get(struct store *s, const char *id, struct store_token *ret_token);	/* -ENOENT */
/* Marks it as used, once and for all: -EALREADY when it was used or revoked meanwhile. */
MUST_CHECK int store_token_use(struct store *s, const char *id, const char *nic, int64_t now);
MUST_CHECK int store_token_revoke(struct store *s, const char *id, int64_t now);			/* -ENOENT */
MUST_CHECK int store_token_each(struct store *s, void (*fn)(const struct store_token *t, void *data), void *data);

/* --- NICs --- */

struct store_nic {
	char id[STORE_NAME_LEN];
	uint8_t fingerprint[STORE_HASH_LEN];	/* SHA-256 of its certificate */
	uint8_t previous[STORE_HASH_LEN];	/* of the one before; zeros: none */
	int64_t enrolled_at;
	int64_t renewed_at;
	int64_t not_after;
	int64_t revoked_at;
	char revoke_reason[STORE_NAME_LEN];
	char hostname[STORE_NAME_LEN];
	char software[STORE_NAME_LEN];
	bool used;				/* the NIC has called with its certificate: store_nic_used() says so, store_nic_put() does not */
};

MUST_CHECK int store_nic_put(struct store *s, const struct store_nic *n);
MUST_CHECK int store_nic_get(struct store *s, const char *id, struct store_nic *ret_nic);		/* -ENOENT */
MUST_CHECK int store_nic_used(struct store *s, const char *id, const uint8_t fingerprint[static STORE_HASH_LEN]);
MUST_CHECK int store_nic_each(struct store *s, void (*fn)(const struct store_nic *n, void *data), void *data);

/* --- what was issued through a NIC and is revoked --- */

enum { STORE_ORIGIN_LEN = 8 };

MUST_CHECK int store_revoked_add(struct store *s, const uint8_t origin[static STORE_ORIGIN_LEN], int64_t until);
MUST_CHECK int store_revoked_each(struct store *s, void (*fn)(const uint8_t origin[static STORE_ORIGIN_LEN], int64_t until, void *data),
				  void *data);

/* --- certificates that were issued --- */

struct store_cert {
	char serial[48];
	char subject[512];
	int64_t issued_at;
	int64_t not_after;
};

MUST_CHECK int store_cert_add(struct store *s, const struct store_cert *c);
MUST_CHECK int store_cert_prune(struct store *s, int64_t now);	/* forgets those that have expired, revocations too, and old tokens */
MUST_CHECK int store_cert_each(struct store *s, size_t max, void (*fn)(const struct store_cert *c, void *data), void *data);	/* newest first */

/* --- virtual addresses, by "namespace/hostname" --- */

MUST_CHECK int store_vip_put(struct store *s, const char *key, const struct ip *ip);
MUST_CHECK int store_vip_remove(struct store *s, const char *key);
MUST_CHECK int store_vip_each(struct store *s, void (*fn)(const char *key, const struct ip *ip, void *data), void *data);

/* --- the last reports about a guest, as bytes that the registry understands --- */

MUST_CHECK int store_guest_put(struct store *s, const char *id, const char *nic, const void *data, size_t len);
MUST_CHECK int store_guest_remove(struct store *s, const char *id);
MUST_CHECK int store_guest_each(struct store *s, void (*fn)(const char *id, const char *nic, const void *bytes, size_t len, void *data),
				void *data);

/* Between them writes are one: for many at a time. A failed commit undoes all. */
MUST_CHECK int store_begin(struct store *s);
MUST_CHECK int store_commit(struct store *s);
MUST_CHECK int store_rollback(struct store *s);
