/*
 * The command's way to agent and controller: libcurl and jansson.
 */
#include "ctl/client.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"

const char *client_agent(void)
{
	const char *set = getenv("OUTRIGGER_AGENT");

	return set && *set ? set : "/run/outrigger/agent.sock";
}

const char *client_controller(void)
{
	const char *set = getenv("OUTRIGGER_CONTROLLER");

	return set && *set ? set : "unix:/run/outrigger/controller.sock";
}

static size_t take_answer(char *data, size_t size, size_t n, void *to)
{
	return bytes_append(to, data, size * n) < 0 ? 0 : size * n;
}

static void free_list(struct curl_slist **l)
{
	curl_slist_free_all(*l);
}

static void end_curl(CURL **c)
{
	if (*c)
		curl_easy_cleanup(*c);
}

/* Fills in the URL, and the socket where it is one. */
static void aim(CURL *c, const char *to, const char *path, char *url, size_t n_url)
{
	const char *sock = !strncmp(to, "unix:", 5) ? to + 5 : to[0] == '/' ? to : NULL;

	if (sock)
		curl_easy_setopt(c, CURLOPT_UNIX_SOCKET_PATH, sock);
	snprintf(url, n_url, "%s%s", sock ? "http://localhost" : to, path);
	curl_easy_setopt(c, CURLOPT_URL, url);
	curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, (long)CLIENT_TIMEOUT_MS);
	curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(c, CURLOPT_NOPROXY, "*");
}

static struct curl_slist *headers(const struct client_target *t, bool with_body)
{
	struct curl_slist *l = curl_slist_append(NULL, "Accept: application/json");
	char auth[4096];

	if (with_body)
		l = curl_slist_append(l, "Content-Type: application/json");
	if (t->token) {
		snprintf(auth, sizeof(auth), "Authorization: Bearer %s", t->token);
		l = curl_slist_append(l, auth);
	}
	return l;
}

static int parse_answer(const struct bytes *answer, long status, const char *to, json_t **ret_json, struct diag *reterr_diag)
{
	json_error_t error;
	json_t *json = json_loadb(answer->len ? (const char *)answer->data : "null", answer->len ? answer->len : 4, JSON_DECODE_ANY, &error);
	const char *why = json_string_value(json_object_get(json, "error"));

	if (status >= 400) {
		diag_set(reterr_diag, "%s: %s (HTTP %ld)", to, why ? why : "refused", status);
		json_decref(json);
		return -EINVAL;
	}
	if (!json)
		return diag_set(reterr_diag, "%s: the answer is no JSON: %s at byte %d", to, error.text, error.position);
	*ret_json = json;
	return (int)status;
}

/* libcurl speaks of port 80 where it was a socket: what the kernel said is better. */
static const char *reason(CURL *c, CURLcode r, const char *why)
{
	long os_errno = 0;

	if (r == CURLE_COULDNT_CONNECT)
		curl_easy_getinfo(c, CURLINFO_OS_ERRNO, &os_errno);
	if (os_errno)
		return strerror((int)os_errno);
	return why[0] ? why : curl_easy_strerror(r);
}

int client_call(const struct client_target *t, const char *to, const char *method, const char *path, json_t *body,
		json_t **ret_json, struct diag *reterr_diag)
{
	CURL *c CLEANUP(end_curl) = curl_easy_init();
	struct curl_slist *head CLEANUP(free_list) = headers(t, body != NULL);
	struct bytes answer CLEANUP(bytes_deinit);
	char *text CLEANUP_FREE = body ? json_dumps(body, JSON_COMPACT) : NULL;
	char url[2048], why[CURL_ERROR_SIZE] = "";
	long status = 0;

	bytes_init(&answer, CLIENT_MAX_ANSWER);
	if (!c || !head || (body && !text))
		return diag_set(reterr_diag, "out of memory");
	aim(c, to, path, url, sizeof(url));
	curl_easy_setopt(c, CURLOPT_ERRORBUFFER, why);
	curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, method);
	curl_easy_setopt(c, CURLOPT_HTTPHEADER, head);
	curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, take_answer);
	curl_easy_setopt(c, CURLOPT_WRITEDATA, &answer);
	if (text)
		curl_easy_setopt(c, CURLOPT_POSTFIELDS, text);
	if (t->ca_file)
		curl_easy_setopt(c, CURLOPT_CAINFO, t->ca_file);

	CURLcode r = curl_easy_perform(c);
	if (r != CURLE_OK)
		return diag_set(reterr_diag, "%s: %s", to, reason(c, r, why));
	curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &status);
	return parse_answer(&answer, status, to, ret_json, reterr_diag);
}
