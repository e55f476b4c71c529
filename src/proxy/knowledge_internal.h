#pragma once
#include "mesh/model.h"
#include "proxy/holders.h"
#include "proxy/knowledge.h"

/*
 * Inside of knowledge: knowledge.c (records, publishing), knowledge_noted.c
 * (resources without one), knowledge_file.c. Nobody else includes this.
 *
 * A workload under its own uid, of which there are ten thousand, and a service
 * under its own key are in the store and nowhere else: who holds it, and the
 * hash of its bytes, are noted there (struct snap_note), and the state file is
 * written from there. Of the few
 * others, and of what could not be published yet, there is a record with the bytes.
 */
#define KNOWLEDGE_RECORDED	UINT32_MAX	/* noted as holders: a record keeps this one */

struct extra {
	char *target;			/* as record_target(), where that is not the resource's name */
	size_t len;
	uint8_t value[];
};

struct record {
	struct map_link link;		/* by name, in the map of its kind */
	uint8_t kind;			/* enum knowledge_kind */
	bool published;			/* its newest bytes are in the store */
	bool in_store;			/* it, or what it was before, is */
	bool is_service;
	uint32_t holders;
	uint64_t hash;			/* of the newest bytes, keyed */
	struct extra *extra;		/* or NULL */
	char name[];
};

struct put {				/* what knowledge_put() was called with; names and values are the caller's */
	uint32_t holder;
	enum knowledge_kind kind;
	const char *name;
	uint64_t name_hash;
	const uint8_t *value;
	size_t len;
	uint64_t hash;			/* of the value */
};

struct knowledge {
	struct loop *loop;
	struct snap_store *store;
	struct snapshot *snapshot;
	struct map records[_KNOWLEDGE_KIND_N];
	struct holders holders;
	uint64_t generation;
	void (*changed)(void *data);
	void *data;
	struct defer tell;
	struct timer retry;
	struct timer rest;		/* to tidy up when nothing has changed for a while */
	uint64_t rest_serial;		/* of the snapshot when it was armed */

	bool together;			/* between begin and end */
	bool unpublished;		/* the store has changes of what is noted that are not published */
	int lost;			/* of what was put together: -ENOMEM */
	struct put *puts;		/* those of the changes that are puts */
	size_t n_puts;
	size_t room_puts;
};

/* --- knowledge.c --- */

/* Publishes the store, of which the last change had the outcome @r, or takes all that is not published back and does the rest of it again. */
MUST_CHECK int knowledge_publish(struct knowledge *k, int r);
void knowledge_retry_later(struct knowledge *k, int r);		/* nothing when @r is not -ENOMEM */

MUST_CHECK int record_new(struct knowledge *k, enum knowledge_kind kind, const char *name, struct record **ret_record);
void record_drop(struct knowledge *k, struct record *rec);
const char *record_target(const struct record *rec);	/* its key in the store: uid, "namespace/hostname", "namespace/name" */
MUST_CHECK int record_keep(struct record *rec, const uint8_t *value, size_t len);
/* @rec may be NULL: there is none yet. @a: of an address, decoded. */
MUST_CHECK int record_put(struct knowledge *k, struct record *rec, const struct put *p, const struct address *a, struct diag *d);

/* --- knowledge_noted.c: there is no record of the name --- */

/* What is noted of a service or a workload in the store, for a record, too; NULL: it is not there. */
struct snap_note *note_of(const struct knowledge *k, bool is_service, const char *name, uint64_t hash);
/* The record takes over what is noted. */
void noted_move(struct knowledge *k, struct record *rec);
MUST_CHECK int noted_put(struct knowledge *k, struct put *p, struct diag *d);
void noted_gone(struct knowledge *k, uint32_t holder, const char *name, uint64_t hash);
void noted_drop(struct knowledge *k, uint32_t holder);	/* all that it holds */
MUST_CHECK int noted_retry(struct knowledge *k);	/* what could not be forgotten */
void noted_put_again(struct knowledge *k);		/* what was put together */
