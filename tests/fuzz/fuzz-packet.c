/*
 * Frames. The first byte chooses the link type and whether the capture is cut.
 */
#include <stdint.h>
#include <stdlib.h>
#include "proto/packet.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct packet p;
	unsigned sum = 0;

	if (!size)
		return 0;
	size_t cut = data[0] & 0x80 ? 100 : 0;

	if (packet_decode(data[0] % _PACKET_LINK_N, data + 1, size - 1, size - 1 + cut, &p))
		return 0;
	if (p.len > p.wire_len || p.n_vlans > PACKET_MAX_VLANS)
		abort();
	for (size_t i = 0; i < p.len; i++)
		sum += p.payload[i];
	return sum == 1 ? 1 : 0;
}
