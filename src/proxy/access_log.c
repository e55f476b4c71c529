/*
 * The access log.
 */
#include "proxy/access_log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <time.h>

#include "base/bytes.h"

enum { LINE_MAX_LEN = 16384 };

struct access_log {
	struct loop *loop;
	int fd;
	bool own_fd;
	bool is_file;
	bool mid_line;			/* the last byte that was written was not a line's last */
	bool json;
	struct bytes buffer;
	struct defer flush;		/* at the end of the turn */
	struct watch watch;		/* while the reader is slow; a regular file never is */
	uint64_t dropped;
};

/* --- a line as a list of keys and values --- */

enum value_kind { TEXT, NUMBER };

struct pair {
	const char *key;
	enum value_kind kind;
	const char *text;		/* TEXT; NULL or "": left out */
	uint64_t number;
};

static int append_quoted(struct bytes *out, const char *text)
{
	int r = bytes_append(out, "\"", 1);

	for (const char *c = text; *c && r == 0; c++) {
		if (*c == '"' || *c == '\\')
			r = bytes_appendf(out, "\\%c", *c);
		else if ((unsigned char)*c < ' ')
			r = bytes_appendf(out, "\\u%04x", (unsigned char)*c);
		else
			r = bytes_append(out, c, 1);
	}
	return r < 0 ? r : bytes_append(out, "\"", 1);
}

static int append_pair(struct bytes *out, const struct pair *p, bool json, bool first)
{
	int r;

	if (json)
		r = bytes_appendf(out, "%s\"%s\":", first ? "" : ",", p->key);
	else
		r = bytes_appendf(out, " %s=", p->key);
	if (r < 0)
		return r;
	if (p->kind == NUMBER)
		return bytes_appendf(out, "%llu", (unsigned long long)p->number);
	if (json || strpbrk(p->text, " \"\\\n\t="))
		return append_quoted(out, p->text);
	return bytes_append_str(out, p->text);
}

static int append_line(struct bytes *out, const struct pair *pairs, size_t n, const char *time, bool json)
{
	bool first = false;
	int r;

	if (json)
		r = bytes_appendf(out, "{\"time\":\"%s\",\"scope\":\"access\",\"message\":\"connection complete\"", time);
	else
		r = bytes_appendf(out, "%s access connection complete", time);
	for (size_t i = 0; i < n && r == 0; i++)
		if (pairs[i].kind == NUMBER || (pairs[i].text && *pairs[i].text))
			r = append_pair(out, &pairs[i], json, first);
	return r < 0 ? r : bytes_append_str(out, json ? "}\n" : "\n");
}

static void format_time(int64_t ms, char *text, size_t size)
{
	time_t s = (time_t)(ms / 1000);
	struct tm tm;

	gmtime_r(&s, &tm);
	snprintf(text, size, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday,
		 tm.tm_hour, tm.tm_min, tm.tm_sec, (int)(ms % 1000));
}

static int format(struct bytes *out, const struct flow_report *r, const struct access_log_self *self, bool json)
{
	static const struct flow_peer nobody = { .identity = "", .workload_name = "", .namespace = "", .cluster = "", .service_host = "",
		.canonical_name = "", .canonical_revision = "" };
	const struct flow_peer *peer = r->peer ? r->peer : &nobody;
	bool outbound = r->direction == FLOW_OUTBOUND;
	const struct flow_peer us = {
		.identity = peer->mutual_tls ? self->identity : "", .workload_name = self->workload, .namespace = self->namespace,
		.cluster = "", .canonical_name = self->canonical_name, .canonical_revision = *self->canonical_revision ? self->canonical_revision : "latest",
	};
	const struct flow_peer *src = outbound ? &us : peer;
	const struct flow_peer *dst = outbound ? peer : &us;
	char time[96], source[IP_PORT_TEXT_LEN], target[IP_PORT_TEXT_LEN], hbone[IP_PORT_TEXT_LEN] = "", duration[24];
	struct ip_port tunnel = { outbound ? r->upstream.ip : r->destination.ip, 15008 };

	format_time(r->start_ms + r->duration_ms, time, sizeof(time));
	snprintf(duration, sizeof(duration), "%ums", r->duration_ms);
	if (r->hbone)
		ip_port_format(&tunnel, hbone);
	const struct pair pairs[] = {
		{ "src.addr", TEXT, ip_port_format(&r->source, source) },
		{ "src.workload", TEXT, src->workload_name }, { "src.namespace", TEXT, src->namespace },
		{ "src.canonical_service", TEXT, src->canonical_name }, { "src.canonical_revision", TEXT, src->canonical_revision },
		{ "src.identity", TEXT, src->identity }, { "src.cluster", TEXT, src->cluster },
		{ "dst.addr", TEXT, ip_port_format(r->upstream.port ? &r->upstream : &r->destination, target) },
		{ "dst.hbone_addr", TEXT, hbone },
		{ "dst.service", TEXT, outbound ? peer->service_host : self->service },
		{ "dst.workload", TEXT, dst->workload_name }, { "dst.namespace", TEXT, dst->namespace },
		{ "dst.canonical_service", TEXT, dst->canonical_name }, { "dst.canonical_revision", TEXT, dst->canonical_revision },
		{ "dst.identity", TEXT, dst->identity }, { "dst.cluster", TEXT, dst->cluster },
		{ "direction", TEXT, outbound ? "outbound" : "inbound" }, { "vm", TEXT, r->vm->id },
		{ "connection_id", NUMBER, .number = r->id },
		{ "bytes_sent", NUMBER, .number = r->bytes_received }, { "bytes_recv", NUMBER, .number = r->bytes_sent },
		{ "duration", TEXT, duration },
		{ "attempts", r->attempts > 1 ? NUMBER : TEXT, NULL, r->attempts },
		{ "error", TEXT, r->result == FLOW_OK ? NULL : r->why ? r->why : flow_result_name(r->result) },
		{ "result", TEXT, r->result == FLOW_OK ? NULL : flow_result_name(r->result) },
	};
	return append_line(out, pairs, ELEMENTS(pairs), time, json);
}

