#pragma once
#include <sqlite3.h>
#include "control/store.h"

/*
 * Inside the store in SQLite: the statements and how they are run. For
 * store_*.c alone. Errors are those of store.h.
 */
enum store_statement {
	ST_TOKEN_ADD, ST_TOKEN_GET, ST_TOKEN_USE, ST_TOKEN_REVOKE, ST_TOKEN_EACH, ST_TOKEN_PRUNE,
	ST_NIC_PUT, ST_NIC_GET, ST_NIC_EACH, ST_NIC_USED,
	ST_REVOKED_ADD, ST_REVOKED_EACH, ST_REVOKED_PRUNE,
	ST_CERT_ADD, ST_CERT_PRUNE, ST_CERT_EACH,
	ST_VIP_PUT, ST_VIP_REMOVE, ST_VIP_EACH,
	ST_GUEST_PUT, ST_GUEST_REMOVE, ST_GUEST_EACH,
	ST_BEGIN, ST_COMMIT, ST_ROLLBACK,
	_ST_N
};

struct store {
	sqlite3 *db;
	sqlite3_stmt *stmts[_ST_N];
	char path[4096];
};

/* A statement ready to be bound, or NULL with the error in @ret_error. What is bound must stay until it has run. */
sqlite3_stmt *sql_start(struct store *s, enum store_statement st, int *ret_error);
void sql_bind_text(sqlite3_stmt *q, int i, const char *text);
void sql_bind_blob(sqlite3_stmt *q, int i, const void *data, size_t len);

/* Runs a statement that returns no rows, or one whose rows nobody wants. */
MUST_CHECK int sql_finish(sqlite3_stmt *q);

/* Columns of a row, cut to @size; a blob of another length is zeros. */
void sql_copy_text(sqlite3_stmt *q, int i, char *out, size_t size);
void sql_copy_blob(sqlite3_stmt *q, int i, void *out, size_t size);

typedef void sql_row_fn(sqlite3_stmt *q, void *data);

/* Runs a bound query, fn() for each row; returns how many there were. */
MUST_CHECK int sql_walk(sqlite3_stmt *q, sql_row_fn *fn, void *data);

/* The same for a query that takes nothing: 0, however many there were. */
MUST_CHECK int sql_each(struct store *s, enum store_statement st, sql_row_fn *fn, void *data);
