/*
 * Helpers of the model's decoders.
 */
#include "mesh/model_decode.h"

#include <errno.h>
#include <string.h>

#include "mesh/pb.h"

enum { MODEL_ARENA_MAX = 4 * 1024 * 1024 };

int model_owner_new(const ProtobufCMessageDescriptor *type, const void *data, size_t len,
		    struct model_owner **ret_owner, struct diag *reterr_diag)
{
	struct model_owner *o = calloc(1, sizeof(*o));
	int r = -ENOMEM;

	if (o)
		r = arena_new(MODEL_ARENA_MAX, &o->arena);
	if (r == 0)
		r = pb_unpack(type, data, len, 0, &o->message);
	if (r == 0) {
		*ret_owner = o;
		return 0;
	}
	model_owner_free(o);
	if (r == -EBADMSG)
		return diag_set(reterr_diag, "not a %s", type->name);
	if (r == -E2BIG)
		return diag_set(reterr_diag, "%s: nested too deeply or too large", type->name);
	return r;
}

struct model_owner *model_owner_free(struct model_owner *o)
{
	if (!o)
		return NULL;
	pb_free(o->message);
	arena_free(o->arena);
	free(o);
	return NULL;
}

int model_check_text(const char *field, const char *text, struct diag *reterr_diag)
{
	if (strlen(text) > MODEL_NAME_MAX)
		return diag_set(reterr_diag, "%s: longer than %d bytes", field, MODEL_NAME_MAX);
	for (const char *c = text; *c; c++)
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			return diag_set(reterr_diag, "%s: has a control character", field);
	return 0;
}

int model_check_name(const char *field, const char *text, struct diag *reterr_diag)
{
	if (!*text)
		return diag_set(reterr_diag, "%s: empty", field);
	return model_check_text(field, text, reterr_diag);
}

int model_check_list(const char *field, size_t n, struct diag *reterr_diag)
{
	if (n > MODEL_LIST_MAX)
		return diag_set(reterr_diag, "%s: %zu elements, at most %d are taken", field, n, MODEL_LIST_MAX);
	return 0;
}

int model_ip(const char *field, const ProtobufCBinaryData *data, struct ip *ret_ip, struct diag *reterr_diag)
{
	if (data->len == 4)
		*ret_ip = ip_from_v4(data->data);
	else if (data->len == 16)
		*ret_ip = ip_from_v6(data->data);
	else
		return diag_set(reterr_diag, "%s: an address of %zu bytes", field, data->len);
	return 0;
}

int model_prefix(const char *field, const ProtobufCBinaryData *data, uint32_t length,
		 struct ip_prefix *ret_prefix, struct diag *reterr_diag)
{
	struct ip ip;
	int r = model_ip(field, data, &ip, reterr_diag);

	if (r < 0)
		return r;
	if (length > data->len * 8)
		return diag_set(reterr_diag, "%s: a prefix length of %u for an address of %zu bits", field, length, data->len * 8);
	*ret_prefix = (struct ip_prefix){ ip, (uint8_t)(128 - data->len * 8 + length) };
	return 0;
}
