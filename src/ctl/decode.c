/*
 * outrigger decode: the agent's own decoders, run over a capture file.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include "base/ip.h"
#include "base/opt.h"
#include "base/utf8.h"
#include "ctl/command.h"
#include "ctl/commands.h"
#include "discover/engine.h"
#include "proto/pcapfile.h"

enum { MAX_PORT_OPTIONS = 64 };

struct decode {
	bool json;
	bool stats;
	bool has_guest;
	struct ip_prefix guest;
	struct {
		char protocol[16];
		uint16_t port;
	} ports[MAX_PORT_OPTIONS];
	size_t n_ports;

	const char *path;
	uint64_t n_bad;			/* frames that could not be decoded */
	bool no_memory;
};

/* ---- output ---- */

static json_t *string_or_null(const char *s)
{
	return s && *s ? json_string(s) : json_null();
}

static json_t *number_or_null(uint64_t n)
{
	return n ? json_integer((json_int_t)n) : json_null();
}

static json_t *address_or_null(const struct ip *a)
{
	char text[IP_TEXT_LEN];

	return ip_is_none(a) ? json_null() : json_string(ip_format(a, text));
}

/* An address, or the host name that was given for one. */
static json_t *place_or_null(const struct observation *o)
{
	return o->host ? string_or_null(o->host) : address_or_null(&o->address);
}

static json_t *metadata_of(const struct observation *o)
{
	json_t *all = json_object();

	for (size_t i = 0; all && i < o->n_metadata; i++)
		json_object_set_new(all, o->metadata[i].key, json_string(o->metadata[i].value));
	return all;
}

static void print_json(struct decode *d, const struct observation *o)
{
	json_t *line = json_pack("{s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:I}",
		"kind", observation_kind_name(o->kind),
		"protocol", o->protocol,
		"service", string_or_null(o->service),
		"instance", string_or_null(o->instance),
		"address", place_or_null(o),
		"port", number_or_null(o->port),
		"transport", string_or_null(o->transport),
		"ttl_s", number_or_null(o->ttl_s),
		"health", string_or_null(observation_health_name(o->health)),
		"metadata", metadata_of(o),
		"guest", address_or_null(&o->guest),
		"frame", (json_int_t)o->frame);

	CLEANUP_FREE char *text = line ? utf8_json(json_dumps(line, JSON_COMPACT)) : NULL;

	if (text)
		puts(text);
	else
		d->no_memory = true;
	json_decref(line);
}

/* "orders" as it is, "Web on vm-a" in quotes. */
static void print_word(const char *key, const char *value)
{
	bool quoted;

	if (!value || !*value)
		return;
	quoted = strpbrk(value, " \"=");
	printf("  %s%s%s%s", key, quoted ? "\"" : "", value, quoted ? "\"" : "");
}

/* A line stays a line that people can read: --json has all of it. */
static void print_metadata(const struct observation *o)
{
	enum { MAX_VALUE = 60, MAX_SHOWN = 12 };
	char key[OBS_MAX_STR + 2], value[MAX_VALUE + 8];

	for (size_t i = 0; i < MIN(o->n_metadata, (size_t)MAX_SHOWN); i++) {
		snprintf(key, sizeof(key), "%s=", o->metadata[i].key);
		snprintf(value, sizeof(value), "%.*s%s", MAX_VALUE, o->metadata[i].value, strlen(o->metadata[i].value) > MAX_VALUE ? "..." : "");
		print_word(key, value);
	}
	if (o->n_metadata > MAX_SHOWN)
		printf("  and %zu more", o->n_metadata - MAX_SHOWN);
}

static void print_text(const struct observation *o)
{
	char guest[IP_TEXT_LEN], address[IP_TEXT_LEN], endpoint[OBS_MAX_STR + 16] = "";

	if (o->host)
		snprintf(endpoint, sizeof(endpoint), "%s", o->host);
	else if (!ip_is_none(&o->address))
		snprintf(endpoint, sizeof(endpoint), ip_is_v4(&o->address) ? "%s" : "[%s]", ip_format(&o->address, address));
	if (o->port)
		snprintf(endpoint + strlen(endpoint), sizeof(endpoint) - strlen(endpoint), ":%u", o->port);
	printf("%6" PRIu64 "  %-10s  %-9s  %-15s  %-28s  %-21s", o->frame, observation_kind_name(o->kind), o->protocol,
	       ip_is_none(&o->guest) ? "-" : ip_format(&o->guest, guest), o->service ? o->service : "-",
	       endpoint[0] ? endpoint : "-");
	print_word("", o->transport);
	print_word("app=", o->app_protocol);
	print_word("id=", o->instance);
	if (o->ttl_s)
		printf("  ttl=%us", o->ttl_s);
	print_word("health=", observation_health_name(o->health));
	print_metadata(o);
	putchar('\n');
}