/* --- writing --- */

static int on_writable(struct watch *w, uint32_t events);

/* Of what is written at once to a pipe, PIPE_BUF bytes stay together: so many whole lines, or one that is longer. */
static size_t portion(const struct access_log *a)
{
	const char *data = (const char *)a->buffer.data, *end;

	if (!data || a->is_file || a->buffer.len <= PIPE_BUF)
		return a->buffer.len;
	end = memrchr(data, '\n', PIPE_BUF);
	if (!end)
		end = memchr(data, '\n', a->buffer.len);
	return end ? (size_t)(end - data) + 1 : a->buffer.len;
}

static void write_out(struct access_log *a)
{
	while (a->buffer.len) {
		ssize_t n = write(a->fd, a->buffer.data, portion(a));

		if (n < 0 && errno == EAGAIN) {
			if (!a->watch.loop && watch_add(a->loop, &a->watch, a->fd, EPOLLOUT, false, on_writable) < 0)
				break;
			return;
		}
		if (n < 0)
			break;
		a->mid_line = n && a->buffer.data[n - 1] != '\n';
		bytes_consume(&a->buffer, (size_t)n);
	}
	watch_remove(&a->watch);
	if (a->buffer.len) {		/* a full disk: the log gives way */
		for (size_t i = a->buffer.data[0] == '\n'; i < a->buffer.len; i++)
			a->dropped += a->buffer.data[i] == '\n';
		bytes_clear(&a->buffer);
		if (a->mid_line && bytes_append(&a->buffer, "\n", 1) < 0)	/* so that the next line begins as one */
			a->mid_line = false;
	}
}

static int on_writable(struct watch *w, uint32_t events)
{
	(void)events;
	write_out(container_of(w, struct access_log, watch));
	return 0;
}

static int on_flush(struct defer *d)
{
	struct access_log *a = container_of(d, struct access_log, flush);

	if (!a->watch.loop)
		write_out(a);
	return 0;
}

void access_log_write(struct access_log *a, const struct flow_report *r, const struct access_log_self *self)
{
	struct bytes line;

	if (a->fd < 0)
		return;
	bytes_init(&line, LINE_MAX_LEN);
	if (format(&line, r, self, a->json) < 0 || bytes_append(&a->buffer, line.data, line.len) < 0)
		a->dropped++;
	else
		loop_defer(a->loop, &a->flush, on_flush);
	bytes_deinit(&line);
}

uint64_t access_log_dropped(const struct access_log *a)
{
	return a->dropped;
}

static void look_at(struct access_log *a)
{
	struct stat st;

	a->is_file = a->fd >= 0 && fstat(a->fd, &st) == 0 && S_ISREG(st.st_mode);
}

void access_log_change(struct access_log *a, int fd)
{
	if (a->fd >= 0)
		write_out(a);
	watch_remove(&a->watch);
	if (a->own_fd)
		close_fd(a->fd);
	a->fd = fd;
	a->own_fd = true;
	a->mid_line = false;
	look_at(a);
	if (fd >= 0 && a->buffer.len)
		loop_defer(a->loop, &a->flush, on_flush);
}

static int open_target(struct access_log *a, const char *target, struct diag *d)
{
	if (!*target)
		return 0;
	if (!strcmp(target, "stderr")) {
		a->fd = STDERR_FILENO;
		return 0;
	}
	a->fd = open(target, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK, 0640);
	a->own_fd = true;
	return a->fd < 0 ? diag_set(d, "access log %s: %s", target, strerror(errno)) : 0;
}

int access_log_new(struct loop *loop, const char *target, bool json, struct access_log **ret_log, struct diag *reterr_diag)
{
	struct access_log *a = calloc(1, sizeof(*a));
	int r;

	if (!a)
		return -ENOMEM;
	a->loop = loop;
	a->fd = -1;
	a->json = json;
	bytes_init(&a->buffer, ACCESS_LOG_BUFFER_MAX);
	r = open_target(a, target, reterr_diag);
	if (r < 0) {
		free(a);
		return r;
	}
	look_at(a);
	*ret_log = a;
	return 0;
}

struct access_log *access_log_free(struct access_log *a)
{
	if (!a)
		return NULL;
	if (a->fd >= 0)
		write_out(a);
	watch_remove(&a->watch);
	defer_cancel(&a->flush);
	bytes_deinit(&a->buffer);
	if (a->own_fd)
		close_fd(a->fd);
	free(a);
	return NULL;
}
