#pragma once
#include "base/list.h"
#include "control/limiter.h"
#include "control/provisioner.h"
#include "mesh/identity.h"
#include "mesh/revocation.h"
#include "outrigger/provisioner.pb-c.h"

/*
 * Inside of provisioner: its state, and one session.
 */
struct session {
	struct list link;
	struct provisioner *p;
	struct grpc_call *call;
	char nic_id[IDENTITY_NAME_MAX + 1];
	struct revocation_origin origin;	/* of its enrolment: a new one ends the session */
	struct reg_nic *nic;		/* NULL until its hello, and when another session took over */
	uint64_t policy_version;
	char policy_refused[256];
	bool policies_due, containers_due, nodes_due;	/* a send found no room */
	bool nodes_told;
	uint8_t *nodes;			/* that it was told last, packed */
	size_t n_nodes;
	struct timer wait;		/* its reports are too many: nothing is heard of it */
	struct list asks;		/* session_ask: tokens that are being asked for */
	struct defer dead;
};

struct provisioner {
	struct provisioner_options o;
	const struct config *config;
	uint64_t version;		/* of policies and containers: grows over restarts, too */
	char *roots_pem;		/* of the mesh; NULL: not known yet */
	struct list sessions;
	struct provisioner_counters counters;
	struct limiter enrolments;	/* by address */
	struct limiter requests;	/* by NIC */
	struct timer nodes;		/* they are worked out anew at its end */
};

/* Whether the caller's certificate is a NIC's that is enrolled and not revoked, and it has not called too often. Ends the call where not. */
bool provisioner_check_nic(struct provisioner *p, struct grpc_call *call, struct store_nic *ret_nic);
/* May the NIC have another request? No: for *ret_wait_ms. */
bool provisioner_take_request(struct provisioner *p, const char *nic, uint32_t *ret_wait_ms);
void session_free(struct session *s);
/* -ENOBUFS: no room now. -EPIPE, -ENOMEM. */
MUST_CHECK int session_send(struct session *s, Outrigger__V1__Directive *d);
void session_push_welcome(struct session *s);
void session_push_policies(struct session *s);
void session_push_containers(struct session *s);
void session_push_nodes(struct session *s);	/* session_nodes.c */