static void on_observation(const struct observation *o, void *data)
{
	struct decode *d = data;

	if (d->json)
		print_json(d, o);
	else
		print_text(o);
}

/* ---- the file ---- */

static int complain(const struct decode *d, const struct pcapfile *p, int r)
{
	fflush(stdout);
	switch (r) {
	case PCAPFILE_E_UNKNOWN:
		fprintf(stderr, "outrigger decode: %s: neither pcap nor pcapng: it begins with%s", d->path, p->size ? "" : " nothing: it is empty");
		for (size_t i = 0; i < 4 && i < p->size; i++)
			fprintf(stderr, " %02x", p->data[i]);
		fputc('\n', stderr);
		break;
	case PCAPFILE_E_TRUNCATED:
		fprintf(stderr, "outrigger decode: %s: the file ends within frame %" PRIu64 ", which begins at offset %zu\n",
			d->path, p->n_frames + 1, p->frame_offset);
		break;
	case PCAPFILE_E_LINK:
		fprintf(stderr, "outrigger decode: %s: frame %" PRIu64 ": link type %u is not known\n", d->path, p->n_frames, p->bad_link);
		break;
	default:
		fprintf(stderr, "outrigger decode: %s: malformed at offset %zu, after frame %" PRIu64 "\n",
			d->path, p->frame_offset, p->n_frames);
		break;
	}
	return COMMAND_FAILED;
}

typedef void take_fn(struct decode *d, struct engine *e, const struct engine_frame *f);

/* All frames to @take; stops where the file is bad. Other link types are left out, and told at the end. */
static int each_frame(const void *data, size_t size, struct engine *e, take_fn *take, struct decode *d, struct pcapfile *p)
{
	int r = pcapfile_open(p, data, size);
	int result = r;

	while (r == 0 || r == PCAPFILE_E_LINK) {
		struct pcapfile_frame f;
		struct engine_frame ef;

		r = pcapfile_next(p, &f);
		if (r == PCAPFILE_E_LINK)
			result = r;
		if (r)
			continue;
		ef = (struct engine_frame){ f.data, f.len, f.wire_len, f.link, f.number, f.time_ns };
		take(d, e, &ef);
	}
	return r == PCAPFILE_E_END ? result : r;
}

static void learn(struct decode *d, struct engine *e, const struct engine_frame *f)
{
	(void)d;
	engine_learn(e, f);
}

static void decode(struct decode *d, struct engine *e, const struct engine_frame *f)
{
	if (engine_frame(e, f))
		d->n_bad++;
}

static int decode_data(struct decode *d, struct engine *e, const void *data, size_t size)
{
	struct pcapfile p;
	int r;

	each_frame(data, size, e, learn, d, &p);	/* what is wrong the second pass says, after what could be decoded */
	r = each_frame(data, size, e, decode, d, &p);
	engine_flush(e);
	if (r)
		return complain(d, &p, r);
	if (d->no_memory || fflush(stdout) || ferror(stdout)) {
		fprintf(stderr, "outrigger decode: cannot write: %s\n", d->no_memory ? strerror(ENOMEM) : strerror(errno));
		return COMMAND_FAILED;
	}
	return COMMAND_OK;
}

