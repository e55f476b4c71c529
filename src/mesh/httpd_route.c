/*
 * Requests and replies of the small HTTP server: routes, parameters, JSON.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"
#include "mesh/httpd_conn.h"

static int hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static char *httpd_decode(const char *text, size_t len, bool segment)
{
	CLEANUP_FREE char *out = malloc(len + 1);
	size_t n = 0;

	for (size_t i = 0; out && i < len; i++) {
		char c = text[i];

		if (c == '%') {
			int high = len - i > 2 ? hex(text[i + 1]) : -1;
			int low = high < 0 ? -1 : hex(text[i + 2]);

			if (low < 0)
				return NULL;
			c = (char)(high << 4 | low);
			i += 2;
		} else if (c == '+' && !segment) {
			c = ' ';
		}
		if (!c || (segment && c == '/'))
			return NULL;
		out[n++] = c;
	}
	if (out)
		out[n] = 0;
	return steal_ptr(&out);
}

void httpd_params_free(struct httpd_request *req)
{
	for (size_t i = 0; i < req->n_params; i++)
		free(req->params[i].value);
	req->n_params = 0;
}

/* The pattern's "{name}" without its braces is found again by httpd_param(). */
static bool take_param(struct httpd_request *req, const char *name, const char *value, size_t len, bool segment)
{
	char *decoded;

	if (req->n_params == HTTPD_MAX_PARAMS || (segment && !len))
		return false;
	decoded = httpd_decode(value, len, segment);
	if (!decoded)
		return false;
	req->params[req->n_params++] = (struct httpd_param){ name, decoded };
	return true;
}

static bool match(const char *pattern, struct httpd_request *req)
{
	const char *path = req->path;

	httpd_params_free(req);
	while (*pattern) {
		size_t len = strcspn(path, "/");

		if (*pattern != '{') {
			if (*pattern++ != *path++)
				return false;
			continue;
		}
		const char *end = strchr(pattern, '}');
		bool rest = end[-1] == '*';

		if (!take_param(req, pattern + 1, path, rest ? strlen(path) : len, !rest))
			return false;
		path += rest ? strlen(path) : len;
		pattern = end + 1;
	}
	return !*path;
}

const struct httpd_route *httpd_route_find(struct httpd *h, struct httpd_request *req)
{
	const char *method = !strcmp(req->method, "HEAD") ? "GET" : req->method;
	bool path_known = false;

	for (size_t i = 0; i < h->options.n_routes; i++) {
		const struct httpd_route *route = &h->options.routes[i];

		if (!match(route->pattern, req))
			continue;
		if (!strcmp(route->method, method))
			return route;
		path_known = true;
	}
	if (path_known)
		httpd_reply_error(req, 405, "%s is not possible here", req->method);
	else
		httpd_reply_error(req, 404, "there is nothing at %s", req->path);
	return NULL;
}

const char *httpd_param(const struct httpd_request *req, const char *name)
{
	size_t len = strlen(name);

	for (size_t i = 0; i < req->n_params; i++)
		if (!strncmp(req->params[i].name, name, len) && (req->params[i].name[len] == '}' || req->params[i].name[len] == '*'))
			return req->params[i].value;
	return NULL;
}

char *httpd_query(const struct httpd_request *req, const char *name)
{
	size_t n_name = strlen(name);

	for (const char *p = req->query; *p;) {
		size_t len = strcspn(p, "&");

		if (len > n_name && !strncmp(p, name, n_name) && p[n_name] == '=')
			return httpd_decode(p + n_name + 1, len - n_name - 1, false);
		if (len == n_name && !strncmp(p, name, n_name))
			return strdup("");
		p += len;
		p += *p == '&';
	}
	return NULL;
}

json_t *httpd_body_json(struct httpd_request *req)
{
	json_error_t error;
	json_t *json = json_loadb(req->body, req->n_body, JSON_REJECT_DUPLICATES, &error);

	if (json_is_object(json))
		return json;
	if (json)
		httpd_reply_error(req, 400, "the body is not a JSON object");
	else
		httpd_reply_error(req, 400, "the body is not JSON: line %d: %s", error.line, error.text);
	json_decref(json);
	return NULL;
}

void httpd_reply_json(struct httpd_request *req, int status, json_t *json)
{
	CLEANUP_FREE char *text = json ? utf8_json(json_dumps(json, JSON_INDENT(2) | JSON_ENCODE_ANY)) : NULL;

	json_decref(json);
	if (!text) {
		httpd_reply(req, 500, "application/json", "{\"error\": \"out of memory\"}\n", 27);
		return;
	}
	size_t len = strlen(text);
	text[len] = '\n';		/* in place of the zero */
	httpd_reply(req, status, "application/json", text, len + 1);
}

void httpd_reply_error(struct httpd_request *req, int status, const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);

	json_t *message = json_string(text);
	if (!message)		/* not UTF-8: a path may be anything */
		message = json_string("bad request");
	httpd_reply_json(req, status, json_pack("{s:o}", "error", message));
}
