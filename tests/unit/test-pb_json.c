/*
 * JSON as google.protobuf.Struct.
 */
#include "mesh/pb_json.h"

#include "lib/unit.h"

#include <errno.h>
#include <string.h>

static const Google__Protobuf__Value *field(const Google__Protobuf__Struct *s, const char *key)
{
	for (size_t i = 0; i < s->n_fields; i++)
		if (!strcmp(s->fields[i]->key, key))
			return s->fields[i]->value;
	fail_msg("there is no %s", key);
	return NULL;
}

static void every_kind_of_value_is_taken_over(void **state)
{
	json_t *json = json_loads("{\"a\": \"text\", \"b\": {\"c\": 8080, \"d\": [true, null, 1.5]}, \"e\": {}, \"f\": []}", 0, NULL);
	const Google__Protobuf__Struct *b;
	const Google__Protobuf__Value *d;
	Google__Protobuf__Struct *s;

	(void)state;
	assert_int_equal(pb_struct_from_json(json, &s), 0);
	json_decref(json);
	assert_int_equal(s->n_fields, 4);
	assert_string_equal(field(s, "a")->string_value, "text");
	b = field(s, "b")->struct_value;
	assert_true(field(b, "c")->number_value == 8080);
	d = field(b, "d");
	assert_int_equal(d->kind_case, GOOGLE__PROTOBUF__VALUE__KIND_LIST_VALUE);
	assert_int_equal(d->list_value->n_values, 3);
	assert_true(d->list_value->values[0]->bool_value);
	assert_int_equal(d->list_value->values[1]->kind_case, GOOGLE__PROTOBUF__VALUE__KIND_NULL_VALUE);
	assert_int_equal(field(s, "e")->struct_value->n_fields, 0);
	assert_int_equal(field(s, "f")->list_value->n_values, 0);
	google__protobuf__struct__free_unpacked(s, NULL);
}

static void what_is_no_object_or_too_deep_is_refused(void **state)
{
	json_t *array = json_array(), *deep = json_object();
	Google__Protobuf__Struct *s = NULL;

	(void)state;
	assert_int_equal(pb_struct_from_json(array, &s), -EINVAL);
	assert_int_equal(pb_struct_from_json(NULL, &s), -EINVAL);
	for (int i = 0; i < 40; i++)
		deep = json_pack("{s:o}", "in", deep);
	assert_int_equal(pb_struct_from_json(deep, &s), -EINVAL);
	assert_null(s);
	json_decref(array);
	json_decref(deep);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_kind_of_value_is_taken_over),
		cmocka_unit_test(what_is_no_object_or_too_deep_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
