#pragma once
#include "proxy/worker_internal.h"

/*
 * Closing a connection whose peer has made a mistake and is still talking.
 * close() with unread bytes resets it, and the reset overtakes the alert or
 * GOAWAY that says what was wrong. So the end of our side is sent, and what
 * still comes is read and dropped for a short while.
 */
void linger_close(struct worker *w, int fd);	/* takes @fd over */
void linger_free_all(struct worker *w);
