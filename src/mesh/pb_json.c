/*
 * JSON to google.protobuf.Struct, in memory that protobuf-c frees.
 */
#include "mesh/pb_json.h"

#include <errno.h>
#include <string.h>

enum { DEPTH_MAX = 16 };

static int put_value(const json_t *json, unsigned depth, Google__Protobuf__Value **ret_value);

/* @ret_struct is set as far as it got, also on errors. */
static int put_struct(const json_t *json, unsigned depth, Google__Protobuf__Struct **ret_struct)
{
	Google__Protobuf__Struct *s = malloc(sizeof(*s));
	const char *key;
	json_t *value;
	int r = 0;

	*ret_struct = s;
	if (!s)
		return -ENOMEM;
	google__protobuf__struct__init(s);
	s->fields = calloc(json_object_size(json) + 1, sizeof(Google__Protobuf__Struct__FieldsEntry *));
	if (!s->fields)
		return -ENOMEM;
	json_object_foreach((json_t *)(uintptr_t)json, key, value) {
		Google__Protobuf__Struct__FieldsEntry *e = malloc(sizeof(*e));

		if (!e)
			return -ENOMEM;
		google__protobuf__struct__fields_entry__init(e);
		s->fields[s->n_fields++] = e;
		e->key = strdup(key);
		r = e->key ? put_value(value, depth + 1, &e->value) : -ENOMEM;
		if (r < 0)
			return r;
	}
	return 0;
}

static int put_list(const json_t *json, unsigned depth, Google__Protobuf__ListValue **ret_list)
{
	Google__Protobuf__ListValue *l = malloc(sizeof(*l));
	json_t *value;
	size_t i;

	*ret_list = l;
	if (!l)
		return -ENOMEM;
	google__protobuf__list_value__init(l);
	l->values = calloc(json_array_size(json) + 1, sizeof(Google__Protobuf__Value *));
	if (!l->values)
		return -ENOMEM;
	json_array_foreach(json, i, value) {
		int r = put_value(value, depth + 1, &l->values[i]);

		l->n_values += l->values[i] != NULL;
		if (r < 0)
			return r;
	}
	return 0;
}

static int put_text(const json_t *json, char **ret_text)
{
	*ret_text = strdup(json_string_value(json));
	return *ret_text ? 0 : -ENOMEM;
}

static int put_value(const json_t *json, unsigned depth, Google__Protobuf__Value **ret_value)
{
	Google__Protobuf__Value *v = malloc(sizeof(*v));

	*ret_value = v;
	if (!v)
		return -ENOMEM;
	google__protobuf__value__init(v);
	if (depth > DEPTH_MAX)
		return -EINVAL;
	switch (json_typeof(json)) {
	case JSON_OBJECT:
		v->kind_case = GOOGLE__PROTOBUF__VALUE__KIND_STRUCT_VALUE;
		return put_struct(json, depth, &v->struct_value);
	case JSON_ARRAY:
		v->kind_case = GOOGLE__PROTOBUF__VALUE__KIND_LIST_VALUE;
		return put_list(json, depth, &v->list_value);
	case JSON_STRING:
		v->kind_case = GOOGLE__PROTOBUF__VALUE__KIND_STRING_VALUE;
		return put_text(json, &v->string_value);
	case JSON_INTEGER:
	case JSON_REAL:
		v->kind_case = GOOGLE__PROTOBUF__VALUE__KIND_NUMBER_VALUE;
		v->number_value = json_number_value(json);
		return 0;
	case JSON_TRUE:
	case JSON_FALSE:
		v->kind_case = GOOGLE__PROTOBUF__VALUE__KIND_BOOL_VALUE;
		v->bool_value = json_is_true(json);
		return 0;
	case JSON_NULL:
		break;
	}
	v->kind_case = GOOGLE__PROTOBUF__VALUE__KIND_NULL_VALUE;
	return 0;
}

int pb_struct_from_json(const json_t *object, Google__Protobuf__Struct **ret_struct)
{
	Google__Protobuf__Struct *s = NULL;
	int r = json_is_object(object) ? put_struct(object, 0, &s) : -EINVAL;

	if (r < 0) {
		google__protobuf__struct__free_unpacked(s, NULL);
		return r;
	}
	*ret_struct = s;
	return 0;
}
