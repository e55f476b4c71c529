/*
 * Delta ADS: what the server answers.
 */
#include "mesh/xds_state.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "mesh/pb.h"

enum { REASON_MAX = 2048 };

typedef Envoy__Service__Discovery__V3__DeltaDiscoveryResponse response_t;
typedef Envoy__Service__Discovery__V3__Resource resource_t;

struct reasons {
	char text[REASON_MAX];
	size_t len;
};

static void refuse(struct xds *x, struct reasons *reasons, const char *name, const char *why)
{
	int n = snprintf(reasons->text + reasons->len, sizeof(reasons->text) - reasons->len, "%s%.200s: %s", reasons->len ? "; " : "", name, why);

	x->counters.refused++;
	if (n > 0)
		reasons->len = MIN(reasons->len + (size_t)n, sizeof(reasons->text) - 1);
}

static void mark_answered(struct xds_state *s, const char *name)
{
	struct xds_name *n = xds_name_find(s, name);

	if (n)
		n->answered = true;
}

static const char *malformed(const struct xds_type *type, const resource_t *r)
{
	if (!r->name[0] || strlen(r->name) > XDS_NAME_MAX)
		return "a resource without a name, or with one that is too long";
	if (strlen(r->version) > XDS_VERSION_MAX)
		return "a version that is too long";
	if (!r->resource)
		return "an empty resource";
	if (strcmp(r->resource->type_url, type->url) != 0)
		return "a resource of another type";
	return NULL;
}

/* With the version of what we did not take it would never come again. */
static void forget_version(struct xds_held *h)
{
	if (h)
		*xds_held_version(h) = 0;
}

static void take_resource(struct xds *x, size_t type, const resource_t *r, struct reasons *reasons)
{
	const char *why = malformed(&x->types[type], r);
	bool is_new = !xds_held_find(&x->state[type], r->name);
	struct diag diag = {};
	int result;

	if (why) {
		refuse(x, reasons, r->name, why);
		return;
	}
	struct xds_resource resource = { r->name, r->version, r->resource->value.data, r->resource->value.len };
	result = xds_hold(&x->state[type], r->name, r->version);
	if (result == 0)
		result = x->types[type].put(x->data, &resource, &diag);
	if (result == 0) {
		x->counters.resources++;
		mark_answered(&x->state[type], r->name);
		return;
	}
	struct xds_held *h = xds_held_find(&x->state[type], r->name);
	if (h && is_new)
		xds_held_drop(&x->state[type], h);
	else
		forget_version(h);
	refuse(x, reasons, r->name, diag.msg[0] ? diag.msg : result < 0 ? strerror(-result) : "refused");
}

static void take_removed(struct xds *x, size_t type, const char *name)
{
	struct xds_state *s = &x->state[type];
	struct xds_held *h = xds_held_find(s, name);
	bool known = h || xds_name_find(s, name);

	if (h)
		xds_held_drop(s, h);
	mark_answered(s, name);
	x->counters.removed++;
	if (known)
		x->types[type].gone(x->data, name);
}

static void answer_done(struct xds *x, size_t type, const response_t *answer, struct reasons *reasons)
{
	int r = x->types[type].done ? x->types[type].done(x->data) : 0;

	if (r < 0)
		refuse(x, reasons, "all of it", strerror(-r));
	for (size_t i = 0; r < 0 && i < answer->n_resources; i++)
		forget_version(xds_held_find(&x->state[type], answer->resources[i]->name));
}

static int take_answer(struct xds *x, size_t type, const response_t *answer)
{
	struct reasons reasons = { .len = 0 };

	if (x->types[type].begin && !x->muted)
		x->types[type].begin(x->data);
	for (size_t i = 0; i < answer->n_resources && !x->muted; i++)
		take_resource(x, type, answer->resources[i], &reasons);
	for (size_t i = 0; i < answer->n_removed_resources && !x->muted; i++)
		take_removed(x, type, answer->removed_resources[i]);
	if (x->muted)
		return 0;
	x->counters.answers++;
	x->state[type].synced = true;
	answer_done(x, type, answer, &reasons);
	return x->muted ? 0 : xds_ack_queue(&x->state[type], answer->nonce, reasons.len ? reasons.text : NULL);
}

int xds_receive(struct xds *x, const uint8_t *bytes, size_t len)
{
	ProtobufCMessage *message;
	response_t *answer;
	int r = pb_unpack(&envoy__service__discovery__v3__delta_discovery_response__descriptor, bytes, len, 0, &message);

	if (r < 0)
		return r == -ENOMEM ? r : -EBADMSG;
	answer = (response_t *)(void *)message;
	if (strlen(answer->nonce) > XDS_NONCE_MAX)
		r = -EBADMSG;		/* to refuse it would be to say it back */
	for (size_t i = 0; i < x->n_types && r == 0; i++)	/* another type was not asked for: not ours to answer */
		if (!strcmp(x->types[i].url, answer->type_url) && x->state[i].begun) {
			r = take_answer(x, i, answer);
			break;
		}
	pb_free(message);
	return r;
}
