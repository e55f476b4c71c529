/*
 * "Bearer ...".
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
