/*
 * What the implementations have in common, and the choice between them.
 */
#include "proto/aead.h"

#include <pthread.h>
#include <stdlib.h>

size_t aead_key_len(enum aead_alg alg)
{
	return alg == AEAD_AES_128_GCM ? 16 : 32;
}

const struct aead *aead_best(void)
{
	return aead_native && aead_native->usable() ? aead_native : &aead_evp;
}

/* --- spare keys --- */

struct spares {			/* of a thread */
	struct {
		const struct aead *aead;
		struct aead_key *key;
	} of[2][_AEAD_ALG_N];		/* by implementation */
};

static pthread_key_t spares_key;
static bool spares_usable;
static pthread_once_t spares_once = PTHREAD_ONCE_INIT;
static const uint8_t no_key[AEAD_KEY_MAX];

static void free_spares(void *data)
{
	struct spares *s = data;

	for (size_t i = 0; i < ELEMENTS(s->of); i++)
		for (size_t j = 0; j < _AEAD_ALG_N; j++)
			if (s->of[i][j].key)
				s->of[i][j].aead->key_free(s->of[i][j].key);
	free(s);
}

static void make_spares_key(void)
{
	spares_usable = pthread_key_create(&spares_key, free_spares) == 0;
}

static struct spares *spares(void)
{
	pthread_once(&spares_once, make_spares_key);
	return spares_usable ? pthread_getspecific(spares_key) : NULL;
}

void aead_spare_make(const struct aead *a, enum aead_alg alg)
{
	struct spares *s = spares();
	bool native = a != &aead_evp;

	if (!s && spares_usable) {
		s = calloc(1, sizeof(*s));
		if (s && pthread_setspecific(spares_key, s) != 0) {
			free(s);
			s = NULL;
		}
	}
	if (!s || s->of[native][alg].key)
		return;
	if (a->key_new(alg, AEAD_SEAL | AEAD_OPEN, no_key, &s->of[native][alg].key) < 0)
		return;			/* there will be another occasion */
	s->of[native][alg].aead = a;
}

struct aead_key *aead_spare(const struct aead *a, enum aead_alg alg, const uint8_t *key)
{
	struct spares *s = spares();
	struct aead_key *k = s ? s->of[a != &aead_evp][alg].key : NULL;

	return k && a->key_set(k, key) == 0 ? k : NULL;
}

void aead_spare_done(const struct aead *a, struct aead_key *k)
{
	(void)!a->key_set(k, no_key);
}
