/*
 * TCP metrics with labels.
 */
#include "proxy/metrics.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/map.h"

enum { SERIES_KEY_MAX = 8192 };

/* --- labels: the rows say the name, and what stands where there is no value --- */

enum label {
	L_REPORTER,
	L_SOURCE_WORKLOAD, L_SOURCE_NAMESPACE, L_SOURCE_PRINCIPAL, L_SOURCE_APP, L_SOURCE_VERSION,
	L_SOURCE_CANONICAL, L_SOURCE_REVISION, L_SOURCE_CLUSTER,
	L_DESTINATION_WORKLOAD, L_DESTINATION_NAMESPACE, L_DESTINATION_PRINCIPAL, L_DESTINATION_APP, L_DESTINATION_VERSION,
	L_DESTINATION_SERVICE, L_DESTINATION_SERVICE_NAME, L_DESTINATION_SERVICE_NAMESPACE,
	L_DESTINATION_CANONICAL, L_DESTINATION_REVISION, L_DESTINATION_CLUSTER,
	L_PROTOCOL, L_FLAGS, L_SECURITY,
	_LABEL_N
};

static const struct {
	const char *name;
	const char *none;
} labels[_LABEL_N] = {
	[L_REPORTER] = { "reporter", "unknown" },
	[L_SOURCE_WORKLOAD] = { "source_workload", "unknown" },
	[L_SOURCE_NAMESPACE] = { "source_workload_namespace", "unknown" },
	[L_SOURCE_PRINCIPAL] = { "source_principal", "unknown" },
	[L_SOURCE_APP] = { "source_app", "unknown" },
	[L_SOURCE_VERSION] = { "source_version", "unknown" },
	[L_SOURCE_CANONICAL] = { "source_canonical_service", "unknown" },
	[L_SOURCE_REVISION] = { "source_canonical_revision", "latest" },
	[L_SOURCE_CLUSTER] = { "source_cluster", "unknown" },
	[L_DESTINATION_WORKLOAD] = { "destination_workload", "unknown" },
	[L_DESTINATION_NAMESPACE] = { "destination_workload_namespace", "unknown" },
	[L_DESTINATION_PRINCIPAL] = { "destination_principal", "unknown" },
	[L_DESTINATION_APP] = { "destination_app", "unknown" },
	[L_DESTINATION_VERSION] = { "destination_version", "unknown" },
	[L_DESTINATION_SERVICE] = { "destination_service", "unknown" },
	[L_DESTINATION_SERVICE_NAME] = { "destination_service_name", "unknown" },
	[L_DESTINATION_SERVICE_NAMESPACE] = { "destination_service_namespace", "unknown" },
	[L_DESTINATION_CANONICAL] = { "destination_canonical_service", "unknown" },
	[L_DESTINATION_REVISION] = { "destination_canonical_revision", "latest" },
	[L_DESTINATION_CLUSTER] = { "destination_cluster", "unknown" },
	[L_PROTOCOL] = { "request_protocol", "tcp" },
	[L_FLAGS] = { "response_flags", "-" },
	[L_SECURITY] = { "connection_security_policy", "unknown" },
};

/* Results in the words of ztunnel and Envoy. */
static const char *const result_flags[] = {
	[FLOW_OK] = "-", [FLOW_R_RESET] = "-", [FLOW_R_DENIED] = "DENY", [FLOW_R_POLICY_CHANGED] = "DENY",
	[FLOW_R_PLAINTEXT] = "DENY", [FLOW_R_UNKNOWN] = "NR", [FLOW_R_NO_PORT] = "NR", [FLOW_R_NO_ENDPOINT] = "UH",
	[FLOW_R_CONNECT] = "CONNECT", [FLOW_R_NO_CERTIFICATE] = "TLS_FAILURE", [FLOW_R_BUDGET] = "UO",
	[FLOW_R_TUNNEL] = "UC", [FLOW_R_IDLE] = "-", [FLOW_R_DRAIN] = "-", [FLOW_R_BAD_REQUEST] = "H2_HANDSHAKE_FAILURE",
	[FLOW_R_INTERNAL] = "UO",
};
_Static_assert(ELEMENTS(result_flags) == _FLOW_RESULT_N, "every result has a flag");

enum counter { C_OPENED, C_CLOSED, C_FAILED, C_SENT, C_RECEIVED, _COUNTER_N };

