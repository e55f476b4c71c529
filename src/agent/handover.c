/*
 * Taking a guest over from another NIC, and letting go of one.
 */
#include "agent/handover.h"

#include <stdio.h>
#include <string.h>

#include "agent/member.h"
#include "agent/worker.h"
#include "base/clock.h"
#include "base/log.h"
#include "discover/protocol.h"

enum { AWAY_MS = 5000 };	/* what is under way yet from a machine that has moved */

static bool take_claim(struct worker *w, struct guest *g, const Outrigger__V1__Claim *c)
{
	const struct discover_protocol *p = discover_protocol_by_name(c->source);
	struct observation_meta meta[CATALOG_MAX_METADATA];
	struct observation o = { .kind = OBS_REGISTER, .metadata = meta, .time_ns = clock_mono_ns(), .frame = w->frame };

	if (!p || !c->port || c->port > UINT16_MAX || strcmp(c->transport, "tcp") || ip_parse(c->address, &o.address) < 0)
		return false;
	if (*c->registry && ip_port_parse(c->registry, &o.registry) < 0)
		return false;
	o.protocol = p->name;
	o.service = c->service;
	o.instance = *c->instance ? c->instance : NULL;
	o.port = (uint16_t)c->port;
	o.transport = "tcp";
	o.app_protocol = *c->app_protocol ? c->app_protocol : NULL;
	o.guest = o.address;
	o.ttl_s = c->ttl_s;
	for (size_t i = 0; i < c->n_metadata && o.n_metadata < ELEMENTS(meta); i++)
		meta[o.n_metadata++] = (struct observation_meta){ c->metadata[i]->key, c->metadata[i]->value };
	return catalog_observe(&w->catalog, g, &o, o.time_ns) == 0;
}

void handover_take(struct worker *w, const Outrigger__V1__Handover *m)
{
	struct guest *g = guest_by_id(&w->guests, m->guest_id);
	size_t n = 0;

	if (!g || !member_of(g))
		return;
	member_of(g)->client_elsewhere = m->client;
	for (size_t i = 0; i < m->n_claims; i++)
		n += take_claim(w, g, m->claims[i]);
	if (catalog_of(g))
		list_for_each(l, &catalog_of(g)->claims) {
			const struct claim *c = list_entry(l, struct claim, link);

			if (c->user)
				judge_was_there(c->user);
		}
	log_info("guest comes from elsewhere", log_str("guest", g->id), log_int("claims", (int64_t)n), log_int("of", (int64_t)m->n_claims));
	member_touch(member_of(g));
}

void handover_moved(struct worker *w, const Outrigger__V1__Moved *m)
{
	struct guest *g = guest_by_id(&w->guests, m->guest_id);
	char reason[96];

	if (!g)
		return;
	snprintf(reason, sizeof(reason), "it has moved to NIC %.64s", m->nic);
	guest_moved(&w->guests, g, reason, clock_mono_ms() + AWAY_MS);
}
