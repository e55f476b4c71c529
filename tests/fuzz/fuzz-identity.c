/*
 * SPIFFE IDs: what is accepted comes out again as the same bytes.
 */
#include "mesh/identity.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char text[IDENTITY_TEXT_LEN];
	struct identity id;

	if (identity_parse_n((const char *)data, size, &id) < 0)
		return 0;
	identity_format(&id, text);
	if (id.kind != IDENTITY_OTHER && (strlen(text) != size || memcmp(text, data, size) != 0))
		abort();
	return 0;
}
