#include "lib/unit.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/conf.h"

struct door {
	char *key;
	unsigned line;
	uint32_t width;
	struct conf_strings owners;
};

struct house {
	char *name;
	bool lit;
	uint32_t timeout_ms;
	uint64_t cellar_bytes;
	int colour;
	struct ip_port address;
	struct conf_mac mac;
	struct conf_prefixes neighbours;
	struct conf_uints ports;
	struct conf_labels labels;
	struct { uint32_t storeys; } roof;
	struct conf_list doors;
	struct conf_list windows;
};

static const char *const colours[] = { "red", "green", NULL };

static const char *check_name(const char *text)
{
	return strchr(text, ' ') ? "must not have spaces" : NULL;
}

static const struct conf_item door_items[] = {
	{ .type = CONF_KEY, .offset = offsetof(struct door, key) },
	{ .type = CONF_LINE, .offset = offsetof(struct door, line) },
	{ "width", CONF_UINT, offsetof(struct door, width), .min = 1, .max = 9, .dflt = "2", .doc = "In steps." },
	{ "owners", CONF_STRINGS, offsetof(struct door, owners), .doc = "Who has keys." },
};

static int check_door(const void *obj, const char *file, unsigned line, struct diag *d)
{
	const struct door *door = obj;

	return door->width == 7 ? diag_at(d, file, line, "a door of width 7 is unlucky") : 0;
}

static const struct conf_table door_table = CONF_TABLE_INIT("door", struct door, door_items, .check = check_door);

static const struct conf_item roof_items[] = {
	{ "storeys", CONF_UINT, 0, .dflt = "1", .reload = CONF_RESTART, .doc = "Below it." },
};
static const struct conf_table roof_table = { .name = "roof", .size = sizeof(uint32_t), .items = roof_items, .n_items = 1 };

#define OFF(m) offsetof(struct house, m)
static const struct conf_item house_items[] = {
	{ "name", CONF_STRING, OFF(name), .required = true, .check = check_name, .doc = "Its name." },
	{ "lit", CONF_BOOL, OFF(lit), .dflt = "true", .doc = "Light." },
	{ "timeout", CONF_DURATION, OFF(timeout_ms), .min = 100, .max = 60000, .dflt = "10s", .doc = "Patience." },
	{ "cellar", CONF_SIZE, OFF(cellar_bytes), .dflt = "4MiB", .doc = "Room." },
	{ "colour", CONF_ENUM, OFF(colour), .names = colours, .dflt = "green", .doc = "Paint." },
	{ "address", CONF_IP_PORT, OFF(address), .dflt = "127.0.0.1:80", .doc = "Where." },
	{ "mac", CONF_MAC, OFF(mac), .doc = "Which." },
	{ "neighbours", CONF_PREFIXES, OFF(neighbours), .doc = "Who." },
	{ "ports", CONF_UINTS, OFF(ports), .min = 1, .max = 65535, .doc = "Through which." },
	{ "labels", CONF_LABELS, OFF(labels), .doc = "Words." },
	{ "roof", CONF_SUB, OFF(roof), .sub = &roof_table, .doc = "Top." },
	{ "doors", CONF_MAP, OFF(doors), .sub = &door_table, .doc = "Ways in." },
	{ "windows", CONF_LIST, OFF(windows), .sub = &door_table, .max = 2, .doc = "Ways to look." },
	{ "chimneys", CONF_REMOVED, .doc = "use roof" },
};
static const struct conf_table house_table = CONF_TABLE_INIT("house", struct house, house_items, .doc = "A house.");

static int parse(const char *text, struct house *h, struct diag *d)
{
	return conf_parse(&house_table, "h.yaml", text, strlen(text), h, d);
}

