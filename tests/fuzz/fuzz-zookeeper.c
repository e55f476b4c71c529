/*
 * Conversations with ZooKeeper: frames, sessions, payloads.
 */
#include "conversation.h"
#include "discover/zookeeper.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	converse(&discover_zookeeper, data, size);
	return 0;
}
