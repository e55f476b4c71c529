/*
 * The verdict: findings, their rule, and the methods that need no answer from
 * anybody.
 */
#include "agent/verdict.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "agent/signs.h"
#include "base/utf8.h"

static const char *const verdict_names[] = {
	[VERDICT_UNKNOWN] = "unknown",
	[VERDICT_VM] = "vm",
	[VERDICT_CONTAINER] = "container",
};
_Static_assert(ELEMENTS(verdict_names) == _VERDICT_N, "every verdict has a name");

static const char *const method_names[] = {
	[VERDICT_BY_PORT] = "port",
	[VERDICT_BY_CONTAINERS] = "containers",
	[VERDICT_BY_REGISTRY] = "registry",
	[VERDICT_BY_PROBE] = "probe",
};
_Static_assert(ELEMENTS(method_names) == _VERDICT_METHOD_N, "every method has a name");

const char *verdict_name(enum verdict verdict)
{
	return verdict_names[verdict];
}

const char *verdict_method_name(enum verdict_method method)
{
	return method_names[method];
}

/* --- the rule --- */

enum { ANY = -1, U = VERDICT_UNKNOWN, V = VERDICT_VM, C = VERDICT_CONTAINER };

static const struct {
	int findings[_VERDICT_METHOD_N];	/* port, containers, registry, probe */
	enum verdict verdict;
} rules[] = {
	{ { ANY,   C, ANY, ANY }, VERDICT_CONTAINER },
	{ {   C, ANY, ANY, ANY }, VERDICT_CONTAINER },
	{ { ANY, ANY,   C, ANY }, VERDICT_CONTAINER },
	{ { ANY, ANY, ANY,   C }, VERDICT_CONTAINER },
	{ {   V,   V, ANY, ANY }, VERDICT_VM },
	{ {   V, ANY,   V, ANY }, VERDICT_VM },
	{ {   V, ANY, ANY,   V }, VERDICT_VM },
	{ { ANY,   V, ANY,   V }, VERDICT_VM },
	{ { ANY, ANY,   V,   V }, VERDICT_VM },
	{ { ANY, ANY, ANY, ANY }, VERDICT_UNKNOWN },
};

static bool fits(const int *row, const enum verdict *findings)
{
	for (size_t i = 0; i < _VERDICT_METHOD_N; i++)
		if (row[i] != ANY && row[i] != (int)findings[i])
			return false;
	return true;
}

enum verdict verdict_combine(const enum verdict findings[_VERDICT_METHOD_N])
{
	size_t i = 0;

	while (!fits(rules[i].findings, findings))	/* the last row fits everything */
		i++;
	return rules[i].verdict;
}

static bool judge(struct verdict_case *v)
{
	enum verdict findings[_VERDICT_METHOD_N], before = v->verdict;

	for (size_t i = 0; i < _VERDICT_METHOD_N; i++)
		findings[i] = v->evidence[i].finding;
	v->verdict = verdict_combine(findings);
	return v->verdict != before;
}

bool verdict_note(struct verdict_case *v, enum verdict_method method, enum verdict finding, int64_t wall_ms, const char *fmt, ...)
{
	struct verdict_evidence *e = &v->evidence[method];
	char said[2 * VERDICT_DETAIL_LEN], detail[VERDICT_DETAIL_LEN];
	va_list args;

	va_start(args, fmt);
	vsnprintf(said, sizeof(said), fmt, args);
	va_end(args);
	utf8_clean(said, strlen(said), detail, sizeof(detail));	/* cut in the middle of a character, perhaps */
	if (e->given && e->finding == finding && !strcmp(e->detail, detail))
		return false;
	*e = (struct verdict_evidence){ .finding = finding, .given = true, .at_wall_ms = wall_ms };
	memcpy(e->detail, detail, sizeof(detail));
	v->n_news++;
	return judge(v);
}

const char *verdict_sign(const struct claim *c)
{
	const char *sign = NULL;

	for (size_t i = 0; !sign && i < c->n_metadata; i++)
		sign = sign_of_meta(c->metadata[i].key, c->metadata[i].value);
	for (size_t i = 0; !sign && i < c->n_sources; i++)
		if (c->sources[i].instance)
			sign = sign_of_instance(c->sources[i].instance);
	return sign;
}

