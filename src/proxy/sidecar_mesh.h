#pragma once
#include "proxy/sidecar.h"

/*
 * Between the two files of a sidecar: sidecar.c and sidecar_mesh.c.
 */
void sidecar_event(struct sidecar *s, enum sidecar_event ev, const char *detail);	/* @detail NULL: as it was */

void sidecar_ask_token(struct sidecar *s);
void sidecar_ask_again(struct sidecar *s, uint64_t now_ms);	/* when it is time to */
/* Starts certificate and discovery, as far as there are a controller and a token to show it. */
MUST_CHECK int sidecar_start_clients(struct sidecar *s);
/* Its own workload is what policies are looked up by. */
MUST_CHECK int sidecar_subscribe_own(struct sidecar *s);
extern const struct demand_ops sidecar_demand_ops;
