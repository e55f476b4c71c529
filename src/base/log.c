/*
 * Structured log lines on standard error.
 */
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/utf8.h"

enum { LOG_LINE_MAX = 2048, LOG_LIMIT_LINES = 10, LOG_LIMIT_WINDOW_MS = 10000 };

static struct {
	const char *program;
	_Atomic enum log_level level;	/* may be changed while threads run */
	_Atomic bool json;
} conf = { "outrigger", LOG_L_INFO, false };

static const char *const level_names[] = {
	[LOG_L_ERROR] = "error", [LOG_L_WARN] = "warn", [LOG_L_INFO] = "info", [LOG_L_DEBUG] = "debug",
};

struct line {
	char text[LOG_LINE_MAX];
	size_t len;
};

static void put(struct line *l, char c)
{
	if (l->len < sizeof(l->text) - 2)	/* room for the newline stays */
		l->text[l->len++] = c;
}

static void put_raw(struct line *l, const char *s)
{
	while (*s)
		put(l, *s++);
}

/* JSON string syntax serves both forms: a peer's bytes can neither break a line nor command a terminal. */
static void put_quoted(struct line *l, const char *s)
{
	static const char hex[] = "0123456789abcdef";
	const uint8_t *p = (const uint8_t *)s;
	size_t n = strlen(s), len;

	put(l, '"');
	for (; n; p += len, n -= len) {
		len = utf8_printable(p, n);
		if (!len) {
			put_raw(l, "\\u00");
			put(l, hex[*p >> 4]);
			put(l, hex[*p & 15]);
			len = 1;
			continue;
		}
		if (*p == '"' || *p == '\\')
			put(l, '\\');
		for (size_t i = 0; i < len; i++)
			put(l, (char)p[i]);
	}
	put(l, '"');
}

static bool needs_quotes(const char *s)
{
	return !*s || strpbrk(s, " \"\\=") || !utf8_is_clean(s, strlen(s));
}

static void put_field(struct line *l, const struct log_field *f)
{
	char number[32], ip[IP_TEXT_LEN];
	const char *s = f->type == LOG_STR ? (f->s ? f->s : "") : number;

	if (f->type == LOG_INT)
		snprintf(number, sizeof(number), "%lld", (long long)f->i);
	if (f->type == LOG_IP)
		s = ip_format(f->ip, ip);

	if (conf.json) {
		put_raw(l, ",\"");
		put_raw(l, f->key);
		put_raw(l, "\":");
		if (f->type == LOG_INT)
			put_raw(l, s);
		else
			put_quoted(l, s);
		return;
	}
	put(l, ' ');
	put_raw(l, f->key);
	put(l, '=');
	if (f->type == LOG_STR && needs_quotes(s))
		put_quoted(l, s);
	else
		put_raw(l, s);
}

static void put_head(struct line *l, enum log_level level, const char *msg)
{
	int64_t now_ms = clock_wall_ms();
	time_t s = (time_t)(now_ms / 1000);
	struct tm tm;
	char when[40], stamp[32];

	gmtime_r(&s, &tm);
	strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(when, sizeof(when), "%s.%03dZ", stamp, (int)(now_ms % 1000));
	if (conf.json) {
		put_raw(l, "{\"time\":\"");
		put_raw(l, when);
		put_raw(l, "\",\"level\":\"");
		put_raw(l, level_names[level]);
		put_raw(l, "\",\"program\":\"");
		put_raw(l, conf.program);
		put_raw(l, "\",\"msg\":");
		put_quoted(l, msg);
		return;
	}
	put_raw(l, when);
	put(l, ' ');
	put_raw(l, conf.program);
	put(l, ' ');
	put_raw(l, level_names[level]);
	put(l, ' ');
	put_raw(l, msg);
}

void log_change(enum log_level level, bool json)
{
	conf.level = level;
	conf.json = json;
}

void log_setup(const char *program, enum log_level level, bool json)
{
	conf.program = program;
	conf.level = level;
	conf.json = json;
}

bool log_enabled(enum log_level level)
{
	return level <= conf.level;
}

int log_level_parse(const char *name, enum log_level *ret_level)
{
	for (size_t i = 0; i < ELEMENTS(level_names); i++) {
		if (!strcmp(name, level_names[i])) {
			*ret_level = (enum log_level)i;
			return 0;
		}
	}
	return -EINVAL;
}

struct log_field log_errno(int errnum)
{
	return log_str("error", strerrordesc_np(errnum < 0 ? -errnum : errnum));
}

void log_write(enum log_level level, const char *msg, const struct log_field *fields)
{
	struct line l = {};

	put_head(&l, level, msg);
	for (; fields->key; fields++)
		put_field(&l, fields);
	if (conf.json)
		put(&l, '}');
	l.text[l.len++] = '\n';
	if (write(STDERR_FILENO, l.text, l.len) < 0)
		return;		/* nowhere left to say it */
}

bool log_limit_pass(struct log_limit *l, uint32_t *ret_dropped)
{
	uint64_t now = clock_mono_ms();

	if (now - l->window_start_ms >= LOG_LIMIT_WINDOW_MS) {
		*ret_dropped = l->dropped;
		*l = (struct log_limit){ .window_start_ms = now, .n = 1 };
		return true;
	}
	if (l->n >= LOG_LIMIT_LINES) {
		l->dropped++;
		return false;
	}
	l->n++;
	*ret_dropped = 0;
	return true;
}
