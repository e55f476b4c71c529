/*
 * Conversations with Consul: HTTP both ways, pairing, gzip, JSON.
 */
#include "conversation.h"
#include "discover/consul.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	converse(&discover_consul, data, size);
	return 0;
}
