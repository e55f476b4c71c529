/*
 * Paths of ZooKeeper nodes, as far as they name services: see zk_instance.h.
 */
#include "proto/zk_instance.h"

#include <stdio.h>
#include <string.h>

#include "base/defs.h"

static int hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

void zk_unescape(char *s)
{
	char *to = s;

	for (; *s; s++) {
		if (s[0] == '%' && hex(s[1]) >= 0 && hex(s[2]) >= 0) {
			*to++ = (char)(hex(s[1]) << 4 | hex(s[2]));
			s += 2;
		} else {
			*to++ = *s;
		}
	}
	*to = '\0';
}

struct element {
	const char *p;
	size_t len;
};

enum { MAX_ELEMENTS = 32 };

static size_t split(const char *path, struct element *e)
{
	size_t n = 0;

	while (*path && n < MAX_ELEMENTS) {
		size_t len;

		path += strspn(path, "/");
		len = strcspn(path, "/");
		if (len)
			e[n++] = (struct element){ path, len };
		path += len;
	}
	return n;
}

static bool is_one_of(struct element e, const char *const *names, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (strlen(names[i]) == e.len && strncmp(e.p, names[i], e.len) == 0)
			return true;
	return false;
}

/* Directories that hold instances of the service above them. */
static bool is_generic(struct element e)
{
	static const char *const names[] = {
		"services", "providers", "instances", "members", "nodes", "servers", "hosts", "endpoints", "live", "alive",
		"live_nodes", "rs",
	};

	return is_one_of(e, names, ELEMENTS(names));
}

/* Directories that hold services. */
static bool is_base(struct element e)
{
	static const char *const names[] = {
		"services", "service", "nerve", "discovery", "registry", "serverset", "serversets", "service-discovery", "rpc",
		"microservices", "soa",
	};

	return is_one_of(e, names, ELEMENTS(names));
}

static bool element_is(struct element e, const char *name)
{
	return is_one_of(e, &name, 1);
}

static bool is_brokers(const struct element *e, size_t n)
{
	return n >= 2 && element_is(e[n - 1], "ids") && element_is(e[n - 2], "brokers");
}

void zk_dir_service(const char *dir, char ret_service[static ZK_INSTANCE_MAX_NAME])
{
	struct element e[MAX_ELEMENTS];
	size_t n = split(dir, e);

	ret_service[0] = '\0';
	if (is_brokers(e, n)) {
		snprintf(ret_service, ZK_INSTANCE_MAX_NAME, "kafka");
		return;
	}
	if (n >= 2 && is_generic(e[n - 1]) && !is_generic(e[n - 2]))
		n--;
	if (n)
		snprintf(ret_service, ZK_INSTANCE_MAX_NAME, "%.*s", (int)e[n - 1].len, e[n - 1].p);
	zk_unescape(ret_service);	/* Dubbo writes an inner class as Outer%24Inner */
}

bool zk_dir_is_dubbo_other(const char *dir)
{
	static const char *const names[] = { "consumers", "configurators", "routers" };
	struct element e[MAX_ELEMENTS];
	size_t n = split(dir, e);

	return n >= 2 && is_one_of(e[n - 1], names, ELEMENTS(names));
}

bool zk_dir_is_service(const char *dir)
{
	struct element e[MAX_ELEMENTS];
	size_t n = split(dir, e);
	size_t base = 0;

	if (is_brokers(e, n) || (n >= 3 && element_is(e[n - 1], "providers")))
		return true;
	while (base < n && !is_base(e[base]))
		base++;
	while (base < n && is_base(e[base]))
		base++;
	if (base < n && is_generic(e[n - 1]))
		n--;
	return base > 0 && base + 1 == n;
}

void zk_path_dir(const char *path, char *ret_dir, size_t size)
{
	const char *slash = strrchr(path, '/');

	snprintf(ret_dir, size, "%.*s", slash ? (int)(slash - path) : 0, path);
}
