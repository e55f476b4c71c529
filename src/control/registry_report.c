/*
 * What the NICs say: checked, then kept as it came.
 *
 * A NIC is believed about its own guests only: every guest id begins with the
 * NIC's own id, and nobody else can change such a guest.
 */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/utf8.h"
#include "control/registry.h"
#include "mesh/pb.h"

struct reg_guest *registry_guest(const struct registry *reg, const char *id)
{
	struct map_link *l = map_find_str(&reg->guests, id);

	return l ? container_of(l, struct reg_guest, link) : NULL;
}

/* --- checks --- */

/*
 * Of protobuf's strings nobody has checked that they are UTF-8. What others do
 * with one that is not they do with all that it came with: a ztunnel refuses a
 * whole answer, and JSON leaves out the row.
 */
static int check_text(const char *text, const char *what, struct diag *d)
{
	size_t len = strlen(text);

	if (len > REG_MAX_TEXT)
		return diag_set(d, "%s is longer than %d bytes", what, REG_MAX_TEXT);
	if (!utf8_is_clean(text, len))
		return diag_set(d, "%s contains a control character, or is not UTF-8", what);
	return 0;
}

/* A sentence for people, which an agent may have cut in the middle of a character. */
static int check_sentence(char *text, const char *what, struct diag *d)
{
	size_t len = strlen(text);

	for (size_t i = 0, n; i < len; i += n ? n : 1) {
		n = utf8_printable((const uint8_t *)text + i, len - i);
		if (!n && (unsigned char)text[i] >= 0x80)
			text[i] = '?';
	}
	return check_text(text, what, d);
}

static int check_guest_id(const struct reg_nic *nic, const char *id, struct diag *d)
{
	size_t len = strlen(nic->id);
	int r = check_text(id, "the guest's id", d);

	if (r < 0)
		return r;
	if (strlen(id) > 255 || strncmp(id, nic->id, len) != 0 || id[len] != '/' || !id[len + 1])
		return diag_set(d, "guest '%.64s' is not one of NIC '%s'", id, nic->id);
	return 0;
}

static int find_guest(struct reg_nic *nic, const char *id, struct reg_guest **ret_guest, struct diag *d)
{
	struct reg_guest *g = registry_guest(nic->registry, id);

	if (!g || g->nic != nic)
		return diag_set(d, "NIC '%s' has not reported a guest '%.64s'", nic->id, id);
	*ret_guest = g;
	return 0;
}

static int parse_addresses(const Outrigger__V1__Guest *pb, struct ip *ips, struct diag *d)
{
	if (pb->n_addresses > REG_MAX_ADDRESSES)
		return diag_set(d, "guest '%s' has more than %d addresses", pb->guest_id, REG_MAX_ADDRESSES);
	for (size_t i = 0; i < pb->n_addresses; i++)
		if (ip_parse(pb->addresses[i], &ips[i]) < 0 || ip_is_none(&ips[i]) || ip_is_multicast(&ips[i]))
			return diag_set(d, "guest '%s': '%.46s' is not an address of a guest", pb->guest_id, pb->addresses[i]);
	return 0;
}

static int check_metadata(const Outrigger__V1__Claim *pb, struct diag *d)
{
	int r = 0;

	if (pb->n_metadata > 64)
		return diag_set(d, "a claim of '%s' has more than 64 pieces of metadata", pb->guest_id);
	for (size_t i = 0; r == 0 && i < pb->n_metadata; i++) {
		r = check_text(pb->metadata[i]->key, "a metadata key", d);
		if (r == 0 && strlen(pb->metadata[i]->value) > 4 * REG_MAX_TEXT)
			r = diag_set(d, "metadata '%s' is too long", pb->metadata[i]->key);
		if (r == 0 && !utf8_is_clean(pb->metadata[i]->value, strlen(pb->metadata[i]->value)))
			r = diag_set(d, "metadata '%s' contains a control character, or is not UTF-8", pb->metadata[i]->key);
	}
	return r;
}

static int check_claim(const Outrigger__V1__Claim *pb, struct diag *d)
{
	const struct { const char *text, *what; } texts[] = {
		{ pb->service, "the service" }, { pb->instance, "the instance" }, { pb->address, "the address" },
		{ pb->transport, "the transport" }, { pb->app_protocol, "the protocol" }, { pb->source, "the source" },
		{ pb->registry, "the registry" }, { pb->health, "the health" },
	};
	int r = check_metadata(pb, d);

	if (r == 0)
		r = check_sentence(pb->refusal, "the refusal", d);
	if (r == 0)
		r = check_sentence(pb->health_reason, "the health's reason", d);

	for (size_t i = 0; r == 0 && i < ELEMENTS(texts); i++)
		r = check_text(texts[i].text, texts[i].what, d);
	if (r == 0 && (!pb->service[0] || pb->port > 65535))
		r = diag_set(d, "a claim of '%s' without a service, or with a wrong port", pb->guest_id);
	return r;
}

