#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/diag.h"
#include "proxy/knowledge.h"

/*
 * The last configuration, kept in a file so that a restart without the mesh
 * controller has something to go by: resources, no keys, no tokens. Written
 * anew, whole, under another name, then renamed.
 */
struct state_file {
	char *path;			/* NULL: nothing is kept */
	uint64_t generation;		/* of the knowledge that is in it */
};

/* @dir "" keeps nothing. Reads what is there: its resources are held by KNOWLEDGE_RESTORED. -EINVAL with a reason: the file is not used. */
MUST_CHECK int state_file_open(struct state_file *f, const char *dir, const char *group, struct knowledge *k, struct diag *reterr_diag);
/* Writes it when something has changed. */
MUST_CHECK int state_file_save(struct state_file *f, const struct knowledge *k, struct diag *reterr_diag);
void state_file_close(struct state_file *f);
