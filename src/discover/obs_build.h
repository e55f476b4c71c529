#pragma once
#include "discover/protocol.h"

/*
 * Puts an observation together and hands it over: makes its strings what
 * observation.h promises (UTF-8, no control characters, a maximum) and owns
 * those that had to be changed.
 */
struct obs_build {
	struct observation o;
	struct observation_meta meta[OBS_MAX_METADATA];
	char *owned[2 * OBS_MAX_METADATA + 8];
	size_t n_owned;
};

void obs_build_init(struct obs_build *b, enum observation_kind kind, const char *protocol, const struct ip_port *registry);
/* @s made fit: itself, or a changed copy; NULL for NULL and "". @s must live until obs_build_emit(). */
const char *obs_build_text(struct obs_build *b, const char *s);
/* The same, always a copy. */
const char *obs_build_copy(struct obs_build *b, const char *s);
/* Adds a pair; the first of a key stays, those over the maximum are left out. */
void obs_build_meta(struct obs_build *b, const char *key, const char *value);
/* Hands it over and frees what it owns. */
void obs_build_emit(struct obs_build *b, const struct discover_ctx *ctx);
