/*
 * The REST API: its routes, who may use them, and its description.
 */
#include "control/rest.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/log.h"

static void get_roots(struct httpd_request *req)
{
	const struct server *s = req->data;

	httpd_reply_json(req, 200, json_pack("{s:s, s:s}", "trust_domain", s->config->trust_domain, "roots_pem",
					     authority_roots_pem(s->authority)));
}

static void get_discovery(struct httpd_request *req)
{
	httpd_reply_json(req, 200, issuer_discovery(((const struct server *)req->data)->issuer));
}

static void get_jwks(struct httpd_request *req)
{
	CLEANUP_FREE char *text = issuer_jwks(((const struct server *)req->data)->issuer);

	if (text)
		httpd_reply(req, 200, "application/jwk-set+json", text, strlen(text));
	else
		httpd_reply_error(req, 500, "out of memory");
}

static void get_openapi(struct httpd_request *req);

const struct httpd_route rest_routes[] = {
	{ "GET", "/v1/status", rest_get_status, "How the controller is doing." },
	{ "GET", "/v1/nics", rest_get_nics, "NICs that are enrolled, and their sessions." },
	{ "POST", "/v1/nics/{id}/revoke", rest_revoke_nic, "Trusts a NIC no more: its session ends at once. Body: {\"reason\"}." },
	{ "GET", "/v1/guests", rest_get_guests, "VMs, as the NICs report them." },
	{ "POST", "/v1/guests/{id*}", rest_drain_guest, "Body {\"action\": \"drain\", \"drain_ms\"}: has the NIC drain a guest's proxy." },
	{ "GET", "/v1/services", rest_get_services, "What VMs claim to offer, with verdict, proxy and times, and Services and Pods of the mesh (kind). ?name= picks one." },
	{ "GET", "/v1/workloads", rest_get_workloads, "Workloads of the mesh, and the services with their endpoints." },
	{ "GET", "/v1/proxies", rest_get_proxies, "The VMs' service proxies." },
	{ "GET", "/v1/policies", rest_get_policies, "Onboarding and authorization policies in force." },
	{ "GET", "/v1/streams", rest_get_streams, "Discovery streams that are open." },
	{ "GET", "/v1/explain/{service}", rest_get_explain, "The chain from a packet to the mesh for every instance of a service." },
	{ "GET", "/v1/check", rest_get_check, "What is wrong with the installation, as the controller sees it." },
	{ "GET", "/v1/tokens", rest_get_tokens, "Join tokens, without their secrets." },
	{ "POST", "/v1/tokens", rest_create_token,
	  "Body {\"nic\", \"ttl_s\", \"note\"}: a join token. Body {\"workload\": \"namespace/account\", \"ttl_s\", \"audience\"}: a workload's token." },
	{ "DELETE", "/v1/tokens/{id}", rest_revoke_token, "Revokes a join token." },
	{ "POST", "/v1/tokens/{id}/revoke", rest_revoke_token, "The same." },
	{ "GET", "/v1/certificates", rest_get_certificates, "Certificates that were issued, the newest first. ?max= (default 100)." },
	{ "POST", "/v1/reload", rest_reload, "Reads the configuration file again." },
	{ "GET", "/v1/roots", get_roots, "Trust roots (PEM)." },
	{ "GET", "/v1/openapi.json", get_openapi, "This API." },
	{ "GET", "/metrics", rest_get_metrics, "Prometheus." },
	{ "GET", "/.well-known/openid-configuration", get_discovery, "OIDC discovery." },
	{ "GET", "/jwks.json", get_jwks, "Keys of the issuer." },
};
const size_t rest_n_routes = ELEMENTS(rest_routes);

/* --- openapi --- */

static json_t *parameters_of(const char *pattern)
{
	json_t *list = json_array();

	for (const char *p = strchr(pattern, '{'); p; p = strchr(p + 1, '{')) {
		size_t len = strcspn(p + 1, "*}");

		if (json_array_append_new(list, json_pack("{s:s%, s:s, s:b, s:{s:s}}", "name", p + 1, len, "in", "path", "required", 1,
							  "schema", "type", "string")) < 0)
			break;
	}
	return list;
}