/* --- port, containers --- */

static bool note_containers(struct verdict_case *v, const struct ip *ip, const struct containers *containers, int64_t wall_ms)
{
	const struct container *hit = containers ? containers_find(containers, ip) : NULL;
	char text[IP_TEXT_LEN];

	ip_format(ip, text);
	if (hit)
		return verdict_note(v, VERDICT_BY_CONTAINERS, VERDICT_CONTAINER, wall_ms, "%s is registered by a container: %s", text, hit->what);
	if (!containers)
		return verdict_note(v, VERDICT_BY_CONTAINERS, VERDICT_UNKNOWN, wall_ms,
				    "the controller has not told its container addresses yet");
	return verdict_note(v, VERDICT_BY_CONTAINERS, VERDICT_VM, wall_ms, "%s is not among the %zu addresses and networks of containers", text,
			    containers->by_prefix.n);
}

static const struct guest_address *address_of(const struct guest *g, const struct ip *ip)
{
	for (size_t i = 0; i < g->n_addresses; i++)
		if (ip_equal(&g->addresses[i]->ip, ip))
			return g->addresses[i];
	return NULL;
}

static bool note_port(struct verdict_case *v, const struct guest *g, const struct ip *ip, bool behind, int64_t wall_ms)
{
	const struct guest_address *a = address_of(g, ip);
	char text[IP_TEXT_LEN], mac[GUEST_MAC_TEXT_LEN];

	ip_format(ip, text);
	guest_mac_format(g->link.mac, mac);
	if (a && a->source == GUEST_BY_TRAFFIC)
		return verdict_note(v, VERDICT_BY_PORT, VERDICT_UNKNOWN, wall_ms,
				    "%s is only the source of packets on port %s; %s has not said yet that it is its own", text, g->link.port, mac);
	if (a)
		return verdict_note(v, VERDICT_BY_PORT, VERDICT_VM, wall_ms, "%s is the address of %s on VM port %s, VLAN %u (by %s)", text, mac,
				    g->link.port, g->link.vlan, guest_source_name(a->source));
	if (behind)
		return verdict_note(v, VERDICT_BY_PORT, VERDICT_CONTAINER, wall_ms,
				    "packets of %s come out of port %s, but it is not the VM's address: something that runs inside it", text, g->link.port);
	return verdict_note(v, VERDICT_BY_PORT, VERDICT_UNKNOWN, wall_ms, "%s was not seen on port %s", text, g->link.port);
}

/* A pod of the host's network, a port of the host: at the VM's own address, and the cluster knows whose. */
static bool note_host_port(struct verdict_case *v, const struct claim *c, const struct node *node, int64_t wall_ms)
{
	const char *owner = guest_owns(c->owner->guest, &c->address) ? node_port_owner(node, c->port, c->udp) : NULL;
	const struct ip_port at = { c->address, c->port };
	char text[IP_PORT_TEXT_LEN];

	if (owner)
		verdict_note(v, VERDICT_BY_CONTAINERS, VERDICT_CONTAINER, wall_ms, "the VM is the Kubernetes node %s, and %s is a container's: %s", node->name,
			     ip_port_format(&at, text), owner);
	return owner;
}

bool verdict_of_claim(struct verdict_case *v, const struct claim *c, const struct containers *containers, const struct node *node, int64_t wall_ms)
{
	enum verdict before = v->verdict;
	const char *sign = verdict_sign(c);

	note_port(v, c->owner->guest, &c->address, c->behind, wall_ms);
	if (sign)
		verdict_note(v, VERDICT_BY_CONTAINERS, VERDICT_CONTAINER, wall_ms, "%s", sign);
	else if (!note_host_port(v, c, node, wall_ms))
		note_containers(v, &c->address, containers, wall_ms);
	return v->verdict != before;
}

bool verdict_of_guest(struct verdict_case *v, const struct guest *g, const struct containers *containers, int64_t wall_ms)
{
	enum verdict before = v->verdict;
	struct ip ip = guest_primary_ip(g, false);

	if (ip_is_none(&ip))
		ip = guest_primary_ip(g, true);
	if (ip_is_none(&ip))
		return false;
	note_port(v, g, &ip, false, wall_ms);
	note_containers(v, &ip, containers, wall_ms);
	return v->verdict != before;
}
