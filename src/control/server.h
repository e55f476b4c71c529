#pragma once
#include "base/loop.h"
#include "control/ads.h"
#include "control/authority.h"
#include "control/cluster.h"
#include "control/config.h"
#include "control/issuer.h"
#include "control/kube_mesh.h"
#include "control/provisioner.h"
#include "control/registry.h"
#include "control/signing.h"
#include "control/store.h"
#include "control/tokens.h"
#include "mesh/grpc_server.h"
#include "mesh/httpd.h"

/*
 * The controller put together: store, authority, issuer, registry, provisioner,
 * mesh controller and REST, their listeners and certificates, and the
 * configuration file that is watched.
 */
struct config_watch {
	int fd;				/* inotify on the file's directory */
	struct watch watch;
	struct timer settle;		/* an editor's several steps are one change */
};

struct server {
	struct loop *loop;
	char *config_path;
	struct config *config;		/* in force */
	struct diag config_error;	/* why the file as it is now is not in force; msg "": it is */
	int64_t config_loaded_at;
	int64_t config_refused_at;	/* 0: never */
	uint64_t n_reloads, n_refusals;
	char restart_needed[CONF_PATH_LEN];	/* a setting that waits for a restart, or "" */
	struct config_watch config_watch;

	struct store *store;
	struct authority *authority;
	struct issuer *issuer;
	struct resources resources;
	struct registry *registry;
	struct revoker *revoker;
	struct authn authn;
	struct signing signing;
	struct ads *ads;
	struct kube_mesh *kube_mesh;	/* NULL: no namespace of a cluster is in the mesh */
	struct cluster *cluster;	/* NULL: none is configured */
	struct tokens *tokens;
	struct provisioner *provisioner;
	struct grpc_server *provisioner_server;
	struct grpc_server *mesh_server;
	struct httpd *httpd;
	struct timer certificates;
	int64_t server_not_after;	/* of the listeners' certificates, that of REST too */
	char *rest_token;		/* bearer token for TCP, or NULL */
	int64_t started_at;		/* seconds since 1970 */
};

/* -EINVAL with the reason in @reterr_diag, and others. */
MUST_CHECK int server_new(struct loop *loop, const char *config_path, struct server **ret_server, struct diag *reterr_diag);
struct server *server_free(struct server *s);

/* Loads the file again: what is wrong stays in config_error, the last good one stays in force. */
void server_reload(struct server *s);

/* config_watch.c. Errors: those of inotify. */
MUST_CHECK int config_watch_start(struct server *s);
void config_watch_stop(struct server *s);
