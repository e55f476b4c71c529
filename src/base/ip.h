#pragma once
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include "base/defs.h"

/*
 * Addresses of both families in one shape: 16 bytes, IPv4 as ::ffff:a.b.c.d,
 * as in the BPF maps. All zeros means "none".
 */
struct ip {
	uint8_t b[16];
};

struct ip_port {
	struct ip ip;
	uint16_t port;		/* host byte order */
};

struct ip_prefix {
	struct ip ip;
	uint8_t len;		/* bits of the 16-byte form: an IPv4 /24 is 120 */
};

enum {
	IP_TEXT_LEN = 46,	/* of ip_format(), with the zero */
	IP_PORT_TEXT_LEN = 56,	/* "[...]:65535" */
};

struct ip ip_from_v4(const void *four_bytes);
struct ip ip_from_v6(const void *sixteen_bytes);
bool ip_is_v4(const struct ip *a);
bool ip_is_none(const struct ip *a);
bool ip_is_multicast(const struct ip *a);
bool ip_is_loopback(const struct ip *a);
bool ip_is_link_local(const struct ip *a);
bool ip_equal(const struct ip *a, const struct ip *b);
bool ip_port_equal(const struct ip_port *a, const struct ip_port *b);
/*
 * Nobody's address of the family of @target, to speak from where only the answer
 * counts. RFC 7335: 192.0.0.8 is the dummy address of IPv4. RFC 6666: 100::/64
 * is the discard prefix.
 */
struct ip ip_spare(const struct ip *target);
bool ip_in_prefix(const struct ip *a, const struct ip_prefix *p);

/* Text, without brackets; -EINVAL and nothing written when it is none. */
MUST_CHECK int ip_parse(const char *text, struct ip *ret_ip);
MUST_CHECK int ip_port_parse(const char *text, struct ip_port *ret_addr);	/* "1.2.3.4:80", "[::1]:80" */
MUST_CHECK int ip_parse_port(const char *text, uint16_t *ret_port);	/* digits and nothing else, no more than 65535 */
MUST_CHECK int ip_prefix_parse(const char *text, struct ip_prefix *ret_prefix);	/* without a length: the one address */
const char *ip_format(const struct ip *a, char text[static IP_TEXT_LEN]);
const char *ip_port_format(const struct ip_port *a, char text[static IP_PORT_TEXT_LEN]);

/* IPv4 becomes AF_INET, or ::ffff:... when @family is AF_INET6. @family 0: whatever fits. */
socklen_t ip_port_to_sockaddr(const struct ip_port *a, int family, struct sockaddr_storage *ret_sa);
/* -EAFNOSUPPORT for other families. */
MUST_CHECK int ip_port_from_sockaddr(const struct sockaddr_storage *sa, struct ip_port *ret_addr);
