/*
 * What the store keeps: structs to rows, and back.
 */
#include "control/store_sqlite.h"

#include <errno.h>

/* The row with this id, given to fn(); -ENOENT. */
static int get(struct store *s, enum store_statement st, const char *id, sql_row_fn *fn, void *data)
{
	int r;
	sqlite3_stmt *q = sql_start(s, st, &r);

	if (r < 0)
		return r;
	sql_bind_text(q, 1, id);
	r = sql_walk(q, fn, data);
	return r < 0 ? r : r ? 0 : -ENOENT;
}

/* --- tokens --- */

int store_token_add(struct store *s, const struct store_token *t)
{
	int r;
	sqlite3_stmt *q = sql_start(s, ST_TOKEN_ADD, &r);

	if (r < 0)
		return r;
	sql_bind_text(q, 1, t->id);
	sql_bind_blob(q, 2, t->hash, sizeof(t->hash));
	sql_bind_text(q, 3, t->nic);
	sql_bind_text(q, 4, t->note);
	sqlite3_bind_int64(q, 5, t->created_at);
	sqlite3_bind_int64(q, 6, t->expires_at);
	return sql_finish(q);
}

static void take_token(sqlite3_stmt *q, struct store_token *t)
{
	sql_copy_text(q, 0, t->id, sizeof(t->id));
	sql_copy_blob(q, 1, t->hash, sizeof(t->hash));
	sql_copy_text(q, 2, t->nic, sizeof(t->nic));
	sql_copy_text(q, 3, t->note, sizeof(t->note));
	t->created_at = sqlite3_column_int64(q, 4);
	t->expires_at = sqlite3_column_int64(q, 5);
	t->used_at = sqlite3_column_int64(q, 6);
	sql_copy_text(q, 7, t->used_by, sizeof(t->used_by));
	t->revoked_at = sqlite3_column_int64(q, 8);
}

static void on_token(sqlite3_stmt *q, void *data)
{
	take_token(q, data);
}

int store_token_get(struct store *s, const char *id, struct store_token *ret_token)
{
	struct store_token t;
	int r = get(s, ST_TOKEN_GET, id, on_token, &t);

	if (r == 0)
		*ret_token = t;
	return r;
}

int store_token_use(struct store *s, const char *id, const char *nic, int64_t now)
{
	int r;
	sqlite3_stmt *q = sql_start(s, ST_TOKEN_USE, &r);

	if (r < 0)
		return r;
	sqlite3_bind_int64(q, 1, now);
	sql_bind_text(q, 2, nic);
	sql_bind_text(q, 3, id);
	r = sql_finish(q);
	return r < 0 ? r : sqlite3_changes(s->db) ? 0 : -EALREADY;
}

int store_token_revoke(struct store *s, const char *id, int64_t now)
{
	int r;
	sqlite3_stmt *q = sql_start(s, ST_TOKEN_REVOKE, &r);

	if (r < 0)
		return r;
	sqlite3_bind_int64(q, 1, now);
	sql_bind_text(q, 2, id);
	r = sql_finish(q);
	return r < 0 ? r : sqlite3_changes(s->db) ? 0 : -ENOENT;
}

struct token_walk {
	void (*fn)(const struct store_token *t, void *data);
	void *data;
};

static void on_each_token(sqlite3_stmt *q, void *data)
{
	struct token_walk *w = data;
	struct store_token t;

	take_token(q, &t);
	w->fn(&t, w->data);
}

int store_token_each(struct store *s, void (*fn)(const struct store_token *t, void *data), void *data)
{
	struct token_walk w = { fn, data };

	return sql_each(s, ST_TOKEN_EACH, on_each_token, &w);
}

/* --- NICs --- */

int store_nic_put(struct store *s, const struct store_nic *n)
{
	int r;
	sqlite3_stmt *q = sql_start(s, ST_NIC_PUT, &r);

	if (r < 0)
		return r;
	sql_bind_text(q, 1, n->id);
	sql_bind_blob(q, 2, n->fingerprint, sizeof(n->fingerprint));
	sql_bind_blob(q, 3, n->previous, sizeof(n->previous));
	sqlite3_bind_int64(q, 4, n->enrolled_at);
	sqlite3_bind_int64(q, 5, n->renewed_at);
	sqlite3_bind_int64(q, 6, n->not_after);
	sqlite3_bind_int64(q, 7, n->revoked_at);
	sql_bind_text(q, 8, n->revoke_reason);
	sql_bind_text(q, 9, n->hostname);
	sql_bind_text(q, 10, n->software);
	return sql_finish(q);
}