static const struct {
	const char *name;
	const char *help;
} counters[_COUNTER_N] = {
	[C_OPENED] = { "istio_tcp_connections_opened_total", "The total number of TCP connections opened" },
	[C_CLOSED] = { "istio_tcp_connections_closed_total", "The total number of TCP connections closed" },
	[C_FAILED] = { "istio_tcp_connections_failed_total", "The total number of TCP connections that failed to establish" },
	[C_SENT] = { "istio_tcp_sent_bytes_total", "The total number of bytes sent by servers" },
	[C_RECEIVED] = { "istio_tcp_received_bytes_total", "The total number of bytes received by servers" },
};

struct series {
	struct map_link link;		/* by the values: see write_key() */
	uint64_t counts[_COUNTER_N];
	char text[];			/* labels as they are written, without braces */
};

enum { ENDS = 3, OPEN_FIRST_SLOTS = 64 };	/* source, destination, upstream */

/* There is one for each connection, idle ones too: its addresses take 6 bytes each if they are IPv4. */
struct open_flow {
	struct open_flow *next;		/* in the table */
	uint64_t id;
	struct series *series;
	uint64_t sent, received;	/* counted so far, as the client sees it */
	int64_t start_ms;
	struct vm *vm;			/* a reference */
	struct flow_peer *peer;		/* a reference, or NULL */
	bool inbound : 1;
	bool hbone : 1;
	bool v4 : 1;			/* all of @ends are */
	uint8_t ends[];
};

struct metrics {
	struct map series;
	struct open_flow **open;	/* table by id */
	size_t n_slots;			/* a power of two, or 0 */
	size_t n_open;
	struct series *other;
	uint64_t untracked;		/* connections over METRICS_OPEN_MAX */
};

/* --- series --- */

static int escape(struct bytes *out, const char *value)
{
	int r = 0;

	for (const char *c = value; *c && r == 0; c++) {
		if (*c == '\\' || *c == '"')
			r = bytes_appendf(out, "\\%c", *c);
		else if (*c == '\n')
			r = bytes_append_str(out, "\\n");
		else
			r = bytes_append(out, c, 1);
	}
	return r;
}

static const char *value_of(const char *const values[_LABEL_N], int i)
{
	return values[i] && *values[i] ? values[i] : labels[i].none;
}

static int write_labels(struct bytes *out, const char *const values[_LABEL_N])
{
	int r = 0;

	for (int i = 0; i < _LABEL_N && r == 0; i++) {
		r = bytes_appendf(out, "%s%s=\"", i ? "," : "", labels[i].name);
		if (r == 0)
			r = escape(out, value_of(values, i));
		if (r == 0)
			r = bytes_append(out, "\"", 1);
	}
	return r;
}

/* @text, its zero, and @key behind them. */
static struct series *series_make(struct metrics *m, const struct bytes *text, const char *key, size_t n_key)
{
	struct series *s = calloc(1, sizeof(*s) + text->len + 1 + n_key);

	if (!s)
		return NULL;
	memcpy(s->text, text->data, text->len);
	memcpy(s->text + text->len + 1, key, n_key);
	if (map_add(&m->series, &s->link, s->text + text->len + 1, n_key) < 0) {
		free(s);
		return NULL;
	}
	return s;
}

/* The values, each with its zero: what is looked up for every connection must not cost a page of text. 0 if they are too long. */
static size_t write_key(char key[SERIES_KEY_MAX], const char *const values[_LABEL_N])
{
	size_t n = 0;

	for (int i = 0; i < _LABEL_N; i++) {
		const char *value = value_of(values, i);
		size_t len = strlen(value) + 1;

		if (len > SERIES_KEY_MAX - n)
			return 0;
		memcpy(key + n, value, len);
		n += len;
	}
	return n;
}

/* Never NULL: without memory, and over the maximum, it is "_other". */
static struct series *series_get(struct metrics *m, const char *const values[_LABEL_N])
{
	char key[SERIES_KEY_MAX];
	size_t n_key = write_key(key, values);
	struct map_link *l = n_key ? map_find(&m->series, key, n_key) : NULL;
	struct series *s = NULL;
	struct bytes text;

	if (l)
		return container_of(l, struct series, link);
	if (!n_key || m->series.n >= METRICS_SERIES_MAX)
		return m->other;
	bytes_init(&text, 2 * SERIES_KEY_MAX);
	if (write_labels(&text, values) == 0)
		s = series_make(m, &text, key, n_key);
	bytes_deinit(&text);
	return s ?: m->other;
}