static int check_verdict(const Outrigger__V1__Verdict *pb, struct diag *d)
{
	int r = check_text(pb->service, "the service", d);

	if (r == 0)
		r = check_text(pb->instance, "the instance", d);
	if (r == 0 && strcmp(pb->verdict, "vm") != 0 && strcmp(pb->verdict, "container") != 0 && strcmp(pb->verdict, "unknown") != 0)
		r = diag_set(d, "verdict '%.32s' is not vm, container or unknown", pb->verdict);
	if (r == 0 && pb->n_evidence > 16)
		r = diag_set(d, "more than 16 pieces of evidence");
	for (size_t i = 0; r == 0 && i < pb->n_evidence; i++) {
		r = check_text(pb->evidence[i]->method, "the method", d);
		if (r == 0)
			r = check_text(pb->evidence[i]->finding, "the finding", d);
		if (r == 0)
			r = check_sentence(pb->evidence[i]->detail, "the detail", d);
	}
	return r;
}

/* --- what is kept of it --- */

void reg_told_free(struct reg_nic *nic, ProtobufCMessage *message)
{
	nic->told -= pb_memory(message);
	protobuf_c_message_free_unpacked(message, NULL);
}

/* Each text and each list has its maximum; all of them together, of all guests that a NIC can make up, are too much. */
static int check_room(const struct reg_nic *nic, const ProtobufCMessage *message, struct diag *d)
{
	if (pb_memory(message) > REG_MAX_TOLD - nic->told)
		return diag_set(d, "NIC '%s' has told more than fits into %d MiB", nic->id, REG_MAX_TOLD >> 20);
	return 0;
}

/* --- claims and verdicts of a guest --- */

void reg_claim_free(struct reg_guest *g, struct reg_claim *c)
{
	list_unlink(&c->link);
	g->n_claims--;
	reg_told_free(g->nic, &c->pb->base);
	free(c);
}

void reg_verdict_free(struct reg_guest *g, struct reg_verdict *v)
{
	list_unlink(&v->link);
	g->n_verdicts--;
	reg_told_free(g->nic, &v->pb->base);
	free(v);
}

/* A service's instance on a port: what the agent's catalog tells apart. */
static struct reg_claim *find_claim(struct reg_guest *g, const char *service, const char *instance, uint32_t port)
{
	list_for_each(l, &g->claims) {
		struct reg_claim *c = list_entry(l, struct reg_claim, link);

		if (c->pb->port == port && !strcmp(c->pb->service, service) && !strcmp(c->pb->instance, instance))
			return c;
	}
	return NULL;
}

static struct reg_verdict *find_verdict(const struct reg_guest *g, const char *service, const char *instance)
{
	list_for_each(l, &g->verdicts) {
		struct reg_verdict *v = list_entry(l, struct reg_verdict, link);

		if (!strcmp(v->pb->service, service) && !strcmp(v->pb->instance, instance))
			return v;
	}
	return NULL;
}

const struct reg_verdict *reg_guest_verdict(const struct reg_guest *g, const char *service, const char *instance)
{
	const struct reg_verdict *v = find_verdict(g, service, instance);

	return v || !*instance ? v : find_verdict(g, service, "");
}

bool reg_guest_has_ip(const struct reg_guest *g, const struct ip *ip)
{
	for (size_t i = 0; i < g->n_ips; i++)
		if (ip_equal(&g->ips[i], ip))
			return true;
	return false;
}

/* --- one function a report --- */

/* Milliseconds since @first_ms of the NIC's wall clock, when ours agrees with it well enough. */
static int64_t age_by_clock(uint64_t first_ms)
{
	enum { SANE_MS = 600000 };
	uint64_t age = (uint64_t)clock_wall_ms() - first_ms;	/* beyond all measure when @first_ms is to come */

	return first_ms && age < SANE_MS ? (int64_t)age : -1;
}

static void touched(struct reg_guest *g)
{
	reg_store_mark(g->nic->registry, g);
	reg_guest_mark(g->nic->registry, g);
}

static int guest_new(struct reg_nic *nic, Outrigger__V1__Guest *pb, struct reg_guest **ret_guest)
{
	struct registry *reg = nic->registry;
	struct reg_guest *g = calloc(1, sizeof(*g));

	if (!g)
		return -ENOMEM;
	list_init(&g->dirty);
	list_init(&g->claims);
	list_init(&g->verdicts);
	if (map_add(&reg->guests, &g->link, pb->guest_id, strlen(pb->guest_id)) < 0) {
		free(g);
		return -ENOMEM;
	}
	g->nic = nic;
	g->order = ++reg->order;
	list_append(&nic->guests, &g->in_nic);
	nic->n_guests++;
	*ret_guest = g;
	return 0;
}

