/*
 * A control plane that answers anything: delta ADS as a script. An op is a
 * byte: a stream begins or ends, a name is subscribed or not any more, what is
 * due is sent (or there is no room), or an answer comes, of which the rest of
 * the op says what it has in it; an answer may also be the bytes as they are.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/wire.h"
#include "mesh/pb.h"
#include "mesh/xds.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_PARTS = 8, N_NAMES = 16 };

static char on_demand_url[] = "type.googleapis.com/a", all_url[] = "type.googleapis.com/b", strange_url[] = "c";
static char *const urls[] = { on_demand_url, all_url, strange_url };
static char names[N_NAMES][8];
static bool full;

static int put(void *data, const struct xds_resource *r, struct diag *reterr_diag)
{
	(void)data;
	if (!*r->name || strlen(r->name) > XDS_NAME_MAX)
		abort();
	return r->len == 1 ? diag_set(reterr_diag, "refused") : 0;
}

static void gone(void *data, const char *name)
{
	(void)data;
	if (!name)
		abort();
}

static unsigned n_done;

static int done(void *data)
{
	(void)data;
	return ++n_done % 5 ? 0 : -ENOMEM;
}

static const struct xds_type types[] = {
	{ .url = on_demand_url, .on_demand = true, .put = put, .gone = gone, .done = done },
	{ .url = all_url, .put = put, .gone = gone },
};

static int send_request(void *data, const Envoy__Service__Discovery__V3__DeltaDiscoveryRequest *r)
{
	uint8_t *bytes;
	size_t len;

	(void)data;
	if (full)
		return -ENOBUFS;
	if (pb_pack(&r->base, &bytes, &len) < 0)
		abort();
	free(bytes);
	return 0;
}

/* One with up to eight resources and removals, from names that are subscribed as well as others. */
static int answer(struct xds *x, struct wire *w)
{
	Envoy__Service__Discovery__V3__DeltaDiscoveryResponse r = ENVOY__SERVICE__DISCOVERY__V3__DELTA_DISCOVERY_RESPONSE__INIT;
	Envoy__Service__Discovery__V3__Resource resources[MAX_PARTS], *pointers[MAX_PARTS];
	Google__Protobuf__Any any[MAX_PARTS];
	static uint8_t value[] = "value";
	char nonce[4], version[MAX_PARTS][4], *removed[MAX_PARTS];
	uint8_t head = wire_u8(w), *bytes;
	size_t len;
	int result;

	snprintf(nonce, sizeof(nonce), "%u", head & 3u);
	r.nonce = nonce;
	r.type_url = urls[(head >> 2) % 3];
	r.resources = pointers;
	r.removed_resources = removed;
	for (unsigned i = 0; i < head >> 5; i++) {
		uint8_t part = wire_u8(w);
		size_t n = r.n_resources;

		if (part & 0x80) {
			removed[r.n_removed_resources++] = names[part % N_NAMES];
			continue;
		}
		snprintf(version[n], sizeof(version[n]), "%u", part >> 6u);
		resources[n] = (Envoy__Service__Discovery__V3__Resource)ENVOY__SERVICE__DISCOVERY__V3__RESOURCE__INIT;
		any[n] = (Google__Protobuf__Any)GOOGLE__PROTOBUF__ANY__INIT;
		any[n].type_url = part & 0x10 ? strange_url : r.type_url;
		any[n].value = (ProtobufCBinaryData){ part >> 4 & 2u, value };
		resources[n].name = names[part % N_NAMES];
		resources[n].version = version[n];
		resources[n].resource = part & 0x20 ? NULL : &any[n];
		pointers[r.n_resources++] = &resources[n];
	}
	if (pb_pack(&r.base, &bytes, &len) < 0)
		abort();
	result = xds_receive(x, bytes, len);
	free(bytes);
	return result;
}

static int step(struct xds *x, struct wire *w, bool *on)
{
	static Envoy__Config__Core__V3__Node node = ENVOY__CONFIG__CORE__V3__NODE__INIT;
	uint8_t op = wire_u8(w);
	const char *name = names[op >> 4];

	switch (op & 7) {
	case 0:
		if (*on)
			xds_end(x);
		*on = !*on;
		return *on ? xds_begin(x, &node, send_request, NULL) : 0;
	case 1:
		return name[0] ? xds_subscribe(x, 0, name) : 0;
	case 2:
		xds_unsubscribe(x, 0, name);
		if (xds_subscribed(x, 0, name))
			abort();
		return 0;
	case 3:
		full = op >> 4 & 1;
		return *on ? xds_flush(x) : 0;
	case 4: {
		size_t len = MIN((size_t)wire_u8(w), (size_t)(w->end - w->pos));
		const uint8_t *raw = w->pos;

		w->pos += len;
		return *on ? xds_receive(x, raw, len) : 0;
	}
	default:
		return *on ? answer(x, w) : 0;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct wire w = wire_init(data, size);
	bool on = false;
	struct xds *x;

	for (unsigned i = 1; i < N_NAMES; i++)		/* the first has none */
		snprintf(names[i], sizeof(names[i]), "n/%u", i);
	full = false;
	if (xds_new(types, ELEMENTS(types), NULL, &x) < 0)
		abort();
	while (wire_more(&w)) {
		int r = step(x, &w, &on);

		if (r == -EBADMSG && on) {
			xds_end(x);
			on = false;
		} else if (r < 0 && r != -ENOBUFS) {
			abort();
		}
		for (size_t t = 0; t < ELEMENTS(types); t++)
			if (xds_n_resources(x, t) > N_NAMES + size)
				abort();
	}
	if (on)
		xds_end(x);
	xds_free(x);
	return 0;
}
