/*
 * Service instances in ZooKeeper nodes: see zk_instance.h.
 */
#include "proto/zk_instance.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/defs.h"
#include "proto/json_body.h"

enum { MAX_PATH = 16 * 1024 };

static const char *last_element(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* Text that fits, or nothing: half a name would be another name. */
static void set(char to[static ZK_INSTANCE_MAX_NAME], const char *s, size_t len)
{
	if (len >= ZK_INSTANCE_MAX_NAME)
		len = 0;
	memcpy(to, s, len);
	to[len] = '\0';
}

static void add_meta(struct zk_instance *i, const char *key, char *value_owned)
{
	if (!value_owned || i->n_meta == ZK_INSTANCE_MAX_META) {
		free(value_owned);
		return;
	}
	i->keys[i->n_meta] = key;
	i->values[i->n_meta++] = value_owned;
}

void zk_instance_deinit(struct zk_instance *i)
{
	for (size_t n = 0; n < i->n_meta; n++)
		free(i->values[n]);
	json_decref(i->json);
	free(i->url);
	i->n_meta = 0;
	i->json = NULL;
	i->url = NULL;
}

static bool host_char(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '-' || c == '_';
}

/* "10.0.0.1:80", "[fd00::1]:80", "host.example:80" and nothing else. */
static bool host_port(const char *s, size_t len, struct zk_instance *i)
{
	const char *colon = memrchr(s, ':', len);
	size_t host = colon ? (size_t)(colon - s) : 0;
	unsigned port = 0;

	if (!host || colon + 1 == s + len || (size_t)(s + len - colon) > 6)
		return false;
	for (const char *d = colon + 1; d < s + len; d++) {
		if (*d < '0' || *d > '9')
			return false;
		port = port * 10 + (unsigned)(*d - '0');
	}
	if (!port || port > UINT16_MAX)
		return false;
	if (s[0] == '[' && s[host - 1] == ']') {
		s++;
		host -= 2;
	} else {
		for (size_t n = 0; n < host; n++)
			if (!host_char(s[n]))
				return false;
	}
	set(i->address, s, host);
	i->port = (uint16_t)port;
	return i->address[0];
}

/* "scheme://host:port/..." */
static bool url_endpoint(const char *s, size_t len, struct zk_instance *i)
{
	const char *sep = memmem(s, len, "://", 3);
	const char *authority = sep ? sep + 3 : s;
	size_t left = len - (size_t)(authority - s);
	size_t n = 0;

	if (!sep || sep == s || (size_t)(sep - s) >= sizeof(i->scheme))
		return false;
	while (n < left && !strchr("/?#", authority[n]))
		n++;
	if (!host_port(authority, n, i))
		return false;
	memcpy(i->scheme, s, (size_t)(sep - s));
	i->scheme[sep - s] = '\0';
	return true;
}

/* --- Dubbo: dubbo.apache.org, "registry/zookeeper": everything is in the node's name, percent-encoded --- */

/* The decoded URL of a node below .../INTERFACE/@category/. Owned by the caller. */
static char *dubbo_url(const char *path, const char *category)
{
	char dir[MAX_PATH];
	char *url;

	zk_path_dir(path, dir, sizeof(dir));
	if (strcmp(last_element(dir), category) != 0)
		return NULL;
	url = strdup(last_element(path));
	if (!url)
		return NULL;
	zk_unescape(url);
	if (!strstr(url, "://"))
		zk_unescape(url);		/* some encode twice */
	if (strstr(url, "://"))
		return url;
	free(url);
	return NULL;
}

static void dubbo_interface(const char *path, char to[static ZK_INSTANCE_MAX_NAME])
{
	char dir[MAX_PATH], above[MAX_PATH];
	const char *name;

	zk_path_dir(path, dir, sizeof(dir));
	zk_path_dir(dir, above, sizeof(above));
	name = last_element(above);
	set(to, name, strlen(name));
	zk_unescape(to);
}

static const char *meta_of(const struct zk_instance *i, const char *key)
{
	for (size_t n = 0; n < i->n_meta; n++)
		if (strcmp(i->keys[n], key) == 0)
			return i->values[n];
	return NULL;
}

/* The URL's parameters: the metadata. Splits @query in place. */
static void dubbo_parameters(struct zk_instance *i, char *query)
{
	char *save = NULL;

	for (char *pair = strtok_r(query, "&", &save); pair; pair = strtok_r(NULL, "&", &save)) {
		char *eq = strchr(pair, '=');

		if (!eq || eq == pair)
			continue;
		*eq = '\0';
		zk_unescape(pair);
		zk_unescape(eq + 1);
		add_meta(i, pair, strdup(eq + 1));
	}
}

static bool read_dubbo(const char *path, struct zk_instance *i)
{
	const char *group, *version;
	char *query;

	i->url = dubbo_url(path, "providers");
	if (!i->url || !url_endpoint(i->url, strlen(i->url), i))
		return false;
	query = strchr(i->url, '?');
	if (query)
		dubbo_parameters(i, query + 1);
	dubbo_interface(path, i->service);
	/* One process offers an interface in several groups and versions: an instance each. */
	group = meta_of(i, "group");
	version = meta_of(i, "version");
	if (version && strcmp(version, "0.0.0") == 0)
		version = NULL;
	if (snprintf(i->id, sizeof(i->id), "%s%s%s%s%s:%u%s%s", group ? group : "", group ? "/" : "", strchr(i->address, ':') ? "[" : "",
		     i->address, strchr(i->address, ':') ? "]" : "", i->port, version ? ":" : "", version ? version : "") >= (int)sizeof(i->id))
		return false;
	version = meta_of(i, "dynamic");
	i->lasting = version && strcmp(version, "false") == 0;
	return i->service[0];
}

bool zk_instance_read_consumer(const char *path, char ret_service[static ZK_INSTANCE_MAX_NAME])
{
	char *url = dubbo_url(path, "consumers");
	bool is = url && strncmp(url, "consumer://", 11) == 0;

	free(url);
	if (is)
		dubbo_interface(path, ret_service);
	return is && ret_service[0];
}

/* --- JSON --- */

static char *scalar_text(const json_t *v)
{
	char *s = NULL;

	if (json_is_string(v))
		return strdup(json_string_value(v));
	if (json_is_integer(v))
		return asprintf(&s, "%lld", (long long)json_integer_value(v)) < 0 ? NULL : s;
	if (json_is_boolean(v))
		return strdup(json_is_true(v) ? "true" : "false");
	return NULL;
}

/* Scalars of @o but those that were read for themselves. */
static void add_members(struct zk_instance *i, json_t *o)
{
	static const char *const known[] = {
		"@class", "name", "id", "address", "host", "hostname", "ip", "port", "registrationTimeUTC", "serviceType", "enabled", "status",
	};
	const char *key;
	json_t *v;

	json_object_foreach(o, key, v) {
		size_t n = 0;

		while (n < ELEMENTS(known) && strcmp(known[n], key) != 0)
			n++;
		if (n == ELEMENTS(known))
			add_meta(i, key, scalar_text(v));
	}
}

static void read_metadata(struct zk_instance *i)
{
	static const char *const inner[] = { "metadata", "meta" };
	json_t *payload = json_body_get(i->json, "payload");
	json_t *of = json_is_object(payload) ? payload : i->json;
	json_t *map = NULL;

	for (size_t n = 0; n < ELEMENTS(inner) && !json_is_object(map); n++)
		map = json_body_get(of, inner[n]);
	if (json_is_object(map))
		add_members(i, map);
	if (!json_is_object(map) || of == i->json)
		add_members(i, of);
	if (of != i->json && json_body_port(i->json, "sslPort"))
		add_meta(i, "sslPort", scalar_text(json_body_get(i->json, "sslPort")));
}

static void read_health(struct zk_instance *i)
{
	const char *status = meta_of(i, "instance_status");	/* Spring Cloud */

	if (!status)
		status = json_body_str(i->json, "status");	/* serverset */
	if (status && (strcasecmp(status, "UP") == 0 || strcasecmp(status, "ALIVE") == 0))
		i->health = ZK_HEALTH_UP;
	else if (status && (strcasecmp(status, "DOWN") == 0 || strcasecmp(status, "OUT_OF_SERVICE") == 0 || strcasecmp(status, "DEAD") == 0 ||
			    strcasecmp(status, "STOPPED") == 0 || strcasecmp(status, "STOPPING") == 0))
		i->health = ZK_HEALTH_DOWN;
	if (json_is_false(json_body_get(i->json, "enabled")))
		i->health = ZK_HEALTH_DOWN;
}

/* host and port, wherever such an object keeps them. */
static void read_endpoint(struct zk_instance *i, const json_t *o)
{
	static const char *const hosts[] = { "address", "host", "ip", "hostname", "ipAddress", "addr" };
	static const char *const urls[] = { "url", "uri", "endpoint" };
	const char *s = NULL;

	for (size_t n = 0; n < ELEMENTS(hosts) && !s; n++)
		s = json_body_str(o, hosts[n]);
	i->port = json_body_port(o, "port");
	if (s && (i->port || !host_port(s, strlen(s), i)))
		set(i->address, s, strlen(s));
	for (size_t n = 0; n < ELEMENTS(urls) && !i->port && !s; n++) {
		const char *url = json_body_str(o, urls[n]);

		if (url && !url_endpoint(url, strlen(url), i))
			host_port(url, strlen(url), i);
	}
	if (!i->port)
		i->port = json_body_port(o, "sslPort");
}

/* Kafka names its listeners, and only old ones in host and port. */
static void read_kafka_endpoint(struct zk_instance *i)
{
	const char *s = json_string_value(json_array_get(json_body_get(i->json, "endpoints"), 0));
	char listener[sizeof(i->scheme)];

	memcpy(listener, i->scheme, sizeof(listener));
	if (!i->port && s)
		url_endpoint(s, strlen(s), i);
	memcpy(i->scheme, listener, sizeof(listener));
}

static bool is_curator(const json_t *o)
{
	return json_body_get(o, "serviceType") || json_body_get(o, "registrationTimeUTC") || json_body_get(o, "uriSpec");
}

/*
 * "name" is the service when "id" is the instance, and in Curator's records; in
 * others it may be either (nerve: the instance), and the directory tells.
 */
static void read_names(struct zk_instance *i, const char *path)
{
	static const char *const services[] = { "service", "serviceName", "service_name" };
	const json_t *id = json_body_get(i->json, "id");
	const char *name = json_body_str(i->json, "name");
	CLEANUP_FREE char *text = scalar_text(id);
	char dir[MAX_PATH];

	zk_path_dir(path, dir, sizeof(dir));
	zk_dir_service(dir, i->service);
	if (name && strcmp(i->service, "kafka") != 0 && (is_curator(i->json) || json_is_string(id) || strrchr(dir, '/') == dir))
		set(i->service, name, strlen(name));
	for (size_t n = 0; n < ELEMENTS(services); n++)
		if (json_body_str(i->json, services[n]))
			set(i->service, json_body_str(i->json, services[n]), strlen(json_body_str(i->json, services[n])));
	set(i->id, text && *text ? text : last_element(path), strlen(text && *text ? text : last_element(path)));
}

static bool read_json(const char *path, const void *data, size_t len, struct zk_instance *i)
{
	const json_t *endpoint;
	const char *type;

	i->json = json_body_parse(data, len);
	if (!json_is_object(i->json))
		return false;
	endpoint = json_body_get(i->json, "serviceEndpoint");	/* serverset */
	read_endpoint(i, endpoint ? endpoint : i->json);
	if (json_body_get(i->json, "listener_security_protocol_map"))
		read_kafka_endpoint(i);
	if (!i->port && !(is_curator(i->json) && i->address[0]))
		return false;
	read_names(i, path);
	read_metadata(i);
	read_health(i);
	type = json_body_str(i->json, "serviceType");
	i->lasting = type && (strcmp(type, "STATIC") == 0 || strcmp(type, "PERMANENT") == 0);
	return i->service[0] && i->id[0];
}

/* --- host:port --- */

/* Locks and elections write the owner's address, too; these recipes of Curator and kazoo name their nodes so. */
bool zk_path_is_recipe(const char *path)
{
	static const char *const marks[] = {
		"-lock-", "-latch-", "-lease-", "__lock__", "__rlock__", "__READ__", "__WRIT__", "/locks/", "/lock/", "/election/",
		"/elections/", "/leader/", "/leaders/", "/latch/", "/mutex/", "/semaphore/",
	};

	for (size_t n = 0; n < ELEMENTS(marks); n++)
		if (strstr(path, marks[n]))
			return true;
	return strcmp(last_element(path), "leader") == 0 || strcmp(last_element(path), "master") == 0;
}

static bool named_by_path(const char *path, struct zk_instance *i)
{
	const char *name = last_element(path);
	char dir[MAX_PATH];

	zk_path_dir(path, dir, sizeof(dir));
	zk_dir_service(dir, i->service);
	set(i->id, name, strlen(name));
	return i->service[0] && i->id[0];
}

static bool read_text(const char *path, const char *data, size_t len, struct zk_instance *i)
{
	while (len && (data[len - 1] == '\n' || data[len - 1] == '\r' || data[len - 1] == ' ' || data[len - 1] == '\0'))
		len--;
	if (!len || len > 512 || (!url_endpoint(data, len, i) && !host_port(data, len, i)))
		return false;
	return named_by_path(path, i);
}

/* Digits alone, and more than none. */
static bool is_number(const char *s, size_t len)
{
	for (size_t n = 0; n < len; n++)
		if (s[n] < '0' || s[n] > '9')
			return false;
	return len;
}

/* Solr's live nodes: "10.0.0.1:8983_solr"; what follows the port is the path, escaped. */
static bool solr_name(const char *name, struct zk_instance *i)
{
	const char *colon = strrchr(name, ':');
	const char *end = colon ? strchr(colon, '_') : NULL;

	return end && host_port(name, (size_t)(end - name), i);
}

/* HBase's servers: "host,16020,1700000000000", the last the time of its start. */
static bool hbase_name(const char *name, struct zk_instance *i)
{
	const char *port = strchr(name, ',');
	const char *start = port ? strchr(port + 1, ',') : NULL;
	char text[ZK_INSTANCE_MAX_NAME];

	if (!start || !is_number(start + 1, strlen(start + 1)))
		return false;
	return snprintf(text, sizeof(text), "%.*s:%.*s", (int)(port - name), name, (int)(start - port - 1), port + 1) < (int)sizeof(text) &&
	       host_port(text, strlen(text), i);
}

static bool read_host_port_name(const char *path, struct zk_instance *i)
{
	const char *name = last_element(path);

	return (host_port(name, strlen(name), i) || solr_name(name, i) || hbase_name(name, i)) && named_by_path(path, i);
}

/* What a reader has left that did not succeed. */
static void forget(struct zk_instance *i)
{
	zk_instance_deinit(i);
	*i = (struct zk_instance){};
}

static bool finish(bool ok, struct zk_instance *i, struct zk_instance *ret_i)
{
	if (ok)
		*ret_i = *i;
	else
		zk_instance_deinit(i);
	return ok;
}

bool zk_instance_read(const char *path, const void *data, size_t len, struct zk_instance *ret_i)
{
	struct zk_instance i = {};

	if (strlen(path) >= MAX_PATH)
		return false;
	if (read_dubbo(path, &i))
		return finish(true, &i, ret_i);
	forget(&i);
	if (len && *(const char *)data == '{' && read_json(path, data, len, &i))
		return finish(is_curator(i.json) || !zk_path_is_recipe(path), &i, ret_i);
	forget(&i);
	if (zk_path_is_recipe(path))
		return false;
	if (len && read_text(path, data, len, &i))
		return finish(true, &i, ret_i);
	return read_host_port_name(path, &i) ? finish(true, &i, ret_i) : false;
}

bool zk_instance_read_name(const char *path, struct zk_instance *ret_i)
{
	return zk_instance_read(path, NULL, 0, ret_i);
}
