/*
 * A proxy's state file, as it may be found after a crash: loaded, saved, loaded.
 */
#include <stdint.h>
#include <stdlib.h>

#include "proxy/knowledge.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void nothing(void *data)
{
	(void)data;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct knowledge *k;
	struct bytes out;
	struct loop *loop;
	struct diag d;

	if (loop_new(&loop) < 0 || knowledge_new(loop, nothing, NULL, &k) < 0)
		abort();
	bytes_init(&out, 64 << 20);
	if (knowledge_load(k, data, size, &d) == 0 && knowledge_save(k, &out) == 0 && knowledge_load(k, out.data, out.len, &d) < 0)
		abort();
	bytes_deinit(&out);
	knowledge_drop(k, KNOWLEDGE_RESTORED);
	knowledge_free(k);
	loop_free(loop);
	return 0;
}
