/*
 * What gRPC puts around messages: frames, status messages, timeouts. The first
 * byte is the largest message that is taken.
 */
#include <stdlib.h>
#include <string.h>

#include "base/defs.h"
#include "proto/grpc_frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void frames(const uint8_t *data, size_t size, size_t max)
{
	struct grpc_frame f;

	while (grpc_frame_decode(data, size, max, &f) == 0) {
		if (f.len > max || f.size != f.len + GRPC_FRAME_HEADER_LEN || f.size > size || f.message != data + GRPC_FRAME_HEADER_LEN)
			abort();
		data += f.size;
		size -= f.size;
	}
}

/* What was decoded and is encoded again says the same. */
static void message(const char *text, size_t len)
{
	char plain[512], coded[3 * sizeof(plain)], again[sizeof(plain)];

	grpc_message_decode(text, len, plain, sizeof(plain));
	if (strlen(plain) >= sizeof(plain))
		abort();
	grpc_message_encode(plain, coded, sizeof(coded));
	grpc_message_decode(coded, strlen(coded), again, sizeof(again));
	if (strcmp(plain, again) != 0)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint32_t ms;

	if (!size)
		return 0;
	frames(data + 1, size - 1, data[0]);
	message((const char *)data, size);
	(void)!grpc_timeout_decode((const char *)data, size, &ms);
	return 0;
}
