#pragma once
#include "base/diag.h"
#include "control/store.h"

/*
 * One-time join tokens: "<id>.<secret>", 16 hex digits and 32 random bytes in
 * base64url. The store has the id and the hash of the whole.
 */
enum {
	_JOIN_TOKEN_E_SUCCESS,

	JOIN_TOKEN_E_UNKNOWN,	/* no such token, or a wrong secret: which one is not said */
	JOIN_TOKEN_E_REVOKED,
	JOIN_TOKEN_E_USED,
	JOIN_TOKEN_E_EXPIRED,
	JOIN_TOKEN_E_OTHER_NIC,
};

enum { JOIN_TOKEN_LEN = 64, JOIN_TOKEN_WHY_LEN = 512 };

/* @nic: the only NIC that may use it, "" for any. Errors of the store, -EIO without randomness. */
MUST_CHECK int join_token_create(struct store *s, const char *nic, const char *note, int64_t ttl_s, char ret_token[static JOIN_TOKEN_LEN],
				 struct store_token *ret_row);

/* JOIN_TOKEN_E_* and errors of the store, both with @why in words. Takes the same time for every wrong secret. */
MUST_CHECK int join_token_check(struct store *s, const char *token, const char *nic, char ret_id[static STORE_ID_LEN],
				char why[static JOIN_TOKEN_WHY_LEN]);
