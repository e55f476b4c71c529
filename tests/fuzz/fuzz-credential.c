/*
 * What an agent hands a proxy as a VM's credential: read, written, read.
 */
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "proxy/credential.h"

static const char us[] = "spiffe://td/ns/shop/sa/web";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int sealed(const uint8_t *data, size_t size)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0 || write(fd, data, size) != (ssize_t)size || fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK) < 0)
		abort();
	return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *chain, *again_chain;
	EVP_PKEY *key, *again_key;
	struct diag d = {};
	int fd = sealed(data, size), r;

	r = credential_decode(fd, us, &key, &chain, &d);
	close_fd(fd);
	if (r < 0) {
		if (r == -EINVAL && !d.msg[0])
			abort();		/* without a reason */
		return 0;
	}
	fd = credential_encode(us, key, chain);
	if (fd >= 0) {			/* else a key that is none to keep, such as a public one */
		if (credential_decode(fd, us, &again_key, &again_chain, &d) < 0 || strcmp(chain, again_chain) != 0)
			abort();
		EVP_PKEY_free(again_key);
		free(again_chain);
		close_fd(fd);
	}
	EVP_PKEY_free(key);
	free(chain);
	return 0;
}
