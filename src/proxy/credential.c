/*
 * Key and certificate in sealed memory.
 */
#include "proxy/credential.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

enum {
	CREDENTIAL_MAX = 64 * 1024,
	SEALS = F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK,
};

static const char header[] = "outrigger-proxy credential ";
static const char version[] = "1";

/* --- the format --- */

static int write_all(int fd, const char *data, size_t len)
{
	while (len) {
		ssize_t n = write(fd, data, len);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0) {
			data += n;
			len -= (size_t)n;
		}
	}
	return 0;
}

static int write_key(int fd, EVP_PKEY *key)
{
	BIO *bio = BIO_new(BIO_s_secmem());	/* wiped when it is freed */
	char *pem;
	long len;
	int r = -ENOMEM;

	if (bio && PEM_write_bio_PKCS8PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL) == 1) {
		len = BIO_get_mem_data(bio, &pem);
		r = len > 0 ? write_all(fd, pem, (size_t)len) : -EIO;
	}
	BIO_free(bio);
	return r;
}

int credential_encode(const char *identity, EVP_PKEY *key, const char *chain_pem)
{
	CLEANUP_FD int fd = memfd_create("credential", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	char first[512];
	int n = snprintf(first, sizeof(first), "%s%s\n%s\n", header, version, identity);
	int r;

	if (fd < 0)
		return -errno;
	if ((size_t)n >= sizeof(first))
		return -ENAMETOOLONG;
	r = write_all(fd, first, (size_t)n);
	if (r == 0)
		r = write_key(fd, key);
	if (r == 0)
		r = write_all(fd, chain_pem, strlen(chain_pem));
	if (r == 0 && fcntl(fd, F_ADD_SEALS, SEALS | F_SEAL_SEAL) < 0)
		r = -errno;
	return r < 0 ? r : steal_fd(&fd);
}

/* What is sealed cannot change under us, and is no pipe that never ends. */
static int read_all(int fd, char text[static CREDENTIAL_MAX], size_t *ret_len, struct diag *d)
{
	int seals = fcntl(fd, F_GET_SEALS);
	struct stat st;
	size_t len = 0;

	if (seals < 0 || (seals & SEALS) != SEALS || fstat(fd, &st) < 0)
		return diag_set(d, "it is no sealed memory");
	if (st.st_size >= CREDENTIAL_MAX)
		return diag_set(d, "it is too long");
	while (len < (size_t)st.st_size) {
		ssize_t n = pread(fd, text + len, (size_t)st.st_size - len, (off_t)len);

		if (n <= 0)
			return diag_set(d, "it cannot be read");
		len += (size_t)n;
	}
	text[len] = 0;
	*ret_len = len;
	return 0;
}

static int decode(char *text, const char *identity, EVP_PKEY **ret_key, char **ret_chain_pem, struct diag *d)
{
	char *line = text, *end = strchr(line, '\n');
	EVP_PKEY *key;
	char *chain;
	BIO *bio;

	if (!end || strncmp(line, header, sizeof(header) - 1))
		return diag_set(d, "it is not a credential");
	*end = 0;
	if (strcmp(line + sizeof(header) - 1, version))
		return diag_set(d, "its version is \"%.16s\", this program reads \"%s\"", line + sizeof(header) - 1, version);
	line = end + 1;
	end = strchr(line, '\n');
	if (!end || (size_t)(end - line) != strlen(identity) || strncmp(line, identity, strlen(identity)))
		return diag_set(d, "it is another identity's");
	line = end + 1;
	chain = strstr(line, "-----BEGIN CERTIFICATE-----");
	bio = BIO_new_mem_buf(line, -1);
	key = chain && bio ? PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL) : NULL;
	BIO_free(bio);
	if (!key)
		return diag_set(d, "there is no key in it");
	chain = strdup(chain);
	if (!chain) {
		EVP_PKEY_free(key);
		return -ENOMEM;
	}
	*ret_key = key;
	*ret_chain_pem = chain;
	return 0;
}

int credential_decode(int fd, const char *identity, EVP_PKEY **ret_key, char **ret_chain_pem, struct diag *reterr_diag)
{
	char *text = malloc(CREDENTIAL_MAX);
	size_t len = 0;
	int r = text ? read_all(fd, text, &len, reterr_diag) : -ENOMEM;

	if (r == 0 && strlen(text) != len)
		r = diag_set(reterr_diag, "it is not text");
	if (r == 0)
		r = decode(text, identity, ret_key, ret_chain_pem, reterr_diag);
	if (text)
		explicit_bzero(text, CREDENTIAL_MAX);
	free(text);
	return r;
}

/* --- of a sidecar --- */

void credential_give(struct sidecar *s)
{
	Outrigger__Ipc__ToAgent m = OUTRIGGER__IPC__TO_AGENT__INIT;
	Outrigger__Ipc__Credential credential = OUTRIGGER__IPC__CREDENTIAL__INIT;
	CLEANUP_FD int fd = -1;
	int r;

	if (!s->key || !s->chain_pem || !agent_link_connected(s->proxy->link))
		return;
	fd = credential_encode(s->identity, s->key, s->chain_pem);
	r = fd < 0 ? fd : 0;
	if (r == 0) {
		credential.vm_id = s->put->vm_id;
		credential.identity = s->identity;
		credential.not_after = s->not_after;
		m.msg_case = OUTRIGGER__IPC__TO_AGENT__MSG_CREDENTIAL;
		m.credential = &credential;
		r = agent_link_send_fd(s->proxy->link, &m, fd);
	}
	if (r < 0)
		log_warn("a process after this one needs the mesh controller to serve", log_str("vm", s->put->vm_id), log_errno(r));
}

void credential_take(struct sidecar *s, int fd)
{
	EVP_PKEY *key = NULL;
	CLEANUP_FREE char *chain = NULL;
	struct diag d = {};
	int r;

	if (!s || s->key || !*s->identity)
		return;
	r = credential_decode(fd, s->identity, &key, &chain, &d);
	if (r == 0)
		r = sidecar_set_credential(s, key, chain, &d);
	EVP_PKEY_free(key);
	if (r < 0)
		log_warn("the credential of the process before is not used", log_str("vm", s->put->vm_id), log_str("reason", d.msg), log_errno(r));
	else
		log_info("the credential of the process before is in force", log_str("vm", s->put->vm_id), log_int("not_after", s->not_after));
}