static void label_self(const char **values, const struct metrics_self *self, bool source)
{
	values[source ? L_SOURCE_WORKLOAD : L_DESTINATION_WORKLOAD] = self->workload;
	values[source ? L_SOURCE_NAMESPACE : L_DESTINATION_NAMESPACE] = self->namespace;
	values[source ? L_SOURCE_APP : L_DESTINATION_APP] = self->app;
	values[source ? L_SOURCE_VERSION : L_DESTINATION_VERSION] = self->version;
	values[source ? L_SOURCE_CANONICAL : L_DESTINATION_CANONICAL] = self->canonical_name;
	values[source ? L_SOURCE_REVISION : L_DESTINATION_REVISION] = self->canonical_revision;
	values[source ? L_SOURCE_CLUSTER : L_DESTINATION_CLUSTER] = self->cluster;
}

static void label_peer(const char **values, const struct flow_peer *peer, bool source)
{
	if (!peer)
		return;
	values[source ? L_SOURCE_WORKLOAD : L_DESTINATION_WORKLOAD] = peer->workload_name;
	values[source ? L_SOURCE_NAMESPACE : L_DESTINATION_NAMESPACE] = peer->namespace;
	values[source ? L_SOURCE_APP : L_DESTINATION_APP] = peer->canonical_name;
	values[source ? L_SOURCE_VERSION : L_DESTINATION_VERSION] = peer->canonical_revision;
	values[source ? L_SOURCE_CANONICAL : L_DESTINATION_CANONICAL] = peer->canonical_name;
	values[source ? L_SOURCE_REVISION : L_DESTINATION_REVISION] = peer->canonical_revision;
	values[source ? L_SOURCE_CLUSTER : L_DESTINATION_CLUSTER] = peer->cluster;
	values[source ? L_SOURCE_PRINCIPAL : L_DESTINATION_PRINCIPAL] = peer->identity;
}

static struct series *series_of(struct metrics *m, const struct flow_report *r, const struct metrics_self *self, const char *flags)
{
	const char *values[_LABEL_N] = {};
	bool outbound = r->direction == FLOW_OUTBOUND;
	bool mutual = r->peer && r->peer->mutual_tls;

	values[L_REPORTER] = outbound ? "source" : "destination";
	label_self(values, self, outbound);
	label_peer(values, r->peer, !outbound);
	if (mutual)
		values[outbound ? L_SOURCE_PRINCIPAL : L_DESTINATION_PRINCIPAL] = self->identity;
	values[L_SECURITY] = mutual ? "mutual_tls" : outbound ? NULL : "none";
	values[L_FLAGS] = flags;
	if (outbound && r->peer) {
		values[L_DESTINATION_SERVICE] = r->peer->service_host;
		values[L_DESTINATION_SERVICE_NAME] = r->peer->service_name;
		values[L_DESTINATION_SERVICE_NAMESPACE] = r->peer->service_namespace;
	} else if (!outbound) {
		values[L_DESTINATION_SERVICE] = self->service_host;
		values[L_DESTINATION_SERVICE_NAME] = self->service_name;
		values[L_DESTINATION_SERVICE_NAMESPACE] = self->service_namespace;
	}
	return series_get(m, values);
}

/* --- connections --- */

/* Ids are numbers of ours, one after the other, behind that of a worker: nobody else chooses them. */
static struct open_flow **open_slot(const struct metrics *m, uint64_t id)
{
	return &m->open[(id >> 8 ^ id << 6 ^ id >> 56) & (m->n_slots - 1)];
}

/* The place that leads to it, or where it would be. */
static struct open_flow **open_place(const struct metrics *m, uint64_t id)
{
	struct open_flow **p = open_slot(m, id);

	while (*p && (*p)->id != id)
		p = &(*p)->next;
	return p;
}

static struct open_flow *open_find(const struct metrics *m, uint64_t id)
{
	return m->n_slots ? *open_place(m, id) : NULL;
}

/* To @n_slots, a power of two. */
static int open_resize(struct metrics *m, size_t n_slots)
{
	struct open_flow **old = m->open, **slots = calloc(n_slots, sizeof(struct open_flow *));
	size_t n_old = m->n_slots;

	if (!slots)
		return -ENOMEM;
	m->open = slots;
	m->n_slots = n_slots;
	for (size_t i = 0; i < n_old; i++) {
		struct open_flow *next;

		for (struct open_flow *f = old[i]; f; f = next) {
			next = f->next;
			f->next = *open_slot(m, f->id);
			*open_slot(m, f->id) = f;
		}
	}
	free(old);
	return 0;
}

