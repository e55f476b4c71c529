/*
 * Checks of health that others wrote: what must hold before a byte of it is sent.
 */
#include "mesh/health_check.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

enum { TEXT_MAX = 2048, HEADERS_MAX = 32, MS_MAX = 86400000 };

/* RFC 9110, section 5.5: visible characters, and blanks inside of values. */
static bool is_text(const char *text, bool blanks)
{
	size_t len = strnlen(text, TEXT_MAX + 1);

	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)text[i];

		if (c < 0x20 || c == 0x7f || (c == ' ' && !blanks))
			return false;
	}
	return len <= TEXT_MAX;
}

/* RFC 9110, section 5.6.2 */
static bool is_token(const char *text)
{
	static const char chars[] = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

	return text[0] && strlen(text) <= TEXT_MAX && text[strspn(text, chars)] == '\0';
}

static int check_headers(const Outrigger__Health__Check *c, struct diag *d)
{
	if (c->n_headers > HEADERS_MAX)
		return diag_set(d, "more than %d headers", HEADERS_MAX);
	for (size_t i = 0; i < c->n_headers; i++)
		if (!is_token(c->headers[i]->name) || !is_text(c->headers[i]->value, true))
			return diag_set(d, "header %zu is none", i + 1);
	return 0;
}

int health_check_valid(const Outrigger__Health__Check *c, struct diag *d)
{
	if (strcmp(c->kind, "tcp") && strcmp(c->kind, "http") && strcmp(c->kind, "https") && strcmp(c->kind, "grpc"))
		return diag_set(d, "kind \"%.32s\": tcp, http, https or grpc", c->kind);
	if (c->port > 65535)
		return diag_set(d, "port %u: at most 65535", c->port);
	if (!is_text(c->path, false) || !is_text(c->host, false) || !is_text(c->service, true))
		return diag_set(d, "path, host or service has characters that do not belong there");
	if (c->initial_delay_ms > MS_MAX || c->interval_ms > MS_MAX || c->timeout_ms > MS_MAX)
		return diag_set(d, "a time is longer than a day");
	return check_headers(c, d);
}
