/*
 * The parts of istio.workload.Address: rows, lists, ports, gateways.
 */
#include "mesh/model_fields.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

int model_malformed(const struct model_decode *d)
{
	return diag_set(d->diag, "not a istio.workload.Address");
}

int model_take_message(struct model_decode *d, const struct model_row *rows, size_t n_rows, struct wire body, void *to)
{
	struct pb_field f;

	while (pb_next(&body, &f)) {
		const struct model_row *row = f.number < n_rows ? &rows[f.number] : NULL;
		int r;

		if (!row || !row->take)
			continue;
		if (row->type != f.type)
			return model_malformed(d);
		r = row->take(d, row, &f, &body, (char *)to + row->offset);
		if (r < 0)
			return r;
	}
	return body.bad ? model_malformed(d) : 0;
}

/* --- simple fields --- */

static char *text_of(const struct pb_field *f)
{
	size_t len = wire_left(&f->bytes);
	char *text = (char *)(uintptr_t)f->bytes.pos - 1;	/* over the last byte of its length */

	memmove(text, text + 1, len);
	text[len] = 0;
	return text;
}

enum { EIGHT = sizeof(uint64_t) };

/* Hacker's Delight, 6-1, a byte of eight in its high bit: below ' ', or 0x7f, which is zero once that is taken from it. */
static uint64_t controls(uint64_t v)
{
	const uint64_t ones = 0x0101010101010101, high = 0x8080808080808080;
	uint64_t del = v ^ ones * 0x7f;

	return (((v - ones * ' ') & ~v) | ((del - ones) & ~del)) & high;
}

static bool has_control(const uint8_t *p, size_t len)
{
	uint64_t found = 0, v;

	for (; len >= EIGHT; p += EIGHT, len -= EIGHT) {
		memcpy(&v, p, EIGHT);
		found |= controls(v);
	}
	memcpy(&v, p, EIGHT);		/* there is room behind the message */
	return found | (controls(le64toh(v)) & (((uint64_t)1 << 8 * len) - 1));
}

int model_take_text(struct model_decode *d, const struct model_row *row, const struct pb_field *f, const struct wire *rest, void *to)
{
	(void)rest;
	if (wire_left(&f->bytes) > MODEL_NAME_MAX)
		return diag_set(d->diag, "%s: longer than %d bytes", row->name, MODEL_NAME_MAX);
	if (has_control(f->bytes.pos, wire_left(&f->bytes)))
		return diag_set(d->diag, "%s: has a control character", row->name);
	*(const char **)to = text_of(f);
	return 0;
}

int model_take_u32(struct model_decode *d, const struct model_row *row, const struct pb_field *f, const struct wire *rest, void *to)
{
	(void)d;
	(void)row;
	(void)rest;
	*(uint32_t *)to = (uint32_t)f->value;
	return 0;
}

int model_take_bool(struct model_decode *d, const struct model_row *row, const struct pb_field *f, const struct wire *rest, void *to)
{
	(void)d;
	(void)row;
	(void)rest;
	*(bool *)to = f->value != 0;
	return 0;
}

static int take_slice(struct model_decode *d, const struct model_row *row, const struct pb_field *f, const struct wire *rest, void *to)
{
	(void)d;
	(void)row;
	(void)rest;
	*(struct wire *)to = f->bytes;
	return 0;
}

int model_check_enum(const char *field, uint32_t value, uint32_t end, struct diag *d)
{
	return value < end ? 0 : diag_set(d, "%s: unknown value %d", field, (int)value);
}

int model_check_named(const char *field, const char *text, struct diag *d)
{
	return *text ? 0 : diag_set(d, "%s: empty", field);
}

ProtobufCBinaryData model_binary(const struct wire *w)
{
	return (ProtobufCBinaryData){ wire_left(w), (uint8_t *)(uintptr_t)w->pos };
}

/* --- lists --- */

static size_t count(struct wire rest, uint32_t number)
{
	struct pb_field f;
	size_t n = 0;

	while (pb_next(&rest, &f))
		n += f.number == number;
	return n;
}

/* Room for one more element, of which @f is the next. */
int model_list_grow(struct model_decode *d, const struct model_row *row, const struct pb_field *f, const struct wire *rest, struct model_list *l,
		     size_t element, void **ret_at)
{
	if (l->n == l->size) {
		size_t size = l->n ? l->n + 1 + count(*rest, f->number) : 1;
		int r = model_check_list(row->name, size, d->diag);
		void *data;

		if (r < 0)
			return r;
		data = arena_alloc(d->arena, size, element);
		if (!data)
			return -ENOMEM;
		if (l->n)
			memcpy(data, l->data, l->n * element);
		l->data = data;
		l->size = size;
	}
	*ret_at = (char *)l->data + l->n++ * element;
	return 0;
}

int model_take_texts(struct model_decode *d, const struct model_row *row, const struct pb_field *f, const struct wire *rest, void *to)
{
	void *at;
	int r = model_list_grow(d, row, f, rest, to, sizeof(char *), &at);

	if (r == 0)
		r = model_take_text(d, row, f, rest, at);
	return r < 0 ? r : model_check_named(row->name, *(const char **)at, d->diag);
}

/* --- ports --- */

