/*
 * Capture files of both kinds.
 */
#include <stdint.h>
#include <stdlib.h>
#include "proto/pcapfile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct pcapfile p;
	struct pcapfile_frame f;
	unsigned sum = 0;
	int r;

	if (pcapfile_open(&p, data, size))
		return 0;
	for (;;) {
		r = pcapfile_next(&p, &f);
		if (r == PCAPFILE_E_LINK)
			continue;
		if (r)
			break;
		if (f.data < data || f.data + f.len > data + size || f.wire_len < f.len)
			abort();
		for (size_t i = 0; i < f.len; i++)
			sum += f.data[i];
	}
	return sum == 1 ? 1 : 0;
}
