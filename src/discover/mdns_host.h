#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/ip.h"
#include "base/list.h"
#include "proto/dns.h"

/*
 * The hosts that multicast DNS tells addresses of: those that a guest has heard
 * of, or is. The oldest makes room for another.
 */
enum { MDNS_HOST_MAX_ADDRESSES = 8 };

struct mdns_host {
	struct list link;
	struct dns_name name;
	struct {
		struct ip ip;
		uint64_t time_ns;
		uint32_t ttl_s;
	} addresses[MDNS_HOST_MAX_ADDRESSES];
	size_t n;
};

struct mdns_hosts {
	struct list list;
	size_t n;
};

void mdns_hosts_init(struct mdns_hosts *t);
void mdns_hosts_deinit(struct mdns_hosts *t);

/* An A or AAAA record of a response; others are ignored, and so is what there is no memory for. */
void mdns_hosts_take(struct mdns_hosts *t, const struct dns_record *r, uint64_t now_ns);

struct mdns_host *mdns_host_find(const struct mdns_hosts *t, const struct dns_name *name);
bool mdns_host_has(const struct mdns_host *h, const struct ip *ip);	/* @h may be NULL */
/* The guest's own address if the host has it; else IPv4; not link-local if there is another. None for NULL. */
struct ip mdns_host_address(const struct mdns_host *h, const struct ip *guest);

static inline uint64_t mdns_ms_since(uint64_t now_ns, uint64_t then_ns)
{
	return now_ns > then_ns ? (now_ns - then_ns) / 1000000 : 0;
}
