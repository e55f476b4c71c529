/*
 * Configuration files: any bytes are a configuration or a refusal that names a
 * line. The table has an item of every type.
 */
#include <stdlib.h>
#include <string.h>

#include "base/conf.h"

struct part {
	char *key;
	unsigned line;
	uint32_t number;
};

struct all {
	bool flag;
	uint32_t number, duration;
	uint64_t size;
	char *string;
	int choice;
	struct ip ip;
	struct ip_port address;
	struct ip_prefix prefix;
	struct conf_mac mac;
	struct conf_strings strings;
	struct conf_prefixes prefixes;
	struct conf_uints numbers;
	struct conf_labels labels;
	struct part sub;
	struct conf_list list, map;
};

static const char *const choices[] = { "a", "b", NULL };

static const struct conf_item part_items[] = {
	{ .type = CONF_KEY, .offset = offsetof(struct part, key) },
	{ .type = CONF_LINE, .offset = offsetof(struct part, line) },
	{ "number", CONF_UINT, offsetof(struct part, number), .min = 1, .max = 9, .dflt = "3" },
};
static const struct conf_table part_table = CONF_TABLE_INIT("part", struct part, part_items);

#define OFF(m) offsetof(struct all, m)
static const struct conf_item items[] = {
	{ "flag", CONF_BOOL, OFF(flag) },
	{ "number", CONF_UINT, OFF(number) },
	{ "duration", CONF_DURATION, OFF(duration) },
	{ "size", CONF_SIZE, OFF(size) },
	{ "string", CONF_STRING, OFF(string), .dflt = "x" },
	{ "choice", CONF_ENUM, OFF(choice), .names = choices },
	{ "ip", CONF_IP, OFF(ip) },
	{ "address", CONF_IP_PORT, OFF(address) },
	{ "prefix", CONF_PREFIX, OFF(prefix) },
	{ "mac", CONF_MAC, OFF(mac) },
	{ "strings", CONF_STRINGS, OFF(strings), .max = 5 },
	{ "prefixes", CONF_PREFIXES, OFF(prefixes) },
	{ "numbers", CONF_UINTS, OFF(numbers) },
	{ "labels", CONF_LABELS, OFF(labels) },
	{ "sub", CONF_SUB, OFF(sub), .sub = &part_table },
	{ "list", CONF_LIST, OFF(list), .sub = &part_table },
	{ "map", CONF_MAP, OFF(map), .sub = &part_table },
	{ "old", CONF_REMOVED, .doc = "gone" },
};
static const struct conf_table table = CONF_TABLE_INIT("all", struct all, items);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct all a, b;
	struct diag d = {};
	char path[CONF_PATH_LEN];

	if (conf_parse(&table, "f", (const char *)data, len, &a, &d) < 0) {
		if (!d.msg[0])
			abort();
		return 0;
	}
	if (conf_parse(&table, "f", (const char *)data, len, &b, &d) < 0)
		abort();
	if (conf_differs(&table, &a, &b, CONF_LIVE, path))
		abort();
	conf_free(&table, &a);
	conf_free(&table, &b);
	return 0;
}
