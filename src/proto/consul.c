/*
 * Consul's HTTP API: see consul.h.
 */
#include "proto/consul.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "proto/json_body.h"

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* RFC 3986, section 2.1; what is no proper escape stays as it is. %00 does not decode. */
static bool percent_decode(const char *s, size_t len, bool plus, char *to, size_t size)
{
	size_t n = 0;

	for (size_t i = 0; i < len; i++) {
		char c = s[i];

		if (c == '%' && i + 2 < len && hex_digit(s[i + 1]) >= 0 && hex_digit(s[i + 2]) >= 0) {
			c = (char)(hex_digit(s[i + 1]) << 4 | hex_digit(s[i + 2]));
			i += 2;
		} else if (c == '+' && plus) {
			c = ' ';
		}
		if (!c || n + 1 >= size)
			return false;
		to[n++] = c;
	}
	to[n] = '\0';
	return true;
}

enum { WRITE = 1, READ = 2 };

/*
 * The calls. "*" stands for the argument, which may hold slashes where it ends
 * the path. Old clients write with GET too (python-consul 0.7.1 deregisters so):
 * whether that counts is for the answer to say.
 */
static const struct {
	const char *path;
	enum consul_call call;
	unsigned use;
} calls[] = {
	{ "agent/service/register",	CONSUL_AGENT_REGISTER,		WRITE },
	{ "agent/service/deregister/*",	CONSUL_AGENT_DEREGISTER,	WRITE },
	{ "agent/service/maintenance/*", CONSUL_AGENT_MAINTENANCE,	WRITE },
	{ "agent/check/register",	CONSUL_CHECK_REGISTER,		WRITE },
	{ "agent/check/deregister/*",	CONSUL_CHECK_DEREGISTER,	WRITE },
	{ "agent/check/pass/*",		CONSUL_CHECK_PASS,		WRITE },
	{ "agent/check/warn/*",		CONSUL_CHECK_WARN,		WRITE },
	{ "agent/check/fail/*",		CONSUL_CHECK_FAIL,		WRITE },
	{ "agent/check/update/*",	CONSUL_CHECK_UPDATE,		WRITE },
	{ "catalog/register",		CONSUL_CATALOG_REGISTER,	WRITE },
	{ "catalog/deregister",		CONSUL_CATALOG_DEREGISTER,	WRITE },
	{ "txn",			CONSUL_TXN,			WRITE },
	{ "health/service/*",		CONSUL_GET_HEALTH_SERVICE,	READ },
	{ "health/connect/*",		CONSUL_GET_HEALTH_SERVICE,	READ },
	{ "health/ingress/*",		CONSUL_GET_HEALTH_SERVICE,	READ },
	{ "health/checks/*",		CONSUL_GET_CHECKS,		READ },
	{ "health/state/*",		CONSUL_GET_STATE,		READ },
	{ "catalog/service/*",		CONSUL_GET_CATALOG_SERVICE,	READ },
	{ "catalog/connect/*",		CONSUL_GET_CATALOG_SERVICE,	READ },
	{ "catalog/services",		CONSUL_GET_CATALOG_SERVICES,	READ },
	{ "agent/services",		CONSUL_GET_AGENT_SERVICES,	READ },
	{ "agent/health/service/name/*", CONSUL_GET_AGENT_HEALTH,	READ },
	{ "agent/service/*",		CONSUL_GET_AGENT_SERVICE,	READ },
	{ "query/*/execute",		CONSUL_GET_QUERY,		READ },
};

/* Does @path (len bytes) match @pattern; where is the argument? */
static bool path_matches(const char *pattern, const char *path, size_t len, const char **ret_arg, size_t *ret_n_arg)
{
	const char *star = strchr(pattern, '*');
	size_t head = star ? (size_t)(star - pattern) : strlen(pattern);
	size_t tail = star ? strlen(star + 1) : 0;

	*ret_arg = path;
	*ret_n_arg = 0;
	if (len < head || memcmp(path, pattern, head) != 0)
		return false;
	if (!star)
		return len == head;
	if (len <= head + tail || memcmp(path + len - tail, star + 1, tail) != 0)
		return false;
	*ret_arg = path + head;
	*ret_n_arg = len - head - tail;
	return true;
}