struct model_raw_port {
	uint32_t service_port;
	uint32_t target_port;
	uint32_t app_protocol;
};

static const struct model_row port_rows[] = {
	[1] = MODEL_U32(model_raw_port, service_port), [2] = MODEL_U32(model_raw_port, target_port), [3] = MODEL_U32(model_raw_port, app_protocol),
};

/* As they come; model_check_ports() knows whose they are. */
int model_take_port(struct model_decode *d, const struct model_row *row, const struct pb_field *f, const struct wire *rest, void *to)
{
	void *at;
	int r = model_list_grow(d, row, f, rest, to, sizeof(struct model_raw_port), &at);

	return r < 0 ? r : model_take_message(d, port_rows, ELEMENTS(port_rows), f->bytes, at);
}

int model_check_ports(struct model_decode *d, const char *field, const struct model_list *raw, const struct port_map **ret_ports)
{
	struct port_map *ports = arena_alloc(d->arena, raw->n, sizeof(*ports));

	if (!ports)
		return -ENOMEM;
	for (size_t i = 0; i < raw->n; i++) {
		const struct model_raw_port *p = &((const struct model_raw_port *)raw->data)[i];

		if (!p->service_port || p->service_port > 65535 || p->target_port > 65535)
			return diag_set(d->diag, "%s: port %u to %u is out of range", field, p->service_port, p->target_port);
		ports[i] = (struct port_map){
			.service_port = (uint16_t)p->service_port,
			.target_port = (uint16_t)p->target_port,
			.app_protocol = p->app_protocol < (uint32_t)_APP_PROTOCOL_N ? (uint8_t)p->app_protocol : APP_UNKNOWN,
		};
	}
	*ret_ports = ports;
	return 0;
}

/* --- addresses and gateways --- */

static int take_length(struct model_decode *d, const struct model_row *row, const struct pb_field *f, const struct wire *rest, void *to)
{
	struct model_raw_address *a = to;

	(void)d;
	(void)row;
	(void)rest;
	a->length = (uint32_t)f->value;
	a->has_length = true;
	return 0;
}

static const struct model_row address_rows[] = {
	[1] = MODEL_TEXT(model_raw_address, network),
	[2] = { take_slice, PB_BYTES, "address", offsetof(struct model_raw_address, address) },
	[3] = { take_length, PB_VARINT, "length", 0 },
};

int model_take_address(struct model_decode *d, struct wire body, struct model_raw_address *ret_address)
{
	*ret_address = (struct model_raw_address){ .network = "" };
	return model_take_message(d, address_rows, ELEMENTS(address_rows), body, ret_address);
}

static const struct model_row host_rows[] = { [1] = MODEL_TEXT(model_raw_gateway, namespace), [2] = MODEL_TEXT(model_raw_gateway, hostname) };

/* Of its two destinations the last one counts. */
static int take_gateway_host(struct model_decode *d, const struct model_row *row, const struct pb_field *f, const struct wire *rest, void *to)
{
	struct model_raw_gateway *g = to;

	(void)row;
	(void)rest;
	g->address = (struct model_raw_address){};
	g->namespace = g->hostname = "";
	return model_take_message(d, host_rows, ELEMENTS(host_rows), f->bytes, g);
}

static int take_gateway_address(struct model_decode *d, const struct model_row *row, const struct pb_field *f, const struct wire *rest, void *to)
{
	struct model_raw_gateway *g = to;

	(void)row;
	(void)rest;
	g->namespace = g->hostname = NULL;
	return model_take_address(d, f->bytes, &g->address);
}

static const struct model_row gateway_rows[] = {
	[1] = { take_gateway_host, PB_BYTES, "hostname", 0 },
	[2] = { take_gateway_address, PB_BYTES, "address", 0 },
	[3] = MODEL_U32(model_raw_gateway, hbone_mtls_port),
};

int model_take_gateway(struct model_decode *d, const struct model_row *row, const struct pb_field *f, const struct wire *rest, void *to)
{
	struct model_raw_gateway *g = to;

	(void)rest;
	g->name = row->name;
	return model_take_message(d, gateway_rows, ELEMENTS(gateway_rows), f->bytes, g);
}

int model_check_gateway(struct model_decode *d, const struct model_raw_gateway *in, struct model_gateway *ret_gateway)
{
	struct model_gateway g = { .network = "" };
	ProtobufCBinaryData address = model_binary(&in->address.address);
	int r = 0;

	if (!in->name) {		/* none was sent, as for nearly all */
		*ret_gateway = g;
		return 0;
	}
	if (in->hbone_mtls_port > 65535)
		return diag_set(d->diag, "%s: port %u is out of range", in->name, in->hbone_mtls_port);
	g.hbone_port = (uint16_t)in->hbone_mtls_port;
	if (in->hostname) {
		g.namespace = in->namespace;
		g.hostname = in->hostname;
		r = model_check_named(in->name, g.hostname, d->diag);
	} else if (in->address.network) {
		g.network = in->address.network;
		r = model_ip(in->name, &address, &g.ip, d->diag);
	} else {			/* a kind that we do not know, perhaps: without it, traffic would go past the gateway */
		r = diag_set(d->diag, "%s: has no destination", in->name);
	}
	if (r == 0)
		*ret_gateway = g;
	return r;
}
