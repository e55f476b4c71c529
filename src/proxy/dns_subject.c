/*
 * What is asked for, and what the mesh says to it.
 */
#include "proxy/dns_subject.h"

#include <string.h>

enum { ADDRESSES_MAX = 64 };		/* of an answer */

/* --- questions --- */

static bool is_label(const struct dns_name *name, unsigned i, const char *text)
{
	struct dns_name lower = *name;
	uint8_t len;

	dns_name_lower(&lower);
	const uint8_t *label = dns_name_label(&lower, i, &len);
	return label && len == strlen(text) && !memcmp(label, text, len);
}

/*
 * RFC 2782: "_http._tcp.<service>". What is spoken at a port is all that the
 * mesh knows of its name.
 */
static uint8_t protocol_of(const struct dns_name *name)
{
	static const struct { const char *label; enum app_protocol protocol; } rows[] = {
		{ "_http", APP_HTTP11 }, { "_http2", APP_HTTP2 }, { "_grpc", APP_GRPC }, { "_https", APP_TLS },
	};

	for (size_t i = 0; i < ELEMENTS(rows); i++)
		if (is_label(name, 0, rows[i].label) && is_label(name, 1, "_tcp"))
			return (uint8_t)rows[i].protocol;
	return APP_UNKNOWN;
}

bool dns_subject_of(const struct dns_query *q, const char *namespace, char *const *domains, size_t n_domains, struct dns_subject *ret_subject)
{
	struct dns_subject s = {};
	struct dns_name name = q->name;

	if (q->type == DNS_TYPE_PTR && dns_reverse_address(&q->name, &s.ip)) {
		*ret_subject = s;
		return true;
	}
	if (q->type == DNS_TYPE_SRV && (s.protocol = protocol_of(&q->name)))
		dns_name_tail(&q->name, 2, &name);
	if (!dns_names_key(&name, namespace, domains, n_domains, s.key))
		return false;
	*ret_subject = s;
	return true;
}

/* --- answers --- */

static bool is_wanted(const struct ip *ip, uint16_t type)
{
	return type == DNS_TYPE_ANY || type == (ip_is_v4(ip) ? DNS_TYPE_A : DNS_TYPE_AAAA);
}

static void put_all(struct snap_addresses a, uint16_t type, uint32_t ttl_s, struct dns_reply *r)
{
	struct ip ip;

	while (snap_address_next(&a, &ip))
		if (is_wanted(&ip, type))
			dns_reply_address(r, &ip, ttl_s);
}

static void put_endpoint(const struct snap_workload *w, uint16_t type, struct dns_reply *r)
{
	put_all(snap_workload_addresses(w), type, DNS_ENDPOINT_TTL_S, r);
}

/* The service's own addresses; of one without any, its endpoints', as many as there is room for. */
static void put_addresses(const struct snap_service *s, uint16_t type, uint32_t turn, struct dns_reply *r)
{
	uint32_t n = snap_service_size(s);

	put_all(snap_def_addresses(s->def), type, DNS_SERVICE_TTL_S, r);
	for (uint32_t i = 0; !s->def->n_vips && i < n && r->n_answers < ADDRESSES_MAX; i++) {
		const struct snap_workload *w = snap_service_endpoint(s, (i + turn) % n);

		if (w->reachable && w->kind->weight && (w->healthy || s->def->allow_unhealthy))
			put_endpoint(w, type, r);
	}
	r->cut = false;		/* any of them will do: no reason to ask once more, by TCP */
}

/* Where one port speaks it; of several the mesh cannot say which has that name. */
static const struct snap_port *port_of(const struct snap_service *s, uint8_t protocol)
{
	const struct snap_port *found = NULL;

	for (uint16_t i = 0; i < s->def->n_ports; i++) {
		if (snap_def_ports(s->def)[i].app_protocol != protocol)
			continue;
		if (found)
			return NULL;
		found = &snap_def_ports(s->def)[i];
	}
	return found;
}

bool dns_subject_answer(const struct dns_subject *subject, const struct dns_query *q, const struct snap_service *s, uint32_t turn,
			struct dns_reply *ret_reply)
{
	const struct snap_port *port = subject->protocol ? port_of(s, subject->protocol) : NULL;
	struct dns_name target;

	if (subject->protocol && !port)
		return false;
	dns_reply_begin(ret_reply, q);
	if (port) {
		dns_name_tail(&q->name, 2, &target);
		dns_reply_srv(ret_reply, port->port, &target, DNS_SERVICE_TTL_S);
	} else if (q->type == DNS_TYPE_A || q->type == DNS_TYPE_AAAA || q->type == DNS_TYPE_ANY) {
		put_addresses(s, q->type, turn, ret_reply);
	}
	/* A name that exists has no record of the other types: no error, and nothing (RFC 2308, section 2.2). */
	dns_reply_end(ret_reply);
	return true;
}

bool dns_subject_answer_host(const struct dns_query *q, const char *host, struct dns_reply *ret_reply)
{
	struct dns_name target;

	if (!dns_name_parse(host, &target))
		return false;
	dns_reply_begin(ret_reply, q);
	dns_reply_ptr(ret_reply, &target, DNS_ENDPOINT_TTL_S);
	dns_reply_end(ret_reply);
	return true;
}
