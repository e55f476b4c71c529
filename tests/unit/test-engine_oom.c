/*
 * Whole captures through engine and observers while allocations fail: nothing
 * crashes or leaks (ASan flavour), the engine's books balance, and what is
 * still observed is nothing that was not there.
 */
#include "lib/unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/defs.h"
#include "discover/engine.h"
#include "lib/alloc.h"
#include "proto/pcapfile.h"

enum { MAX_CAPTURE = 1 << 16, MAX_NAMES = 256, EVERY_ONE_UP_TO = 300, STRIDE = 7 };

struct names {
	char v[MAX_NAMES][96];		/* "protocol service instance" */
	size_t n;
};

static bool has(const struct names *names, const char *name)
{
	for (size_t i = 0; i < names->n; i++)
		if (!strcmp(names->v[i], name))
			return true;
	return false;
}

static void on_observation(const struct observation *o, void *data)
{
	struct names *names = data;
	char name[sizeof(names->v[0])];

	if (!o->service)
		return;		/* a withdrawal by id, of what could not be remembered */
	snprintf(name, sizeof(name), "%s %s %s", o->protocol, o->service, o->instance ? o->instance : "-");
	if (!has(names, name) && names->n < MAX_NAMES)
		snprintf(names->v[names->n++], sizeof(name), "%s", name);
}

static size_t load(const char *name, uint8_t *data)
{
	const char *dir = getenv("CAPTURES");
	char path[512];
	FILE *f;
	size_t n;

	assert_non_null(dir);
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "rb");
	assert_non_null(f);
	n = fread(data, 1, MAX_CAPTURE, f);
	fclose(f);
	assert_true(n > 0 && n < MAX_CAPTURE);
	return n;
}

/* From the failing of the @fail_at-th allocation (0: none) on to the end. Returns how many allocations there were. */
static size_t play(const uint8_t *data, size_t len, size_t fail_at, bool once, struct names *names)
{
	struct pcapfile_frame f;
	struct pcapfile p;
	struct engine *e;
	size_t n;

	names->n = 0;
	assert_int_equal(pcapfile_open(&p, data, len), 0);
	(once ? alloc_fail_once_at : alloc_fail_at)(fail_at ? fail_at : SIZE_MAX);
	if (engine_new(NULL, on_observation, names, &e) < 0)
		return alloc_fail_stop();
	while (pcapfile_next(&p, &f) == 0) {
		struct engine_frame ef = { f.data, f.len, f.wire_len, f.link, f.number, f.time_ns };

		(void)!engine_frame(e, &ef);
	}
	engine_flush(e);
	n = alloc_fail_stop();
	assert_int_equal(engine_stats(e)->buffered_bytes, 0);
	engine_free(e);
	return n;
}

static void all_of(const char *capture)
{
	static uint8_t data[MAX_CAPTURE];
	static struct names all, some;
	size_t len = load(capture, data), total = play(data, len, 0, true, &all);

	assert_true(total > 3 && all.n > 0);
	for (size_t n = 1; n <= total; n += n < EVERY_ONE_UP_TO ? 1 : STRIDE) {
		play(data, len, n, true, &some);
		for (size_t i = 0; i < some.n; i++)
			if (!has(&all, some.v[i]))
				fail_msg("%s: allocation %zu fails, and \"%s\" is observed", capture, n, some.v[i]);
		play(data, len, n, false, &some);
	}
	play(data, len, 0, true, &some);
	assert_int_equal(some.n, all.n);
}

static void consul_without_memory(void **state)
{
	(void)state;
	all_of("consul-python3-consul-0.7.1.pcap");
}

static void zookeeper_without_memory(void **state)
{
	(void)state;
	all_of("zookeeper-curator-x-discovery-5.7.1.pcap");
}

static void dns_without_memory(void **state)
{
	(void)state;
	all_of("dns-dig-9.18-truncated-then-tcp.pcap");
}

static void mdns_without_memory(void **state)
{
	(void)state;
	all_of("mdns-avahi-0.8-publish-zeroconf-browse.pcap");
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(consul_without_memory),
		cmocka_unit_test(zookeeper_without_memory),
		cmocka_unit_test(dns_without_memory),
		cmocka_unit_test(mdns_without_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
