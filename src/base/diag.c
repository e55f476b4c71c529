/*
 * Errors that people read.
 */
#include "base/diag.h"

#include <errno.h>
#include <stdio.h>

static PRINTF_LIKE(4, 0) void fill(struct diag *d, const char *file, unsigned line, const char *fmt, va_list ap)
{
	if (!d)
		return;
	snprintf(d->file, sizeof(d->file), "%s", file ? file : "");
	d->line = line;
	vsnprintf(d->msg, sizeof(d->msg), fmt, ap);
}

int diag_set(struct diag *d, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fill(d, NULL, 0, fmt, ap);
	va_end(ap);
	return -EINVAL;
}

int diag_at(struct diag *d, const char *file, unsigned line, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fill(d, file, line, fmt, ap);
	va_end(ap);
	return -EINVAL;
}

const char *diag_format(const struct diag *d, char text[static DIAG_TEXT_LEN])
{
	if (d->file[0] && d->line)
		snprintf(text, DIAG_TEXT_LEN, "%s:%u: %s", d->file, d->line, d->msg);
	else if (d->file[0])
		snprintf(text, DIAG_TEXT_LEN, "%s: %s", d->file, d->msg);
	else
		snprintf(text, DIAG_TEXT_LEN, "%s", d->msg);
	return text;
}
