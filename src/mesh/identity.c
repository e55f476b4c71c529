/*
 * SPIFFE IDs: strict parsing, since what is accepted here decides who may be
 * whom.
 */
#include "mesh/identity.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static const char SCHEME[] = "spiffe://";

/* In what a byte may be. A table: each workload that comes is looked at, byte by byte. */
enum { TRUST_DOMAIN = 1, SEGMENT = 2, BOTH = TRUST_DOMAIN | SEGMENT };

static const uint8_t allowed[UINT8_MAX + 1] = {
	['a' ... 'z'] = BOTH, ['0' ... '9'] = BOTH, ['.'] = BOTH, ['-'] = BOTH, ['_'] = BOTH, ['A' ... 'Z'] = SEGMENT,
};

static bool are_allowed(const char *s, size_t len, unsigned in)
{
	unsigned all = in;

	for (size_t i = 0; i < len; i++)
		all &= allowed[(uint8_t)s[i]];
	return all;
}

/* SPIFFE-ID section 2.1: lower case only, so that equal IDs are equal bytes. */
static bool trust_domain_valid(const char *s, size_t len)
{
	return len && len <= IDENTITY_TRUST_DOMAIN_MAX && are_allowed(s, len, TRUST_DOMAIN);
}

/* SPIFFE-ID section 2.2 */
static bool segment_valid(const char *s, size_t len)
{
	if (!len || (len == 1 && s[0] == '.') || (len == 2 && s[0] == '.' && s[1] == '.'))
		return false;
	return are_allowed(s, len, SEGMENT);
}

bool identity_trust_domain_valid(const char *text)
{
	return trust_domain_valid(text, strnlen(text, IDENTITY_MAX));
}

bool identity_name_valid(const char *text)
{
	size_t len = strnlen(text, IDENTITY_MAX);

	return len <= IDENTITY_NAME_MAX && segment_valid(text, len);
}

struct segment {
	const char *s;
	size_t len;
};

/* Steps over one "/segment"; false when what comes is none. */
static bool next_segment(struct segment *rest, struct segment *ret_segment)
{
	if (!rest->len || rest->s[0] != '/')
		return false;

	const char *start = rest->s + 1;
	const char *slash = memchr(start, '/', rest->len - 1);
	size_t len = slash ? (size_t)(slash - start) : rest->len - 1;
	if (!segment_valid(start, len))
		return false;
	*ret_segment = (struct segment){ start, len };
	rest->s += 1 + len;
	rest->len -= 1 + len;
	return true;
}

static bool segment_is(const struct segment *a, const char *text)
{
	return a->len == strlen(text) && !memcmp(a->s, text, a->len);
}

static int copy_name(const struct segment *from, char to[static IDENTITY_NAME_MAX + 1])
{
	if (from->len > IDENTITY_NAME_MAX)
		return -EINVAL;
	memcpy(to, from->s, from->len);
	to[from->len] = 0;
	return 0;
}

static int take_form(const struct segment *segments, size_t n, struct identity *id)
{
	int r;

	if (n == 4 && segment_is(&segments[0], "ns") && segment_is(&segments[2], "sa")) {
		r = copy_name(&segments[1], id->ns);
		if (r < 0)
			return r;
		id->kind = IDENTITY_WORKLOAD;
		return copy_name(&segments[3], id->service_account);
	}
	if (n == 2 && segment_is(&segments[0], "nic")) {
		id->kind = IDENTITY_NIC;
		return copy_name(&segments[1], id->nic);
	}
	return 0;
}

int identity_parse_n(const char *text, size_t len, struct identity *ret_id)
{
	size_t n_scheme = sizeof(SCHEME) - 1;
	struct segment segments[5] = {};
	struct identity id = {};
	size_t n = 0;

	if (len > IDENTITY_MAX || len <= n_scheme || memcmp(text, SCHEME, n_scheme) != 0)
		return -EINVAL;

	const char *td = text + n_scheme;
	const char *slash = memchr(td, '/', len - n_scheme);
	size_t td_len = slash ? (size_t)(slash - td) : len - n_scheme;
	if (!trust_domain_valid(td, td_len))
		return -EINVAL;
	memcpy(id.trust_domain, td, td_len);

	struct segment rest = { td + td_len, len - n_scheme - td_len };
	while (rest.len) {
		struct segment s;

		if (!next_segment(&rest, &s))
			return -EINVAL;
		if (n < ELEMENTS(segments))
			segments[n++] = s;
	}
	int r = take_form(segments, n, &id);
	if (r < 0)
		return r;
	*ret_id = id;
	return 0;
}

int identity_parse(const char *text, struct identity *ret_id)
{
	return identity_parse_n(text, strnlen(text, IDENTITY_MAX + 1), ret_id);
}

int identity_workload(const char *trust_domain, const char *ns, const char *service_account, struct identity *ret_id)
{
	if (!identity_trust_domain_valid(trust_domain) || !identity_name_valid(ns) || !identity_name_valid(service_account))
		return -EINVAL;
	*ret_id = (struct identity){ .kind = IDENTITY_WORKLOAD };
	memcpy(ret_id->trust_domain, trust_domain, strlen(trust_domain));
	memcpy(ret_id->ns, ns, strlen(ns));
	memcpy(ret_id->service_account, service_account, strlen(service_account));
	return 0;
}

int identity_nic(const char *trust_domain, const char *nic, struct identity *ret_id)
{
	if (!identity_trust_domain_valid(trust_domain) || !identity_name_valid(nic))
		return -EINVAL;
	*ret_id = (struct identity){ .kind = IDENTITY_NIC };
	memcpy(ret_id->trust_domain, trust_domain, strlen(trust_domain));
	memcpy(ret_id->nic, nic, strlen(nic));
	return 0;
}

const char *identity_format(const struct identity *id, char text[static IDENTITY_TEXT_LEN])
{
	text[0] = 0;
	if (id->kind == IDENTITY_WORKLOAD)
		snprintf(text, IDENTITY_TEXT_LEN, "%s%s/ns/%s/sa/%s", SCHEME, id->trust_domain, id->ns, id->service_account);
	else if (id->kind == IDENTITY_NIC)
		snprintf(text, IDENTITY_TEXT_LEN, "%s%s/nic/%s", SCHEME, id->trust_domain, id->nic);
	return text;
}
