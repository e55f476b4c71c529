#pragma once
#include "proxy/sidecar.h"

/*
 * Between the files of a sidecar: sidecar.c, sidecar_mesh.c, sidecar_health.c.
 */
void sidecar_event(struct sidecar *s, enum sidecar_event ev, const char *detail);	/* @detail NULL: as it was */

/* sidecar_health.c */
void sidecar_set_health(struct sidecar *s);		/* by the newest VmPut */
void sidecar_health_changed(void *sidecar);
void sidecar_report_health(struct sidecar *s);		/* to the agent */
void sidecar_say_health(struct sidecar *s);		/* to istiod */

void sidecar_ask_token(struct sidecar *s);
void sidecar_ask_again(struct sidecar *s, uint64_t now_ms);	/* when it is time to */
/* Starts certificate and discovery, as far as there are a controller and a token to show it. */
MUST_CHECK int sidecar_start_clients(struct sidecar *s);
/* Its own workload is what policies are looked up by. */
MUST_CHECK int sidecar_subscribe_own(struct sidecar *s);
/* Its workload's uid in the mesh, as far as that is known; else the agent's word for it. */
const char *sidecar_own_uid(const struct sidecar *s, char uid[static SNAP_UID_LEN]);
/* Istio's registration that was lost is made anew. Call it every second or so. */
void sidecar_register_again(struct sidecar *s, uint64_t now_ms);
extern const struct demand_ops sidecar_demand_ops;
