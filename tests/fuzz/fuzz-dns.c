/*
 * DNS messages: every record, and every way to read its data.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "proto/dns.h"
#include "base/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_name(const struct dns_name *n)
{
	char text[DNS_NAME_TEXT_LEN];
	struct dns_name tail;
	unsigned at;

	dns_name_text(n, text);
	if (!utf8_is_clean(text, strlen(text)))
		abort();
	dns_name_tail(n, 1, &tail);
	if (!dns_name_equal(n, n) || dns_name_common_head(n, n) != dns_name_labels(n))
		abort();
	dns_name_service(n, &at);
}

/* As people and configurations write it. */
static void take_text(const uint8_t *data, size_t size)
{
	struct dns_name name;
	char *text = strndup((const char *)data, size);

	if (!text)
		abort();
	if (dns_name_parse(text, &name))
		check_name(&name);
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct dns_message m;
	struct dns_record r;

	take_text(data, size);
	if (!dns_open(&m, data, size))
		return 0;
	while (dns_next(&m, &r)) {
		struct dns_name name;
		struct dns_srv srv;
		struct dns_svcb svcb;
		struct ip ip;
		const uint8_t *txt;
		size_t len;

		check_name(&r.name);
		if (r.section == DNS_QUESTION)
			continue;
		if (dns_target(&m, &r, &name))
			check_name(&name);
		if (dns_srv(&m, &r, &srv))
			check_name(&srv.target);
		if (dns_svcb(&m, &r, &svcb))
			check_name(&svcb.target);
		(void)!dns_address(&r, &ip);
		for (struct wire w = r.rdata; dns_txt_next(&w, &txt, &len);)
			if (len > 255)
				abort();
	}
	return 0;
}
