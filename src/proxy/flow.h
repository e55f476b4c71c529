#pragma once
#include "proto/h2.h"
#include "proxy/sock.h"
#include "proxy/worker_internal.h"

/*
 * One connection through the proxy.
 *
 *	outbound	local = the VM's socket;  other side: a stream, or far = a plain socket
 *	inbound, HBONE	local = socket to the VM; other side: a stream
 *	inbound, plain	local = the client's socket; far = socket to the VM
 *
 * Bytes are read from one side only while the other takes them. Each direction
 * ends on its own (FIN, END_STREAM); a reset on one side is a reset on the
 * other. flow_out.c and flow_in.c decide where it goes.
 */
enum flow_state {
	FLOW_DECIDING,			/* parked: waits for a snapshot, a certificate, a socket */
	FLOW_CONNECTING,		/* a plain upstream */
	FLOW_WAITING,			/* for a tunnel */
	FLOW_REQUESTED,			/* CONNECT is sent */
	FLOW_OPEN,
	FLOW_DEAD,
};

struct pool_entry;

enum { FLOW_ATTEMPTS_MAX = 3 };	/* endpoints, or the same again, for one connection */

struct flow {
	/* fixed */
	struct worker_vm *v;
	uint64_t id;
	int64_t start_ms;		/* wall clock */
	uint64_t started_ms;		/* monotonic */
	struct ip_port source;
	struct ip_port destination;

	/* changes */
	struct ip_port upstream;	/* where it goes */
	uint16_t status;
	struct list of_vm;
	struct list of_other;		/* among the flows of @tunnel, or of @target: it has one of them at most */
	struct list waiting;		/* parked, no_socket, pool entry, or tunnel's stalled */
	struct sock local;
	union {				/* the other side; what it does not have takes no room */
		struct sock far;	/* if @has_far */
		struct {		/* if not */
			struct h2_stream stream;
			struct pool_entry *pool;	/* while it waits for a tunnel of it */
		};
	};
	struct hbone *tunnel;
	struct worker_vm *target;	/* a VM of this process that it reaches directly */
	union {
		struct timer timer;	/* of connecting and of deciding */
		struct defer free_defer;	/* of FLOW_DEAD */
	};
	struct flow_peer *peer;
	uint64_t bytes_sent;		/* by the client */
	uint64_t bytes_received;
	uint64_t active_ms;		/* when bytes last moved */
	union {
		uint32_t tried[FLOW_ATTEMPTS_MAX - 1];	/* until it is @opened; after the last one nothing is picked any more */
		uint32_t tee_lost[2];	/* from then on: bytes; at most UINT32_MAX */
	};
	uint32_t workload_id;		/* of the endpoint at hand, known to the balancer; UINT32_MAX: none */
	uint32_t connect_ms;
	uint32_t reported_s;		/* last progress; monotonic */
	enum flow_direction direction : 8;	/* fixed */
	enum flow_state state : 8;
	uint16_t n_tried : 2;
	uint16_t attempts : 3;
	bool tee : 1;
	bool tee_begun : 1;
	bool asked : 1;			/* the main thread was asked to resolve the destination */
	bool asked_waypoint : 1;	/* likewise its waypoint */
	bool unresolved : 1;		/* the destination is what it waits for */
	bool no_waypoint : 1;		/* the destination's waypoint is what it waits for */
	bool counted : 1;		/* in the VM's connections */
	bool opened : 1;
	bool hbone : 1;
	bool refused : 1;		/* inbound: its CONNECT was answered with an error */
	bool has_far : 1;
	char *why;
};

_Static_assert(sizeof(struct flow) <= 376, "a connection costs little besides its sockets");

/* A new flow of @v in state DECIDING. NULL: out of memory, or over the VM's budget (which is counted). */
struct flow *flow_new(struct worker_vm *v, enum flow_direction direction);
/* Ends it, now: closes both sides, reports. Harmless when it is dead. @why may be NULL. */
void flow_end(struct flow *f, enum flow_result result, const char *why);
/* Both sides are there: bytes may move. */
void flow_open(struct flow *f);

void flow_report_progress(struct flow *f);

/*
 * Another VM of this process is reached without a tunnel: @to is charged for
 * the connection, counts it and reports it as it does one from outside. False:
 * @to has too many.
 */
MUST_CHECK bool flow_take_target(struct flow *f, struct worker_vm *to);
/* The attempt, or the connection, is over. Harmless without a target. */
void flow_leave_target(struct flow *f, enum flow_result result);
void flow_drop_target(struct flow *f);		/* it was none, and nobody is told */
/* @to did not let it in. */
void flow_target_denies(struct flow *f, struct worker_vm *to);

/* Gives up the other side, to try another. Outbound. */
void flow_leave(struct flow *f);

/* Takes @fd over and watches it. 0 or negative; @fd is then closed. */
MUST_CHECK int flow_take_local(struct flow *f, int fd, bool connecting);
MUST_CHECK int flow_take_far(struct flow *f, int fd, bool connecting);

/* Waits in @list until something new is known; too late @timeout_ms after it first did. */
void flow_park(struct flow *f, struct list *list, uint32_t timeout_ms);
/* Waits in @list for an attempt that begins now. */
void flow_wait(struct flow *f, struct list *list, uint32_t timeout_ms);
/* Once, and once again for its waypoint: asks the main thread what @ip is. */
void flow_ask(struct flow *f, const struct ip *ip);

/* --- from the tunnel --- */
static inline struct flow *flow_of_stream(struct h2_stream *s)
{
	return container_of(s, struct flow, stream);
}
void flow_from_stream(struct flow *f, const struct iovec *iov, size_t n_iov, bool end);
void flow_resume(struct flow *f);		/* the tunnel takes bytes again */
void flow_stream_gone(struct flow *f, uint32_t code, bool by_us);	/* reset, @by_us: for what the peer did on it */
void flow_tunnel_lost(struct flow *f, const char *why);

/* --- flow_out.c: outbound --- */
void flow_out_accepted(struct worker_vm *v, int fd, const struct ip_port *src, const struct ip_port *dst);
void flow_out_decide(struct flow *f);		/* at first, and when something new is known */
void flow_out_failed(struct flow *f, const char *why);	/* this endpoint; tries the next */
/* It does not answer for now: tries another that is well if there is one, else waits on. */
void flow_out_hesitate(struct flow *f, const char *why);
void flow_out_refused(struct flow *f, const char *why);	/* it has not looked at it; tries again */
void flow_out_connected(struct flow *f);	/* a plain upstream */
void flow_out_request(struct flow *f, struct hbone *t);	/* on a tunnel that takes it */
void flow_out_response(struct flow *f, unsigned status);
void flow_out_timeout(struct flow *f);

/* --- flow_in.c: inbound --- */
void flow_in_accepted(struct worker_vm *v, int fd, const struct ip_port *src, const struct ip_port *dst);
void flow_in_request(struct hbone *t, const struct h2_message *m, bool end);
void flow_in_decide(struct flow *f);
void flow_in_connected(struct flow *f);
void flow_in_failed(struct flow *f, const char *why);
void flow_in_timeout(struct flow *f);
void flow_in_recheck(struct flow *f, bool for_good);	/* policies have changed; @for_good: what is missing does not come any more */
bool flow_in_may_change(const struct authz_verdict *verdict);	/* with the next news of the mesh, which is worth waiting for */
/* May @principal, from @f->source, reach this VM at @port? What to do is done but for AUTHZ_ALLOWED. */
struct authz_verdict flow_in_check(struct worker_vm *target, const struct ip_port *source, const struct ip_port *destination,
				   const char *principal);
