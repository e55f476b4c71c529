/*
 * The discovery stream of one identity: state machine, stream, delays.
 */
#include "mesh/xds_client.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/backoff.h"
#include "base/clock.h"
#include "base/secret.h"
#include "mesh/bearer.h"
#include "mesh/pb_json.h"

enum { BACKOFF_MIN_MS = 50, BACKOFF_MAX_MS = 10000, FIELDS_MAX = 64 };

static const char PATH[] = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/* The node message, its texts owned. */
struct node {
	Envoy__Config__Core__V3__Node message;
	Envoy__Config__Core__V3__Locality locality;
	Google__Protobuf__Struct metadata;
	Google__Protobuf__Struct__FieldsEntry entries[FIELDS_MAX];
	Google__Protobuf__Struct__FieldsEntry *pointers[FIELDS_MAX];
	Google__Protobuf__Value values[FIELDS_MAX];
};

struct xds_client {
	struct loop *loop;
	struct channel_user user;
	struct xds *xds;
	struct node node;
	char *authorization;		/* "Bearer ..." or NULL */
	char *cluster_id;
	const struct xds_type *types;
	size_t n_types;
	size_t n_metadata;		/* fields of the node that are said */
	struct grpc_call *call;
	struct backoff backoff;
	uint64_t opened_ms;		/* @call */
	struct timer retry;
	struct defer flush;
	bool synced;
	bool token_refused;
	bool health_known;
	bool health_due;		/* not said on this stream yet */
	char *unhealthy;		/* why; NULL: healthy */
	unsigned entered;
	bool zombie;
	const struct xds_client_ops *ops;
	void *data;
};

/* --- the node --- */

static int copy_text(char **to, const char *text)
{
	char *copy = strdup(text);

	if (!copy)
		return -ENOMEM;
	*to = copy;
	return 0;
}

/* What is nested in Istio's metadata: LABELS, PROXY_CONFIG. */
static int set_object(Google__Protobuf__Value *v, const char *text)
{
	json_t *json = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
	Google__Protobuf__Struct *s;
	int r = pb_struct_from_json(json, &s);

	json_decref(json);
	if (r < 0)
		return r;
	v->kind_case = GOOGLE__PROTOBUF__VALUE__KIND_STRUCT_VALUE;
	v->struct_value = s;
	return 0;
}

static int node_add_field(struct node *n, const struct xds_node_field *field)
{
	size_t i = n->metadata.n_fields;

	n->entries[i] = (Google__Protobuf__Struct__FieldsEntry)GOOGLE__PROTOBUF__STRUCT__FIELDS_ENTRY__INIT;
	n->values[i] = (Google__Protobuf__Value)GOOGLE__PROTOBUF__VALUE__INIT;
	n->values[i].kind_case = GOOGLE__PROTOBUF__VALUE__KIND_STRING_VALUE;
	n->values[i].string_value = NULL;
	n->entries[i].key = NULL;
	n->entries[i].value = &n->values[i];
	n->pointers[i] = &n->entries[i];
	n->metadata.n_fields++;		/* from here on node_deinit() sees it */
	int r = copy_text(&n->entries[i].key, field->name);
	if (r == 0 && field->value[0] == '{')
		return set_object(&n->values[i], field->value);
	return r < 0 ? r : copy_text(&n->values[i].string_value, field->value);
}

/* "region/zone/subzone" */
static int node_set_locality(struct node *n, const char *text)
{
	char *const *parts[] = { &n->locality.region, &n->locality.zone, &n->locality.sub_zone };
	const char *at = text;
	int r = 0;

	n->message.locality = &n->locality;
	for (size_t i = 0; i < ELEMENTS(parts) && r == 0; i++) {
		const char *slash = i < 2 ? strchr(at, '/') : NULL;
		char *part = slash ? strndup(at, (size_t)(slash - at)) : strdup(at);

		*(char **)(uintptr_t)parts[i] = part;
		r = part ? 0 : -ENOMEM;
		at = slash ? slash + 1 : "";
	}
	return r;
}

static int node_init(struct node *n, const struct xds_client_options *o)
{
	int r;

	n->message = (Envoy__Config__Core__V3__Node)ENVOY__CONFIG__CORE__V3__NODE__INIT;
	n->locality = (Envoy__Config__Core__V3__Locality)ENVOY__CONFIG__CORE__V3__LOCALITY__INIT;
	n->metadata = (Google__Protobuf__Struct)GOOGLE__PROTOBUF__STRUCT__INIT;
	n->metadata.fields = n->pointers;
	n->message.metadata = &n->metadata;
	n->message.id = n->message.cluster = NULL;
	n->locality.region = n->locality.zone = n->locality.sub_zone = NULL;
	n->message.user_agent_name = (char *)(uintptr_t)"outrigger";
	n->message.user_agent_version_type_case = ENVOY__CONFIG__CORE__V3__NODE__USER_AGENT_VERSION_TYPE_USER_AGENT_VERSION;
	n->message.user_agent_version = (char *)(uintptr_t)OUTRIGGER_VERSION;
	if (o->n_metadata > FIELDS_MAX)
		return -EINVAL;
	r = copy_text(&n->message.id, o->node_id);
	if (r == 0)
		r = copy_text(&n->message.cluster, o->node_cluster ?: "");
	for (size_t i = 0; i < o->n_metadata && r == 0; i++)
		r = node_add_field(n, &o->metadata[i]);
	if (r == 0 && o->locality && o->locality[0])
		r = node_set_locality(n, o->locality);
	return r;
}

