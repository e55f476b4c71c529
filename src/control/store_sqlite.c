/*
 * The store in SQLite: one file, write-ahead log, one connection.
 *
 * WAL with synchronous=FULL: a used join token or a revocation must not come
 * back after a power cut. The statements are a table, prepared when first used.
 */
#include "control/store.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { SCHEMA_VERSION = 1, BUSY_MS = 200 };

enum statement {
	ST_TOKEN_ADD, ST_TOKEN_GET, ST_TOKEN_USE, ST_TOKEN_REVOKE, ST_TOKEN_EACH, ST_TOKEN_PRUNE,
	ST_NIC_PUT, ST_NIC_GET, ST_NIC_EACH,
	ST_REVOKED_ADD, ST_REVOKED_EACH, ST_REVOKED_PRUNE,
	ST_CERT_ADD, ST_CERT_PRUNE, ST_CERT_EACH,
	ST_VIP_PUT, ST_VIP_EACH,
	ST_GUEST_PUT, ST_GUEST_REMOVE, ST_GUEST_EACH,
	ST_BEGIN, ST_COMMIT, ST_ROLLBACK,
	_ST_N
};

static const char *const statements[] = {
	[ST_TOKEN_ADD] = "INSERT INTO tokens(id, hash, nic, note, created_at, expires_at) VALUES(?, ?, ?, ?, ?, ?)",
	[ST_TOKEN_GET] = "SELECT id, hash, nic, note, created_at, expires_at, used_at, used_by, revoked_at FROM tokens WHERE id = ?",
	[ST_TOKEN_USE] = "UPDATE tokens SET used_at = ?, used_by = ? WHERE id = ? AND used_at = 0 AND revoked_at = 0",
	[ST_TOKEN_REVOKE] = "UPDATE tokens SET revoked_at = ? WHERE id = ?",
	[ST_TOKEN_EACH] = "SELECT id, hash, nic, note, created_at, expires_at, used_at, used_by, revoked_at FROM tokens ORDER BY created_at, id",
	[ST_TOKEN_PRUNE] = "DELETE FROM tokens WHERE expires_at < ?",
	[ST_NIC_PUT] = ("INSERT OR REPLACE INTO nics(id, fingerprint, previous, enrolled_at, renewed_at, not_after, revoked_at, revoke_reason, hostname, software) "
			"VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"),
	[ST_NIC_GET] = "SELECT id, fingerprint, previous, enrolled_at, renewed_at, not_after, revoked_at, revoke_reason, hostname, software FROM nics WHERE id = ?",
	[ST_NIC_EACH] = "SELECT id, fingerprint, previous, enrolled_at, renewed_at, not_after, revoked_at, revoke_reason, hostname, software FROM nics ORDER BY id",
	[ST_REVOKED_ADD] = "INSERT OR REPLACE INTO revoked(origin, until) VALUES(?, ?)",
	[ST_REVOKED_EACH] = "SELECT origin, until FROM revoked",
	[ST_REVOKED_PRUNE] = "DELETE FROM revoked WHERE until < ?",
	[ST_CERT_ADD] = "INSERT INTO certs(serial, subject, issued_at, not_after) VALUES(?, ?, ?, ?)",
	[ST_CERT_PRUNE] = "DELETE FROM certs WHERE not_after < ?",
	[ST_CERT_EACH] = "SELECT serial, subject, issued_at, not_after FROM certs ORDER BY rowid DESC LIMIT ?",
	[ST_VIP_PUT] = "INSERT OR REPLACE INTO vips(key, ip) VALUES(?, ?)",
	[ST_VIP_EACH] = "SELECT key, ip FROM vips",
	[ST_GUEST_PUT] = "INSERT OR REPLACE INTO guests(id, nic, data) VALUES(?, ?, ?)",
	[ST_GUEST_REMOVE] = "DELETE FROM guests WHERE id = ?",
	[ST_GUEST_EACH] = "SELECT id, nic, data FROM guests",
	[ST_BEGIN] = "BEGIN IMMEDIATE",
	[ST_COMMIT] = "COMMIT",
	[ST_ROLLBACK] = "ROLLBACK",
};
_Static_assert(ELEMENTS(statements) == _ST_N, "every statement has its text");