static int on_guest(struct reg_nic *nic, Outrigger__V1__Report *report, struct diag *d)
{
	struct registry *reg = nic->registry;
	Outrigger__V1__Guest *pb = report->guest;
	struct reg_guest *g = registry_guest(reg, pb->guest_id);
	const char *const texts[] = { pb->port, pb->mac, pb->name, pb->policy, pb->mode, pb->isolation_group };
	struct ip ips[REG_MAX_ADDRESSES];
	int r = check_guest_id(nic, pb->guest_id, d);

	for (size_t i = 0; r == 0 && i < ELEMENTS(texts); i++)
		r = check_text(texts[i], "a text of the guest", d);
	if (r == 0)
		r = parse_addresses(pb, ips, d);
	if (r == 0 && !g && nic->n_guests >= REG_MAX_GUESTS)
		r = diag_set(d, "NIC '%s' has more than %d guests", nic->id, REG_MAX_GUESTS);
	if (r == 0 && !g)
		r = guest_new(nic, pb, &g);
	if (r < 0)
		return r;

	if (g->pb) {			/* the map's key moves to the new message */
		map_remove(&reg->guests, &g->link);
		if (map_add(&reg->guests, &g->link, pb->guest_id, strlen(pb->guest_id)) < 0)
			log_error("a guest was lost: out of memory", log_str("guest", pb->guest_id));
		reg_told_free(nic, &g->pb->base);
	}
	g->pb = pb;
	report->msg_case = OUTRIGGER__V1__REPORT__MSG__NOT_SET;
	report->guest = NULL;
	memcpy(g->ips, ips, sizeof(*ips) * pb->n_addresses);
	g->n_ips = pb->n_addresses;
	g->epoch = nic->epoch;
	touched(g);
	return 0;
}

static int on_guest_gone(struct reg_nic *nic, Outrigger__V1__Report *report, struct diag *d)
{
	struct reg_guest *g = NULL;
	int r = find_guest(nic, report->guest_gone->guest_id, &g, d);

	if (r < 0)
		return 0;		/* gone already */
	log_info("guest gone", log_str("guest", g->pb->guest_id), log_str("reason", report->guest_gone->reason));
	registry_guest_depart(g);
	return 0;
}

static int on_claim(struct reg_nic *nic, Outrigger__V1__Report *report, struct diag *d)
{
	Outrigger__V1__Claim *pb = report->claim;
	struct reg_guest *g = NULL;
	struct reg_claim *c;
	int r = find_guest(nic, pb->guest_id, &g, d);

	if (r == 0)
		r = check_claim(pb, d);
	if (r < 0)
		return r;
	c = find_claim(g, pb->service, pb->instance, pb->port);
	if (!c) {
		if (g->n_claims >= REG_MAX_CLAIMS)
			return diag_set(d, "guest '%s' claims more than %d services", pb->guest_id, REG_MAX_CLAIMS);
		c = calloc(1, sizeof(*c));
		if (!c)
			return -ENOMEM;
		c->in_mesh_ms = -1;
		c->received_ms = clock_mono_ms();
		c->found_ms = age_by_clock(pb->first_seen_ms);
		list_append(&g->claims, &c->link);
		g->n_claims++;
	} else {
		reg_told_free(nic, &c->pb->base);
	}
	c->pb = pb;
	c->epoch = nic->epoch;
	report->msg_case = OUTRIGGER__V1__REPORT__MSG__NOT_SET;
	report->claim = NULL;
	touched(g);
	return 0;
}

static int on_claim_gone(struct reg_nic *nic, Outrigger__V1__Report *report, struct diag *d)
{
	const Outrigger__V1__ClaimGone *pb = report->claim_gone;
	struct reg_guest *g = NULL;
	struct reg_claim *c;
	int r = find_guest(nic, pb->guest_id, &g, d);

	if (r < 0)
		return 0;		/* gone with its guest */
	c = find_claim(g, pb->service, pb->instance, pb->port);
	if (c) {
		log_info("claim gone", log_str("guest", pb->guest_id), log_str("service", pb->service), log_str("reason", pb->reason));
		reg_claim_free(g, c);
		touched(g);
	}
	return 0;
}

static int on_verdict(struct reg_nic *nic, Outrigger__V1__Report *report, struct diag *d)
{
	Outrigger__V1__Verdict *pb = report->verdict;
	struct reg_guest *g = NULL;
	struct reg_verdict *v;
	int r = find_guest(nic, pb->guest_id, &g, d);

	if (r == 0)
		r = check_verdict(pb, d);
	if (r < 0)
		return r;
	v = find_verdict(g, pb->service, pb->instance);
	if (!v) {
		if (g->n_verdicts >= REG_MAX_VERDICTS)
			return diag_set(d, "more than %d verdicts about guest '%s'", REG_MAX_VERDICTS, pb->guest_id);
		v = calloc(1, sizeof(*v));
		if (!v)
			return -ENOMEM;
		list_append(&g->verdicts, &v->link);
		g->n_verdicts++;
	} else {
		reg_told_free(nic, &v->pb->base);
	}
	v->pb = pb;
	v->epoch = nic->epoch;
	report->msg_case = OUTRIGGER__V1__REPORT__MSG__NOT_SET;
	report->verdict = NULL;
	touched(g);
	return 0;
}

