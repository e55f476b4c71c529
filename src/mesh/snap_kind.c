/*
 * What replicas share: identity, names, services, policies. A thousand of them
 * have one kind, which is what makes an endpoint small.
 *
 * A kind is one object whose parts are found by their distance from its start.
 * It is put together in st->key, and equal kinds are equal bytes there: so that
 * is how one that is there already is found.
 */
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "mesh/snap_state.h"

enum { BODY_AT = offsetof(struct snap_kind, n_members), HEAD = offsetof(struct snap_kind, tail), FIRST_SLOTS = 16 };

/* --- reading --- */

static const struct snap_member *members_of(const struct snap_kind *k)
{
	return (const struct snap_member *)((const char *)k + k->members_at);
}

uint32_t snap_kind_service(const struct snap_kind *k, uint32_t i)
{
	return members_of(k)[i].service_id;
}

const struct snap_port *snap_kind_ports(const struct snap_kind *k, uint32_t i, uint32_t *ret_n)
{
	const struct snap_member *m = members_of(k);
	uint32_t from = i ? m[i - 1].ports_end : 0;

	*ret_n = m[i].ports_end - from;
	return (const struct snap_port *)(m + k->n_members) + from;
}

const char *snap_kind_policies(const struct snap_kind *k)
{
	const struct snap_member *m = members_of(k);
	const struct snap_port *ports = (const struct snap_port *)(m + k->n_members);

	return (const char *)(ports + (k->n_members ? m[k->n_members - 1].ports_end : 0));
}

const struct snap_ways *snap_kind_ways(const struct snap_kind *k)
{
	static const struct snap_ways none;

	return k->ways ? k->ways : &none;
}

/* --- putting one together --- */

/* What a workload has where it leaves something out. */
struct kind_names {
	const char *workload, *canonical, *revision;
};

static struct kind_names kind_names(const struct workload *w)
{
	const char *name = w->workload_name && *w->workload_name ? w->workload_name : w->name;

	return (struct kind_names){
		.workload = name,
		.canonical = w->canonical_name && *w->canonical_name ? w->canonical_name : name,
		.revision = w->canonical_revision && *w->canonical_revision ? w->canonical_revision : SNAP_USUAL_REVISION,
	};
}

/* Where @text is in the bytes from @from on, as one of the texts there or the end of one; 0: nowhere. */
static size_t find_text(const struct bytes *to, size_t from, const char *text)
{
	size_t n = strlen(text) + 1;

	for (size_t end = from; end < to->len; ) {
		end += strlen((const char *)to->data + end) + 1;
		if (end - from >= n && !memcmp(to->data + end - n, text, n))
			return end - n;
	}
	return 0;
}

static int put_text(struct bytes *to, const char *text, uint16_t *ret_at)
{
	size_t at = find_text(to, HEAD, text);

	if (at) {
		*ret_at = (uint16_t)at;
		return 0;
	}
	*ret_at = (uint16_t)to->len;
	return bytes_append(to, text, strlen(text) + 1);
}

/* "spiffe://td/ns/<namespace>/sa/<service account>", put together by hand: printf() would cost more than all the rest. */
static int put_identity(struct bytes *to, const struct workload *w, uint16_t *ret_at)
{
	const char *parts[] = { "spiffe://", w->trust_domain, "/ns/", w->namespace, "/sa/", w->service_account };
	int r = 0;

	*ret_at = (uint16_t)to->len;
	for (size_t i = 0; r == 0 && i < ELEMENTS(parts); i++)
		r = bytes_append(to, parts[i], strlen(parts[i]));
	return r < 0 ? r : bytes_append(to, "", 1);
}

/* The texts are less than 16 * MODEL_NAME_MAX bytes, so that 16 bits tell where they are. */
static int put_texts(struct bytes *to, const struct workload *w, const char *head, uint16_t ret_at[static _SNAP_TEXT_N])
{
	const struct kind_names names = kind_names(w);
	const char *texts[_SNAP_TEXT_N] = {
		[SNAP_TRUST_DOMAIN] = w->trust_domain, [SNAP_NAMESPACE] = w->namespace, [SNAP_SERVICE_ACCOUNT] = w->service_account,
		[SNAP_WORKLOAD_NAME] = names.workload, [SNAP_CANONICAL_NAME] = names.canonical,
		[SNAP_UID_HEAD] = head,
	};
	int r = put_identity(to, w, &ret_at[SNAP_IDENTITY]);

	for (size_t i = 0; r == 0 && i < ELEMENTS(texts); i++)
		if (texts[i])
			r = put_text(to, texts[i], &ret_at[i]);
	if (r == 0 && strcmp(names.revision, SNAP_USUAL_REVISION))
		r = put_text(to, names.revision, &ret_at[SNAP_CANONICAL_REVISION]);
	return r;
}

