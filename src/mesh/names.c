/*
 * Mesh names out of what registrations and guests are called.
 */
#include "mesh/names.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { LABEL_MAX = 63 };

static bool is_alnum(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

static char lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
}

/*
 * Appends the label made of @text at @out; returns its length, 0 when nothing
 * is left of it, -EINVAL when it is too long.
 */
static int put_label(const char *text, size_t len, char out[static LABEL_MAX + 1])
{
	size_t n = 0;

	for (size_t i = 0; i < len; i++) {
		char c = lower(text[i]);

		if (n == LABEL_MAX)
			return -EINVAL;
		if (is_alnum(c))
			out[n++] = c;
		else if (n && out[n - 1] != '-')
			out[n++] = '-';
	}
	while (n && out[n - 1] == '-')
		n--;
	out[n] = 0;
	return (int)n;
}

int names_service_host(const char *service, const char *namespace, char ret_host[static NAMES_HOST_LEN])
{
	char host[NAMES_HOST_LEN + LABEL_MAX + 2], label[LABEL_MAX + 1];
	size_t n = 0;

	for (const char *p = service; *p;) {
		size_t len = strcspn(p, ".");
		int r = put_label(p, len, label);

		if (r < 0)
			return r;
		if (n + (size_t)r + 1 >= NAMES_HOST_LEN)
			return -EINVAL;
		if (r)
			n += (size_t)snprintf(host + n, sizeof(host) - n, "%s%s", n ? "." : "", label);
		p += len;
		p += *p == '.';
	}
	if (!n || put_label(namespace, strlen(namespace), label) <= 0 || strcmp(label, namespace) != 0)
		return -EINVAL;
	if (n + strlen(namespace) + strlen(NAMES_SUFFIX) + 2 >= NAMES_HOST_LEN)
		return -EINVAL;
	snprintf(ret_host, NAMES_HOST_LEN, "%.*s.%s.%s", (int)n, host, namespace, NAMES_SUFFIX);
	return 0;
}

int names_vm_uid(const char *guest_id, char ret_uid[static NAMES_UID_LEN])
{
	if (!*guest_id || strlen(guest_id) + strlen("vm/") >= NAMES_UID_LEN)
		return -EINVAL;
	snprintf(ret_uid, NAMES_UID_LEN, "vm/%s", guest_id);
	return 0;
}

int names_istio_uid(const char *cluster, const char *namespace, const char *group, const char *address, const char *network,
		    char ret_uid[static NAMES_UID_LEN])
{
	char uid[NAMES_UID_LEN];
	int n = snprintf(uid, sizeof(uid), "%s/networking.istio.io/WorkloadEntry/%s/%s-", cluster, namespace, group);

	if (n < 0 || n + strlen(address) + 1 + strlen(network) >= sizeof(uid))
		return -EINVAL;
	for (const char *p = address; *p; p++)
		uid[n++] = *p == ':' ? '-' : *p;
	snprintf(uid + n, sizeof(uid) - (size_t)n, "%s%s", *network ? "-" : "", network);
	snprintf(ret_uid, NAMES_UID_LEN, "%s", uid);
	return 0;
}

const char *names_vm_workload(const char *guest_name, const char *guest_id, char name[static NAMES_WORKLOAD_LEN])
{
	const char *slash = strrchr(guest_id, '/');
	size_t n = 3;

	if (put_label(guest_name, strlen(guest_name), name) > 0)
		return name;
	memcpy(name, "vm-", 4);
	for (const char *p = slash ? slash + 1 : guest_id; *p && n < LABEL_MAX; p++)
		if (is_alnum(lower(*p)))
			name[n++] = lower(*p);
	name[n] = 0;
	return name;
}

/* RFC 1123, with the underscore that some names have. */
static bool is_dns_name(const char *text, size_t len)
{
	size_t label = 0;

	for (size_t i = 0; i < len; i++) {
		char c = text[i];

		if (c == '.' ? !label || text[i - 1] == '-' : !is_alnum(c) && c != '_' && (c != '-' || !label))
			return false;
		label = c == '.' ? 0 : label + 1;
		if (label > LABEL_MAX)
			return false;
	}
	return len && len < NAMES_HOST_LEN && label && text[len - 1] != '-';
}

bool names_dns_domain_valid(const char *text)
{
	size_t n = strcspn(text, "/");

	if (!strcmp(text, "."))
		return true;
	if (!text[n])
		return is_dns_name(text, n);
	return n <= LABEL_MAX && is_dns_name(text, n) && !memchr(text, '.', n) && is_dns_name(text + n + 1, strlen(text + n + 1));
}

static const char *first_label(const char *const *keys, size_t n, names_label_fn *label, const void *of)
{
	for (size_t i = 0; i < n; i++) {
		const char *value = label(of, keys[i]);

		if (value && *value)
			return value;
	}
	return NULL;
}

const char *names_canonical_name(names_label_fn *label, const void *of)
{
	static const char *const keys[] = { "service.istio.io/canonical-name", "app.kubernetes.io/name", "app" };

	return first_label(keys, ELEMENTS(keys), label, of);
}

const char *names_canonical_revision(names_label_fn *label, const void *of)
{
	static const char *const keys[] = { "service.istio.io/canonical-revision", "app.kubernetes.io/version", "version" };

	return first_label(keys, ELEMENTS(keys), label, of);
}
