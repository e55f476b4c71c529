#pragma once
#include <protobuf-c/protobuf-c.h>
#include <stddef.h>
#include <stdint.h>
#include "base/arena.h"
#include "base/diag.h"
#include "base/ip.h"
#include "mesh/model.h"

/*
 * What the decoders of the model have in common: a decoded object owns the
 * protobuf message, in which its strings are, and an arena with its arrays.
 */
struct model_owner {
	ProtobufCMessage *message;
	struct arena *arena;
};

/* -EINVAL with the reason, -ENOMEM. */
MUST_CHECK int model_owner_new(const ProtobufCMessageDescriptor *type, const void *data, size_t len,
			       struct model_owner **ret_owner, struct diag *reterr_diag);
struct model_owner *model_owner_free(struct model_owner *o);	/* NULL is allowed */

/* Each checks one thing, and says what was wrong with which field. */
MUST_CHECK int model_check_text(const char *field, const char *text, struct diag *reterr_diag);	/* not too long */
MUST_CHECK int model_check_name(const char *field, const char *text, struct diag *reterr_diag);	/* nor empty */
MUST_CHECK int model_check_list(const char *field, size_t n, struct diag *reterr_diag);
MUST_CHECK int model_ip(const char *field, const ProtobufCBinaryData *data, struct ip *ret_ip, struct diag *reterr_diag);
/* @length: of the family's own form. */
MUST_CHECK int model_prefix(const char *field, const ProtobufCBinaryData *data, uint32_t length,
			    struct ip_prefix *ret_prefix, struct diag *reterr_diag);
