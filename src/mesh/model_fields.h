#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"
#include "mesh/model_decode.h"
#include "mesh/pb_wire.h"

/*
 * How istio.workload.Address is read: a table for each message, in which the
 * row under a field's number says where it goes. Numbers without a row are
 * stepped over. For model_address.c alone.
 *
 * The bytes must be the arena's own: texts stay where they are, and are ended
 * with a zero in place, for which the length in front of them makes room. Behind
 * the message there are MODEL_ROOM more, which may be read.
 *
 * All return 0, -EINVAL with the reason, or -ENOMEM.
 */

enum { MODEL_ROOM = 8 };

/* One decoding at hand. */
struct model_decode {
	struct arena *arena;
	struct diag *diag;
};

struct model_row;

/* @rest: the message behind the field. @to: where the row says. */
typedef int model_take_fn(struct model_decode *d, const struct model_row *row, const struct pb_field *f, const struct wire *rest, void *to);

struct model_row {
	model_take_fn *take;		/* NULL: not of interest */
	enum pb_type type;
	const char *name;
	size_t offset;		/* in what the message is read into */
};

/* An array of one, as it nearly always is; from the second on with room for all that the rest of the message holds. */
struct model_list {
	void *data;
	size_t n;
	size_t size;
};

struct model_raw_address {
	const char *network;
	struct wire address;
	uint32_t length;
	bool has_length;
};

struct model_raw_gateway {
	const char *name;		/* the field it stands in; NULL: it does not */
	const char *namespace;
	const char *hostname;		/* NULL: not by name */
	struct model_raw_address address;	/* its network is NULL: not by address */
	uint32_t hbone_mtls_port;
};

/* --- values of rows --- */

MUST_CHECK int model_take_text(struct model_decode *d, const struct model_row *row, const struct pb_field *f, const struct wire *rest, void *to);
MUST_CHECK int model_take_u32(struct model_decode *d, const struct model_row *row, const struct pb_field *f, const struct wire *rest, void *to);
MUST_CHECK int model_take_bool(struct model_decode *d, const struct model_row *row, const struct pb_field *f, const struct wire *rest, void *to);

/* Into a struct model_list of texts that are not empty, or of ports as they are. */
MUST_CHECK int model_take_texts(struct model_decode *d, const struct model_row *row, const struct pb_field *f, const struct wire *rest, void *to);
MUST_CHECK int model_take_port(struct model_decode *d, const struct model_row *row, const struct pb_field *f, const struct wire *rest, void *to);

/* Into a struct model_raw_gateway. */
MUST_CHECK int model_take_gateway(struct model_decode *d, const struct model_row *row, const struct pb_field *f, const struct wire *rest, void *to);

#define MODEL_TEXT(strukt, field)	{ model_take_text, PB_BYTES, #field, offsetof(struct strukt, field) }
#define MODEL_U32(strukt, field)	{ model_take_u32, PB_VARINT, #field, offsetof(struct strukt, field) }

/* --- what they are made of --- */

int model_malformed(const struct model_decode *d);
MUST_CHECK int model_take_message(struct model_decode *d, const struct model_row *rows, size_t n_rows, struct wire body, void *to);
MUST_CHECK int model_take_address(struct model_decode *d, struct wire body, struct model_raw_address *ret_address);

/* Room for one more element, of which @f is the next and @rest what comes behind it. */
MUST_CHECK int model_list_grow(struct model_decode *d, const struct model_row *row, const struct pb_field *f, const struct wire *rest,
			       struct model_list *l, size_t element, void **ret_at);

MUST_CHECK int model_check_named(const char *field, const char *text, struct diag *reterr_diag);	/* not empty */
MUST_CHECK int model_check_enum(const char *field, uint32_t value, uint32_t end, struct diag *reterr_diag);
MUST_CHECK int model_check_ports(struct model_decode *d, const char *field, const struct model_list *raw, const struct port_map **ret_ports);
MUST_CHECK int model_check_gateway(struct model_decode *d, const struct model_raw_gateway *in, struct model_gateway *ret_gateway);

ProtobufCBinaryData model_binary(const struct wire *w);
