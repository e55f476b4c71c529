/*
 * The labels of the other side of connections. Made once for each pair of
 * workload and service and shared, since thousands of connections have the
 * same; forgotten with each new snapshot, which may know better.
 */
#include <string.h>

#include "proxy/worker_internal.h"

enum { N_STRINGS = 12 };

struct strings {
	const char *of[N_STRINGS];
};

static struct flow_peer *make(const struct strings *s)
{
	size_t len[N_STRINGS], total = 0;

	for (size_t i = 0; i < N_STRINGS; i++) {
		len[i] = strlen(s->of[i]) + 1;
		total += len[i];
	}

	struct flow_peer *p = calloc(1, sizeof(*p) + total);
	if (!p)
		return NULL;

	const char **fields[N_STRINGS] = {
		&p->identity, &p->uid, &p->workload_name, &p->namespace, &p->service_account, &p->canonical_name,
		&p->canonical_revision, &p->cluster, &p->service_key, &p->service_name, &p->service_namespace, &p->service_host,
	};
	char *at = (char *)(p + 1);
	for (size_t i = 0; i < N_STRINGS; i++) {
		*fields[i] = memcpy(at, s->of[i], len[i]);
		at += len[i];
	}
	p->n_refs = 1;
	return p;
}

static struct flow_peer *describe(const struct snap_workload *w, const struct snap_service *service, const char *identity, bool mutual_tls)
{
	const struct snap_kind *k = w ? w->kind : NULL;
	const struct snap_def *d = service ? service->def : NULL;
	char uid[SNAP_UID_LEN];
	struct strings s = {
		.of = {
			identity ? identity : "",
			w ? snap_workload_uid(w, uid) : "",
			k ? snap_kind_text(k, SNAP_WORKLOAD_NAME) : "",
			k ? snap_kind_text(k, SNAP_NAMESPACE) : "",
			k ? snap_kind_text(k, SNAP_SERVICE_ACCOUNT) : "",
			k ? snap_kind_text(k, SNAP_CANONICAL_NAME) : "",
			k ? snap_kind_text(k, SNAP_CANONICAL_REVISION) : "",
			w && w->place ? w->place->cluster : "",
			d ? snap_def_key(d) : "",
			d ? snap_def_name(d) : "",
			d ? snap_def_namespace(d) : "",
			d ? snap_def_hostname(d) : "",
		},
	};
	struct flow_peer *p = make(&s);

	if (!p)
		return NULL;
	p->workload_id = w ? w->id : UINT32_MAX;
	p->mutual_tls = mutual_tls;
	return p;
}

struct flow_peer *peers_get(struct worker *w, const struct snap_workload *workload, const struct snap_service *service,
			    const char *identity, bool mutual_tls)
{
	uint32_t workload_id = workload ? workload->id : UINT32_MAX, service_id = service ? service->id : UINT32_MAX;
	struct peer_slot *slot = &w->peers[(workload_id * 31 + service_id) & (WORKER_PEER_CACHE - 1)];

	if (!workload && !service && !identity)
		return NULL;
	if (!workload)			/* only the identity tells it apart: not worth a cache */
		return describe(NULL, service, identity, mutual_tls);
	if (slot->peer && slot->workload_id == workload_id && slot->service_id == service_id && slot->mutual_tls == mutual_tls &&
	    !strcmp(slot->peer->identity, identity ? identity : ""))
		return flow_peer_ref(slot->peer);
	flow_peer_unref(slot->peer);
	*slot = (struct peer_slot){ workload_id, service_id, mutual_tls, describe(workload, service, identity, mutual_tls) };
	return flow_peer_ref(slot->peer);
}

void peers_clear(struct worker *w)
{
	for (size_t i = 0; i < WORKER_PEER_CACHE; i++) {
		flow_peer_unref(w->peers[i].peer);
		w->peers[i] = (struct peer_slot){};
	}
}