struct snap_port snap_port_of(const struct port_map *p)
{
	struct snap_port port = {};

	port.port = p->service_port;
	port.target_port = p->target_port ? p->target_port : p->service_port;
	port.app_protocol = p->app_protocol;
	return port;
}

static int put_members(struct snap_store *st, const struct workload *w, struct bytes *to)
{
	uint32_t end = 0;
	int r = 0;

	for (size_t i = 0; r == 0 && i < w->n_services; i++) {
		struct snap_member m = {};

		r = snap_service_mention(st, w->services[i].key, &m.service_id);
		m.ports_end = end += (uint32_t)w->services[i].n_ports;
		if (r == 0)
			r = bytes_append(to, &m, sizeof(m));
	}
	for (size_t i = 0; r == 0 && i < w->n_services; i++) {
		for (size_t k = 0; r == 0 && k < w->services[i].n_ports; k++) {
			const struct snap_port port = snap_port_of(&w->services[i].ports[k]);

			r = bytes_append(to, &port, sizeof(port));
		}
	}
	return r;
}

static uint16_t weight_of(const struct workload *w)
{
	return (uint16_t)MIN(w->capacity, (uint32_t)UINT16_MAX);
}

/* In st->key, with a reference of @ways, which stays the caller's. */
static int kind_image(struct snap_store *st, const struct workload *w, const char *uid_head, const struct snap_ways *ways)
{
	static const char zeros[HEAD];
	struct snap_kind head = {
		.ways = ways, .n_members = (uint16_t)w->n_services, .n_policies = (uint16_t)w->n_policies, .weight = weight_of(w),
	};
	struct bytes *to = &st->key;
	int r;

	to->len = 0;
	r = bytes_append(to, zeros, HEAD);
	if (r == 0)
		r = put_texts(to, w, uid_head, head.texts);
	if (r == 0)
		r = bytes_append(to, zeros, -to->len % sizeof(uint32_t));
	head.members_at = (uint16_t)to->len;
	if (r == 0)
		r = put_members(st, w, to);
	for (size_t i = 0; r == 0 && i < w->n_policies; i++)
		r = bytes_append(to, w->policies[i], strlen(w->policies[i]) + 1);
	if (r < 0)
		return r;
	head.size = (uint32_t)to->len;
	memcpy(to->data, &head, HEAD);
	head.hash = (uint32_t)map_hash(to->data + BODY_AT, to->len - BODY_AT);
	memcpy(to->data, &head, HEAD);
	return 0;
}

/* --- the table of them --- */

static struct snap_kind **slot_of(const struct snap_kinds *t, uint32_t hash)
{
	return &t->slots[hash & (t->n_slots - 1)];
}

/* Makes it of @n_slots; without memory it stays as it is. */
static void table_resize(struct snap_kinds *t, uint32_t n_slots)
{
	struct snap_kinds to = { calloc(n_slots, sizeof(struct snap_kind *)), n_slots, t->n };

	if (!to.slots)
		return;
	for (uint32_t i = 0; i < t->n_slots; i++) {
		for (struct snap_kind *k = t->slots[i], *next; k; k = next) {
			next = k->next;
			k->next = *slot_of(&to, k->hash);
			*slot_of(&to, k->hash) = k;
		}
	}
	free(t->slots);
	*t = to;
}

static struct snap_kind *table_find(const struct snap_kinds *t, const struct snap_kind *like)
{
	struct snap_kind *k = t->n_slots ? *slot_of(t, like->hash) : NULL;

	while (k && (k->hash != like->hash || k->size != like->size || memcmp((char *)k + BODY_AT, (const char *)like + BODY_AT, like->size - BODY_AT)))
		k = k->next;
	return k;
}

static int table_add(struct snap_kinds *t, struct snap_kind *k)
{
	if (t->n >= t->n_slots)
		table_resize(t, t->n_slots ? t->n_slots * 2 : FIRST_SLOTS);
	if (!t->n_slots)
		return -ENOMEM;
	k->next = *slot_of(t, k->hash);
	*slot_of(t, k->hash) = k;
	t->n++;
	return 0;
}

static void table_remove(struct snap_kinds *t, struct snap_kind *k)
{
	struct snap_kind **at = slot_of(t, k->hash);

	while (*at != k)
		at = &(*at)->next;
	*at = k->next;
	if (--t->n < t->n_slots / 8 && t->n_slots > FIRST_SLOTS)
		table_resize(t, t->n_slots / 4);
}

void snap_kinds_deinit(struct snap_kinds *t)
{
	free(t->slots);
	*t = (struct snap_kinds){};
}

/* --- finding the one of a workload --- */

