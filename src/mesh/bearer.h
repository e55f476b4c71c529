#pragma once
#include <stddef.h>
#include "base/defs.h"
#include "mesh/grpc.h"

/*
 * A token as callers show it: the value of "authorization" (RFC 6750, section
 * 2.1). For secret_free(). -EINVAL: longer than any token is, -ENOMEM.
 */
MUST_CHECK int bearer_from_token(const char *token, char **ret_text);

/*
 * What a call to the mesh controller carries: the token, and "clusterid", the
 * cluster whose API server istiod is to ask about it. That is a word about the
 * token (istiod reads it for nothing else, ztunnel sends both or none): without
 * one nothing is sent. Either may be NULL. Returns how many of @metadata were
 * written; they borrow the texts.
 */
size_t bearer_metadata(const char *authorization, const char *cluster_id, struct grpc_metadata metadata[static 2]);
