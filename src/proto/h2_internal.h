#pragma once
#include "proto/h2.h"

/*
 * What the files of proto/h2 share among each other.
 */
int h2_fail(struct h2 *h, uint32_t code, const char *why);	/* connection error: returns H2_E_FAILED */
void h2_nuisance(struct h2 *h, uint32_t *counter, uint32_t limit);

/* @len bytes of a control frame with its payload; NULL when there is no room (the connection has failed). */
uint8_t *h2_put_frame(struct h2 *h, uint8_t type, uint8_t flags, uint32_t stream, uint32_t len);
void h2_put_rst(struct h2 *h, uint32_t id, uint32_t code);

struct h2_stream *h2_find(const struct h2 *h, uint32_t id);
void h2_detach(struct h2 *h, struct h2_stream *s);
bool h2_was_reset(const struct h2 *h, uint32_t id);	/* by us, lately */

/* Frames; each gets a whole payload. 0 or H2_E_FAILED or -ENOMEM. */
int h2_on_settings(struct h2 *h, const uint8_t *p, size_t len);
int h2_on_headers(struct h2 *h, const uint8_t *p, size_t len);
int h2_on_continuation(struct h2 *h, const uint8_t *p, size_t len);
int h2_on_goaway(struct h2 *h, const uint8_t *p, size_t len);