static const char schema[] =
	"BEGIN EXCLUSIVE;"
	"CREATE TABLE meta(key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;"
	"CREATE TABLE tokens(id TEXT PRIMARY KEY, hash BLOB NOT NULL, nic TEXT NOT NULL, note TEXT NOT NULL, created_at INTEGER NOT NULL,"
	"  expires_at INTEGER NOT NULL, used_at INTEGER NOT NULL DEFAULT 0, used_by TEXT NOT NULL DEFAULT '', revoked_at INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;"
	"CREATE TABLE nics(id TEXT PRIMARY KEY, fingerprint BLOB NOT NULL, previous BLOB NOT NULL, enrolled_at INTEGER NOT NULL, renewed_at INTEGER NOT NULL,"
	"  not_after INTEGER NOT NULL, revoked_at INTEGER NOT NULL, revoke_reason TEXT NOT NULL, hostname TEXT NOT NULL, software TEXT NOT NULL) WITHOUT ROWID;"
	"CREATE TABLE certs(serial TEXT NOT NULL, subject TEXT NOT NULL, issued_at INTEGER NOT NULL, not_after INTEGER NOT NULL);"
	"CREATE INDEX certs_by_end ON certs(not_after);"
	"CREATE TABLE vips(key TEXT PRIMARY KEY, ip BLOB NOT NULL) WITHOUT ROWID;"
	"CREATE TABLE guests(id TEXT PRIMARY KEY, nic TEXT NOT NULL, data BLOB NOT NULL) WITHOUT ROWID;"
	"INSERT INTO meta VALUES('schema', 1);"
	"COMMIT;";
_Static_assert(SCHEMA_VERSION == 1, "the text of the schema says so too");

/* What came later and an older program of the same version does without: it may go back and forth between both. */
static const char additions[] =
	"CREATE TABLE IF NOT EXISTS revoked(origin BLOB PRIMARY KEY, until INTEGER NOT NULL) WITHOUT ROWID;";

struct store {
	sqlite3 *db;
	sqlite3_stmt *stmts[_ST_N];
	char path[4096];
};

/* --- statements --- */

static int error_of(int rc)
{
	switch (rc & 0xff) {
	case SQLITE_OK:
	case SQLITE_DONE:
	case SQLITE_ROW:
		return 0;
	case SQLITE_FULL:
	case SQLITE_READONLY:
		return -ENOSPC;
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return -EBUSY;
	case SQLITE_NOMEM:
		return -ENOMEM;
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
		return -EBADMSG;
	default:
		return -EIO;
	}
}

/* A statement ready to be bound, or NULL with the error in @ret_error. */
static sqlite3_stmt *start(struct store *s, enum statement st, int *ret_error)
{
	int rc = SQLITE_OK;

	if (!s->stmts[st])
		rc = sqlite3_prepare_v3(s->db, statements[st], -1, SQLITE_PREPARE_PERSISTENT, &s->stmts[st], NULL);
	*ret_error = error_of(rc);
	return s->stmts[st];
}

static void bind_text(sqlite3_stmt *q, int i, const char *text)
{
	sqlite3_bind_text(q, i, text, -1, SQLITE_STATIC);
}

static void bind_blob(sqlite3_stmt *q, int i, const void *data, size_t len)
{
	sqlite3_bind_blob64(q, i, data, len, SQLITE_STATIC);
}

/* Runs a statement that returns no rows, or one whose rows nobody wants. */
static int finish(sqlite3_stmt *q)
{
	int r = error_of(sqlite3_step(q));

	sqlite3_reset(q);
	sqlite3_clear_bindings(q);
	return r;
}

static void copy_text(sqlite3_stmt *q, int i, char *out, size_t size)
{
	const unsigned char *text = sqlite3_column_text(q, i);

	snprintf(out, size, "%s", text ? (const char *)text : "");
}