static void take_nic(sqlite3_stmt *q, struct store_nic *n)
{
	sql_copy_text(q, 0, n->id, sizeof(n->id));
	sql_copy_blob(q, 1, n->fingerprint, sizeof(n->fingerprint));
	sql_copy_blob(q, 2, n->previous, sizeof(n->previous));
	n->enrolled_at = sqlite3_column_int64(q, 3);
	n->renewed_at = sqlite3_column_int64(q, 4);
	n->not_after = sqlite3_column_int64(q, 5);
	n->revoked_at = sqlite3_column_int64(q, 6);
	sql_copy_text(q, 7, n->revoke_reason, sizeof(n->revoke_reason));
	sql_copy_text(q, 8, n->hostname, sizeof(n->hostname));
	sql_copy_text(q, 9, n->software, sizeof(n->software));
	n->used = sqlite3_column_int(q, 10);
}

static void on_nic(sqlite3_stmt *q, void *data)
{
	take_nic(q, data);
}

int store_nic_get(struct store *s, const char *id, struct store_nic *ret_nic)
{
	struct store_nic n;
	int r = get(s, ST_NIC_GET, id, on_nic, &n);

	if (r == 0)
		*ret_nic = n;
	return r;
}

int store_nic_used(struct store *s, const char *id, const uint8_t fingerprint[static STORE_HASH_LEN])
{
	int r;
	sqlite3_stmt *q = sql_start(s, ST_NIC_USED, &r);

	if (r < 0)
		return r;
	sql_bind_text(q, 1, id);
	sql_bind_blob(q, 2, fingerprint, STORE_HASH_LEN);
	return sql_finish(q);
}

struct nic_walk {
	void (*fn)(const struct store_nic *n, void *data);
	void *data;
};

static void on_each_nic(sqlite3_stmt *q, void *data)
{
	struct nic_walk *w = data;
	struct store_nic n;

	take_nic(q, &n);
	w->fn(&n, w->data);
}

int store_nic_each(struct store *s, void (*fn)(const struct store_nic *n, void *data), void *data)
{
	struct nic_walk w = { fn, data };

	return sql_each(s, ST_NIC_EACH, on_each_nic, &w);
}

/* --- revocations --- */

int store_revoked_add(struct store *s, const uint8_t origin[static STORE_ORIGIN_LEN], int64_t until)
{
	int r;
	sqlite3_stmt *q = sql_start(s, ST_REVOKED_ADD, &r);

	if (r < 0)
		return r;
	sql_bind_blob(q, 1, origin, STORE_ORIGIN_LEN);
	sqlite3_bind_int64(q, 2, until);
	return sql_finish(q);
}

struct revoked_walk {
	void (*fn)(const uint8_t origin[static STORE_ORIGIN_LEN], int64_t until, void *data);
	void *data;
};

static void on_each_revoked(sqlite3_stmt *q, void *data)
{
	struct revoked_walk *w = data;
	uint8_t origin[STORE_ORIGIN_LEN];

	sql_copy_blob(q, 0, origin, sizeof(origin));
	w->fn(origin, sqlite3_column_int64(q, 1), w->data);
}

int store_revoked_each(struct store *s, void (*fn)(const uint8_t origin[static STORE_ORIGIN_LEN], int64_t until, void *data), void *data)
{
	struct revoked_walk w = { fn, data };

	return sql_each(s, ST_REVOKED_EACH, on_each_revoked, &w);
}

/* --- certificates --- */

int store_cert_add(struct store *s, const struct store_cert *c)
{
	int r;
	sqlite3_stmt *q = sql_start(s, ST_CERT_ADD, &r);

	if (r < 0)
		return r;
	sql_bind_text(q, 1, c->serial);
	sql_bind_text(q, 2, c->subject);
	sqlite3_bind_int64(q, 3, c->issued_at);
	sqlite3_bind_int64(q, 4, c->not_after);
	return sql_finish(q);
}