static int on_proxy(struct reg_nic *nic, Outrigger__V1__Report *report, struct diag *d)
{
	Outrigger__V1__ProxyStatus *pb = report->proxy;
	const char *const texts[] = { pb->state, pb->identity, pb->process };
	struct reg_guest *g = NULL;
	int r = find_guest(nic, pb->guest_id, &g, d);

	for (size_t i = 0; r == 0 && i < ELEMENTS(texts); i++)
		r = check_text(texts[i], "a text of the proxy's status", d);
	if (r == 0)
		r = check_sentence(pb->detail, "the proxy's detail", d);
	if (r < 0)
		return r;
	if (!g->proxy || strcmp(g->proxy->state, pb->state) != 0)
		g->proxy_received_ms = clock_mono_ms();
	if (g->proxy)
		reg_told_free(nic, &g->proxy->base);
	g->proxy = pb;
	g->proxy_epoch = nic->epoch;
	report->msg_case = OUTRIGGER__V1__REPORT__MSG__NOT_SET;
	report->proxy = NULL;
	touched(g);
	return 0;
}

/* What was not said again in this session does not exist any more. */
static int on_synced(struct reg_nic *nic, Outrigger__V1__Report *report, struct diag *d)
{
	(void)report;
	(void)d;
	nic->synced = true;
	list_for_each_safe(l, &nic->guests) {
		struct reg_guest *g = list_entry(l, struct reg_guest, in_nic);

		if (g->epoch != nic->epoch) {
			registry_guest_depart(g);
			continue;
		}
		list_for_each_safe(k, &g->claims)
			if (list_entry(k, struct reg_claim, link)->epoch != nic->epoch)
				reg_claim_free(g, list_entry(k, struct reg_claim, link));
		list_for_each_safe(k, &g->verdicts)
			if (list_entry(k, struct reg_verdict, link)->epoch != nic->epoch)
				reg_verdict_free(g, list_entry(k, struct reg_verdict, link));
		if (g->proxy && g->proxy_epoch != nic->epoch) {
			reg_told_free(nic, &g->proxy->base);
			g->proxy = NULL;
		}
		touched(g);
	}
	return 0;
}

static int on_load(struct reg_nic *nic, Outrigger__V1__Report *report, struct diag *d)
{
	(void)d;
	nic->connections = report->load->connections;
	nic->bytes = report->load->bytes;
	nic->cpu_ns = report->load->cpu_ns;
	nic->n_proxies = report->load->proxies;
	return 0;
}

int registry_report(struct reg_nic *nic, Outrigger__V1__Report *report, struct diag *reterr_diag)
{
	static const struct {
		Outrigger__V1__Report__MsgCase msg;
		int (*fn)(struct reg_nic *nic, Outrigger__V1__Report *report, struct diag *d);
	} rows[] = {
		{ OUTRIGGER__V1__REPORT__MSG_GUEST, on_guest },
		{ OUTRIGGER__V1__REPORT__MSG_GUEST_GONE, on_guest_gone },
		{ OUTRIGGER__V1__REPORT__MSG_CLAIM, on_claim },
		{ OUTRIGGER__V1__REPORT__MSG_CLAIM_GONE, on_claim_gone },
		{ OUTRIGGER__V1__REPORT__MSG_VERDICT, on_verdict },
		{ OUTRIGGER__V1__REPORT__MSG_PROXY, on_proxy },
		{ OUTRIGGER__V1__REPORT__MSG_SYNCED, on_synced },
		{ OUTRIGGER__V1__REPORT__MSG_LOAD, on_load },
	};
	int r = diag_set(reterr_diag, "a report of an unknown kind");
	ProtobufCMessage *message = (ProtobufCMessage *)report->guest;	/* of whatever kind: a union of pointers */

	nic->n_reports++;
	for (size_t i = 0; i < ELEMENTS(rows); i++)
		if (rows[i].msg == report->msg_case) {
			r = check_room(nic, message, reterr_diag);
			if (r == 0)
				r = rows[i].fn(nic, report, reterr_diag);
			break;
		}
	if (r == 0 && report->msg_case == OUTRIGGER__V1__REPORT__MSG__NOT_SET)	/* it was kept */
		nic->told += pb_memory(message);
	nic->n_refused += r < 0;
	return r;
}
