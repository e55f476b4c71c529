#pragma once
#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/ip.h"
#include "mesh/tls.h"

/*
 * gRPC over HTTP/2, asynchronous on a loop: the calls. Connections are made by
 * grpc_client.h, accepted by grpc_server.h; a call looks the same on both ends.
 *
 * A call belongs to its connection and lives until its closed() has returned,
 * or until it is cancelled. closed() is called exactly once, and is the last
 * that is heard of a call; after grpc_call_cancel() nothing is heard at all.
 * Every function here may be used inside every callback. All of it belongs to
 * the loop's thread.
 *
 * Source: gRPC over HTTP2 (PROTOCOL-HTTP2.md of the gRPC project), RFC 9113.
 */
struct grpc_call;

/* Status codes, as on the wire. */
enum grpc_code {
	GRPC_OK,
	GRPC_CANCELLED,
	GRPC_UNKNOWN,
	GRPC_INVALID_ARGUMENT,
	GRPC_DEADLINE_EXCEEDED,
	GRPC_NOT_FOUND,
	GRPC_ALREADY_EXISTS,
	GRPC_PERMISSION_DENIED,
	GRPC_RESOURCE_EXHAUSTED,
	GRPC_FAILED_PRECONDITION,
	GRPC_ABORTED,
	GRPC_OUT_OF_RANGE,
	GRPC_UNIMPLEMENTED,
	GRPC_INTERNAL,
	GRPC_UNAVAILABLE,
	GRPC_DATA_LOSS,
	GRPC_UNAUTHENTICATED,
	_GRPC_CODE_N,
};

const char *grpc_code_name(enum grpc_code code);	/* "UNAVAILABLE" */

enum { GRPC_MESSAGE_LEN = 512 };

/* How a call ended. */
struct grpc_status {
	enum grpc_code code;
	char message[GRPC_MESSAGE_LEN];		/* for people; cut off where it is longer */
	uint32_t retry_ms;			/* the server asks us to wait so long before the next try; 0: it says nothing */
};

/* Custom metadata. Names in lower case; not "grpc-...", not "...-bin". */
struct grpc_metadata {
	const char *name;
	const char *value;
};

struct grpc_call_ops {
	/*
	 * A message of the peer, without its frame. The bytes are valid for
	 * the call. Use mesh/pb.h to decode them: they are a stranger's.
	 */
	void (*message)(struct grpc_call *call, void *data, const uint8_t *bytes, size_t len);
	/* Server: the client has sent its last message. May be NULL: then the call ends with GRPC_OK. */
	void (*half_closed)(struct grpc_call *call, void *data);
	/* After a send was refused with -ENOBUFS: there is room again. May be NULL. */
	void (*writable)(struct grpc_call *call, void *data);
	/*
	 * The end. Client: the server's status, or what became of the
	 * connection (GRPC_UNAVAILABLE), or the deadline. Server: what was
	 * given to grpc_call_finish(), or GRPC_CANCELLED when the client or
	 * the connection went first.
	 */
	void (*closed)(struct grpc_call *call, void *data, const struct grpc_status *status);
};

/* Server, in grpc_method.open: who gets the call's events from now on. */
void grpc_call_set_ops(struct grpc_call *call, const struct grpc_call_ops *ops, void *data);

/*
 * Queues one message. -ENOBUFS: the peer is behind and the call's queue is
 * full (nothing was queued; writable() will come), -EMSGSIZE over the
 * maximum, -EPIPE when the call's sending side is closed, -ENOMEM. An empty
 * queue takes any message of legal size.
 */
MUST_CHECK int grpc_call_send(struct grpc_call *call, const void *bytes, size_t len);
MUST_CHECK int grpc_call_send_pb(struct grpc_call *call, const ProtobufCMessage *message);
size_t grpc_call_queued(const struct grpc_call *call);		/* bytes that wait for the peer or the network */

/* Client: no more messages from us. */
void grpc_call_half_close(struct grpc_call *call);

/* Server: what is queued is sent, then the status. @fmt NULL: no message. */
void grpc_call_finish(struct grpc_call *call, enum grpc_code code, const char *fmt, ...) PRINTF_LIKE(3, 4);
/*
 * Server, before grpc_call_finish(): the client should wait so long before it
 * tries again. Source: gRFC A6, "Pushback": trailer grpc-retry-pushback-ms.
 */
void grpc_call_retry_after(struct grpc_call *call, uint32_t ms);
/* Server, unary: one message and GRPC_OK; GRPC_INTERNAL where it cannot be queued. */
void grpc_call_reply_pb(struct grpc_call *call, const ProtobufCMessage *message);

/* Drops the call without a word to its owner; the peer gets a reset. NULL is allowed. */
void grpc_call_cancel(struct grpc_call *call);

/*
 * Stops and resumes message(). The peer can send one stream window more, then
 * it has to wait: back-pressure. Other calls of the connection go on.
 */
void grpc_call_pause(struct grpc_call *call, bool paused);

/* Metadata of the peer, or NULL: the client's on a server, the server's initial metadata on a client. The first of a name. */
const char *grpc_call_metadata(const struct grpc_call *call, const char *name);
const char *grpc_call_path(const struct grpc_call *call);

/* The connection's: valid as long as the call. */
const struct tls_session *grpc_call_session(const struct grpc_call *call);	/* NULL on plaintext */
const char *grpc_call_peer_id(const struct grpc_call *call);			/* SPIFFE ID by certificate, or NULL */
struct ip_port grpc_call_peer_addr(const struct grpc_call *call);