static void copy_blob(sqlite3_stmt *q, int i, void *out, size_t size)
{
	const void *data = sqlite3_column_blob(q, i);
	size_t len = (size_t)sqlite3_column_bytes(q, i);

	memset(out, 0, size);
	if (data && len == size)
		memcpy(out, data, size);
}

typedef void row_fn(sqlite3_stmt *q, void *data);

/* Runs a bound query, fn() for each row; returns how many there were. */
static int walk(sqlite3_stmt *q, row_fn *fn, void *data)
{
	int n = 0, rc;

	for (rc = sqlite3_step(q); rc == SQLITE_ROW; rc = sqlite3_step(q), n++)
		fn(q, data);
	sqlite3_reset(q);
	sqlite3_clear_bindings(q);
	return rc == SQLITE_DONE ? n : error_of(rc);
}

/* --- opening --- */

static void on_version(sqlite3_stmt *q, void *data)
{
	*(int64_t *)data = sqlite3_column_int64(q, 0);
}

static int read_version(struct store *s, int64_t *ret_version)
{
	sqlite3_stmt *q;
	int64_t tables = 0;
	int rc, r;

	rc = sqlite3_prepare_v2(s->db, "SELECT count(*) FROM sqlite_master", -1, &q, NULL);
	if (rc != SQLITE_OK)
		return error_of(rc);
	r = walk(q, on_version, &tables);
	sqlite3_finalize(q);
	if (r < 0)
		return r;
	*ret_version = 0;
	if (!tables)
		return 0;
	rc = sqlite3_prepare_v2(s->db, "SELECT value FROM meta WHERE key = 'schema'", -1, &q, NULL);
	if (rc != SQLITE_OK) {
		*ret_version = -1;	/* somebody else's database */
		return 0;
	}
	*ret_version = -1;
	r = walk(q, on_version, ret_version);
	sqlite3_finalize(q);
	return r < 0 ? r : 0;
}

static int prepare_schema(struct store *s, struct diag *d)
{
	int64_t version = 0;
	int r = read_version(s, &version);

	if (r < 0)
		return diag_at(d, s->path, 0, "not usable as a database: %s", sqlite3_errmsg(s->db));
	if (!version && sqlite3_exec(s->db, schema, NULL, NULL, NULL) != SQLITE_OK) {
		diag_at(d, s->path, 0, "cannot make the tables: %s", sqlite3_errmsg(s->db));
		sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
		return -EINVAL;
	}
	if (version < 0)
		return diag_at(d, s->path, 0, "is not a database of outrigger-controller");
	if (version > SCHEMA_VERSION)
		return diag_at(d, s->path, 0, "has schema version %lld, this program knows %d: it was written by a newer one",
			       (long long)version, SCHEMA_VERSION);
	if (sqlite3_exec(s->db, additions, NULL, NULL, NULL) != SQLITE_OK)
		return diag_at(d, s->path, 0, "cannot add tables: %s", sqlite3_errmsg(s->db));
	return 0;
}

static int configure(struct store *s, struct diag *d)
{
	static const char pragmas[] = "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
				      "PRAGMA wal_autocheckpoint=200; PRAGMA journal_size_limit=4194304; PRAGMA cache_size=-2048;"
				      "PRAGMA trusted_schema=OFF; PRAGMA temp_store=MEMORY;";

	sqlite3_busy_timeout(s->db, BUSY_MS);
	sqlite3_extended_result_codes(s->db, 1);
	if (sqlite3_exec(s->db, pragmas, NULL, NULL, NULL) == SQLITE_OK)
		return 0;
	if ((sqlite3_errcode(s->db) & 0xff) == SQLITE_BUSY)
		return diag_at(d, s->path, 0, "is in use by another process: does a controller run already?");
	return diag_at(d, s->path, 0, "%s", sqlite3_errmsg(s->db));
}

