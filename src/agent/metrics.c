/*
 * Prometheus metrics: the agent's own, and those of its proxies, which are
 * fetched from their admin sockets while the scraper waits.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "agent/admin.h"
#include "agent/budgets.h"
#include "agent/member.h"
#include "agent/worker.h"
#include "api/counters.h"
#include "base/bytes.h"
#include "base/clock.h"

enum {
	FETCH_TIMEOUT_MS = 2000,
	FETCH_MAX = 8 << 20,
	METRICS_MAX = 64 << 20,
};

/* --- the agent's own --- */

static int family(struct bytes *out, const char *name, const char *type, const char *help)
{
	return bytes_appendf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static int one(struct bytes *out, const char *name, const char *type, const char *help, uint64_t value)
{
	int r = family(out, name, type, help);

	return r < 0 ? r : bytes_appendf(out, "%s %llu\n", name, (unsigned long long)value);
}

static int write_counters(struct worker *w, struct bytes *out)
{
	struct monitor_counters c;
	int r = monitor_counters_get(w->monitor, 0, &c);

	if (r < 0)
		return 0;	/* the rest is still worth telling */
	r = family(out, "outrigger_steering_total", "counter", "What became of packets at the VMs' ports.");
	for (unsigned i = 0; r == 0 && i < _STEER_C_N; i++)
		if (steer_counter_name(i))
			r = bytes_appendf(out, "outrigger_steering_total{what=\"%s\"} %llu\n", steer_counter_name(i), (unsigned long long)c.v[i]);
	return r;
}

static int write_engine(const struct worker *w, struct bytes *out)
{
	const struct engine_stats *s = engine_stats(w->engine);
	const struct { const char *what; uint64_t n; } rows[] = {
		{ "packets", s->packets }, { "malformed", s->malformed }, { "fragments", s->fragments }, { "ignored", s->ignored },
		{ "datagrams", s->datagrams }, { "senseless", s->senseless }, { "streams_slept", s->streams_slept },
		{ "segments", s->segments }, { "duplicates", s->duplicates }, { "reordered", s->reordered },
		{ "gaps", s->gaps }, { "flows", s->flows }, { "flows_evicted", s->flows_evicted }, { "streams_crowded", s->streams_crowded },
		{ "no_memory", s->no_memory },
		{ "observations", s->observations },
	};
	int r = family(out, "outrigger_discovery_total", "counter", "What the sniffer saw.");

	for (size_t i = 0; r == 0 && i < ELEMENTS(rows); i++)
		r = bytes_appendf(out, "outrigger_discovery_total{what=\"%s\"} %llu\n", rows[i].what, (unsigned long long)rows[i].n);
	return r;
}

static int write_verdicts(const struct worker *w, struct bytes *out)
{
	uint64_t n[_VERDICT_N] = {};
	int r = family(out, "outrigger_services", "gauge", "Services that guests claim, by verdict.");

	list_for_each(lg, &w->catalog.by_guest)
		list_for_each(l, &list_entry(lg, struct catalog_guest, link)->claims) {
			const struct judge *j = list_entry(l, struct claim, link)->user;

			if (j)
				n[j->verdict.verdict]++;
		}
	for (size_t i = 0; r == 0 && i < _VERDICT_N; i++)
		r = bytes_appendf(out, "outrigger_services{verdict=\"%s\"} %llu\n", verdict_name((enum verdict)i), (unsigned long long)n[i]);
	return r;
}

static int write_vms(const struct worker *w, struct bytes *out)
{
	uint64_t n[_VM_STATE_N] = {};
	int r = family(out, "outrigger_proxies", "gauge", "Service proxies of VMs, by state.");

	map_for_each(l, &w->supervisor.vms)
		n[container_of(l, struct proxy_vm, by_id)->state]++;
	for (size_t i = 0; r == 0 && i < _VM_STATE_N; i++)
		r = bytes_appendf(out, "outrigger_proxies{state=\"%s\"} %llu\n", vm_state_name((enum vm_state)i), (unsigned long long)n[i]);
	return r;
}

int metrics_write(struct worker *w, struct bytes *out)
{
	struct session_info s;
	int r;

	session_get_info(w->session, &s);
	r = one(out, "outrigger_guests", "gauge", "Guests behind this NIC.", w->guests.by_id.n);
	if (r == 0)
		r = one(out, "outrigger_controller_connected", "gauge", "1 while the session with the controller is open.", s.state == SESSION_OPEN);
	if (r == 0)
		r = one(out, "outrigger_controller_connects_total", "counter", "Sessions that the controller has welcomed.", s.n_connects);
	if (r == 0)
		r = one(out, "outrigger_nic_certificate_expiry_seconds", "gauge", "End of the NIC's certificate, seconds since 1970.",
			(uint64_t)MAX(s.cert_not_after, (int64_t)0));
	if (r == 0)
		r = one(out, "outrigger_proxy_restarts_total", "counter", "Proxy processes that were started again.", w->supervisor.n_restarts);
	if (r == 0)
		r = one(out, "outrigger_claims_refused_total", "counter", "Registrations that were no claim of the guest's.", w->n_claims_refused);
	if (r == 0)
		r = write_verdicts(w, out);
	if (r == 0)
		r = write_vms(w, out);
	if (r == 0)
		r = write_engine(w, out);
	if (r == 0)
		r = budgets_write(w, out);
	return r < 0 ? r : write_counters(w, out);
}

/* --- those of the proxies --- */

struct fetch {				/* one GET over one proxy's socket */
	struct watch watch;
	struct scrape *scrape;
	int fd;
	pid_t draining;			/* 0: its process serves */
	bool done;
	struct bytes in;
};

struct scrape {				/* one request of a scraper */
	struct httpd_request *req;	/* NULL: it did not wait */
	struct timer timer;
	struct defer end;
	struct bytes out;
	size_t n_open;
	size_t n_fetches;
	struct fetch fetches[];
};

static void fetch_end(struct fetch *f)
{
	if (f->done)
		return;
	f->done = true;
	watch_remove(&f->watch);
	f->fd = close_fd(f->fd);
	f->scrape->n_open--;
}

/*
 * "name{labels} value", "name value". Who drains has the same VMs as its
 * successor, and no two samples may have the same labels.
 */
static int append_sample(struct bytes *out, const char *line, pid_t draining)
{
	int n_name = (int)strcspn(line, "{ ");
	bool labels = line[n_name] == '{';

	if (!draining || line[0] == '#')
		return bytes_appendf(out, "%s\n", line);
	return bytes_appendf(out, "%.*s{draining=\"%d\"%s%s\n", n_name, line, (int)draining, labels ? "," : "}", line + n_name + labels);
}

/* Several processes have the same families: the text format wants each introduced once. */
static int append_samples(struct bytes *out, char *text, pid_t draining, bool first)
{
	char *rest;
	int r = 0;

	for (char *line = strtok_r(text, "\n", &rest); r == 0 && line; line = strtok_r(NULL, "\n", &rest))
		if (first || line[0] != '#')
			r = append_sample(out, line, draining);
	return r;
}

static int scrape_end(struct defer *d)
{
	struct scrape *s = container_of(d, struct scrape, end);
	bool first = true;
	int r = 0;

	for (size_t i = 0; i < s->n_fetches; i++) {
		struct fetch *f = &s->fetches[i];
		char *body;

		fetch_end(f);
		if (r == 0 && bytes_append(&f->in, "", 1) == 0) {
			body = strstr((char *)f->in.data, "\r\n\r\n");
			if (body && !strncmp((char *)f->in.data, "HTTP/1.", 7) && strstr((char *)f->in.data, " 200 ")) {
				r = append_samples(&s->out, body + 4, f->draining, first);
				first = false;
			}
		}
		bytes_deinit(&f->in);
	}
	timer_cancel(&s->timer);
	if (s->req && r < 0)
		httpd_reply_error(s->req, 500, "metrics: %s", strerror(-r));
	else if (s->req)
		httpd_reply(s->req, 200, "text/plain; version=0.0.4", s->out.data, s->out.len);
	bytes_deinit(&s->out);
	free(s);
	return 0;
}

static int on_timeout(struct timer *t)
{
	struct scrape *s = container_of(t, struct scrape, timer);

	return scrape_end(&s->end);
}

static void on_gone(struct httpd_request *req, void *data)
{
	(void)req;
	((struct scrape *)data)->req = NULL;
}

static int on_bytes(struct watch *watch, uint32_t events)
{
	struct fetch *f = container_of(watch, struct fetch, watch);
	struct loop *loop = watch->loop;
	char data[65536];
	ssize_t n = read(f->fd, data, sizeof(data));

	(void)events;
	if (n < 0 && errno == EAGAIN)
		return 0;
	if (n > 0 && bytes_append(&f->in, data, (size_t)n) == 0)
		return 0;
	fetch_end(f);
	if (!f->scrape->n_open)
		loop_defer(loop, &f->scrape->end, scrape_end);
	return 0;
}

static int fetch_start(struct fetch *f, struct loop *loop, const char *path)
{
	static const char request[] = "GET /metrics HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n";
	struct sockaddr_un sa = { .sun_family = AF_UNIX };

	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
	f->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (f->fd < 0)
		return -errno;
	if (connect(f->fd, (const struct sockaddr *)&sa, sizeof(sa)) < 0 ||
	    send(f->fd, request, sizeof(request) - 1, MSG_NOSIGNAL) != (ssize_t)sizeof(request) - 1)
		return -errno;
	return watch_add(loop, &f->watch, f->fd, EPOLLIN, false, on_bytes);
}

static bool answers(const struct process *p)
{
	return p->state == PROCESS_RUNNING || (p->retired && p->state == PROCESS_STOPPING);
}

static size_t n_answering(const struct worker *w)
{
	size_t n = 0;

	list_for_each(l, &w->supervisor.processes)
		n += answers(list_entry(l, struct process, link));
	return n;
}

static void fetch_all(struct worker *w, struct scrape *s, size_t max)
{
	char path[108];

	list_for_each(l, &w->supervisor.processes) {
		const struct process *p = list_entry(l, struct process, link);
		struct fetch *f = &s->fetches[s->n_fetches];

		if (!answers(p) || s->n_fetches == max)
			continue;
		s->n_fetches++;
		s->n_open++;
		f->scrape = s;
		f->fd = -1;
		f->draining = p->retired ? p->pid : 0;
		bytes_init(&f->in, FETCH_MAX);
		if (fetch_start(f, w->loop, process_path(p, "admin", path)) < 0)
			fetch_end(f);
	}
}

void metrics_reply(struct worker *w, struct httpd_request *req)
{
	size_t n = n_answering(w);
	struct scrape *s = calloc(1, sizeof(*s) + n * sizeof(s->fetches[0]));
	int r = s ? 0 : -ENOMEM;

	if (r == 0) {
		list_init(&s->end.link);
		bytes_init(&s->out, METRICS_MAX);
		r = metrics_write(w, &s->out);
	}
	if (r == 0)
		r = timer_arm(w->loop, &s->timer, FETCH_TIMEOUT_MS, on_timeout);
	if (r < 0) {
		httpd_reply_error(req, 500, "metrics: %s", strerror(-r));
		if (s)
			bytes_deinit(&s->out);
		free(s);
		return;
	}
	s->req = req;
	httpd_hold(req, on_gone, s);
	fetch_all(w, s, n);
	if (!s->n_open)
		loop_defer(w->loop, &s->end, scrape_end);
}
