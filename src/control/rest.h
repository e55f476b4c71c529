#pragma once
#include "control/server.h"

/*
 * The REST API: JSON over HTTP, on a unix socket and on loopback (or TLS).
 * docs/rest.md describes it; /v1/openapi.json is made from the same table.
 *
 * Who may: on the unix socket root and the controller's own user, everything.
 * Over TCP with the bearer token everything; without one, from a loopback
 * address, reading, except where the row says otherwise.
 */
MUST_CHECK int rest_start(struct server *s, struct tls_ctx *tls, struct diag *reterr_diag);

extern const struct httpd_route rest_routes[];
extern const size_t rest_n_routes;

/* rest_show.c: the handlers that read. */
void rest_get_status(struct httpd_request *req);
void rest_get_nics(struct httpd_request *req);
void rest_get_guests(struct httpd_request *req);
void rest_get_services(struct httpd_request *req);
void rest_get_workloads(struct httpd_request *req);
void rest_get_proxies(struct httpd_request *req);
void rest_get_policies(struct httpd_request *req);
void rest_get_streams(struct httpd_request *req);
void rest_get_explain(struct httpd_request *req);
void rest_get_check(struct httpd_request *req);
void rest_get_metrics(struct httpd_request *req);
void rest_get_certificates(struct httpd_request *req);

/* rest_kube.c: adds what the mesh has from Kubernetes to the rows of /v1/services; @name NULL: all. */
void rest_add_kube(const struct server *s, const char *name, json_t *list);

/* rest_change.c: those that change something. */
void rest_get_tokens(struct httpd_request *req);
void rest_create_token(struct httpd_request *req);
void rest_revoke_token(struct httpd_request *req);
void rest_revoke_nic(struct httpd_request *req);
void rest_drain_guest(struct httpd_request *req);
void rest_reload(struct httpd_request *req);
