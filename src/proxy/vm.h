#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/ip.h"
#include "base/pace.h"
#include "mesh/tls.h"
#include "proxy/budget.h"

/*
 * A VM as the worker threads see it.
 *
 *	struct vm	for its life: listeners, counters, budgets. Shared.
 *	struct vm_conf	what may change: certificate, mode, addresses. Immutable;
 *			a change is a new one (worker_put_vm()).
 *
 * Both are made by the main thread and are reference-counted; each worker
 * holds one reference of each while it serves the VM, each connection one of
 * the VM.
 */
enum { VM_MAX_ADDRESSES = 32, VM_MAX_TEE_PORTS = 16 };

/*
 * Written by one worker, read by the main thread, which sums them: relaxed
 * atomics. Units: connections, bytes.
 */
struct vm_counters {
	uint64_t opened[2];		/* connections, by enum flow_direction */
	uint64_t closed[2];
	uint64_t refused[2];		/* denied by policy, unknown destination, strict mode */
	uint64_t failed[2];		/* could not be connected, or broke */
	uint64_t over_budget[_VM_BUDGET_N];	/* cut, put off or not accepted */
	uint64_t bytes_sent[2];		/* by the client of the connection */
	uint64_t bytes_received[2];
	uint64_t tunnels_opened[2];	/* dialled, accepted */
	uint64_t tunnels_failed[2];
	uint64_t tls_refused;		/* peers whose certificate or identity we refused */
	uint64_t h2_errors;		/* tunnels that ended by a protocol error of the peer */
	uint64_t retries;		/* next endpoints tried */
};

struct vm_limits {			/* vm_conf_new() fills in the defaults */
	uint32_t connections;		/* open at once; 12000 */
	uint32_t connection_rate;	/* that it may open, a second; 0: no limit */
	uint64_t buffered_bytes;	/* in user memory, all connections and tunnels together; 64 MiB */
	uint64_t teed_bytes;		/* copied of its conversations with registries, a second; 8 MiB */
	uint32_t handshakes;		/* inbound tunnels that are not open yet; 512 */
	uint32_t tunnels;		/* inbound ones that are open; 4096 */
	uint32_t connect_timeout_ms;	/* of one attempt; 5000 */
	uint32_t resolve_timeout_ms;	/* 5000 */
	uint32_t idle_timeout_s;	/* of a connection; 0: none */
};

/* Of the connections that a VM may have, those that nobody gets who has many already. */
static inline uint32_t vm_kept(const struct vm_limits *l)
{
	return l->connections / 8;
}

struct vm {				/* fixed, but for atomics */
	unsigned n_refs;
	uint32_t slot;			/* small number, not used for another VM of this process while this one has references */
	char *id;
	int outbound_fd;		/* listeners; closed with the last reference; -1: none */
	int inbound_fd;
	uint32_t n_connections;		/* atomic, of all workers */
	uint32_t n_tunnels;		/* likewise: inbound ones that are open */
	uint32_t n_handshakes;		/* likewise: those that are not yet */
	uint64_t buffered_bytes;	/* atomic, of all workers */
	size_t n_serving;		/* atomic: workers that have it, and will have it for a while */
	struct pace pace;		/* of connections that it opens */
	struct pace teed;		/* of bytes that are copied */
	uint64_t tee_outstanding;	/* atomic: of these, those that the main thread has not taken, and what they are kept in */
	size_t n_workers;
	struct vm_counters counters[];	/* one a worker */
};

/* @id is copied, the descriptors become the VM's (also when this fails). -ENOMEM. */
MUST_CHECK int vm_new(uint32_t slot, const char *id, int outbound_fd, int inbound_fd, size_t n_workers, struct vm **ret_vm);
struct vm *vm_ref(struct vm *vm);
struct vm *vm_unref(struct vm *vm);
/* The sum over all workers. Any thread. */
void vm_count(const struct vm *vm, struct vm_counters *ret_sum);

enum vm_plain {				/* what plaintext may do */
	VM_PLAIN_DENY,			/* it is reset */
	VM_PLAIN_ALLOW,
};

struct vm_conf {
	unsigned n_refs;
	struct vm *vm;			/* a reference */
	char *uid;			/* of its mesh workload */
	char *namespace;		/* to prefer among services of one host name */
	struct tls_ctx *client;		/* references; NULL until there is a certificate: then tunnels wait */
	struct tls_ctx *server;
	char *trust_domain;		/* that peers must be of */
	struct ip addresses[VM_MAX_ADDRESSES];	/* of the VM: an :authority must name the one that was dialled */
	size_t n_addresses;
	enum vm_plain plain_in;		/* permissive: to the VM's ports */
	enum vm_plain plain_absent;	/* to addresses of which the mesh says that it does not know them */
	enum vm_plain plain_unresolved;	/* where the mesh has not answered in time */
	enum vm_plain plain_mesh;	/* to workloads of the mesh that speak no HBONE */
	uint16_t tee_ports[VM_MAX_TEE_PORTS];	/* outbound destination ports whose streams are copied to the main thread */
	size_t n_tee_ports;
	bool names;			/* its connections to port 53 are the main thread's */
	struct vm_limits limits;
	char *baggage;			/* value of the header that introduces this VM to its peers; NULL: none */
};

/* All zero but for the limits and the references (one, and one of @vm, which is taken). The maker fills it in before it is shared. -ENOMEM. */
MUST_CHECK int vm_conf_new(struct vm *vm, struct vm_conf **ret_conf);
struct vm_conf *vm_conf_ref(struct vm_conf *c);
struct vm_conf *vm_conf_unref(struct vm_conf *c);	/* frees what it points to */