enum consul_call consul_call_parse(const char *method, const char *path, char ret_arg[static CONSUL_MAX_ARG])
{
	bool get = strcmp(method, "GET") == 0;
	bool write = get || strcmp(method, "PUT") == 0 || strcmp(method, "POST") == 0 || strcmp(method, "DELETE") == 0;
	size_t len = strlen(path);
	const char *arg;
	size_t n_arg;

	ret_arg[0] = '\0';
	if (len < 4 || memcmp(path, "/v1/", 4) != 0)
		return CONSUL_OTHER;
	path += 4;
	len -= 4;
	while (len && path[len - 1] == '/')
		len--;
	for (size_t i = 0; i < ELEMENTS(calls); i++) {
		if (!path_matches(calls[i].path, path, len, &arg, &n_arg))
			continue;
		if (calls[i].use == READ ? !get : !write)
			return CONSUL_OTHER;
		return percent_decode(arg, n_arg, false, ret_arg, CONSUL_MAX_ARG) ? calls[i].call : CONSUL_OTHER;
	}
	return CONSUL_OTHER;
}

bool consul_query_get(const char *query, const char *key, char *ret_value, size_t size)
{
	size_t n_key = strlen(key);

	while (*query) {
		size_t n = strcspn(query, "&");

		if (n >= n_key && memcmp(query, key, n_key) == 0 && (n == n_key || query[n_key] == '=')) {
			size_t skip = n == n_key ? n : n_key + 1;

			return percent_decode(query + skip, n - skip, true, ret_value, size);
		}
		query += query[n] ? n + 1 : n;
	}
	return false;
}

static uint32_t consul_duration_s(const char *text)
{
	static const struct { const char *unit; double s; } units[] = {
		{ "ns", 1e-9 }, { "us", 1e-6 }, { "ms", 1e-3 }, { "s", 1 }, { "m", 60 }, { "h", 3600 },
	};
	double sum = 0;

	if (!text || !*text || *text == '-')
		return 0;
	while (*text) {
		char *end;
		double n = strtod(text, &end);
		size_t len = strcspn(end, "0123456789.");
		size_t u = 0;

		while (u < ELEMENTS(units) && (strlen(units[u].unit) != len || memcmp(units[u].unit, end, len) != 0))
			u++;
		if (end == text || u == ELEMENTS(units) || !(n >= 0) || n > 1e9)
			return 0;
		sum += n * units[u].s;
		text = end + len;
	}
	if (!(sum < (double)UINT32_MAX - 1))
		return 0;
	uint32_t whole = (uint32_t)sum;
	return (double)whole < sum ? whole + 1 : whole;
}

enum consul_status consul_status_parse(const char *text)
{
	if (!text)
		return CONSUL_STATUS_UNKNOWN;
	if (strcasecmp(text, "passing") == 0 || strcasecmp(text, "pass") == 0)
		return CONSUL_STATUS_PASSING;
	if (strcasecmp(text, "warning") == 0 || strcasecmp(text, "warn") == 0)
		return CONSUL_STATUS_WARNING;
	if (strcasecmp(text, "critical") == 0 || strcasecmp(text, "fail") == 0 || strcasecmp(text, "maintenance") == 0)
		return CONSUL_STATUS_CRITICAL;
	return CONSUL_STATUS_UNKNOWN;
}

const char *consul_check_id(const json_t *check)
{
	static const char *const keys[] = { "CheckID", "check_id", "ID", "Name" };
	const char *s = NULL;

	for (size_t i = 0; i < ELEMENTS(keys) && !s; i++)
		s = json_body_str(check, keys[i]);
	return s;
}

struct check_sum {
	size_t n;
	size_t n_udp;
};

