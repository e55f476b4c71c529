/*
 * Two NICs whose agents say what they like to the controller's registry, as a
 * script. An op is a byte: what is said, and by which guest of which NIC; most
 * have another byte behind it that says the rest. Sessions come and go, the
 * configuration changes, and a report may also be the bytes as they are. What is
 * published decodes, and who is not trusted any more leaves nothing behind.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/wire.h"
#include "control/registry.h"
#include "lib/registry_yaml.h"
#include "mesh/names.h"
#include "mesh/pb.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { N_NICS = 2 };

static const char first_yaml[] =
	REGISTRY_YAML
	"- {name: fixed, namespace: shop, addresses: [10.0.0.3], services: [b]}\n";
static const char second_yaml[] =
	"trust_domain: t.mesh\n"
	"onboarding:\n"
	"- {name: all, match: {nic: '*'}, mode: permissive, namespace: store, service_account: vm, services: ['*'], client: true}\n"
	"services:\n"
	"- {name: a, namespace: store, ports: [{port: 80, protocol: http}]}\n";

static struct config *configs[2];
static struct registry *reg;
static struct reg_nic *nics[N_NICS];
static char id_text[64];

static char *one_of(const char *const *texts, size_t n, unsigned i)
{
	return (char *)(uintptr_t)texts[i % n];
}

#define ONE_OF(i, ...) one_of((const char *const[]){ __VA_ARGS__ }, ELEMENTS(((const char *const[]){ __VA_ARGS__ })), i)

/* Of one NIC: that one or, for some, of the other. */
static char *guest_id(unsigned nic, unsigned number)
{
	snprintf(id_text, sizeof(id_text), "nic-%c/p%u/52:54:00:00:00:0%u", 'a' + (char)(number == 7 ? !nic : nic), number, number);
	return id_text;
}

static void say_bytes(unsigned nic, const uint8_t *bytes, size_t len)
{
	struct diag d = {};
	ProtobufCMessage *message;

	if (pb_unpack(&outrigger__v1__report__descriptor, bytes, len, 0, &message) < 0)
		return;
	if (registry_report(nics[nic], (Outrigger__V1__Report *)message, &d) < 0 && !d.msg[0])
		abort();
	pb_free(message);
}

static void say(unsigned nic, const Outrigger__V1__Report *r)
{
	uint8_t *bytes;
	size_t len;

	if (pb_pack(&r->base, &bytes, &len) < 0)
		abort();
	say_bytes(nic, bytes, len);
	free(bytes);
}

#define SAY(nic, CASE, member, message) \
	do { \
		Outrigger__V1__Report report = OUTRIGGER__V1__REPORT__INIT; \
		report.msg_case = OUTRIGGER__V1__REPORT__MSG_##CASE; \
		report.member = message; \
		say(nic, &report); \
	} while (0)

static void say_guest(unsigned nic, char *id, struct wire *w)
{
	Outrigger__V1__Guest g = OUTRIGGER__V1__GUEST__INIT;
	static const char *const ips[] = { "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.1.0.1", "fd00::1", "fe80::1", "224.0.0.1", "?" };
	uint8_t how = wire_u8(w), mask = wire_u8(w);
	char *addresses[8];

	g.guest_id = id;
	g.mac = ONE_OF(how, "", "52:54:00:00:00:01", "52:54:00:00:00:02", "x");
	g.name = ONE_OF(how >> 2u, "x", "off-1", "client-1", "client-\xff");
	g.addresses = addresses;
	for (unsigned i = 0; i < 8; i++)
		if (mask & 1u << i)
			addresses[g.n_addresses++] = (char *)(uintptr_t)ips[i];
	SAY(nic, GUEST, guest, &g);
}

static char *service_of(uint8_t how)
{
	return ONE_OF(how, "a", "b", "big", "");
}

static void say_claim(unsigned nic, char *id, uint8_t how, uint8_t more)
{
	Outrigger__V1__Claim c = OUTRIGGER__V1__CLAIM__INIT;

	c.guest_id = id;
	c.service = service_of(how);
	c.instance = ONE_OF(how >> 2u & 1u, "", "i");
	c.port = (uint32_t[]){ 0, 80, 8080, 70000 }[how >> 3 & 3];
	c.admitted = how & 0x20;
	c.app_protocol = ONE_OF(how >> 6u, "", "http", "grpc", "\n");
	c.health = ONE_OF(more, "", "passing", "critical", "waiting");
	c.refusal = ONE_OF(more >> 2u, "", "cut \xe2\x82", "no", "\x01");
	c.health_reason = ONE_OF(more >> 4u, "", "\xff\xfe");
	c.first_seen_ms = more & 0x80 ? UINT64_C(1) << 63 : more;
	c.address = ONE_OF(more >> 5u, "", "10.0.0.1", "10.0.0.9");
	SAY(nic, CLAIM, claim, &c);
}

static void say_of(unsigned nic, char *id, unsigned what, uint8_t how)
{
	Outrigger__V1__Verdict v = OUTRIGGER__V1__VERDICT__INIT;
	Outrigger__V1__ProxyStatus p = OUTRIGGER__V1__PROXY_STATUS__INIT;
	Outrigger__V1__GuestGone gone = OUTRIGGER__V1__GUEST_GONE__INIT;
	Outrigger__V1__ClaimGone less = OUTRIGGER__V1__CLAIM_GONE__INIT;

	v.guest_id = p.guest_id = gone.guest_id = less.guest_id = id;
	v.service = less.service = service_of(how);
	v.instance = less.instance = ONE_OF(how >> 2u & 1u, "", "i");
	v.verdict = ONE_OF(how >> 3u, "vm", "vm", "container", "unknown", "?");
	less.port = how & 0x80 ? 80 : 8080;
	p.state = ONE_OF(how, "ready", "starting", "draining", "\xc0");
	p.detail = ONE_OF(how >> 2u, "", "cut \xe2\x82");
	p.ready_ms = how & 0x80 ? UINT64_MAX - 5 : how;
	if (what == 0)
		SAY(nic, VERDICT, verdict, &v);
	else if (what == 1)
		SAY(nic, PROXY, proxy, &p);
	else if (what == 2)
		SAY(nic, GUEST_GONE, guest_gone, &gone);
	else
		SAY(nic, CLAIM_GONE, claim_gone, &less);
}

