/*
 * Observations put together: see obs_build.h.
 */
#include "discover/obs_build.h"

#include <stdlib.h>
#include <string.h>

#include "base/defs.h"

void obs_build_init(struct obs_build *b, enum observation_kind kind, const char *protocol, const struct ip_port *registry)
{
	b->n_owned = 0;
	b->o = (struct observation){ .kind = kind, .protocol = protocol, .registry = *registry, .metadata = b->meta };
}

/* Length of the UTF-8 sequence at @s, 0 when it is none (RFC 3629) or a control character. */
static size_t utf8_len(const unsigned char *s)
{
	size_t n;

	if (s[0] < 0x80)
		return s[0] >= 0x20 && s[0] != 0x7f;
	if (s[0] >= 0xc2 && s[0] <= 0xdf)
		n = 2;
	else if ((s[0] & 0xf0) == 0xe0)
		n = 3;
	else if (s[0] >= 0xf0 && s[0] <= 0xf4)
		n = 4;
	else
		return 0;
	for (size_t i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	if (s[0] == 0xc2 && s[1] < 0xa0)
		return 0;		/* C1 control characters */
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
	    (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
		return 0;
	return n;
}

static bool fits(const char *s)
{
	size_t at = 0, n;

	for (; s[at]; at += n) {
		n = utf8_len((const unsigned char *)s + at);
		if (!n || at + n > OBS_MAX_STR)
			return false;
	}
	return true;
}

static void make_fit(char *to, const char *s)
{
	size_t at = 0;

	while (*s) {
		size_t n = utf8_len((const unsigned char *)s);

		if (at + (n ? n : 1) > OBS_MAX_STR)
			break;
		if (n)
			memcpy(to + at, s, n);
		else
			to[at] = '?';
		at += n ? n : 1;
		s += n ? n : 1;
	}
	to[at] = '\0';
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
	make_fit(copy, s);
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
