/*
 * The two files of the last configuration as a crash, or somebody else, left
 * them: whatever is in them, what is written next is found the next time.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "proxy/state_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void nothing(void *data)
{
	(void)data;
}

static int file(const uint8_t *data, size_t size)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);

	if (fd < 0 || write(fd, data, size) != (ssize_t)size)
		abort();
	return fd;
}

static void open_again(const int fds[STATE_FILES], uint64_t serial)
{
	int copies[STATE_FILES] = { fcntl(fds[0], F_DUPFD_CLOEXEC, 3), fcntl(fds[1], F_DUPFD_CLOEXEC, 3) };
	struct state_file f;
	struct diag d;

	if (state_file_open(&f, copies, NULL, &d) < 0 && f.serial != serial)
		abort();
	if (f.serial != serial)
		abort();
	state_file_close(&f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t half = size > 1 && data[0] == '2' ? (size + 1) / 2 : 0;	/* one file, or one behind the other */
	int fds[STATE_FILES] = { file(data + half, size - half), file(data + (half ? 1 : 0), half ? half - 1 : 0) };
	struct knowledge *k;
	struct state_file f;
	struct loop *loop;
	struct diag d;

	if (loop_new(&loop) < 0 || knowledge_new(loop, nothing, NULL, &k) < 0)
		abort();
	(void)!state_file_open(&f, fds, k, &d);
	f.generation = UINT64_MAX;		/* as if something had changed */
	if (state_file_save(&f, k, &d) < 0)
		abort();
	open_again(f.fds, f.serial);
	state_file_close(&f);
	knowledge_drop(k, KNOWLEDGE_RESTORED);
	knowledge_free(k);
	loop_free(loop);
	return 0;
}