static int prune(struct store *s, enum store_statement st, int64_t before)
{
	int r;
	sqlite3_stmt *q = sql_start(s, st, &r);

	if (r < 0)
		return r;
	sqlite3_bind_int64(q, 1, before);
	return sql_finish(q);
}

int store_cert_prune(struct store *s, int64_t now)
{
	enum { KEEP_TOKENS_S = 30 * 86400 };
	int r = prune(s, ST_CERT_PRUNE, now);

	if (r == 0)
		r = prune(s, ST_REVOKED_PRUNE, now);
	return r < 0 ? r : prune(s, ST_TOKEN_PRUNE, now - KEEP_TOKENS_S);
}

struct cert_walk {
	void (*fn)(const struct store_cert *c, void *data);
	void *data;
};

static void on_each_cert(sqlite3_stmt *q, void *data)
{
	struct cert_walk *w = data;
	struct store_cert c;

	sql_copy_text(q, 0, c.serial, sizeof(c.serial));
	sql_copy_text(q, 1, c.subject, sizeof(c.subject));
	c.issued_at = sqlite3_column_int64(q, 2);
	c.not_after = sqlite3_column_int64(q, 3);
	w->fn(&c, w->data);
}

int store_cert_each(struct store *s, size_t max, void (*fn)(const struct store_cert *c, void *data), void *data)
{
	struct cert_walk w = { fn, data };
	int r;
	sqlite3_stmt *q = sql_start(s, ST_CERT_EACH, &r);

	if (r < 0)
		return r;
	sqlite3_bind_int64(q, 1, (int64_t)max);
	r = sql_walk(q, on_each_cert, &w);
	return MIN(r, 0);
}

/* --- virtual addresses --- */

int store_vip_put(struct store *s, const char *key, const struct ip *ip)
{
	int r;
	sqlite3_stmt *q = sql_start(s, ST_VIP_PUT, &r);

	if (r < 0)
		return r;
	sql_bind_text(q, 1, key);
	sql_bind_blob(q, 2, ip->b, sizeof(ip->b));
	return sql_finish(q);
}

static int remove_row(struct store *s, enum store_statement st, const char *key)
{
	int r;
	sqlite3_stmt *q = sql_start(s, st, &r);

	if (r < 0)
		return r;
	sql_bind_text(q, 1, key);
	return sql_finish(q);
}

int store_vip_remove(struct store *s, const char *key)
{
	return remove_row(s, ST_VIP_REMOVE, key);
}

struct vip_walk {
	void (*fn)(const char *key, const struct ip *ip, void *data);
	void *data;
};

static void on_each_vip(sqlite3_stmt *q, void *data)
{
	struct vip_walk *w = data;
	struct ip ip;

	sql_copy_blob(q, 1, ip.b, sizeof(ip.b));
	w->fn((const char *)sqlite3_column_text(q, 0), &ip, w->data);
}

int store_vip_each(struct store *s, void (*fn)(const char *key, const struct ip *ip, void *data), void *data)
{
	struct vip_walk w = { fn, data };

	return sql_each(s, ST_VIP_EACH, on_each_vip, &w);
}

/* --- guests --- */

int store_guest_put(struct store *s, const char *id, const char *nic, const void *data, size_t len)
{
	int r;
	sqlite3_stmt *q = sql_start(s, ST_GUEST_PUT, &r);

	if (r < 0)
		return r;
	sql_bind_text(q, 1, id);
	sql_bind_text(q, 2, nic);
	sql_bind_blob(q, 3, data, len);
	return sql_finish(q);
}

int store_guest_remove(struct store *s, const char *id)
{
	return remove_row(s, ST_GUEST_REMOVE, id);
}

struct guest_walk {
	void (*fn)(const char *id, const char *nic, const void *bytes, size_t len, void *data);
	void *data;
};

static void on_each_guest(sqlite3_stmt *q, void *data)
{
	struct guest_walk *w = data;

	w->fn((const char *)sqlite3_column_text(q, 0), (const char *)sqlite3_column_text(q, 1), sqlite3_column_blob(q, 2),
	      (size_t)sqlite3_column_bytes(q, 2), w->data);
}

int store_guest_each(struct store *s, void (*fn)(const char *id, const char *nic, const void *bytes, size_t len, void *data),
		     void *data)
{
	struct guest_walk w = { fn, data };

	return sql_each(s, ST_GUEST_EACH, on_each_guest, &w);
}
