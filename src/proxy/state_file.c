/*
 * The files of the last configuration.
 */
#include "proxy/state_file.h"

#include <errno.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { STATE_MAX = 256 * 1024 * 1024, HEADER_LEN = 128 };

static const char magic[] = "outrigger-proxy state file ";
static const unsigned version = 1;

static void hash(const uint8_t *data, size_t len, char hex[static 2 * SHA256_DIGEST_LENGTH + 1])
{
	uint8_t digest[SHA256_DIGEST_LENGTH];

	SHA256(data, len, digest);
	for (size_t i = 0; i < sizeof(digest); i++)
		snprintf(hex + 2 * i, 3, "%02x", digest[i]);
}

/* Padded with spaces, so that what follows has its place before its length is known. */
static void header_format(uint64_t serial, const struct bytes *content, char header[static HEADER_LEN + 1])
{
	char hex[2 * SHA256_DIGEST_LENGTH + 1];
	int n;

	hash(content->data, content->len, hex);
	n = snprintf(header, HEADER_LEN, "%s%u %llu %zu %s", magic, version, (unsigned long long)serial, content->len, hex);
	memset(header + n, ' ', (size_t)(HEADER_LEN - 1 - n));
	header[HEADER_LEN - 1] = '\n';
	header[HEADER_LEN] = 0;
}

/* --- reading --- */

static int read_at(int fd, uint8_t *to, size_t len, off_t at)
{
	while (len) {
		ssize_t n = pread(fd, to, len, at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EBADMSG;
		to += n;
		at += n;
		len -= (size_t)n;
	}
	return 0;
}

struct found {
	uint64_t serial;		/* 0: nothing that is whole */
	struct bytes content;
};

/* 0 with or without something; -EINVAL with a reason when it is not ours to understand. */
static int read_one(int fd, struct found *found, struct diag *d)
{
	char header[HEADER_LEN + 1] = {}, is[2 * SHA256_DIGEST_LENGTH + 1], must[2 * SHA256_DIGEST_LENGTH + 1];
	unsigned long long serial;
	unsigned v;
	size_t len;
	struct stat st;
	uint8_t *to;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return diag_set(d, "it is not a file of ours");
	if (st.st_size < HEADER_LEN || read_at(fd, (uint8_t *)header, HEADER_LEN, 0) < 0)
		return 0;
	if (strncmp(header, magic, sizeof(magic) - 1) || sscanf(header + sizeof(magic) - 1, "%u", &v) != 1)
		return diag_set(d, "it is not a file of ours");
	if (v != version)
		return diag_set(d, "its version is %u, this program reads %u", v, version);
	if (sscanf(header + sizeof(magic) - 1, "%u %llu %zu %64s", &v, &serial, &len, must) != 4)
		return 0;
	/* It was cut, or says so to have us take memory; behind the last number there is no next one, which nobody gets near. */
	if (len > STATE_MAX || len > (size_t)st.st_size - HEADER_LEN || serial > UINT64_MAX / 2)
		return 0;
	to = bytes_reserve(&found->content, len ? len : 1);
	if (!to)
		return -ENOMEM;
	if (read_at(fd, to, len, HEADER_LEN) < 0)
		return 0;
	hash(to, len, is);
	if (strcmp(is, must))
		return 0;		/* half written: the other one is whole */
	bytes_commit(&found->content, len);
	found->serial = serial;
	return 0;
}

int state_file_open(struct state_file *f, const int fds[STATE_FILES], struct knowledge *k, struct diag *reterr_diag)
{
	struct found found[STATE_FILES] = {};
	int r = 0;

	*f = (struct state_file){ .open = true, .fds = { fds[0], fds[1] } };
	for (int i = 0; i < STATE_FILES; i++) {
		int e;

		bytes_init(&found[i].content, STATE_MAX);
		e = read_one(fds[i], &found[i], reterr_diag);
		if (e < 0)
			r = e;
	}
	unsigned newer = found[1].serial > found[0].serial;
	f->serial = found[newer].serial;
	f->next = f->serial && !newer;
	if (k && f->serial) {
		r = knowledge_load(k, found[newer].content.data, found[newer].content.len, reterr_diag);
		f->generation = knowledge_generation(k);
	}
	for (int i = 0; i < STATE_FILES; i++)
		bytes_deinit(&found[i].content);
	return r;
}

bool state_file_is_open(const struct state_file *f)
{
	return f->open;
}

/* --- writing --- */

static int write_at(int fd, const uint8_t *data, size_t len, off_t at)
{
	while (len) {
		ssize_t n = pwrite(fd, data, len, at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		data += n;
		at += n;
		len -= (size_t)n;
	}
	return 0;
}

static int write_one(int fd, uint64_t serial, const struct bytes *content)
{
	char header[HEADER_LEN + 1];
	int r = 0;

	header_format(serial, content, header);
	if (ftruncate(fd, 0) < 0)
		r = -errno;
	if (r == 0)
		r = write_at(fd, (const uint8_t *)header, HEADER_LEN, 0);
	if (r == 0)
		r = write_at(fd, content->data, content->len, HEADER_LEN);
	if (r == 0 && fdatasync(fd) < 0)
		r = -errno;
	if (r < 0 && ftruncate(fd, 0) < 0)	/* what is half there helps nobody, and others want the disk as well */
		return r;
	return r;
}

int state_file_save(struct state_file *f, const struct knowledge *k, struct diag *reterr_diag)
{
	struct bytes out;
	int r;

	if (!f->open || f->generation == knowledge_generation(k))
		return 0;
	bytes_init(&out, STATE_MAX);
	r = knowledge_save(k, &out);
	if (r == 0)
		r = write_one(f->fds[f->next], f->serial + 1, &out);
	if (r == 0) {
		f->serial++;
		f->next = !f->next;
		f->generation = knowledge_generation(k);
	} else {
		diag_set(reterr_diag, "the configuration cannot be kept: %s", strerror(-r));
	}
	bytes_deinit(&out);
	return r;
}

void state_file_close(struct state_file *f)
{
	if (f->open)
		for (int i = 0; i < STATE_FILES; i++)
			close_fd(f->fds[i]);
	*f = (struct state_file){};
}