static bool is_member(struct snap_store *st, const struct snap_kind *k, uint32_t i, const struct workload_service *s)
{
	const struct snap_service *service = snap_service_by_id(&st->now, snap_kind_service(k, i));
	uint32_t n;
	const struct snap_port *ports = snap_kind_ports(k, i, &n);

	if (!service || n != s->n_ports || strcmp(snap_def_key(service->def), s->key))
		return false;
	for (uint32_t p = 0; p < n; p++) {
		const struct snap_port port = snap_port_of(&s->ports[p]);

		if (memcmp(&ports[p], &port, sizeof(port)))
			return false;
	}
	return true;
}

static bool begins(const char *text, const char *head)
{
	return !strncmp(text, head, strlen(head));
}

/* What a change of a workload leaves as it was, nearly always. */
static bool is_kind(struct snap_store *st, const struct snap_kind *k, const struct workload *w)
{
	const struct kind_names names = kind_names(w);

	if (k->n_members != w->n_services || k->n_policies != w->n_policies || k->weight != weight_of(w) ||
	    strcmp(snap_kind_text(k, SNAP_TRUST_DOMAIN), w->trust_domain) || strcmp(snap_kind_text(k, SNAP_NAMESPACE), w->namespace) ||
	    strcmp(snap_kind_text(k, SNAP_SERVICE_ACCOUNT), w->service_account) ||
	    strcmp(snap_kind_text(k, SNAP_WORKLOAD_NAME), names.workload) ||
	    strcmp(snap_kind_text(k, SNAP_CANONICAL_NAME), names.canonical) ||
	    strcmp(snap_kind_text(k, SNAP_CANONICAL_REVISION), names.revision) || !snap_ways_are(k->ways, w) || !begins(w->uid, snap_kind_text(k, SNAP_UID_HEAD)))
		return false;
	for (uint32_t i = 0; i < k->n_members; i++)
		if (!is_member(st, k, i, &w->services[i]))
			return false;
	const char *policy = snap_kind_policies(k);
	for (uint32_t i = 0; i < k->n_policies; i++, policy = snap_text_next(policy))
		if (strcmp(policy, w->policies[i]))
			return false;
	return true;
}

static int kind_make(struct snap_store *st, const struct snap_kind *image, struct snap_kind **ret_kind)
{
	struct snap_kind *k = slab_alloc(&st->slab, image->size);

	if (!k)
		return -ENOMEM;
	memcpy(k, image, image->size);
	int r = table_add(&st->kinds, k);
	if (r < 0) {
		slab_free(&st->slab, k, k->size);
		return r;
	}
	*ret_kind = k;
	return 0;
}

/* The long way: it is put together, and then looked for. */
static int kind_find(struct snap_store *st, const struct workload *w, const char *uid_head, struct snap_kind **ret_kind)
{
	const struct snap_ways *ways;
	struct snap_kind *k = NULL;
	int r = snap_ways_get(st, &w->waypoint, &w->network_gateway, &ways);

	if (r < 0)
		return r;
	r = kind_image(st, w, uid_head, ways);
	if (r == 0) {
		const struct snap_kind *image = (const struct snap_kind *)(const void *)st->key.data;

		k = table_find(&st->kinds, image);
		if (!k)
			r = kind_make(st, image, &k);
	}
	if (r < 0 || k->refs)
		snap_ways_put(st, ways);	/* it has its own */
	if (r == 0)
		*ret_kind = k;
	return r;
}

/*
 * What its uid may leave to its kind: all up to the last '/'. Replicas share it
 * ("cluster//Pod/namespace/") or not (a VM's uid has its port in it, and the kind
 * is worth more): then the second one of a service shows that.
 */
static void uid_head(const struct workload *w, const struct snap_kind *likely, char head[static SNAP_UID_LEN])
{
	const char *slash = w->n_services ? strrchr(w->uid, '/') : NULL;
	size_t n = slash ? (size_t)(slash + 1 - w->uid) : 0;

	memcpy(head, w->uid, n);
	head[n] = 0;
	if (likely && strcmp(snap_kind_text(likely, SNAP_UID_HEAD), head))
		head[0] = 0;
}

int snap_kind_get(struct snap_store *st, const struct workload *w, const struct snap_kind *likely, const struct snap_kind **ret_kind)
{
	char head[SNAP_UID_LEN];
	struct snap_kind *k;
	int r = 0;

	if (likely && is_kind(st, likely, w)) {
		k = (struct snap_kind *)(uintptr_t)likely;
	} else {
		uid_head(w, likely, head);
		r = kind_find(st, w, head, &k);
	}
	if (r < 0)
		return r;
	k->refs++;
	*ret_kind = k;
	return 0;
}

void snap_kind_put(struct snap_store *st, const struct snap_kind *kind)
{
	struct snap_kind *k = (struct snap_kind *)(uintptr_t)kind;

	if (--k->refs)
		return;
	table_remove(&st->kinds, k);
	snap_ways_put(st, k->ways);
	slab_free(&st->slab, k, k->size);
}