static void open_free(struct open_flow *f)
{
	vm_unref(f->vm);
	flow_peer_unref(f->peer);
	free(f);
}

static void open_drop(struct metrics *m, struct open_flow *f)
{
	*open_place(m, f->id) = f->next;
	m->n_open--;
	open_free(f);
	/* When a wave of them has gone, so does its table; without memory it stays. */
	if (m->n_slots > OPEN_FIRST_SLOTS && m->n_open < m->n_slots / 8)
		(void)!open_resize(m, m->n_slots / 4);
}

static size_t end_size(bool v4)
{
	return (v4 ? sizeof(struct in_addr) : sizeof(struct ip)) + sizeof(uint16_t);
}

static void put_end(struct open_flow *f, size_t i, const struct ip_port *end)
{
	size_t size = end_size(f->v4), n_ip = size - sizeof(end->port);

	memcpy(f->ends + i * size, end->ip.b + sizeof(end->ip.b) - n_ip, n_ip);
	memcpy(f->ends + i * size + n_ip, &end->port, sizeof(end->port));
}

static struct ip_port get_end(const struct open_flow *f, size_t i)
{
	size_t size = end_size(f->v4), n_ip = size - sizeof(uint16_t);
	struct ip_port end = {};

	if (f->v4)
		end.ip = ip_from_v4(f->ends + i * size);
	else
		memcpy(end.ip.b, f->ends + i * size, n_ip);
	memcpy(&end.port, f->ends + i * size + n_ip, sizeof(end.port));
	return end;
}

static struct open_flow *open_new(const struct flow_report *r)
{
	bool v4 = ip_is_v4(&r->source.ip) && ip_is_v4(&r->destination.ip) && ip_is_v4(&r->upstream.ip);
	struct open_flow *f = calloc(1, offsetof(struct open_flow, ends) + ENDS * end_size(v4));

	if (!f)
		return NULL;
	f->v4 = v4;
	put_end(f, 0, &r->source);
	put_end(f, 1, &r->destination);
	put_end(f, 2, &r->upstream);
	return f;
}

static void open_add(struct metrics *m, const struct flow_report *r, struct series *s)
{
	struct open_flow *f = NULL;

	if (m->n_open < METRICS_OPEN_MAX && (m->n_open < m->n_slots || open_resize(m, MAX(m->n_slots * 2, (size_t)OPEN_FIRST_SLOTS)) == 0))
		f = open_new(r);
	if (!f) {
		m->untracked++;
		return;
	}
	f->id = r->id;
	f->series = s;
	f->start_ms = r->start_ms;
	f->vm = vm_ref(r->vm);
	f->peer = r->peer ? flow_peer_ref(r->peer) : NULL;
	f->inbound = r->direction == FLOW_INBOUND;
	f->hbone = r->hbone;
	f->next = *open_slot(m, f->id);
	*open_slot(m, f->id) = f;
	m->n_open++;
}

static void count_bytes(struct open_flow *f, const struct flow_report *r)
{
	f->series->counts[C_SENT] += r->bytes_received - f->received;
	f->series->counts[C_RECEIVED] += r->bytes_sent - f->sent;
	f->sent = r->bytes_sent;
	f->received = r->bytes_received;
}

/* The end of one that was not seen opening: it failed, or there were too many to follow. */
static void count_untracked(struct metrics *m, const struct flow_report *r, const struct metrics_self *self)
{
	struct series *s = series_of(m, r, self, result_flags[r->result]);

	if (r->result != FLOW_OK && !r->bytes_sent && !r->bytes_received) {
		s->counts[C_FAILED]++;
		return;
	}
	s->counts[C_CLOSED]++;
	s->counts[C_SENT] += r->bytes_received;
	s->counts[C_RECEIVED] += r->bytes_sent;
}

void metrics_report(struct metrics *m, const struct flow_report *r, const struct metrics_self *self)
{
	struct open_flow *f = open_find(m, r->id);

	if (r->event == FLOW_OPENED && !f) {
		struct series *s = series_of(m, r, self, NULL);

		s->counts[C_OPENED]++;
		open_add(m, r, s);
	} else if (r->event == FLOW_CLOSED && !f) {
		count_untracked(m, r, self);
	} else if (f) {
		count_bytes(f, r);
		if (r->event == FLOW_CLOSED) {
			f->series->counts[C_CLOSED]++;
			open_drop(m, f);
		}
	}
}

/* --- output --- */