static void every_type_is_filled(void **state)
{
	struct house h;
	struct diag d;

	(void)state;
	assert_int_equal(parse("name: 'a'\nlit: false\ntimeout: 1m\ncellar: 2K\ncolour: red\naddress: '[::1]:9'\n"
			       "mac: 52:54:00:00:00:0a\nneighbours: [10.0.0.0/8, '::1']\nports: 80\nlabels: {x: 1, y: z}\n"
			       "roof: {storeys: 3}\ndoors:\n  front:\n    width: 5\n    owners: [me, you]\n  back:\nwindows:\n- width: 3\n",
			       &h, &d), 0);
	assert_string_equal(h.name, "a");
	assert_false(h.lit);
	assert_int_equal(h.timeout_ms, 60000);
	assert_int_equal(h.cellar_bytes, 2048);
	assert_int_equal(h.colour, 0);
	assert_int_equal(h.address.port, 9);
	assert_true(h.mac.set);
	assert_int_equal(h.mac.b[5], 10);
	assert_int_equal(h.neighbours.n, 2);
	assert_int_equal(h.neighbours.v[0].len, 104);
	assert_int_equal(h.ports.n, 1);
	assert_int_equal(h.ports.v[0], 80);
	assert_string_equal(h.labels.v[1].value, "z");
	assert_int_equal(h.roof.storeys, 3);
	assert_int_equal(h.doors.n, 2);
	struct door *doors = h.doors.v;
	assert_string_equal(doors[0].key, "front");
	assert_int_equal(doors[0].width, 5);
	assert_int_equal(doors[0].owners.n, 2);
	assert_string_equal(doors[1].key, "back");
	assert_int_equal(doors[1].width, 2);
	assert_int_equal(doors[1].line, 16);
	assert_int_equal(h.windows.n, 1);
	conf_free(&house_table, &h);
	assert_null(h.name);
}

static void defaults_are_those_of_the_table(void **state)
{
	struct house h;

	(void)state;
	assert_int_equal(conf_defaults(&house_table, &h), 0);
	assert_true(h.lit);
	assert_int_equal(h.timeout_ms, 10000);
	assert_int_equal(h.cellar_bytes, 4 << 20);
	assert_int_equal(h.colour, 1);
	assert_int_equal(h.roof.storeys, 1);
	conf_free(&house_table, &h);
}

/* What is wrong, where, and in which words. */
static void what_is_wrong_is_said_with_its_line(void **state)
{
	static const struct {
		const char *text;
		unsigned line;
		const char *msg;
	} cases[] = {
		{ "lit: true\n", 1, "'name' is missing" },
		{ "name: a\n\ntimeuot: 1s\n", 3, "house has no 'timeuot', did you mean 'timeout'?" },
		{ "name: a\nxyzzyxyzzy: 1s\n", 2, "house has no 'xyzzyxyzzy'" },
		{ "name: a\nchimneys: 2\n", 2, "'chimneys' does not exist any more: use roof" },
		{ "name: a\nname: b\n", 2, "'name' is there twice, first in line 1" },
		{ "name: a b\n", 1, "name: 'a b' must not have spaces" },
		{ "name: [a]\n", 1, "name: one value is wanted here, not a list" },
		{ "name: a\nlit: yes\n", 2, "lit: 'yes' is not true or false" },
		{ "name: a\ntimeout: 10\n", 2, "timeout: '10' is not a duration, such as 250ms, 10s or 1h30m" },
		{ "name: a\ntimeout: 2m\n", 2, "timeout: 2m is out of range, 100ms to 1m are allowed" },
		{ "name: a\ntimeout: 99999999999999999999d\n", 2, "timeout: 99999999999999999999d is out of range, 100ms to 1m are allowed" },
		{ "name: a\ncellar: -1\n", 2, "cellar: '-1' is not a size, such as 512, 64KiB or 4MiB" },
		{ "name: a\ncolour: blue\n", 2, "colour: 'blue' is not one of red, green" },
		{ "name: a\naddress: 1.2.3.4\n", 2, "address: '1.2.3.4' is not an address with a port, such as 10.0.0.1:80 or [::1]:80" },
		{ "name: a\nmac: 52:54:00:00:00\n", 2, "mac: '52:54:00:00:00' is not a MAC address, such as 52:54:00:12:34:56" },
		{ "name: a\nneighbours:\n- 10.0.0.0/8\n- 10.0.0.0/33\n", 4, "neighbours: '10.0.0.0/33' is not an address or a prefix, such as 10.0.0.0/8" },
		{ "name: a\nports: [1, 65536]\n", 2, "ports: 65536 is out of range, 1 to 65535 are allowed" },
		{ "name: a\nports: [99999999999999999999999]\n", 2, "ports: 99999999999999999999999 is out of range, 1 to 65535 are allowed" },
		{ "name: a\nports: [1x]\n", 2, "ports: '1x' is not a whole number" },
		{ "name: a\nlabels: [1]\n", 2, "labels: a map of 'name: value' is wanted here" },
		{ "name: a\ndoors:\n  front:\n    width: 7\n", 4, "a door of width 7 is unlucky" },
		{ "name: a\ndoors: [1]\n", 2, "doors: a map is wanted here" },
		{ "name: a\nwindows: [{}, {}, {}]\n", 2, "windows: 3 entries, at most 2 are allowed" },
		{ "- a\n", 1, "house: a map of 'name: value' is wanted here" },
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTS(cases); i++) {
		struct diag d = {};
		struct house h;

		assert_int_equal(parse(cases[i].text, &h, &d), -EINVAL);
		assert_string_equal(d.msg, cases[i].msg);
		assert_int_equal(d.line, cases[i].line);
		assert_string_equal(d.file, "h.yaml");
	}
}

