#pragma once
#include <jansson.h>
#include "base/defs.h"
#include "google/struct.pb-c.h"

/*
 * A JSON object as google.protobuf.Struct: freed with
 * google__protobuf__struct__free_unpacked(s, NULL). At most 16 levels deep.
 * -EINVAL: no object, or too deep; -ENOMEM.
 */
MUST_CHECK int pb_struct_from_json(const json_t *object, Google__Protobuf__Struct **ret_struct);
