/*
 * Chained hash table with SipHash-1-3, because keys come from the network.
 */
#include "base/map.h"

#include <endian.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/random.h>

enum { MAP_FIRST_SLOTS = 16 };

static uint64_t hash_key[2];
static pthread_once_t hash_key_once = PTHREAD_ONCE_INIT;
static atomic_bool hash_key_is_there;	/* which spares nearly all callers the call */

static void hash_key_init(void)
{
	/* Without entropy the table still works; only the defence is weaker. */
	if (getrandom(hash_key, sizeof(hash_key), 0) != sizeof(hash_key))
		hash_key[0] = (uint64_t)(uintptr_t)&hash_key;
	atomic_store_explicit(&hash_key_is_there, true, memory_order_release);
}

struct sip {
	uint64_t a, b, c, d;
};

static inline uint64_t rotl(uint64_t v, int n)
{
	return v << n | v >> (64 - n);
}

/* By value and inlined, so that the state stays in registers: a call for each word would cost more than the round. */
static inline __attribute__((always_inline)) struct sip sip_round(struct sip v)
{
	v.a += v.b; v.b = rotl(v.b, 13); v.b ^= v.a; v.a = rotl(v.a, 32);
	v.c += v.d; v.d = rotl(v.d, 16); v.d ^= v.c;
	v.a += v.d; v.d = rotl(v.d, 21); v.d ^= v.a;
	v.c += v.b; v.b = rotl(v.b, 17); v.b ^= v.c; v.c = rotl(v.c, 32);
	return v;
}

/* The last bytes, fewer than eight, the first of them lowest. @more: of those in front of them, eight are there. */
static inline uint64_t tail_of(const uint8_t *p, size_t len, bool more)
{
	uint64_t v = 0;

	if (more && len) {
		memcpy(&v, p + len - sizeof(v), sizeof(v));
		return le64toh(v) >> 8 * (sizeof(v) - len);
	}
	for (size_t i = 0; i < len; i++)
		v |= (uint64_t)p[i] << (8 * i);
	return v;
}

/* Aumasson, Bernstein: SipHash, a fast short-input PRF (2012); 1 + 3 rounds */
uint64_t map_hash(const void *data, size_t len)
{
	const uint8_t *p = data;
	uint64_t last = (uint64_t)len << 56, m;

	if (!atomic_load_explicit(&hash_key_is_there, memory_order_acquire))
		pthread_once(&hash_key_once, hash_key_init);

	struct sip v = {
		hash_key[0] ^ 0x736f6d6570736575, hash_key[1] ^ 0x646f72616e646f6d,
		hash_key[0] ^ 0x6c7967656e657261, hash_key[1] ^ 0x7465646279746573,
	};

	for (; len >= sizeof(m); p += sizeof(m), len -= sizeof(m)) {
		memcpy(&m, p, sizeof(m));
		v.d ^= m;
		v = sip_round(v);
		v.a ^= m;
	}
	last |= tail_of(p, len, p != data);
	v.d ^= last;
	v = sip_round(v);
	v.a ^= last;
	v.c ^= 0xff;
	for (int i = 0; i < 3; i++)
		v = sip_round(v);
	return v.a ^ v.b ^ v.c ^ v.d;
}

void map_init(struct map *m)
{
	*m = (struct map){};
}

void map_deinit(struct map *m)
{
	free(m->slots);
	map_init(m);
}

static int grow(struct map *m)
{
	size_t n_slots = m->n_slots ? m->n_slots * 2 : MAP_FIRST_SLOTS;
	struct map_link **slots = calloc(n_slots, sizeof(*slots));

	if (!slots)
		return -ENOMEM;
	for (size_t i = 0; i < m->n_slots; i++) {
		struct map_link *next;

		for (struct map_link *l = m->slots[i]; l; l = next) {
			next = l->next;
			l->next = slots[l->hash & (n_slots - 1)];
			slots[l->hash & (n_slots - 1)] = l;
		}
	}
	free(m->slots);
	m->slots = slots;
	m->n_slots = n_slots;
	return 0;
}

static struct map_link *find(const struct map *m, const void *key, size_t key_len, uint32_t hash)
{
	if (!m->n_slots)
		return NULL;
	for (struct map_link *l = m->slots[hash & (m->n_slots - 1)]; l; l = l->next)
		if (l->hash == hash && l->key_len == key_len && !memcmp(l->key, key, key_len))
			return l;
	return NULL;
}

int map_add(struct map *m, struct map_link *l, const void *key, size_t key_len)
{
	uint32_t hash = (uint32_t)map_hash(key, key_len);

	if (find(m, key, key_len, hash))
		return -EEXIST;
	if (m->n >= m->n_slots) {
		int r = grow(m);
		if (r < 0)
			return r;
	}
	*l = (struct map_link){ .key = key, .key_len = (uint32_t)key_len, .hash = hash };
	l->next = m->slots[hash & (m->n_slots - 1)];
	m->slots[hash & (m->n_slots - 1)] = l;
	m->n++;
	return 0;
}

struct map_link *map_find(const struct map *m, const void *key, size_t key_len)
{
	return find(m, key, key_len, (uint32_t)map_hash(key, key_len));
}

struct map_link *map_find_hashed(const struct map *m, const void *key, size_t key_len, uint64_t hash)
{
	return find(m, key, key_len, (uint32_t)hash);
}

struct map_link *map_find_str(const struct map *m, const char *key)
{
	return map_find(m, key, strlen(key));
}

struct map_link *map_find_same(const struct map *m, const struct map_link *like)
{
	return find(m, like->key, like->key_len, like->hash);
}

void map_remove(struct map *m, struct map_link *l)
{
	for (struct map_link **p = &m->slots[l->hash & (m->n_slots - 1)]; *p; p = &(*p)->next) {
		if (*p == l) {
			*p = l->next;
			l->next = NULL;
			m->n--;
			return;
		}
	}
}

struct map_link *map_next(const struct map *m, const struct map_link *l)
{
	size_t i = 0;

	if (l) {
		if (l->next)
			return l->next;
		i = (l->hash & (m->n_slots - 1)) + 1;
	}
	for (; i < m->n_slots; i++)
		if (m->slots[i])
			return m->slots[i];
	return NULL;
}
