#pragma once
#include <stdint.h>
#include "base/loop.h"
#include "control/authority.h"
#include "control/cluster.h"
#include "control/config.h"
#include "control/issuer.h"
#include "control/registry.h"
#include "control/revoker.h"
#include "control/store.h"
#include "control/tokens.h"
#include "mesh/grpc_server.h"

/*
 * The provisioner: enrols NICs by one-time join tokens, renews their
 * certificates (also expired ones, recovery.h), and holds their sessions (outrigger/provisioner.proto).
 */
struct provisioner;

struct provisioner_options {		/* all borrowed for its life, but @config */
	struct loop *loop;
	const struct config *config;	/* until provisioner_apply() */
	struct authority *authority;
	struct issuer *issuer;
	struct registry *registry;
	struct store *store;
	const struct revoker *revoker;
	struct tokens *tokens;
	const struct cluster *cluster;	/* NULL: none */
};

#define PROVISIONER_ENROLL_PATH		"/outrigger.v1.Provisioner/Enroll"
#define PROVISIONER_RENEW_PATH		"/outrigger.v1.Provisioner/Renew"
#define PROVISIONER_SESSION_PATH	"/outrigger.v1.Provisioner/Session"

MUST_CHECK int provisioner_new(const struct provisioner_options *options, struct provisioner **ret_provisioner);
struct provisioner *provisioner_free(struct provisioner *p);	/* before its server is freed */
/* Another configuration is in force: sessions are told what is new in it. -ENOMEM. */
MUST_CHECK int provisioner_apply(struct provisioner *p, const struct config *config);

/* The methods. */
void provisioner_enroll(struct provisioner *p, struct grpc_call *call, const uint8_t *bytes, size_t len);
void provisioner_renew(struct provisioner *p, struct grpc_call *call, const uint8_t *bytes, size_t len);
void provisioner_open_session(struct provisioner *p, struct grpc_call *call);

/* Something that policies are made of, beside the configuration, has changed: sessions are told. */
void provisioner_policies(struct provisioner *p);
/* The addresses of containers have changed: sessions are told. */
void provisioner_containers(struct provisioner *p);
/* Guests, or objects of the cluster, have changed: which guests are nodes is worked out soon, and sessions are told what is new. */
void provisioner_nodes(struct provisioner *p);
/* Other roots of the mesh, or the first ones: until there are any, no session is welcomed. */
void provisioner_set_roots(struct provisioner *p, const char *roots_pem);

/* A NIC has been revoked: its session is told and ended. */
void provisioner_revoke(struct provisioner *p, const char *nic, const char *reason);
/* Tells the NIC to drain a guest ("": all). -ENOENT: it has no session. */
MUST_CHECK int provisioner_drain(struct provisioner *p, const char *nic, const char *guest_id, uint32_t drain_ms);
/* registry_moves: a NIC without a session is told when it comes back. */
void provisioner_hand_over(struct provisioner *p, const struct reg_guest *from, const struct reg_guest *to);
void provisioner_moved(struct provisioner *p, const struct reg_guest *from, const struct reg_guest *to);

struct provisioner_counters {
	uint64_t n_enrolled, n_renewed, n_recovered, n_refused, n_tokens, n_tokens_refused;
	uint64_t n_delayed;		/* times that a NIC's reports had to wait */
	uint64_t n_limited;		/* of those refused: asked for too often */
};
struct provisioner_counters provisioner_counters(const struct provisioner *p);

struct session_info {
	bool connected;
	uint64_t policy_version;	/* that it has taken */
	const char *policy_refused;	/* "" */
	struct ip_port peer;
};
struct session_info provisioner_session(const struct provisioner *p, const char *nic);
