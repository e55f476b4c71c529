/*
 * A build without libipsec-mb.
 */
#include "proto/aead.h"

const struct aead *const aead_native = NULL;