static void say_synced(unsigned nic)
{
	Outrigger__V1__Synced s = OUTRIGGER__V1__SYNCED__INIT;

	SAY(nic, SYNCED, synced, &s);
}

static void say_raw(unsigned nic, struct wire *w)
{
	size_t len = MIN((size_t)wire_u8(w), (size_t)(w->end - w->pos));
	const uint8_t *raw = w->pos;

	w->pos += len;
	say_bytes(nic, raw, len);
}

static void connect_nic(unsigned nic)
{
	char name[] = { 'n', 'i', 'c', '-', (char)('a' + nic), 0 };

	if (registry_nic_connect(reg, name, &nics[nic]) < 0)
		abort();
}

static void turn(void)
{
	if (loop_turn(reg->loop, 0) < 0)
		abort();
}

static void ask_token(unsigned nic, const char *id)
{
	const struct config_onboarding *policy;
	struct diag d = {};
	int r = registry_may_have_token(reg, nics[nic]->id, id, &policy, &d);

	if (r == 0 ? !policy || !*policy->service_account : !d.msg[0])
		abort();
}

static void all_know(const char *id)
{
	char uid[NAMES_UID_LEN];
	const struct reg_workload *workload;

	if (names_vm_uid(id, uid) < 0)
		abort();
	registry_in_mesh(reg, uid);
	workload = reg_workload_find(reg, uid);
	if (!workload)
		return;
	list_for_each(l, &workload->guest->claims) {
		const struct reg_claim *c = list_entry(l, struct reg_claim, link);

		if (c->joined_ms && c->in_mesh_ms < 0)
			abort();
	}
}

static void step(struct wire *w)
{
	uint8_t op = wire_u8(w);
	unsigned nic = op >> 7, what = op & 15;
	char *id = guest_id(nic, op >> 4 & 7);

	if (what == 0) {
		say_guest(nic, id, w);
	} else if (what == 1) {
		uint8_t how = wire_u8(w);

		say_claim(nic, id, how, wire_u8(w));
	} else if (what <= 5) {
		say_of(nic, id, what - 2, wire_u8(w));
	} else if (what == 6) {
		say_synced(nic);
	} else if (what == 7) {
		connect_nic(nic);
	} else if (what == 8) {
		registry_nic_lost(nics[nic]);
	} else if (what == 9) {
		registry_nic_forget(reg, nics[nic]->id);
	} else if (what == 10) {
		if (registry_apply(reg, configs[op >> 4 & 1]) < 0)
			abort();
	} else if (what == 11) {
		say_raw(nic, w);
	} else if (what == 12) {
		ask_token(nic, id);
	} else if (what == 13) {
		all_know(id);
	} else {
		turn();
	}
}

static void check_published(const struct resources *all)
{
	map_for_each(l, &all->by_name[RESOURCE_ADDRESS]) {
		const struct resource *r = container_of(l, struct resource, link);
		struct address a;
		struct diag d = {};

		if (r->removed)
			continue;
		if (address_decode(r->bytes, r->len, &a, &d) < 0)
			abort();
		address_deinit(&a);
	}
}

static void on_move(const struct reg_guest *from, const struct reg_guest *to, void *data)
{
	(void)data;
	if (from == to || to->departed_ms || (!from->departed_ms && !strcmp(from->pb->guest_id, to->pb->guest_id)))
		abort();
}

static void forget_all(const struct resources *all)
{
	for (unsigned i = 0; i < N_NICS; i++)
		registry_nic_forget(reg, nics[i]->id);
	turn();
	for (unsigned i = 0; i < N_NICS; i++)
		if (nics[i]->told || nics[i]->n_guests)
			abort();
	if (reg->guests.n || reg->n_departed || !list_empty(&reg->departed))
		abort();
	map_for_each(l, &all->by_name[RESOURCE_ADDRESS]) {
		const struct resource *r = container_of(l, struct resource, link);

		if (!r->removed && !strncmp(r->name, "vm/", 3))
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct wire w = wire_init(data, size);
	struct resources resources;
	struct diag d = {};
	struct loop *loop;

	log_change(LOG_L_ERROR, false);
	if (loop_new(&loop) < 0 || config_parse("c", first_yaml, sizeof(first_yaml) - 1, &configs[0], &d) < 0 ||
	    config_parse("c", second_yaml, sizeof(second_yaml) - 1, &configs[1], &d) < 0)
		abort();
	resources_init(&resources);
	if (registry_new(loop, &resources, NULL, configs[0], &reg) < 0)
		abort();
	reg->moves = (struct registry_moves){ .offer = on_move, .moved = on_move };
	for (unsigned i = 0; i < N_NICS; i++)
		connect_nic(i);
	while (wire_more(&w))
		step(&w);
	turn();
	check_published(&resources);
	forget_all(&resources);
	registry_free(reg);
	resources_deinit(&resources);
	config_free(configs[0]);
	config_free(configs[1]);
	loop_free(loop);
	return 0;
}