/* "/v1/guests/{id*}" is "/v1/guests/{id}" there. */
static void path_for_openapi(const char *pattern, char *out, size_t size)
{
	size_t n = 0;

	for (; *pattern && n + 1 < size; pattern++)
		if (*pattern != '*')
			out[n++] = *pattern;
	out[n] = 0;
}

static void get_openapi(struct httpd_request *req)
{
	json_t *paths = json_object();

	for (size_t i = 0; i < rest_n_routes; i++) {
		const struct httpd_route *r = &rest_routes[i];
		char path[128], method[8];

		path_for_openapi(r->pattern, path, sizeof(path));
		for (size_t k = 0; k <= strlen(r->method) && k < sizeof(method); k++)
			method[k] = (char)(r->method[k] >= 'A' && r->method[k] <= 'Z' ? r->method[k] | 0x20 : r->method[k]);
		json_t *item = json_object_get(paths, path);
		if (!item) {
			item = json_object();
			if (json_object_set_new(paths, path, item) < 0)
				break;
		}
		if (json_object_set_new(item, method, json_pack("{s:s, s:o, s:{s:{s:s}, s:{s:s}}}", "summary", r->doc, "parameters",
								parameters_of(r->pattern), "responses", "200", "description",
								"JSON (text for /metrics)", "default", "description",
								"{\"error\": \"what is wrong\"}")) < 0)
			break;
	}
	httpd_reply_json(req, 200, json_pack("{s:s, s:{s:s, s:s}, s:o}", "openapi", "3.0.3", "info", "title", "outrigger-controller",
					     "version", OUTRIGGER_VERSION, "paths", paths));
}

/* --- who may --- */

static bool has_token(const struct server *s, const struct httpd_request *req)
{
	size_t len = s->rest_token ? strlen(s->rest_token) : 0;

	return len && !strncasecmp(req->authorization, "Bearer ", 7) && strlen(req->authorization + 7) == len &&
	       !CRYPTO_memcmp(req->authorization + 7, s->rest_token, len);
}

/* Everybody may know these: verifiers of tokens. */
static bool is_public(const char *path)
{
	return !strcmp(path, "/jwks.json") || !strcmp(path, "/.well-known/openid-configuration");
}

static int admit(const struct httpd_request *req)
{
	const struct server *s = req->data;
	bool reads = (!strcmp(req->method, "GET") || !strcmp(req->method, "HEAD")) && strcmp(req->path, "/v1/tokens") != 0;

	if (req->peer.is_unix)
		return req->peer.uid == 0 || req->peer.uid == geteuid() ? 0 : 403;
	if (has_token(s, req) || is_public(req->path))
		return 0;
	if (!s->rest_token && reads && ip_is_loopback(&req->peer.addr.ip))
		return 0;
	return s->rest_token ? 401 : 403;
}

static int load_token(struct server *s, struct diag *d)
{
	const char *path = s->config->listen.rest_token_file;
	size_t size = 0;
	FILE *f;

	if (!path)
		return 0;
	f = fopen(path, "re");
	if (!f)
		return diag_at(d, path, 0, "%m");
	ssize_t n = getline(&s->rest_token, &size, f);
	fclose(f);
	if (n > 0)
		s->rest_token[strcspn(s->rest_token, "\r\n")] = 0;
	if (n < 17)
		return diag_at(d, path, 0, "a token of at least 16 characters is wanted in the first line");
	return 0;
}

int rest_start(struct server *s, struct tls_ctx *tls, struct diag *reterr_diag)
{
	const struct httpd_options options = {
		.routes = rest_routes, .n_routes = rest_n_routes, .data = s, .admit = admit, .max_connections = 256,
	};
	const struct config_listen *l = &s->config->listen;
	int r = load_token(s, reterr_diag);

	if (r == 0)
		r = httpd_new(s->loop, &options, &s->httpd);
	if (r == 0 && *l->rest_socket)
		r = httpd_listen_unix(s->httpd, l->rest_socket, 0660, reterr_diag);
	if (r == 0)
		r = httpd_listen_tcp(s->httpd, &l->rest, ip_is_loopback(&l->rest.ip) ? NULL : tls, reterr_diag);
	return r;
}
