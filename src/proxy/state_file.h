#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/diag.h"
#include "proxy/knowledge.h"

/*
 * The last configuration, kept on disk so that a restart without the mesh
 * controller has something to go by: resources, no keys, no tokens.
 *
 * A proxy reaches no folder to make files in: the agent opens two for it, and
 * they are written in turns, so that one is always whole. Each begins with a
 * line of text: version, serial number, length and SHA-256 of what follows.
 */
enum { STATE_FILES = 2 };

struct state_file {
	bool open;
	int fds[STATE_FILES];
	unsigned next;			/* the older one */
	uint64_t serial;		/* of the newer one */
	uint64_t generation;		/* of the knowledge that is in it */
};

/*
 * Takes @fds over, also when it fails. With @k: reads the newer one, its
 * resources are held by KNOWLEDGE_RESTORED. -EINVAL with a reason: what is there
 * is not used, and will be written over.
 */
MUST_CHECK int state_file_open(struct state_file *f, const int fds[STATE_FILES], struct knowledge *k, struct diag *reterr_diag);
bool state_file_is_open(const struct state_file *f);
/* Writes when something has changed. */
MUST_CHECK int state_file_save(struct state_file *f, const struct knowledge *k, struct diag *reterr_diag);
void state_file_close(struct state_file *f);