static void a_file_that_is_not_there_is_named(void **state)
{
	struct diag d = {};
	struct house h;

	(void)state;
	assert_int_equal(conf_load(&house_table, "/nonexistent/h.yaml", &h, &d), -EINVAL);
	assert_string_equal(d.file, "/nonexistent/h.yaml");
	assert_string_equal(d.msg, "No such file or directory");
	assert_int_equal(conf_load(&house_table, "/", &h, &d), -EINVAL);
	assert_string_equal(d.msg, "not a regular file");
}

static void differences_are_found_by_class(void **state)
{
	char path[CONF_PATH_LEN];
	struct house a, b;
	struct diag d;

	(void)state;
	assert_int_equal(parse("name: a\n", &a, &d), 0);
	assert_int_equal(parse("\n\nname: a\nroof: {storeys: 2}\n", &b, &d), 0);
	assert_false(conf_differs(&house_table, &a, &b, CONF_LIVE, path));
	assert_true(conf_differs(&house_table, &a, &b, CONF_RESTART, path));
	assert_string_equal(path, "roof.storeys");
	conf_free(&house_table, &b);

	assert_int_equal(parse("name: a\ndoors: {x: {owners: me}}\n", &b, &d), 0);
	assert_true(conf_differs(&house_table, &a, &b, CONF_LIVE, path));
	assert_string_equal(path, "doors");
	conf_free(&house_table, &a);
	assert_int_equal(parse("name: a\ndoors:\n\n  x:\n    owners: [me]\n", &a, &d), 0);
	assert_false(conf_differs(&house_table, &a, &b, CONF_LIVE, path));
	conf_free(&house_table, &a);
	conf_free(&house_table, &b);
}

static void the_manual_names_every_item(void **state)
{
	struct bytes out;

	(void)state;
	bytes_init(&out, 65536);
	assert_int_equal(conf_manual(&house_table, &out), 0);
	assert_int_equal(bytes_append(&out, "", 1), 0);
	const char *text = (const char *)out.data;
	assert_non_null(strstr(text, "| `timeout` | duration, 100ms to 1m | `10s` | live | Patience. |\n"));
	assert_non_null(strstr(text, "| `name` | string | required | live | Its name. |\n"));
	assert_non_null(strstr(text, "| `colour` | one of `red`, `green` | `green` |"));
	assert_non_null(strstr(text, "## door\n"));
	assert_null(strstr(text, "chimneys"));
	bytes_deinit(&out);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_type_is_filled),
		cmocka_unit_test(defaults_are_those_of_the_table),
		cmocka_unit_test(what_is_wrong_is_said_with_its_line),
		cmocka_unit_test(a_file_that_is_not_there_is_named),
		cmocka_unit_test(differences_are_found_by_class),
		cmocka_unit_test(the_manual_names_every_item),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
