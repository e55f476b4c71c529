#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include "base/defs.h"
#include "base/ip.h"

/*
 * Structured log: a constant message and typed fields, one line each on
 * standard error, as text or JSON. Thread-safe: a line is one write().
 *
 * base, proto, mesh and discover never log; programs log once, where the error
 * is handled. What a peer can cause goes through LOG_LIMITED.
 */
enum log_level { LOG_L_ERROR, LOG_L_WARN, LOG_L_INFO, LOG_L_DEBUG };

struct log_field {
	const char *key;	/* NULL ends the list */
	enum { LOG_STR, LOG_INT, LOG_IP } type;
	union {
		const char *s;
		int64_t i;
		const struct ip *ip;
	};
};

static inline struct log_field log_str(const char *key, const char *s)
{
	return (struct log_field){ key, LOG_STR, { .s = s } };
}

static inline struct log_field log_int(const char *key, int64_t i)
{
	return (struct log_field){ key, LOG_INT, { .i = i } };
}

static inline struct log_field log_ip(const char *key, const struct ip *ip)
{
	return (struct log_field){ key, LOG_IP, { .ip = ip } };
}

/* "error": what strerror() says of @errnum, which may be negative. */
struct log_field log_errno(int errnum);

/* Before threads start. @program is the constant field "program". */
void log_setup(const char *program, enum log_level level, bool json);
/* Any time, any thread. */
void log_change(enum log_level level, bool json);
bool log_enabled(enum log_level level);
MUST_CHECK int log_level_parse(const char *name, enum log_level *ret_level);
void log_write(enum log_level level, const char *msg, const struct log_field *fields);

/* At most 10 lines in 10 s from one call site; the next one says how many were left out. */
struct log_limit {
	uint64_t window_start_ms;
	uint32_t n;
	uint32_t dropped;
};
bool log_limit_pass(struct log_limit *l, uint32_t *ret_dropped);

#define LOG_AT(level, msg, ...) \
	(log_enabled(level) ? log_write(level, "" msg, (const struct log_field[]){ __VA_ARGS__ __VA_OPT__(,) {} }) : (void)0)

#define log_error(...) LOG_AT(LOG_L_ERROR, __VA_ARGS__)
#define log_warn(...)  LOG_AT(LOG_L_WARN, __VA_ARGS__)
#define log_info(...)  LOG_AT(LOG_L_INFO, __VA_ARGS__)
#define log_debug(...) LOG_AT(LOG_L_DEBUG, __VA_ARGS__)

/* The same for lines with a limit of their own: one peer's do not keep another's back. */
#define LOG_LIMITED_BY(limit, level, msg, ...) \
	do { \
		uint32_t log_dropped; \
		if (log_enabled(level) && log_limit_pass(limit, &log_dropped)) \
			log_write(level, "" msg, (const struct log_field[]){ __VA_ARGS__ __VA_OPT__(,) \
				  log_int("suppressed", log_dropped), {} }); \
	} while (0)

/* For what a peer can cause as often as it likes. */
#define LOG_LIMITED(level, msg, ...) \
	do { \
		static _Thread_local struct log_limit log_site; \
		LOG_LIMITED_BY(&log_site, level, msg, __VA_ARGS__); \
	} while (0)