int store_open(const char *dir, struct store **ret_store, struct diag *reterr_diag)
{
	struct store *s = calloc(1, sizeof(*s));
	mode_t mask;
	int r;

	if (!s)
		return -ENOMEM;
	if ((size_t)snprintf(s->path, sizeof(s->path), "%s/controller.db", dir) >= sizeof(s->path)) {
		free(s);
		return diag_set(reterr_diag, "%.200s...: path too long", dir);
	}
	mask = umask(0077);
	if (sqlite3_open_v2(s->path, &s->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK)
		r = diag_at(reterr_diag, s->path, 0, "%s", s->db ? sqlite3_errmsg(s->db) : "out of memory");
	else
		r = configure(s, reterr_diag);
	if (r == 0)
		r = prepare_schema(s, reterr_diag);
	umask(mask);
	if (r < 0) {
		store_close(s);
		return r;
	}
	*ret_store = s;
	return 0;
}

struct store *store_close(struct store *s)
{
	if (!s)
		return NULL;
	for (size_t i = 0; i < _ST_N; i++)
		sqlite3_finalize(s->stmts[i]);
	sqlite3_close(s->db);
	free(s);
	return NULL;
}

const char *store_error(const struct store *s)
{
	return sqlite3_errmsg(s->db);
}

/* --- tokens --- */

int store_token_add(struct store *s, const struct store_token *t)
{
	int r;
	sqlite3_stmt *q = start(s, ST_TOKEN_ADD, &r);

	if (r < 0)
		return r;
	bind_text(q, 1, t->id);
	bind_blob(q, 2, t->hash, sizeof(t->hash));
	bind_text(q, 3, t->nic);
	bind_text(q, 4, t->note);
	sqlite3_bind_int64(q, 5, t->created_at);
	sqlite3_bind_int64(q, 6, t->expires_at);
	return finish(q);
}

static void take_token(sqlite3_stmt *q, struct store_token *t)
{
	copy_text(q, 0, t->id, sizeof(t->id));
	copy_blob(q, 1, t->hash, sizeof(t->hash));
	copy_text(q, 2, t->nic, sizeof(t->nic));
	copy_text(q, 3, t->note, sizeof(t->note));
	t->created_at = sqlite3_column_int64(q, 4);
	t->expires_at = sqlite3_column_int64(q, 5);
	t->used_at = sqlite3_column_int64(q, 6);
	copy_text(q, 7, t->used_by, sizeof(t->used_by));
	t->revoked_at = sqlite3_column_int64(q, 8);
}

static void on_token(sqlite3_stmt *q, void *data)
{
	take_token(q, data);
}

int store_token_get(struct store *s, const char *id, struct store_token *ret_token)
{
	struct store_token t;
	int r;
	sqlite3_stmt *q = start(s, ST_TOKEN_GET, &r);

	if (r < 0)
		return r;
	bind_text(q, 1, id);
	r = walk(q, on_token, &t);
	if (r > 0)
		*ret_token = t;
	return r < 0 ? r : r ? 0 : -ENOENT;
}

int store_token_use(struct store *s, const char *id, const char *nic, int64_t now)
{
	int r;
	sqlite3_stmt *q = start(s, ST_TOKEN_USE, &r);

	if (r < 0)
		return r;
	sqlite3_bind_int64(q, 1, now);
	bind_text(q, 2, nic);
	bind_text(q, 3, id);
	r = finish(q);
	return r < 0 ? r : sqlite3_changes(s->db) ? 0 : -EALREADY;
}

int store_token_revoke(struct store *s, const char *id, int64_t now)
{
	int r;
	sqlite3_stmt *q = start(s, ST_TOKEN_REVOKE, &r);

	if (r < 0)
		return r;
	sqlite3_bind_int64(q, 1, now);
	bind_text(q, 2, id);
	r = finish(q);
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
	int r;
	sqlite3_stmt *q = start(s, ST_TOKEN_EACH, &r);

	if (r == 0)
		r = walk(q, on_each_token, &w);
	return MIN(r, 0);
}

/* --- NICs --- */

int store_nic_put(struct store *s, const struct store_nic *n)
{
	int r;
	sqlite3_stmt *q = start(s, ST_NIC_PUT, &r);

	if (r < 0)
		return r;
	bind_text(q, 1, n->id);
	bind_blob(q, 2, n->fingerprint, sizeof(n->fingerprint));
	bind_blob(q, 3, n->previous, sizeof(n->previous));
	sqlite3_bind_int64(q, 4, n->enrolled_at);
	sqlite3_bind_int64(q, 5, n->renewed_at);
	sqlite3_bind_int64(q, 6, n->not_after);
	sqlite3_bind_int64(q, 7, n->revoked_at);
	bind_text(q, 8, n->revoke_reason);
	bind_text(q, 9, n->hostname);
	bind_text(q, 10, n->software);
	return finish(q);
}

static void take_nic(sqlite3_stmt *q, struct store_nic *n)
{
	copy_text(q, 0, n->id, sizeof(n->id));
	copy_blob(q, 1, n->fingerprint, sizeof(n->fingerprint));
	copy_blob(q, 2, n->previous, sizeof(n->previous));
	n->enrolled_at = sqlite3_column_int64(q, 3);
	n->renewed_at = sqlite3_column_int64(q, 4);
	n->not_after = sqlite3_column_int64(q, 5);
	n->revoked_at = sqlite3_column_int64(q, 6);
	copy_text(q, 7, n->revoke_reason, sizeof(n->revoke_reason));
	copy_text(q, 8, n->hostname, sizeof(n->hostname));
	copy_text(q, 9, n->software, sizeof(n->software));
}

static void on_nic(sqlite3_stmt *q, void *data)
{
	take_nic(q, data);
}

int store_nic_get(struct store *s, const char *id, struct store_nic *ret_nic)
{
	struct store_nic n;
	int r;
	sqlite3_stmt *q = start(s, ST_NIC_GET, &r);

	if (r < 0)
		return r;
	bind_text(q, 1, id);
	r = walk(q, on_nic, &n);
	if (r > 0)
		*ret_nic = n;
	return r < 0 ? r : r ? 0 : -ENOENT;
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
	int r;
	sqlite3_stmt *q = start(s, ST_NIC_EACH, &r);

	if (r == 0)
		r = walk(q, on_each_nic, &w);
	return MIN(r, 0);
}

/* --- revocations --- */

int store_revoked_add(struct store *s, const uint8_t origin[static STORE_ORIGIN_LEN], int64_t until)
{
	int r;
	sqlite3_stmt *q = start(s, ST_REVOKED_ADD, &r);

	if (r < 0)
		return r;
	bind_blob(q, 1, origin, STORE_ORIGIN_LEN);
	sqlite3_bind_int64(q, 2, until);
	return finish(q);
}

struct revoked_walk {
	void (*fn)(const uint8_t origin[static STORE_ORIGIN_LEN], int64_t until, void *data);
	void *data;
};

static void on_each_revoked(sqlite3_stmt *q, void *data)
{
	struct revoked_walk *w = data;
	uint8_t origin[STORE_ORIGIN_LEN];

	copy_blob(q, 0, origin, sizeof(origin));
	w->fn(origin, sqlite3_column_int64(q, 1), w->data);
}

int store_revoked_each(struct store *s, void (*fn)(const uint8_t origin[static STORE_ORIGIN_LEN], int64_t until, void *data), void *data)
{
	struct revoked_walk w = { fn, data };
	int r;
	sqlite3_stmt *q = start(s, ST_REVOKED_EACH, &r);

	if (r == 0)
		r = walk(q, on_each_revoked, &w);
	return MIN(r, 0);
}

/* --- certificates --- */

int store_cert_add(struct store *s, const struct store_cert *c)
{
	int r;
	sqlite3_stmt *q = start(s, ST_CERT_ADD, &r);

	if (r < 0)
		return r;
	bind_text(q, 1, c->serial);
	bind_text(q, 2, c->subject);
	sqlite3_bind_int64(q, 3, c->issued_at);
	sqlite3_bind_int64(q, 4, c->not_after);
	return finish(q);
}

int store_cert_prune(struct store *s, int64_t now)
{
	enum { KEEP_TOKENS_S = 30 * 86400 };
	int r;
	sqlite3_stmt *q = start(s, ST_CERT_PRUNE, &r);

	if (r < 0)
		return r;
	sqlite3_bind_int64(q, 1, now);
	r = finish(q);
	if (r < 0)
		return r;
	q = start(s, ST_REVOKED_PRUNE, &r);
	if (r < 0)
		return r;
	sqlite3_bind_int64(q, 1, now);
	r = finish(q);
	if (r < 0)
		return r;
	q = start(s, ST_TOKEN_PRUNE, &r);
	if (r < 0)
		return r;
	sqlite3_bind_int64(q, 1, now - KEEP_TOKENS_S);
	return finish(q);
}

struct cert_walk {
	void (*fn)(const struct store_cert *c, void *data);
	void *data;
};

static void on_each_cert(sqlite3_stmt *q, void *data)
{
	struct cert_walk *w = data;
	struct store_cert c;

	copy_text(q, 0, c.serial, sizeof(c.serial));
	copy_text(q, 1, c.subject, sizeof(c.subject));
	c.issued_at = sqlite3_column_int64(q, 2);
	c.not_after = sqlite3_column_int64(q, 3);
	w->fn(&c, w->data);
}

int store_cert_each(struct store *s, size_t max, void (*fn)(const struct store_cert *c, void *data), void *data)
{
	struct cert_walk w = { fn, data };
	int r;
	sqlite3_stmt *q = start(s, ST_CERT_EACH, &r);

	if (r < 0)
		return r;
	sqlite3_bind_int64(q, 1, (int64_t)max);
	r = walk(q, on_each_cert, &w);
	return MIN(r, 0);
}

/* --- virtual addresses --- */

int store_vip_put(struct store *s, const char *key, const struct ip *ip)
{
	int r;
	sqlite3_stmt *q = start(s, ST_VIP_PUT, &r);

	if (r < 0)
		return r;
	bind_text(q, 1, key);
	bind_blob(q, 2, ip->b, sizeof(ip->b));
	return finish(q);
}

struct vip_walk {
	void (*fn)(const char *key, const struct ip *ip, void *data);
	void *data;
};

static void on_each_vip(sqlite3_stmt *q, void *data)
{
	struct vip_walk *w = data;
	struct ip ip;

	copy_blob(q, 1, ip.b, sizeof(ip.b));
	w->fn((const char *)sqlite3_column_text(q, 0), &ip, w->data);
}

int store_vip_each(struct store *s, void (*fn)(const char *key, const struct ip *ip, void *data), void *data)
{
	struct vip_walk w = { fn, data };
	int r;
	sqlite3_stmt *q = start(s, ST_VIP_EACH, &r);

	if (r == 0)
		r = walk(q, on_each_vip, &w);
	return MIN(r, 0);
}

/* --- guests --- */

int store_guest_put(struct store *s, const char *id, const char *nic, const void *data, size_t len)
{
	int r;
	sqlite3_stmt *q = start(s, ST_GUEST_PUT, &r);

	if (r < 0)
		return r;
	bind_text(q, 1, id);
	bind_text(q, 2, nic);
	bind_blob(q, 3, data, len);
	return finish(q);
}

int store_guest_remove(struct store *s, const char *id)
{
	int r;
	sqlite3_stmt *q = start(s, ST_GUEST_REMOVE, &r);

	if (r < 0)
		return r;
	bind_text(q, 1, id);
	return finish(q);
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
	int r;
	sqlite3_stmt *q = start(s, ST_GUEST_EACH, &r);

	if (r == 0)
		r = walk(q, on_each_guest, &w);
	return MIN(r, 0);
}

/* --- many writes as one --- */

static int run(struct store *s, enum statement st)
{
	int r;
	sqlite3_stmt *q = start(s, st, &r);

	return r < 0 ? r : finish(q);
}

int store_begin(struct store *s)
{
	return run(s, ST_BEGIN);
}

int store_commit(struct store *s)
{
	int r = run(s, ST_COMMIT);

	if (r < 0 && !sqlite3_get_autocommit(s->db) && run(s, ST_ROLLBACK) < 0)
		return -EIO;
	return r;
}

int store_rollback(struct store *s)
{
	return sqlite3_get_autocommit(s->db) ? 0 : run(s, ST_ROLLBACK);	/* a full disk may have undone it already */
}