static void node_deinit(struct node *n)
{
	for (size_t i = 0; i < n->metadata.n_fields; i++) {
		free(n->entries[i].key);
		if (n->values[i].kind_case == GOOGLE__PROTOBUF__VALUE__KIND_STRUCT_VALUE)
			google__protobuf__struct__free_unpacked(n->values[i].struct_value, NULL);
		else
			free(n->values[i].string_value);
	}
	free(n->locality.region);
	free(n->locality.zone);
	free(n->locality.sub_zone);
	free(n->message.id);
	free(n->message.cluster);
}

/* --- life --- */

static void enter(struct xds_client *c)
{
	c->entered++;
}

static void leave(struct xds_client *c)
{
	if (--c->entered || !c->zombie)
		return;
	xds_free(c->xds);
	node_deinit(&c->node);
	secret_free(c->authorization);
	free(c->cluster_id);
	free(c->unhealthy);
	free(c);
}

struct xds_client *xds_client_free(struct xds_client *c)
{
	if (!c)
		return NULL;
	enter(c);
	c->zombie = true;
	channel_detach(&c->user);
	timer_cancel(&c->retry);
	defer_cancel(&c->flush);
	grpc_call_cancel(c->call);
	c->call = NULL;
	if (c->xds) {
		xds_end(c->xds);
		xds_mute(c->xds);
	}
	leave(c);
	return NULL;
}

/* --- the stream --- */

static int on_retry(struct timer *t);

static void retry_later(struct xds_client *c)
{
	if (timer_arm(c->loop, &c->retry, backoff_next(&c->backoff), on_retry) < 0)
		return;		/* no memory: the channel's next up() starts it */
}

static void stream_lost(struct xds_client *c, const struct grpc_status *status)
{
	enter(c);
	c->call = NULL;
	c->synced = false;
	backoff_ended(&c->backoff, clock_mono_ms() - c->opened_ms);
	c->token_refused = status->code == GRPC_UNAUTHENTICATED;
	xds_end(c->xds);
	retry_later(c);
	if (c->ops->lost)
		c->ops->lost(c, c->data, status);
	leave(c);
}

/* We end it: the server broke the protocol, or memory is short. */
static void stream_abort(struct xds_client *c, int r)
{
	struct grpc_status status = { .code = r == -ENOMEM ? GRPC_RESOURCE_EXHAUSTED : GRPC_INTERNAL };

	snprintf(status.message, sizeof(status.message), "%s", r == -EBADMSG ? "the server's answer is malformed" : strerror(-r));
	grpc_call_cancel(c->call);
	stream_lost(c, &status);
}

/* pilot/pkg/xds of Istio: unhealthy is INTERNAL with the reason, as of a NACK. */
static int say_health(struct xds_client *c)
{
	Envoy__Service__Discovery__V3__DeltaDiscoveryRequest request = ENVOY__SERVICE__DISCOVERY__V3__DELTA_DISCOVERY_REQUEST__INIT;
	Google__Rpc__Status detail = GOOGLE__RPC__STATUS__INIT;
	int r;

	if (!c->health_known || !c->health_due)
		return 0;
	request.type_url = (char *)(uintptr_t)"type.googleapis.com/istio.v1.HealthInformation";
	if (c->unhealthy) {
		detail.code = GRPC_INTERNAL;
		detail.message = c->unhealthy;
		request.error_detail = &detail;
	}
	r = grpc_call_send_pb(c->call, &request.base);
	if (r == 0)
		c->health_due = false;
	return r == -ENOBUFS ? 0 : r;		/* with on_writable() */
}

static void flush(struct xds_client *c)
{
	int r = c->call ? xds_flush(c->xds) : 0;

	if (r == 0 && c->call)
		r = say_health(c);

	if (r < 0)
		stream_abort(c, r);
}

static void on_message(struct grpc_call *call, void *data, const uint8_t *bytes, size_t len)
{
	struct xds_client *c = data;
	bool synced = true;
	int r;

	(void)call;
	enter(c);
	r = xds_receive(c->xds, bytes, len);
	if (c->zombie) {
		leave(c);
		return;
	}
	if (r < 0)
		stream_abort(c, r);
	else
		flush(c);
	for (size_t i = 0; i < c->n_types; i++)
		synced = synced && (c->types[i].optional || xds_synced(c->xds, i));
	if (c->call && synced && !c->synced) {
		c->synced = true;
		if (c->ops->synced && !c->zombie)
			c->ops->synced(c, c->data);
	}
	leave(c);
}

static void on_writable(struct grpc_call *call, void *data)
{
	(void)call;
	flush(data);
}

static void on_closed(struct grpc_call *call, void *data, const struct grpc_status *status)
{
	(void)call;
	stream_lost(data, status);
}

