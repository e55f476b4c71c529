/*
 * Frames to sightings.
 */
#include <stddef.h>
#include <stdint.h>

#include "agent/sighting.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct guest_sighting s;

	if (sighting_decode(data, size, true, &s) == 0 && ip_is_none(&s.ip))
		__builtin_trap();
	if (sighting_decode(data, size, false, &s) == 0 && ip_is_none(&s.ip))
		__builtin_trap();
	return 0;
}
