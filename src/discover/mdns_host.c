/*
 * Addresses of hosts in multicast DNS: see mdns_host.h.
 */
#include "discover/mdns_host.h"

#include <stdlib.h>

#include "base/defs.h"

enum {
	MAX_HOSTS = 64,
	FLUSH_MS = 1000,		/* records older than this go by a cache-flush: RFC 6762, 10.2 */
};

void mdns_hosts_init(struct mdns_hosts *t)
{
	list_init(&t->list);
	t->n = 0;
}

struct mdns_host *mdns_host_find(const struct mdns_hosts *t, const struct dns_name *name)
{
	list_for_each(i, &t->list) {
		struct mdns_host *h = list_entry(i, struct mdns_host, link);

		if (dns_name_equal(&h->name, name))
			return h;
	}
	return NULL;
}

static void host_drop(struct mdns_hosts *t, struct mdns_host *h)
{
	list_unlink(&h->link);
	t->n--;
	free(h);
}

static struct mdns_host *host_get(struct mdns_hosts *t, const struct dns_name *name)
{
	struct mdns_host *h = mdns_host_find(t, name);

	if (h)
		return h;
	if (t->n == MAX_HOSTS)
		host_drop(t, list_entry(t->list.next, struct mdns_host, link));
	h = calloc(1, sizeof(*h));
	if (!h)
		return NULL;
	h->name = *name;
	list_append(&t->list, &h->link);
	t->n++;
	return h;
}

static void address_remove(struct mdns_host *h, size_t i)
{
	h->addresses[i] = h->addresses[--h->n];
}

/* RFC 6762, section 10.2: the others of the same type, when they are not from just now. */
static void flush_addresses(struct mdns_host *h, const struct ip *keep, uint64_t now_ns)
{
	for (size_t i = h->n; i-- > 0;)
		if (ip_is_v4(&h->addresses[i].ip) == ip_is_v4(keep) && !ip_equal(&h->addresses[i].ip, keep) &&
		    mdns_ms_since(now_ns, h->addresses[i].time_ns) > FLUSH_MS)
			address_remove(h, i);
}

void mdns_hosts_take(struct mdns_hosts *t, const struct dns_record *r, uint64_t now_ns)
{
	struct mdns_host *h;
	struct ip ip;
	size_t i = 0;

	if (!dns_address(r, &ip))
		return;
	h = r->ttl_s ? host_get(t, &r->name) : mdns_host_find(t, &r->name);
	if (!h)
		return;
	while (i < h->n && !ip_equal(&h->addresses[i].ip, &ip))
		i++;
	if (!r->ttl_s) {
		if (i < h->n)
			address_remove(h, i);
		return;
	}
	if (r->top_bit)
		flush_addresses(h, &ip, now_ns);
	for (i = 0; i < h->n && !ip_equal(&h->addresses[i].ip, &ip); i++)
		;
	if (i == MDNS_HOST_MAX_ADDRESSES)
		i = 0;
	h->addresses[i].ip = ip;
	h->addresses[i].time_ns = now_ns;
	h->addresses[i].ttl_s = r->ttl_s;
	h->n = MAX(h->n, i + 1);
}

bool mdns_host_has(const struct mdns_host *h, const struct ip *ip)
{
	for (size_t i = 0; h && i < h->n; i++)
		if (ip_equal(&h->addresses[i].ip, ip))
			return true;
	return false;
}

struct ip mdns_host_address(const struct mdns_host *h, const struct ip *guest)
{
	struct ip best = {};
	int best_rank = -1;

	if (mdns_host_has(h, guest))
		return *guest;
	for (size_t i = 0; h && i < h->n; i++) {
		const struct ip *a = &h->addresses[i].ip;
		int rank = (ip_is_v4(a) ? 2 : 0) + (ip_is_link_local(a) ? 0 : 1);

		if (rank > best_rank) {
			best = *a;
			best_rank = rank;
		}
	}
	return best;
}

void mdns_hosts_deinit(struct mdns_hosts *t)
{
	list_for_each_safe(i, &t->list)
		host_drop(t, list_entry(i, struct mdns_host, link));
}
