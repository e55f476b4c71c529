/*
 * JSON from the network, read as Consul's and Kubernetes' clients do, and as
 * google.protobuf.Struct.
 */
#include <stdlib.h>
#include <string.h>

#include "mesh/pb_json.h"
#include "proto/json_body.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned depth_of(const json_t *j)
{
	unsigned deepest = 0;
	const char *key;
	const json_t *v;
	size_t i;

	if (json_is_object(j)) {
		json_object_foreach((json_t *)(uintptr_t)j, key, v)
			deepest = MAX(deepest, depth_of(v));
	} else if (json_is_array(j)) {
		json_array_foreach((json_t *)(uintptr_t)j, i, v)
			deepest = MAX(deepest, depth_of(v));
	} else {
		return 0;
	}
	return deepest + 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const keys[] = { "Name", "name", "a", "" };
	Google__Protobuf__Struct *s;
	json_t *j = json_body_parse(data, size);

	if (!j)
		return 0;
	if (depth_of(j) > JSON_BODY_MAX_DEPTH)
		abort();
	for (size_t i = 0; i < ELEMENTS(keys); i++) {
		const char *text = json_body_str(j, keys[i]);

		if (text && (!*text || json_string_value(json_body_get(j, keys[i])) != text))
			abort();
		(void)!json_body_port(j, keys[i]);
	}
	if (pb_struct_from_json(j, &s) == 0) {
		if (s->n_fields != json_object_size(j))
			abort();
		google__protobuf__struct__free_unpacked(s, NULL);
	}
	json_decref(j);
	return 0;
}
