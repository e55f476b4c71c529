/*
 * "Bearer ...", and what goes with it.
 */
#include "mesh/bearer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKEN_MAX = 16 * 1024 };

static const char scheme[] = "Bearer ";

int bearer_from_token(const char *token, char **ret_text)
{
	size_t len = strnlen(token, TOKEN_MAX + 1);
	size_t size = sizeof(scheme) + len;
	char *text;

	if (len > TOKEN_MAX)
		return -EINVAL;
	text = malloc(size);
	if (!text)
		return -ENOMEM;
	snprintf(text, size, "%s%s", scheme, token);
	*ret_text = text;
	return 0;
}

size_t bearer_metadata(const char *authorization, const char *cluster_id, struct grpc_metadata metadata[static 2])
{
	size_t n = 0;

	if (!authorization)
		return 0;
	metadata[n++] = (struct grpc_metadata){ "authorization", authorization };
	if (cluster_id)
		metadata[n++] = (struct grpc_metadata){ "clusterid", cluster_id };
	return n;
}
