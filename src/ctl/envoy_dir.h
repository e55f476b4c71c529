#pragma once
#include <jansson.h>
#include <stdbool.h>
#include "base/defs.h"
#include "base/diag.h"

/*
 * The folders of `outrigger envoy`: one for secrets, in memory (tmpfs) where
 * there is such a thing, and one for the rest. Files are replaced by renaming,
 * which is what Envoy watches for.
 */
struct envoy_dir {
	char path[256];
	int fd;			/* -1: not open */
	bool temporary;		/* envoy_dir_close() removes it, with the files in it */
};

/* @path is made when it is not there (0700). Errors with words. */
MUST_CHECK int envoy_dir_open(struct envoy_dir *d, const char *path, struct diag *reterr_diag);
/* A fresh one on tmpfs; -ENOTSUP when none is to be had. */
MUST_CHECK int envoy_dir_open_memory(struct envoy_dir *d);
void envoy_dir_close(struct envoy_dir *d);

/* Replaces @name (0600) as a whole. */
MUST_CHECK int envoy_dir_write(struct envoy_dir *d, const char *name, const char *text, struct diag *reterr_diag);
/* The same with JSON; NULL is -ENOMEM. @json is stolen, its text is wiped. */
MUST_CHECK int envoy_dir_write_json(struct envoy_dir *d, const char *name, json_t *json, struct diag *reterr_diag);
void envoy_dir_remove(struct envoy_dir *d, const char *name);
