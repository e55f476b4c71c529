/*
 * The store in SQLite: one file, write-ahead log, one connection.
 *
 * WAL with synchronous=FULL: a used join token or a revocation must not come
 * back after a power cut. The statements are a table, prepared when first used;
 * store_rows.c says what goes into them and what comes out.
 */
#include "control/store_sqlite.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { SCHEMA_VERSION = 1, BUSY_MS = 200 };

#define NIC_COLUMNS "id, fingerprint, previous, enrolled_at, renewed_at, not_after, revoked_at, revoke_reason, hostname, software, " \
	"fingerprint IS (SELECT u.fingerprint FROM nics_used u WHERE u.id = nics.id)"

static const char *const statements[] = {
	[ST_TOKEN_ADD] = "INSERT INTO tokens(id, hash, nic, note, created_at, expires_at) VALUES(?, ?, ?, ?, ?, ?)",
	[ST_TOKEN_GET] = "SELECT id, hash, nic, note, created_at, expires_at, used_at, used_by, revoked_at FROM tokens WHERE id = ?",
	[ST_TOKEN_USE] = "UPDATE tokens SET used_at = ?, used_by = ? WHERE id = ? AND used_at = 0 AND revoked_at = 0",
	[ST_TOKEN_REVOKE] = "UPDATE tokens SET revoked_at = ? WHERE id = ?",
	[ST_TOKEN_EACH] = "SELECT id, hash, nic, note, created_at, expires_at, used_at, used_by, revoked_at FROM tokens ORDER BY created_at, id",
	[ST_TOKEN_PRUNE] = "DELETE FROM tokens WHERE expires_at < ?",
	[ST_NIC_PUT] = ("INSERT OR REPLACE INTO nics(id, fingerprint, previous, enrolled_at, renewed_at, not_after, revoked_at, revoke_reason, hostname, software) "
			"VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"),
	[ST_NIC_GET] = ("SELECT " NIC_COLUMNS " FROM nics WHERE id = ?"),
	[ST_NIC_EACH] = ("SELECT " NIC_COLUMNS " FROM nics ORDER BY id"),
	[ST_NIC_USED] = "INSERT OR REPLACE INTO nics_used(id, fingerprint) VALUES(?, ?)",
	[ST_REVOKED_ADD] = "INSERT OR REPLACE INTO revoked(origin, until) VALUES(?, ?)",
	[ST_REVOKED_EACH] = "SELECT origin, until FROM revoked",
	[ST_REVOKED_PRUNE] = "DELETE FROM revoked WHERE until < ?",
	[ST_CERT_ADD] = "INSERT INTO certs(serial, subject, issued_at, not_after) VALUES(?, ?, ?, ?)",
	[ST_CERT_PRUNE] = "DELETE FROM certs WHERE not_after < ?",
	[ST_CERT_EACH] = "SELECT serial, subject, issued_at, not_after FROM certs ORDER BY rowid DESC LIMIT ?",
	[ST_VIP_PUT] = "INSERT OR REPLACE INTO vips(key, ip) VALUES(?, ?)",
	[ST_VIP_REMOVE] = "DELETE FROM vips WHERE key = ?",
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
	"CREATE TABLE IF NOT EXISTS revoked(origin BLOB PRIMARY KEY, until INTEGER NOT NULL) WITHOUT ROWID;"
	"CREATE TABLE IF NOT EXISTS nics_used(id TEXT PRIMARY KEY, fingerprint BLOB NOT NULL) WITHOUT ROWID;";

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

sqlite3_stmt *sql_start(struct store *s, enum store_statement st, int *ret_error)
{
	int rc = SQLITE_OK;

	if (!s->stmts[st])
		rc = sqlite3_prepare_v3(s->db, statements[st], -1, SQLITE_PREPARE_PERSISTENT, &s->stmts[st], NULL);
	*ret_error = error_of(rc);
	return s->stmts[st];
}

void sql_bind_text(sqlite3_stmt *q, int i, const char *text)
{
	sqlite3_bind_text(q, i, text, -1, SQLITE_STATIC);
}

void sql_bind_blob(sqlite3_stmt *q, int i, const void *data, size_t len)
{
	sqlite3_bind_blob64(q, i, data, len, SQLITE_STATIC);
}

int sql_finish(sqlite3_stmt *q)
{
	int r = error_of(sqlite3_step(q));

	sqlite3_reset(q);
	sqlite3_clear_bindings(q);
	return r;
}

void sql_copy_text(sqlite3_stmt *q, int i, char *out, size_t size)
{
	const unsigned char *text = sqlite3_column_text(q, i);

	snprintf(out, size, "%s", text ? (const char *)text : "");
}

void sql_copy_blob(sqlite3_stmt *q, int i, void *out, size_t size)
{
	const void *data = sqlite3_column_blob(q, i);
	size_t len = (size_t)sqlite3_column_bytes(q, i);

	memset(out, 0, size);
	if (data && len == size)
		memcpy(out, data, size);
}

int sql_walk(sqlite3_stmt *q, sql_row_fn *fn, void *data)
{
	int n = 0, rc;

	for (rc = sqlite3_step(q); rc == SQLITE_ROW; rc = sqlite3_step(q), n++)
		fn(q, data);
	sqlite3_reset(q);
	sqlite3_clear_bindings(q);
	return rc == SQLITE_DONE ? n : error_of(rc);
}

int sql_each(struct store *s, enum store_statement st, sql_row_fn *fn, void *data)
{
	int r;
	sqlite3_stmt *q = sql_start(s, st, &r);

	if (r == 0)
		r = sql_walk(q, fn, data);
	return MIN(r, 0);
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
	r = sql_walk(q, on_version, &tables);
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
	r = sql_walk(q, on_version, ret_version);
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

/* --- many writes as one --- */

static int run(struct store *s, enum store_statement st)
{
	int r;
	sqlite3_stmt *q = sql_start(s, st, &r);

	return r < 0 ? r : sql_finish(q);
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