static const struct grpc_call_ops call_ops = { .message = on_message, .writable = on_writable, .closed = on_closed };

static int send_request(void *data, const Envoy__Service__Discovery__V3__DeltaDiscoveryRequest *request)
{
	struct xds_client *c = data;

	return grpc_call_send_pb(c->call, &request->base);
}

static int begin(struct xds_client *c)
{
	size_t all = c->node.metadata.n_fields;
	int r;

	c->node.metadata.n_fields = c->n_metadata;
	r = xds_begin(c->xds, &c->node.message, send_request, c);
	c->node.metadata.n_fields = all;
	return r;
}

static void open_stream(struct xds_client *c, struct grpc_client *client)
{
	struct grpc_metadata metadata[2];
	struct grpc_call_options options = { .path = PATH, .metadata = metadata };
	int r;

	timer_cancel(&c->retry);
	c->opened_ms = clock_mono_ms();
	options.n_metadata = bearer_metadata(c->authorization, c->cluster_id, metadata);
	r = grpc_client_stream(client, &options, &call_ops, c, &c->call);
	if (r == 0)
		r = begin(c);
	c->health_due = true;
	if (r == 0)
		r = say_health(c);
	if (r < 0)
		stream_abort(c, r);
}

static int on_retry(struct timer *t)
{
	struct xds_client *c = container_of(t, struct xds_client, retry);
	struct grpc_client *client = c->user.channel ? channel_client(c->user.channel) : NULL;

	if (client && !c->call)
		open_stream(c, client);
	return 0;
}

static void on_up(struct channel_user *user, struct grpc_client *client)
{
	struct xds_client *c = container_of(user, struct xds_client, user);

	if (!c->call)
		open_stream(c, client);
}

static int on_flush(struct defer *d)
{
	flush(container_of(d, struct xds_client, flush));
	return 0;
}

/* --- interface --- */

int xds_client_new(struct loop *loop, const struct xds_client_options *o, const struct xds_client_ops *ops, struct xds_client **ret_client)
{
	struct xds_client *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return -ENOMEM;
	c->loop = loop;
	c->ops = ops;
	c->data = o->data;
	c->types = o->types;
	c->n_types = o->n_types;
	c->backoff = (struct backoff){ .min_ms = BACKOFF_MIN_MS, .max_ms = BACKOFF_MAX_MS };
	c->user.up = on_up;
	r = xds_new(o->types, o->n_types, o->data, &c->xds);
	if (r == 0)
		r = node_init(&c->node, o);
	c->n_metadata = c->node.metadata.n_fields;
	if (r == 0 && o->token)
		r = bearer_from_token(o->token, &c->authorization);
	if (r == 0 && o->cluster_id)
		r = copy_text(&c->cluster_id, o->cluster_id);
	if (r < 0) {
		xds_client_free(c);
		return r;
	}
	channel_attach(o->channel, &c->user);
	*ret_client = c;
	return 0;
}

int xds_client_set_token(struct xds_client *c, const char *token)
{
	char *text;
	int r = bearer_from_token(token, &text);

	if (r < 0)
		return r;
	secret_free(c->authorization);
	c->authorization = text;
	if (c->token_refused && !c->call) {
		c->token_refused = false;
		backoff_reset(&c->backoff);
		return timer_arm(c->loop, &c->retry, 0, on_retry);
	}
	return 0;
}

int xds_client_set_health(struct xds_client *c, const char *unhealthy)
{
	char *copy = unhealthy ? strdup(unhealthy) : NULL;

	if (unhealthy && !copy)
		return -ENOMEM;
	if (c->health_known && !c->unhealthy == !copy) {	/* another reason for the same is no news */
		free(copy);
		return 0;
	}
	free(c->unhealthy);
	c->unhealthy = copy;
	c->health_known = true;
	c->health_due = true;
	loop_defer(c->loop, &c->flush, on_flush);
	return 0;
}

void xds_client_reopen(struct xds_client *c, size_t n_metadata)
{
	grpc_call_cancel(c->call);
	c->call = NULL;
	c->synced = false;
	xds_end(c->xds);
	c->n_metadata = MIN(n_metadata, c->node.metadata.n_fields);
	backoff_reset(&c->backoff);
	(void)!timer_arm(c->loop, &c->retry, 0, on_retry);	/* no memory: the channel's next up() does it */
}

int xds_client_subscribe(struct xds_client *c, size_t type, const char *name)
{
	int r = xds_subscribe(c->xds, type, name);

	if (r == 0)
		loop_defer(c->loop, &c->flush, on_flush);
	return r;
}

void xds_client_ask_again(struct xds_client *c, size_t type, const char *name)
{
	xds_ask_again(c->xds, type, name);
	loop_defer(c->loop, &c->flush, on_flush);
}

void xds_client_unsubscribe(struct xds_client *c, size_t type, const char *name)
{
	xds_unsubscribe(c->xds, type, name);
}

const struct xds *xds_client_state(const struct xds_client *c)
{
	return c->xds;
}

bool xds_client_synced(const struct xds_client *c)
{
	return c->synced;
}
