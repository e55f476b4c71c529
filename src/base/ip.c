/*
 * Addresses of both families as 16 bytes.
 */
#include "base/ip.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

static const uint8_t v4_mapped[12] = { [10] = 0xff, [11] = 0xff };

struct ip ip_from_v4(const void *four_bytes)
{
	struct ip a;

	memcpy(a.b, v4_mapped, sizeof(v4_mapped));
	memcpy(a.b + 12, four_bytes, 4);
	return a;
}

struct ip ip_from_v6(const void *sixteen_bytes)
{
	struct ip a;

	memcpy(a.b, sixteen_bytes, 16);
	return a;
}

bool ip_is_v4(const struct ip *a)
{
	return !memcmp(a->b, v4_mapped, sizeof(v4_mapped));
}

bool ip_is_none(const struct ip *a)
{
	static const struct ip none;

	return ip_equal(a, &none) || (ip_is_v4(a) && !memcmp(a->b + 12, none.b, 4));
}

bool ip_is_multicast(const struct ip *a)
{
	return ip_is_v4(a) ? (a->b[12] & 0xf0) == 0xe0 : a->b[0] == 0xff;
}

bool ip_is_loopback(const struct ip *a)
{
	static const struct ip one = { .b = { [15] = 1 } };

	return ip_is_v4(a) ? a->b[12] == 127 : ip_equal(a, &one);
}

bool ip_is_link_local(const struct ip *a)
{
	if (ip_is_v4(a))
		return a->b[12] == 169 && a->b[13] == 254;
	return a->b[0] == 0xfe && (a->b[1] & 0xc0) == 0x80;
}

bool ip_equal(const struct ip *a, const struct ip *b)
{
	return !memcmp(a->b, b->b, sizeof(a->b));
}

bool ip_port_equal(const struct ip_port *a, const struct ip_port *b)
{
	return a->port == b->port && ip_equal(&a->ip, &b->ip);
}

struct ip ip_spare(const struct ip *target)
{
	static const uint8_t v4[4] = { 192, 0, 0, 8 };
	static const uint8_t v6[16] = { [0] = 1, [15] = 8 };

	return ip_is_v4(target) ? ip_from_v4(v4) : ip_from_v6(v6);
}

bool ip_in_prefix(const struct ip *a, const struct ip_prefix *p)
{
	size_t whole = p->len / 8;
	unsigned rest = p->len % 8;

	if (p->len > 128 || memcmp(a->b, p->ip.b, whole))
		return false;
	return !rest || (a->b[whole] ^ p->ip.b[whole]) >> (8 - rest) == 0;
}

int ip_parse(const char *text, struct ip *ret_ip)
{
	uint8_t raw[16];

	if (inet_pton(AF_INET, text, raw) == 1)
		*ret_ip = ip_from_v4(raw);
	else if (inet_pton(AF_INET6, text, raw) == 1)
		*ret_ip = ip_from_v6(raw);
	else
		return -EINVAL;
	return 0;
}

static int parse_uint(const char *text, unsigned max, unsigned *ret_value)
{
	unsigned v = 0;

	if (!*text)
		return -EINVAL;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return -EINVAL;
		v = v * 10 + (unsigned)(*text - '0');
		if (v > max)
			return -EINVAL;
	}
	*ret_value = v;
	return 0;
}

int ip_parse_port(const char *text, uint16_t *ret_port)
{
	unsigned port;

	if (parse_uint(text, UINT16_MAX, &port) < 0)
		return -EINVAL;
	*ret_port = (uint16_t)port;
	return 0;
}

int ip_port_parse(const char *text, struct ip_port *ret_addr)
{
	char host[IP_TEXT_LEN];
	const char *colon = strrchr(text, ':');
	struct ip_port a;

	if (!colon)
		return -EINVAL;

	size_t len = (size_t)(colon - text);
	bool bracketed = text[0] == '[';
	if (bracketed && (len < 2 || colon[-1] != ']'))
		return -EINVAL;
	if (bracketed) {
		text++;
		len -= 2;
	}
	if (len >= sizeof(host))
		return -EINVAL;
	memcpy(host, text, len);
	host[len] = '\0';
	if (bracketed != (strchr(host, ':') != NULL))	/* RFC 3986, section 3.2.2: of IPv6 alone */
		return -EINVAL;
	if (ip_parse(host, &a.ip) < 0 || ip_parse_port(colon + 1, &a.port) < 0)
		return -EINVAL;
	*ret_addr = a;
	return 0;
}

int ip_prefix_parse(const char *text, struct ip_prefix *ret_prefix)
{
	char host[IP_TEXT_LEN];
	const char *slash = strchr(text, '/');
	size_t n_host = slash ? (size_t)(slash - text) : strlen(text);
	struct ip_prefix p;
	unsigned bits;

	if (n_host >= sizeof(host))
		return -EINVAL;
	memcpy(host, text, n_host);
	host[n_host] = '\0';
	if (ip_parse(host, &p.ip) < 0)
		return -EINVAL;

	unsigned max = ip_is_v4(&p.ip) ? 32 : 128;
	bits = max;
	if (slash && parse_uint(slash + 1, max, &bits) < 0)
		return -EINVAL;
	p.len = (uint8_t)(128 - max + bits);
	*ret_prefix = p;
	return 0;
}

const char *ip_format(const struct ip *a, char text[static IP_TEXT_LEN])
{
	if (ip_is_v4(a))
		inet_ntop(AF_INET, a->b + 12, text, IP_TEXT_LEN);
	else
		inet_ntop(AF_INET6, a->b, text, IP_TEXT_LEN);
	return text;
}

const char *ip_port_format(const struct ip_port *a, char text[static IP_PORT_TEXT_LEN])
{
	char host[IP_TEXT_LEN];

	snprintf(text, IP_PORT_TEXT_LEN, ip_is_v4(&a->ip) ? "%s:%u" : "[%s]:%u",
		 ip_format(&a->ip, host), a->port);
	return text;
}

socklen_t ip_port_to_sockaddr(const struct ip_port *a, int family, struct sockaddr_storage *ret_sa)
{
	*ret_sa = (struct sockaddr_storage){};
	if (ip_is_v4(&a->ip) && family != AF_INET6) {
		struct sockaddr_in *in = (struct sockaddr_in *)ret_sa;

		in->sin_family = AF_INET;
		in->sin_port = htons(a->port);
		memcpy(&in->sin_addr, a->ip.b + 12, 4);
		return sizeof(*in);
	}

	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ret_sa;
	in6->sin6_family = AF_INET6;
	in6->sin6_port = htons(a->port);
	memcpy(&in6->sin6_addr, a->ip.b, 16);
	return sizeof(*in6);
}

int ip_port_from_sockaddr(const struct sockaddr_storage *sa, struct ip_port *ret_addr)
{
	if (sa->ss_family == AF_INET) {
		const struct sockaddr_in *in = (const struct sockaddr_in *)sa;

		*ret_addr = (struct ip_port){ ip_from_v4(&in->sin_addr), ntohs(in->sin_port) };
		return 0;
	}
	if (sa->ss_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)sa;

		*ret_addr = (struct ip_port){ ip_from_v6(&in6->sin6_addr), ntohs(in6->sin6_port) };
		return 0;
	}
	return -EAFNOSUPPORT;
}
