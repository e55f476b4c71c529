/*
 * An authority's files, in the form in which Istio takes a plugged-in CA.
 */
#include "mesh/cert_ca.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/secret.h"

enum { FILE_CERT, FILE_KEY, FILE_CHAIN, FILE_ROOTS, _FILE_N };

static const struct {
	const char *name;
	mode_t mode;
} files[_FILE_N] = {
	[FILE_CERT] = { "ca-cert.pem", 0644 },
	[FILE_KEY] = { "ca-key.pem", 0600 },
	[FILE_CHAIN] = { "cert-chain.pem", 0644 },
	[FILE_ROOTS] = { "root-cert.pem", 0644 },
};

static int fail(struct diag *d, const char *dir, int i, const char *what, int r)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", dir, files[i].name);
	diag_at(d, path, 0, "%s: %s", what, strerror(-r));
	return r;
}

/* --- store --- */

static int write_all(int fd, const char *text)
{
	size_t len = strlen(text);

	while (len) {
		ssize_t n = write(fd, text, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		text += n;
		len -= (size_t)n;
	}
	return fsync(fd) < 0 ? -errno : 0;
}

static void temporary_name(int i, char name[static 64])
{
	snprintf(name, 64, ".%s.new", files[i].name);
}

static int write_new(int dir_fd, int i, const char *text)
{
	char name[64];

	temporary_name(i, name);
	if (unlinkat(dir_fd, name, 0) < 0 && errno != ENOENT)	/* of an attempt that was cut short */
		return -errno;
	CLEANUP_FD int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, files[i].mode);
	return fd < 0 ? -errno : write_all(fd, text);
}

static int rename_new(int dir_fd, int i)
{
	char name[64];

	temporary_name(i, name);
	return renameat(dir_fd, name, dir_fd, files[i].name) < 0 ? -errno : 0;
}

static int store(int dir_fd, const char *dir, const char *const texts[static _FILE_N], struct diag *reterr_diag)
{
	int r;

	for (int i = 0; i < _FILE_N; i++) {
		r = write_new(dir_fd, i, texts[i]);
		if (r < 0)
			return fail(reterr_diag, dir, i, "cannot write", r);
	}
	for (int i = 0; i < _FILE_N; i++) {
		r = rename_new(dir_fd, i);
		if (r < 0)
			return fail(reterr_diag, dir, i, "cannot replace", r);
	}
	return fsync(dir_fd) < 0 ? -errno : 0;
}

int cert_ca_store(struct cert_ca *ca, const char *dir, struct diag *reterr_diag)
{
	CLEANUP_FD int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char *key_pem;
	int r;

	if (dir_fd < 0) {
		r = -errno;
		diag_at(reterr_diag, dir, 0, "cannot open the folder: %s", strerror(-r));
		return r;
	}
	r = cert_ca_key_pem(ca, &key_pem);
	if (r < 0)
		return r;
	const char *const texts[_FILE_N] = {
		[FILE_CERT] = cert_ca_cert_pem(ca), [FILE_KEY] = key_pem,
		/* Istio wants the CA itself in the chain, also where it is the root. */
		[FILE_CHAIN] = cert_ca_chain_pem(ca)[0] ? cert_ca_chain_pem(ca) : cert_ca_cert_pem(ca),
		[FILE_ROOTS] = cert_ca_roots_pem(ca),
	};
	r = store(dir_fd, dir, texts, reterr_diag);
	secret_free(key_pem);
	return r;
}

/* --- load --- */

static int read_file(int dir_fd, int i, char **ret_text)
{
	CLEANUP_FD int fd = openat(dir_fd, files[i].name, O_RDONLY | O_CLOEXEC);
	size_t len = 0;
	ssize_t n;

	if (fd < 0)
		return -errno;
	char *text = malloc(CERT_PEM_MAX + 1);
	if (!text)
		return -ENOMEM;
	while ((n = read(fd, text + len, CERT_PEM_MAX + 1 - len)) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		len += n > 0 ? (size_t)n : 0;
		if (n < 0 || len > CERT_PEM_MAX) {
			int r = n < 0 ? -errno : -EFBIG;

			secret_free(text);
			return r;
		}
	}
	text[len] = 0;
	*ret_text = text;
	return 0;
}

static int check_key_mode(int dir_fd, const char *dir, struct diag *reterr_diag)
{
	struct stat st;

	if (fstatat(dir_fd, files[FILE_KEY].name, &st, 0) < 0)
		return fail(reterr_diag, dir, FILE_KEY, "cannot read", -errno);
	if (!(st.st_mode & 077))
		return 0;
	fail(reterr_diag, dir, FILE_KEY, "others may read or write the key (want mode 0600)", -EINVAL);
	return -EINVAL;
}

/* What is above the CA: the chain without its first certificate, which is the CA's own, and without the root. */
static int split_chain(const char *chain_pem, const char *cert_pem, char **ret_above)
{
	struct cert_list list = {};
	struct cert_info own, last;
	int r = cert_list_add(&list, chain_pem);
	size_t first, end;

	if (r < 0)
		return r;
	first = cert_info(cert_pem, &own) == 0 && cert_info(list.pem[0], &last) == 0 && !strcmp(own.serial, last.serial) ? 1 : 0;
	end = list.n;
	if (end > first && cert_info(list.pem[end - 1], &last) == 0 && last.self_signed)
		end--;
	r = cert_list_join(&list, first, end, ret_above);
	cert_list_deinit(&list);
	return r;
}

static int load(char *const texts[static _FILE_N], struct cert_ca **ret_ca, struct diag *reterr_diag)
{
	CLEANUP_FREE char *above = NULL;
	struct cert_info info;
	int r;

	if (cert_info(texts[FILE_CERT], &info) < 0)
		return diag_set(reterr_diag, "no certificate in PEM");
	if (info.self_signed)
		return cert_ca_from_pem(texts[FILE_CERT], texts[FILE_KEY], NULL, NULL, ret_ca, reterr_diag);
	r = split_chain(texts[FILE_CHAIN], texts[FILE_CERT], &above);
	if (r < 0)
		return diag_set(reterr_diag, "no chain in PEM");
	return cert_ca_from_pem(texts[FILE_CERT], texts[FILE_KEY], above, texts[FILE_ROOTS], ret_ca, reterr_diag);
}

int cert_ca_load(const char *dir, struct cert_ca **ret_ca, struct diag *reterr_diag)
{
	CLEANUP_FD int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char *texts[_FILE_N] = {};
	int n_missing = 0;
	int r = dir_fd < 0 ? -errno : 0;

	if (r < 0) {
		diag_at(reterr_diag, dir, 0, "cannot open the folder: %s", strerror(-r));
		return r;
	}
	for (int i = 0; i < _FILE_N && (r == 0 || r == -ENOENT); i++) {
		r = read_file(dir_fd, i, &texts[i]);
		n_missing += r == -ENOENT;
		if (r < 0)
			fail(reterr_diag, dir, i, "cannot read", r);
	}
	if (r == 0 && n_missing)
		r = -EINVAL;		/* the last was there, others were not */
	else if (r == -ENOENT && n_missing < _FILE_N)
		r = -EINVAL;
	if (r == 0)
		r = check_key_mode(dir_fd, dir, reterr_diag);
	if (r == 0) {
		r = load(texts, ret_ca, reterr_diag);
		if (r == -EINVAL && reterr_diag && !reterr_diag->file[0])
			snprintf(reterr_diag->file, sizeof(reterr_diag->file), "%s", dir);
	}
	for (int i = 0; i < _FILE_N; i++)
		secret_free(texts[i]);
	return r;
}
