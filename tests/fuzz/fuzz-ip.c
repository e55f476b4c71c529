/*
 * Addresses as text, of :authority and Forwarded, of files and of registries;
 * durations and sizes: what is printed is read back as the same.
 */
#include <stdlib.h>
#include <string.h>

#include "base/ip.h"
#include "base/units.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void address(const char *text)
{
	char printed[IP_TEXT_LEN];
	struct ip a, again;

	if (ip_parse(text, &a) == 0 && (ip_parse(ip_format(&a, printed), &again) < 0 || !ip_equal(&a, &again)))
		abort();
}

static void with_port(const char *text)
{
	char printed[IP_PORT_TEXT_LEN];
	struct ip_port a, again;

	if (ip_port_parse(text, &a) == 0 && (ip_port_parse(ip_port_format(&a, printed), &again) < 0 || !ip_equal(&a.ip, &again.ip) || a.port != again.port))
		abort();
}

static void units(const char *text)
{
	char printed[UNITS_TEXT_LEN];
	uint64_t n, again;

	if (duration_parse(text, &n) == 0 && (duration_parse(duration_format(n, printed), &again) < 0 || n != again))
		abort();
	if (size_parse(text, &n) == 0 && (size_parse(size_format(n, printed), &again) < 0 || n != again))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ip_prefix p;
	char *text = malloc(size + 1);

	if (!text)
		abort();
	memcpy(text, data, size);
	text[size] = 0;
	address(text);
	with_port(text);
	units(text);
	if (ip_prefix_parse(text, &p) == 0 && (p.len > 128 || !ip_in_prefix(&p.ip, &p)))
		abort();
	free(text);
	return 0;
}