int metrics_line(struct bytes *out, const char *name, const char *type, const char *label, const char *value, uint64_t v)
{
	int r = type ? bytes_appendf(out, "# TYPE %s %s\n", name, type) : 0;

	if (r == 0)
		r = bytes_append_str(out, name);
	if (r == 0 && label) {
		r = bytes_appendf(out, "{%s=\"", label);
		if (r == 0)
			r = escape(out, value);
		if (r == 0)
			r = bytes_append_str(out, "\"}");
	}
	return r < 0 ? r : bytes_appendf(out, " %llu\n", (unsigned long long)v);
}

static int write_counter(const struct metrics *m, enum counter c, struct bytes *out)
{
	int r = bytes_appendf(out, "# HELP %s %s\n# TYPE %s counter\n", counters[c].name, counters[c].help, counters[c].name);

	map_for_each(l, &m->series) {
		const struct series *s = container_of(l, struct series, link);

		if (r < 0)
			return r;
		if (s->counts[c] || (c < C_FAILED && s->counts[C_OPENED]))
			r = bytes_appendf(out, "%s{%s} %llu\n", counters[c].name, s->text, (unsigned long long)s->counts[c]);
	}
	return r;
}

int metrics_write(const struct metrics *m, struct bytes *out)
{
	int r = bytes_append_str(out, "# HELP istio_build Istio component build info\n# TYPE istio_build gauge\n"
				 "istio_build{component=\"outrigger-proxy\",tag=\"" OUTRIGGER_VERSION "\"} 1\n");

	for (int c = 0; c < _COUNTER_N && r == 0; c++)
		r = write_counter(m, (enum counter)c, out);
	if (r == 0)
		r = metrics_line(out, "istio_tcp_sockets_open", "gauge", NULL, NULL, m->n_open);
	if (r == 0)
		r = metrics_line(out, "outrigger_proxy_series", "gauge", NULL, NULL, m->series.n);
	if (r == 0)
		r = metrics_line(out, "outrigger_proxy_untracked_connections_total", "counter", NULL, NULL, m->untracked);
	return r;
}

size_t metrics_n_open(const struct metrics *m)
{
	return m->n_open;
}

static json_t *connection_json(const struct open_flow *f, int64_t now_ms)
{
	char source[IP_PORT_TEXT_LEN], destination[IP_PORT_TEXT_LEN], upstream[IP_PORT_TEXT_LEN];
	const struct ip_port ends[ENDS] = { get_end(f, 0), get_end(f, 1), get_end(f, 2) };

	return json_pack("{s:I s:s s:s s:s s:s s:s s:s s:b s:I s:I s:I}", "id", (json_int_t)f->id, "vm", f->vm->id,
			 "direction", f->inbound ? "inbound" : "outbound", "source", ip_port_format(&ends[0], source),
			 "destination", ip_port_format(&ends[1], destination), "upstream", ip_port_format(&ends[2], upstream),
			 "peer", f->peer ? f->peer->identity : "", "hbone", f->hbone, "bytes_sent", (json_int_t)f->sent,
			 "bytes_received", (json_int_t)f->received, "age_ms", (json_int_t)(now_ms - f->start_ms));
}

json_t *metrics_connections(const struct metrics *m, size_t max, int64_t now_ms)
{
	json_t *list = json_array();
	size_t n = 0;

	for (size_t i = 0; i < m->n_slots && n < max && list; i++)
		for (const struct open_flow *f = m->open[i]; f && n < max && list; f = f->next, n++)
			if (json_array_append_new(list, connection_json(f, now_ms)) < 0) {
				json_decref(list);
				list = NULL;
			}
	return list;
}

int metrics_new(struct metrics **ret_metrics)
{
	struct metrics *m = calloc(1, sizeof(*m));
	const char *values[_LABEL_N];

	if (!m)
		return -ENOMEM;
	map_init(&m->series);
	for (int i = 0; i < _LABEL_N; i++)
		values[i] = "_other";
	m->other = series_get(m, values);
	if (!m->other) {
		metrics_free(m);
		return -ENOMEM;
	}
	*ret_metrics = m;
	return 0;
}

struct metrics *metrics_free(struct metrics *m)
{
	if (!m)
		return NULL;
	for (size_t i = 0; i < m->n_slots; i++)
		for (struct open_flow *f = m->open[i], *next; f; f = next) {
			next = f->next;
			open_free(f);
		}
	map_for_each(s, &m->series) {
		map_remove(&m->series, s);
		free(container_of(s, struct series, link));
	}
	free(m->open);
	map_deinit(&m->series);
	free(m);
	return NULL;
}
