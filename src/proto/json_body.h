#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"

/*
 * JSON from the network: parsed within limits, and read the way Go servers
 * read it, where the case of a key's letters does not matter (python-consul
 * sends "name", others "Name").
 */
enum {
	JSON_BODY_MAX = 4 * 1024 * 1024,	/* bytes */
	JSON_BODY_MAX_DEPTH = 64,
	JSON_BODY_MAX_VALUES = 200000,	/* each costs a hundred bytes and more, however short its text: an answer with 2000 instances */
};

/* NULL when it is no JSON, over a limit, or memory is short. The caller json_decref()s it. */
json_t *json_body_parse(const void *data, size_t len);

/* The member @key of an object, an exact match first; NULL when there is none or @o is no object. Borrowed. */
json_t *json_body_get(const json_t *o, const char *key);

/* The text of member @key, or NULL when it is missing, empty or no string. Borrowed. */
const char *json_body_str(const json_t *o, const char *key);

/* Member @key as a port: a number or a string of digits, 1 to 65535; else 0. */
uint16_t json_body_port(const json_t *o, const char *key);
