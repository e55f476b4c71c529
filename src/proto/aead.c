/*
 * What the implementations have in common, and the choice between them.
 */
#include "proto/aead.h"

size_t aead_key_len(enum aead_alg alg)
{
	return alg == AEAD_AES_128_GCM ? 16 : 32;
}

const struct aead *aead_best(void)
{
	return aead_native && aead_native->usable() ? aead_native : &aead_evp;
}
