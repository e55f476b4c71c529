#pragma once
#include "control/ads.h"
#include "control/ads_index.h"
#include "envoy/discovery.pb-c.h"
#include "mesh/identity.h"

/*
 * Inside of ads: one stream, and what the two forms of it share.
 */
enum {
	ADS_MAX_NAMES = 65536,		/* that a stream may subscribe to, of one type */
	ADS_MAX_NAME = 1024,		/* bytes */
	ADS_MAX_NODE = 512,
	ADS_ANSWER_RESOURCES = 1000,	/* of one delta answer; more become several */
	ADS_ANSWER_BYTES = 1 << 20,
};

/* A change that is waiting until everybody who was told of it has acknowledged. */
struct ads_push {
	struct ads *ads;
	size_t n_refs;
	char **uids;
	size_t n_uids;
};

struct ads_pending {			/* an answer without an acknowledgement */
	struct list link;
	uint64_t nonce;
	struct ads_push *push;		/* NULL: nobody waits for it */
};

struct ads_name {			/* of a stream and type */
	struct map_link link;
	struct ads_interest interest;
	bool wanted;			/* asked for by this name */
	bool held;			/* the client has it */
	char version[RESOURCE_VERSION_LEN + 16];	/* of what it has; initial ones may be anything */
	char name[];
};

struct ads_type {			/* of a stream */
	bool started;			/* the first request has come */
	bool touched;			/* a change may be of interest */
	bool wildcard;			/* ads_set_wildcard() */
	struct ads_interest all;
	struct map names;
	size_t n_held;
	struct list pending;
};

struct ads_stream {
	struct list link;
	struct list touched;		/* in the ads' list: one of the types is */
	struct ads *ads;
	struct grpc_call *call;
	bool delta;
	bool has_node;
	struct identity id;
	char identity[IDENTITY_TEXT_LEN];
	bool through_nic;		/* a VM's: @origin is that of its NIC */
	struct revocation_origin origin;
	char node[ADS_MAX_NODE];
	char own_alias[80];		/* "network/ip" of its own address, or "" */
	char own_node[ADS_MAX_NODE];	/* "node:<name>", or "" */
	struct ads_interest own[2];	/* in these two */
	char last_nack[256];
	uint64_t nonce;
	uint64_t opened_ms;
	struct ads_type types[_RESOURCE_TYPE_N];
	struct defer dead;
};

struct ads {
	struct loop *loop;
	struct resources *resources;
	struct authn *authn;
	char *network;
	const struct ads_ops *ops;
	void *data;
	struct list streams;
	struct ads_index index;
	struct list touched;
	size_t n_streams;
	struct defer flush;
	struct ads_counters counters;
};

extern const char *const ads_type_urls[_RESOURCE_TYPE_N];

/* A stream that has said nothing yet, in the list of @a. */
void ads_stream_init(struct ads_stream *s, struct ads *a, struct grpc_call *call, bool delta);

/* What a request of either form begins with. */
struct ads_head {
	const char *type_url;
	const char *nonce;		/* of the answer that it acknowledges, or "" */
	const Envoy__Config__Core__V3__Node *node;
	const Google__Rpc__Status *error;
};

/*
 * Takes identity and node of a stream's first request, and acknowledgements.
 * False: there is nothing to answer. *ret_first: it is the first one of its type.
 */
bool ads_request_begin(struct ads_stream *s, const struct ads_head *head, enum resource_type *ret_type, bool *ret_first);
void ads_set_wildcard(struct ads_stream *s, enum resource_type type, bool wildcard);
struct ads_name *ads_name_find(const struct ads_type *t, const char *name);
/* The same by @key's name, a resource's or group's: without hashing it again for each stream. */
struct ads_name *ads_name_of(const struct ads_type *t, const struct map_link *key);
/* NULL: too many, too long, or no memory. */
struct ads_name *ads_name_get(struct ads_stream *s, enum resource_type type, const char *name);
void ads_name_forget(struct ads_stream *s, enum resource_type type, struct ads_name *n);	/* when it is neither wanted nor held */
void ads_names_clear(struct ads_stream *s, enum resource_type type);
/* Is the resource asked for: by wildcard, by its name, an alias, or a parent? */
bool ads_wants(const struct ads_stream *s, const struct resource *res);
/* By its name or an alias: then its children are, too. */
bool ads_wants_itself(const struct ads_stream *s, const struct resource *res);

MUST_CHECK int ads_pending_add(struct ads_type *t, uint64_t nonce, struct ads_push *push);
/* Acknowledged, or refused: it and all before it. */
void ads_pending_done(struct ads_type *t, const char *nonce);

/* ads_delta.c, ads_sotw.c */
void ads_delta_request(struct ads_stream *s, const uint8_t *bytes, size_t len);
void ads_delta_changes(struct ads_stream *s, enum resource_type type, struct ads_push *push);
void ads_sotw_request(struct ads_stream *s, const uint8_t *bytes, size_t len);
void ads_sotw_changes(struct ads_stream *s, enum resource_type type, struct ads_push *push);