static int decode_file(struct decode *d, struct engine *e)
{
	CLEANUP_FD int fd = open(d->path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	void *data = NULL;
	int r;

	if (fd < 0 || fstat(fd, &st) < 0) {
		fprintf(stderr, "outrigger decode: %s: %s\n", d->path, strerror(errno));
		return COMMAND_FAILED;
	}
	if (!S_ISREG(st.st_mode)) {
		fprintf(stderr, "outrigger decode: %s: not a regular file\n", d->path);
		return COMMAND_FAILED;
	}
	if (st.st_size) {
		data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
		if (data == MAP_FAILED) {
			fprintf(stderr, "outrigger decode: %s: %s\n", d->path, strerror(errno));
			return COMMAND_FAILED;
		}
	}
	r = decode_data(d, e, data, (size_t)st.st_size);
	if (data)
		munmap(data, (size_t)st.st_size);
	return r;
}

static void print_stats(struct engine *e)
{
	const struct engine_stats *s = engine_stats(e);
	const struct { const char *name; uint64_t n; } rows[] = {
		{ "frames", s->packets }, { "malformed", s->malformed }, { "fragments", s->fragments },
		{ "put together", s->put_together }, { "ignored", s->ignored },
		{ "datagrams", s->datagrams }, { "datagrams cut", s->datagrams_cut }, { "segments", s->segments },
		{ "duplicates", s->duplicates }, { "reordered", s->reordered }, { "out of window", s->out_of_window },
		{ "gaps", s->gaps }, { "gap bytes", s->gap_bytes }, { "no room", s->no_room }, { "no memory", s->no_memory },
		{ "flows", s->flows }, { "flows evicted", s->flows_evicted }, { "guests evicted", s->guests_evicted },
		{ "streams crowded", s->streams_crowded }, { "observations", s->observations },
	};

	fflush(stdout);
	for (size_t i = 0; i < ELEMENTS(rows); i++)
		if (rows[i].n)
			fprintf(stderr, "%-15s %" PRIu64 "\n", rows[i].name, rows[i].n);
}

/* ---- options ---- */

static int on_guest(void *target, const char *value, struct diag *reterr_diag)
{
	struct decode *d = target;

	if (ip_prefix_parse(value, &d->guest) < 0)
		return diag_set(reterr_diag, "'%s' is no address or prefix", value);
	d->has_guest = true;
	return 0;
}

static int on_port(void *target, const char *value, struct diag *reterr_diag)
{
	struct decode *d = target;
	const char *equals = strchr(value, '=');
	unsigned port;
	int r;

	if (!equals || (size_t)(equals - value) >= sizeof(d->ports[0].protocol))
		return diag_set(reterr_diag, "'%s' is not of the form PROTOCOL=PORT", value);
	if (d->n_ports == MAX_PORT_OPTIONS)
		return diag_set(reterr_diag, "more than %d of them", MAX_PORT_OPTIONS);
	r = opt_uint(equals + 1, 1, 65535, &port, reterr_diag);
	if (r < 0)
		return r;
	snprintf(d->ports[d->n_ports].protocol, sizeof(d->ports[0].protocol), "%.*s", (int)(equals - value), value);
	if (!discover_protocol_by_name(d->ports[d->n_ports].protocol))
		return diag_set(reterr_diag, "'%s': no such protocol", d->ports[d->n_ports].protocol);
	d->ports[d->n_ports++].port = (uint16_t)port;
	return 0;
}

static const struct opt opts[] = {
	{ 'j', "json", OPT_FLAG, offsetof(struct decode, json), .help = "a JSON object a line" },
	{ 'g', "guest", OPT_CALL, .value = "ADDR[/LEN]", .help = "only what these guests say and are told", .call = on_guest },
	{ 'p', "port", OPT_CALL, .value = "PROTO=PORT", .help = "another port of a protocol; may be repeated", .call = on_port },
	{ 0, "stats", OPT_FLAG, offsetof(struct decode, stats), .help = "counters, on standard error" },
};

static int set_up(const struct decode *d, struct engine *e)
{
	engine_allow_missing_requests(e);
	if (d->has_guest)
		engine_only_guest(e, &d->guest);
	for (size_t i = 0; i < d->n_ports; i++) {
		int r = engine_add_port(e, d->ports[i].protocol, d->ports[i].port);

		if (r < 0) {
			fprintf(stderr, "outrigger decode: too many ports of %s: the limit is %d\n", d->ports[i].protocol, ENGINE_MAX_PORTS);
			return COMMAND_USAGE;
		}
	}
	return COMMAND_OK;
}

static int run(int argc, char **argv)
{
	static const struct opt_spec spec = {
		.usage = "outrigger decode [OPTION]... FILE",
		.summary = "Prints the registrations, lookups and answers of service discovery in a capture file (pcap, pcapng), one a line.",
		.details = "Protocols: consul, dns, mdns, zookeeper. Columns: frame, kind, protocol, guest, service, endpoint, more.\n"
			   "Exit code 1 when the file is cut short or malformed; what came before that is printed.",
		.opts = opts, .n_opts = ELEMENTS(opts), .min_args = 1, .max_args = 1,
	};
	struct decode d = {};
	struct engine *e;
	unsigned n_args;
	int r = command_options(&spec, argc, argv, &d, &n_args);

	if (r >= 0)
		return r;
	d.path = argv[1];
	r = engine_new(NULL, on_observation, &d, &e);
	if (r < 0) {
		fprintf(stderr, "outrigger decode: %s\n", strerror(-r));
		return COMMAND_FAILED;
	}
	r = set_up(&d, e);
	if (r == COMMAND_OK)
		r = decode_file(&d, e);
	if (d.stats)
		print_stats(e);
	engine_free(e);
	return r;
}

const struct command command_decode = { "decode", "print the service discovery in a capture file", run };
