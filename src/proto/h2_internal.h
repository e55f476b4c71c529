#pragma once
#include "proto/h2.h"

/*
 * What the files of proto/h2 share among each other.
 */
enum {				/* in ten seconds */
	H2_MAX_NUISANCES = 2000,
	H2_MAX_RESETS = 1000,
};

int h2_fail(struct h2 *h, uint32_t code, const char *why);	/* connection error: returns H2_E_FAILED */
void h2_nuisance(struct h2 *h, uint32_t *counter, uint32_t limit);

/* @len bytes of a control frame with its payload; NULL when there is no room (the connection has failed). */
uint8_t *h2_put_frame(struct h2 *h, uint8_t type, uint8_t flags, uint32_t stream, uint32_t len);
void h2_put_rst(struct h2 *h, uint32_t id, uint32_t code);
void h2_refuse(struct h2 *h, uint32_t id, uint32_t code);	/* the same, of a stream for which more may be on its way */

/*
 * A stream error of the peer's making; @s: NULL when the stream is not there
 * (any more). Who makes us reset has opened streams for nothing as much as who
 * resets them himself, and is counted with these.
 */
void h2_lose(struct h2 *h, struct h2_stream *s, uint32_t id, uint32_t code);

struct h2_stream *h2_find(const struct h2 *h, uint32_t id);
void h2_detach(struct h2 *h, struct h2_stream *s);
bool h2_is_idle(const struct h2 *h, uint32_t id);	/* nobody has opened it yet */

/*
 * A frame came for a stream that is gone. Is that as it has to be? The peer
 * may have sent a window full before it saw that we have reset the stream; so
 * each of these allows some frames, whichever stream they are for.
 */
bool h2_is_late(struct h2 *h);

/* Frames; each gets a whole payload. 0 or H2_E_FAILED or -ENOMEM. */
int h2_on_settings(struct h2 *h, const uint8_t *p, size_t len);
int h2_on_headers(struct h2 *h, const uint8_t *p, size_t len);
int h2_on_continuation(struct h2 *h, const uint8_t *p, size_t len);
int h2_on_goaway(struct h2 *h, const uint8_t *p, size_t len);
