/*
 * Virtual addresses of services.
 */
#include "control/vip.h"

#include <errno.h>
#include <string.h>

enum { MAX_HOST_BITS = 20, MAX_PROBES = 1 << 16 };

struct vip {
	struct map_link by_key;
	struct map_link by_ip;
	struct list unused;		/* empty: a service has it */
	struct ip ip;
	char key[];
};

/* FNV-1a: the same in every process, unlike map_hash(). */
static uint64_t hash_name(const char *text)
{
	uint64_t h = 0xcbf29ce484222325;

	for (; *text; text++)
		h = (h ^ (uint8_t)*text) * 0x100000001b3;
	return h;
}

static struct vip *vip_add(struct vips *v, const char *key, const struct ip *ip)
{
	size_t size = strlen(key) + 1;
	struct vip *x = malloc(sizeof(*x) + size);

	if (!x)
		return NULL;
	memcpy(x->key, key, size);
	list_init(&x->unused);
	x->ip = *ip;
	if (map_add(&v->by_key, &x->by_key, x->key, strlen(x->key)) < 0) {
		free(x);
		return NULL;
	}
	if (map_add(&v->by_ip, &x->by_ip, x->ip.b, sizeof(x->ip.b)) < 0) {
		map_remove(&v->by_key, &x->by_key);
		free(x);
		return NULL;
	}
	return x;
}

static void vip_free(struct vips *v, struct vip *x)
{
	v->n_unused -= !list_empty(&x->unused);
	list_unlink(&x->unused);
	map_remove(&v->by_key, &x->by_key);
	map_remove(&v->by_ip, &x->by_ip);
	free(x);
}

static void set_unused(struct vips *v, struct vip *x)
{
	list_append(&v->unused, &x->unused);
	v->n_unused++;
}

/* Forgets the one that has been without a service for longest. False: there is none. */
static bool forget_one(struct vips *v)
{
	struct vip *x = list_first(&v->unused, struct vip, unused);

	if (!x)
		return false;
	if (v->store)
		(void)!store_vip_remove(v->store, x->key);	/* else it is there again after a restart, without a service */
	vip_free(v, x);
	return true;
}

static void on_stored(const char *key, const struct ip *ip, void *data)
{
	struct vips *v = data;
	struct vip *x = ip_in_prefix(ip, &v->prefix) ? vip_add(v, key, ip) : NULL;	/* of another prefix: the setting was changed */

	if (x)
		set_unused(v, x);	/* until it is asked for */
}

int vips_init(struct vips *v, const struct ip_prefix *prefix, struct store *store)
{
	*v = (struct vips){ .prefix = *prefix, .store = store };
	map_init(&v->by_key);
	map_init(&v->by_ip);
	list_init(&v->unused);
	return store ? store_vip_each(store, on_stored, v) : 0;
}

void vips_deinit(struct vips *v)
{
	map_for_each(l, &v->by_key)
		vip_free(v, container_of(l, struct vip, by_key));
	map_deinit(&v->by_key);
	map_deinit(&v->by_ip);
}

/* The @n-th host of the prefix. */
static struct ip nth(const struct ip_prefix *p, uint32_t n)
{
	struct ip ip = p->ip;

	for (unsigned bit = 0; bit < 128u - p->len && bit < 32; bit++) {
		uint8_t mask = (uint8_t)(1u << (bit % 8));

		ip.b[15 - bit / 8] = (uint8_t)((ip.b[15 - bit / 8] & ~mask) | (n >> bit & 1 ? mask : 0));
	}
	return ip;
}

uint32_t vips_size(const struct vips *v)
{
	return (1u << MIN(128u - v->prefix.len, (unsigned)MAX_HOST_BITS)) - 2;	/* neither the network's nor the broadcast address */
}

void vips_release(struct vips *v, const char *key)
{
	struct map_link *l = map_find_str(&v->by_key, key);
	struct vip *x = l ? container_of(l, struct vip, by_key) : NULL;

	if (!x || !list_empty(&x->unused))
		return;
	set_unused(v, x);
	if (v->n_unused > VIPS_KEPT)
		forget_one(v);
}

int vips_get(struct vips *v, const char *key, struct ip *ret_ip, bool *ret_stored)
{
	struct map_link *l = map_find_str(&v->by_key, key);
	uint32_t n_hosts = vips_size(v);
	uint64_t start = hash_name(key);

	*ret_stored = true;
	if (l) {
		struct vip *x = container_of(l, struct vip, by_key);

		v->n_unused -= !list_empty(&x->unused);
		list_unlink(&x->unused);
		*ret_ip = x->ip;
		return 0;
	}
	if (v->by_key.n >= n_hosts && !forget_one(v))
		return -ENOSPC;
	for (uint32_t i = 0; i < MIN(n_hosts, (uint32_t)MAX_PROBES); i++) {
		struct ip ip = nth(&v->prefix, 1 + (uint32_t)((start + i) % n_hosts));

		if (map_find(&v->by_ip, ip.b, sizeof(ip.b)))
			continue;
		if (!vip_add(v, key, &ip))
			return -ENOMEM;
		*ret_stored = !v->store || store_vip_put(v->store, key, &ip) == 0;
		*ret_ip = ip;
		return 0;
	}
	return -ENOSPC;
}
