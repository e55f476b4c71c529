/*
 * Observations put together: see obs_build.h.
 */
#include "discover/obs_build.h"

#include <stdlib.h>
#include <string.h>

#include "base/defs.h"
#include "base/utf8.h"

void obs_build_init(struct obs_build *b, enum observation_kind kind, const char *protocol, const struct ip_port *registry)
{
	b->n_owned = 0;
	b->o = (struct observation){ .kind = kind, .protocol = protocol, .registry = *registry, .metadata = b->meta };
}

static bool fits(const char *s)
{
	size_t len = strnlen(s, OBS_MAX_STR + 1);

	return len <= OBS_MAX_STR && utf8_is_clean(s, len);
}

const char *obs_build_text(struct obs_build *b, const char *s)
{
	return s && *s && fits(s) ? s : obs_build_copy(b, s);
}

const char *obs_build_copy(struct obs_build *b, const char *s)
{
	if (!s || !*s || b->n_owned == ELEMENTS(b->owned))
		return NULL;

	char *copy = malloc(OBS_MAX_STR + 1);
	if (!copy)
		return NULL;
	utf8_clean(s, strlen(s), copy, OBS_MAX_STR + 1);
	b->owned[b->n_owned++] = copy;
	return copy;
}

void obs_build_meta(struct obs_build *b, const char *key, const char *value)
{
	const char *k = obs_build_text(b, key);
	const char *v = obs_build_text(b, value);

	if (!k || b->o.n_metadata == OBS_MAX_METADATA)
		return;
	for (size_t i = 0; i < b->o.n_metadata; i++)
		if (strcmp(b->meta[i].key, k) == 0)
			return;
	b->meta[b->o.n_metadata++] = (struct observation_meta){ k, v ? v : "" };
}

void obs_build_emit(struct obs_build *b, const struct discover_ctx *ctx)
{
	b->o.guest = ctx->guest;
	b->o.frame = ctx->frame;
	b->o.time_ns = ctx->time_ns;
	ctx->emit(&b->o, ctx->emit_data);
	while (b->n_owned)
		free(b->owned[--b->n_owned]);
}
