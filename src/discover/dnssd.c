/*
 * DNS-SD names and texts.
 */
#include "discover/dnssd.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>
#include "base/defs.h"
#include "base/utf8.h"

/* Service names (RFC 6335) that say what is spoken, in the words of the mesh. */
static const struct { const char *label, *protocol; } app_protocols[] = {
	{ "_http", "http" }, { "_https", "https" }, { "_grpc", "grpc" }, { "_http2", "http2" }, { "_h2c", "http2" },
	{ "_redis", "redis" }, { "_mysql", "mysql" }, { "_postgresql", "postgresql" }, { "_mongodb", "mongodb" },
	{ "_amqp", "amqp" }, { "_mqtt", "mqtt" }, { "_kafka", "kafka" }, { "_nats", "nats" }, { "_ipp", "http" },
};

static const char *app_protocol_of(const uint8_t *label, size_t len)
{
	for (size_t i = 0; i < ELEMENTS(app_protocols); i++)
		if (strlen(app_protocols[i].label) == len &&
		    !strncasecmp(app_protocols[i].label, (const char *)label, len))
			return app_protocols[i].protocol;
	return NULL;
}

static void describe_type(const struct dns_name *name, unsigned at, struct dnssd_name *d)
{
	char service[DNS_LABEL_TEXT_LEN], proto[DNS_LABEL_TEXT_LEN];
	uint8_t service_len = 0, proto_len = 0;
	const uint8_t *s = dns_name_label(name, at, &service_len);
	const uint8_t *p = dns_name_label(name, at + 1, &proto_len);

	snprintf(d->type, sizeof(d->type), "%s.%s", dns_label_text(s, service_len, service),
		 dns_label_text(p, proto_len, proto));
	d->transport = p[1] == 't' || p[1] == 'T' ? "tcp" : "udp";
	d->app_protocol = app_protocol_of(s, service_len);
}

/* The first @n_labels as a person wrote them: dots as they are. */
static void describe_instance(const struct dns_name *name, unsigned n_labels, char text[static DNS_NAME_TEXT_LEN])
{
	size_t at = 0;

	for (unsigned i = 0; i < n_labels; i++) {
		char label_text[DNS_LABEL_TEXT_LEN];
		uint8_t len = 0;
		const uint8_t *label = dns_name_label(name, i, &len);

		dns_label_text(label, len, label_text);
		at += (size_t)snprintf(text + at, DNS_NAME_TEXT_LEN - at, "%s%s", i ? "." : "", label_text);
	}
}

void dnssd_describe(const struct dns_name *name, struct dnssd_name *ret_name)
{
	struct dns_name lower = *name;
	unsigned at = 0;

	*ret_name = (struct dnssd_name){};
	if (dns_name_service(name, &at))
		describe_type(name, at, ret_name);
	else
		at = 0;
	if (at) {
		describe_instance(name, at, ret_name->service);
		dns_name_text(name, ret_name->instance);
	} else {
		dns_name_lower(&lower);
		dns_name_text(&lower, ret_name->service);
	}
}

bool dnssd_is_housekeeping(const struct dns_name *name)
{
	uint8_t len = 0;
	const uint8_t *label = NULL;

	if (dns_name_is_root(name) || dns_name_ends_with(name, "in-addr.arpa") || dns_name_ends_with(name, "ip6.arpa") ||
	    dns_name_ends_with(name, "resolver.arpa"))
		return true;
	for (unsigned i = 0; (label = dns_name_label(name, i, &len)); i++)	/* RFC 6763, sections 9 and 11 */
		if (len == 7 && !strncasecmp((const char *)label, "_dns-sd", 7))
			return true;
	return false;
}

static const char *store(struct dnssd_text *t, const void *data, size_t len)
{
	char *at = t->store + t->used;

	if (len > OBS_MAX_STR - 1)
		len = OBS_MAX_STR - 1;
	/* Four times: every byte may become \DDD. */
	if (sizeof(t->store) - t->used < len * 4 + 1)
		return NULL;
	t->used += utf8_clean(data, len, at, sizeof(t->store) - t->used) + 1;
	return at;
}

static void add(struct dnssd_text *t, const void *key, size_t key_len, const void *value, size_t value_len)
{
	size_t used = t->used;
	struct observation_meta m;

	if (!key_len || t->n_meta == OBS_MAX_METADATA)
		return;
	m.key = store(t, key, key_len);
	m.value = store(t, value, value_len);
	if (!m.key || !m.value) {
		t->used = used;
		return;
	}
	for (size_t i = 0; i < t->n_meta; i++)
		if (!strcasecmp(t->meta[i].key, m.key)) {
			t->used = used;
			return;
		}
	t->meta[t->n_meta++] = m;
}

void dnssd_text_add(struct dnssd_text *t, const char *key, const char *value)
{
	add(t, key, strlen(key), value, strlen(value));
}

void dnssd_text_decode(struct dnssd_text *t, struct wire rdata)
{
	const uint8_t *data;
	size_t len;

	while (dns_txt_next(&rdata, &data, &len)) {
		const uint8_t *equals = len ? memchr(data, '=', len) : NULL;
		size_t key_len = equals ? (size_t)(equals - data) : len;

		add(t, data, key_len, equals ? equals + 1 : data, equals ? len - key_len - 1 : 0);
	}
}
