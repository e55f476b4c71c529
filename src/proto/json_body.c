/*
 * JSON from the network: see json_body.h.
 */
#include "proto/json_body.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* jansson recurses, with a limit of its own that is far away, and allocates without one: look before it does. */
static bool size_ok(const char *s, size_t len)
{
	unsigned depth = 0;
	size_t n = 0;		/* of values, roughly: an object or list each, and what stands behind commas */
	bool text = false;

	for (size_t i = 0; i < len; i++) {
		if (text) {
			if (s[i] == '\\')
				i++;
			else if (s[i] == '"')
				text = false;
			continue;
		}
		if (s[i] == '"')
			text = true;
		else if ((s[i] == '{' || s[i] == '[') && (++depth > JSON_BODY_MAX_DEPTH || ++n > JSON_BODY_MAX_VALUES))
			return false;
		else if (s[i] == ',' && ++n > JSON_BODY_MAX_VALUES)
			return false;
		else if ((s[i] == '}' || s[i] == ']') && depth)
			depth--;
	}
	return true;
}

json_t *json_body_parse(const void *data, size_t len)
{
	if (!len || len > JSON_BODY_MAX || !size_ok(data, len))
		return NULL;
	return json_loadb(data, len, JSON_DECODE_ANY | JSON_DISABLE_EOF_CHECK, NULL);
}

/* jansson's iteration wants a pointer that is not const, and changes nothing. */
static json_t *unconst(const json_t *o)
{
	return (json_t *)(uintptr_t)o;
}

json_t *json_body_get(const json_t *o, const char *key)
{
	json_t *v = json_object_get(o, key);
	const char *k;
	json_t *member;

	if (v || !json_is_object(o))
		return v;
	json_object_foreach(unconst(o), k, member)
		if (strcasecmp(k, key) == 0)
			return member;
	return NULL;
}

const char *json_body_str(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_body_get(o, key));

	return s && *s ? s : NULL;
}

uint16_t json_body_port(const json_t *o, const char *key)
{
	json_t *v = json_body_get(o, key);
	json_int_t n = 0;

	if (json_is_integer(v)) {
		n = json_integer_value(v);
	} else if (json_is_string(v)) {
		char *end;

		n = strtol(json_string_value(v), &end, 10);
		if (*end)
			n = 0;
	}
	return n > 0 && n <= UINT16_MAX ? (uint16_t)n : 0;
}
