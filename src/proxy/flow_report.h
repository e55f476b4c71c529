#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/ip.h"
#include "mesh/authz.h"
#include "proxy/mailbox.h"
#include "proxy/vm.h"

/*
 * What the main thread learns of connections: for the access log and for
 * metrics with labels. Reports of a worker come in batches, at most 100 ms late.
 */
struct worker;

enum flow_direction { FLOW_OUTBOUND, FLOW_INBOUND };

enum flow_event {
	FLOW_OPENED,		/* both sides are connected */
	FLOW_PROGRESS,		/* every 15 s of a connection that lives: the bytes so far */
	FLOW_CLOSED,		/* the end, also of one that never opened */
};

enum flow_result {
	FLOW_OK,
	FLOW_R_RESET,		/* by one of the two applications */
	FLOW_R_DENIED,		/* by policy; @why has the words */
	FLOW_R_POLICY_CHANGED,	/* was open, and a new policy denies it */
	FLOW_R_PLAINTEXT,	/* plaintext where only mutual TLS is allowed */
	FLOW_R_UNKNOWN,		/* the mesh did not say in time what the destination is */
	FLOW_R_NO_PORT,		/* a service, but none of its ports */
	FLOW_R_NO_ENDPOINT,	/* no healthy endpoint */
	FLOW_R_CONNECT,		/* none of the endpoints tried could be connected; @why: the last one's reason */
	FLOW_R_NO_CERTIFICATE,	/* of our own, yet */
	FLOW_R_BUDGET,		/* a limit of the VM */
	FLOW_R_TUNNEL,		/* the tunnel broke under it */
	FLOW_R_IDLE,
	FLOW_R_DRAIN,		/* the VM goes, and the connection did not end in time */
	FLOW_R_BAD_REQUEST,	/* inbound HBONE: not a CONNECT, or for somebody else */
	FLOW_R_INTERNAL,	/* out of memory or descriptors */
	_FLOW_RESULT_N
};

const char *flow_result_name(enum flow_result r);	/* "denied" */

/* The other side, as far as it is known; shared by connections. Strings are "" where not known. */
struct flow_peer {
	unsigned n_refs;		/* atomic */
	uint32_t workload_id;		/* of the snapshot's workload; UINT32_MAX: none */
	const char *identity;		/* proven (TLS) SPIFFE ID */
	const char *uid;
	const char *workload_name;
	const char *namespace;
	const char *service_account;
	const char *canonical_name;
	const char *canonical_revision;
	const char *cluster;
	const char *service_key;	/* outbound: "namespace/hostname" that was called */
	const char *service_name;
	const char *service_namespace;
	const char *service_host;
	bool mutual_tls;
};

struct flow_peer *flow_peer_ref(struct flow_peer *p);
struct flow_peer *flow_peer_unref(struct flow_peer *p);

enum { FLOW_WHY_MAX = 95 };		/* bytes */

struct flow_report {
	struct mail mail;		/* to the main thread */
	struct worker *worker;		/* that made it */
	uint64_t id;			/* of the connection, in this process */
	enum flow_event event;
	enum flow_direction direction;
	enum flow_result result;	/* of FLOW_CLOSED */
	struct vm *vm;			/* a reference */
	struct flow_peer *peer;		/* a reference; NULL: nothing is known */
	struct ip_port source;		/* the client */
	struct ip_port destination;	/* that the client dialled */
	struct ip_port upstream;	/* where it went: endpoint or VM */
	uint64_t bytes_sent;		/* by the client, since it opened */
	uint64_t bytes_received;
	int64_t start_ms;		/* wall clock */
	uint32_t connect_ms;		/* until both sides were connected */
	uint32_t duration_ms;
	uint16_t status;		/* HBONE: of the CONNECT; 0 */
	uint8_t attempts;		/* endpoints tried */
	bool hbone;
	const char *why;		/* words, at most FLOW_WHY_MAX bytes of them; NULL: none. Freed with the report */
};

void flow_report_free(struct flow_report *r);	/* with its references */

/* A copy of a stream to a registry (vm_conf.tee_ports), in order. */
struct flow_tee {
	struct mail mail;
	struct worker *worker;		/* that made it */
	struct vm *vm;			/* a reference */
	uint64_t id;			/* of the connection */
	struct ip_port client;
	struct ip_port server;
	bool from_server;
	bool open;			/* the first message of the connection */
	bool fin;			/* that direction has ended */
	uint64_t lost;			/* bytes before these that were not copied: the main thread was slow */
	uint64_t mono_ns;
	uint32_t len;
	uint8_t data[];
};

void flow_tee_free(struct flow_tee *t);