/* @service: the check counts only when it is of that instance, or says nothing of it. */
static void add_check(struct consul_instance *i, const json_t *check, struct check_sum *sum)
{
	const char *of = json_body_str(check, "ServiceID");
	uint32_t ttl = consul_duration_s(json_body_str(check, "TTL"));
	enum consul_status s = consul_status_parse(json_body_str(check, "Status"));

	if (!json_is_object(check) || (of && i->id && strcmp(of, i->id) != 0))
		return;
	sum->n++;
	sum->n_udp += json_body_str(check, "UDP") != NULL;
	if (ttl && (!i->ttl_s || ttl < i->ttl_s))
		i->ttl_s = ttl;
	if (s > i->status)
		i->status = s;
}

static void add_checks(struct consul_instance *i, const json_t *o)
{
	const json_t *list = json_body_get(o, "Checks");
	struct check_sum sum = {};

	add_check(i, json_body_get(o, "Check"), &sum);
	for (size_t n = 0; n < json_array_size(list); n++)
		add_check(i, json_array_get(list, n), &sum);
	i->udp = sum.n && sum.n == sum.n_udp;
}

static const json_t *typed(const json_t *v, json_type type)
{
	return v && json_typeof(v) == type ? v : NULL;
}

/* Name and id stand for each other; false: it has neither. */
static bool settle_names(struct consul_instance *i)
{
	if (!i->service)
		i->service = i->id;
	if (!i->id)
		i->id = i->service;
	return i->service;
}

bool consul_instance_agent(const json_t *o, struct consul_instance *ret_i)
{
	const char *name = json_body_str(o, "Service");
	struct consul_instance i = { .service = name ? name : json_body_str(o, "Name"), .id = json_body_str(o, "ID") };

	if (!settle_names(&i))
		return false;
	i.address = json_body_str(o, "Address");
	i.port = json_body_port(o, "Port");
	i.kind = json_body_str(o, "Kind");
	i.meta = typed(json_body_get(o, "Meta"), JSON_OBJECT);
	i.tags = typed(json_body_get(o, "Tags"), JSON_ARRAY);
	add_checks(&i, o);
	*ret_i = i;
	return true;
}

bool consul_instance_catalog(const json_t *o, struct consul_instance *ret_i)
{
	struct consul_instance i;

	if (!consul_instance_agent(json_body_get(o, "Service"), &i))
		return false;
	i.node = json_body_str(o, "Node");
	if (!i.address)
		i.address = json_body_str(o, "Address");
	add_checks(&i, o);
	*ret_i = i;
	return true;
}

bool consul_instance_health(const json_t *o, struct consul_instance *ret_i)
{
	const json_t *node = json_body_get(o, "Node");
	struct consul_instance i;

	if (!consul_instance_agent(json_body_get(o, "Service"), &i))
		return false;
	i.node = json_body_str(node, "Node");
	if (!i.address)
		i.address = json_body_str(node, "Address");
	add_checks(&i, o);
	if (!i.status)
		i.status = consul_status_parse(json_body_str(o, "AggregatedStatus"));
	*ret_i = i;
	return true;
}

bool consul_instance_flat(const json_t *o, struct consul_instance *ret_i)
{
	struct consul_instance i = { .service = json_body_str(o, "ServiceName"), .id = json_body_str(o, "ServiceID") };

	if (!settle_names(&i))
		return false;
	i.node = json_body_str(o, "Node");
	i.address = json_body_str(o, "ServiceAddress");
	if (!i.address)
		i.address = json_body_str(o, "Address");
	i.port = json_body_port(o, "ServicePort");
	i.kind = json_body_str(o, "ServiceKind");
	i.meta = typed(json_body_get(o, "ServiceMeta"), JSON_OBJECT);
	i.tags = typed(json_body_get(o, "ServiceTags"), JSON_ARRAY);
	i.status = consul_status_parse(json_body_str(o, "Status"));
	*ret_i = i;
	return true;
}
