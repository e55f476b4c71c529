/*
 * Signs of orchestrators: see signs.h.
 */
#include "agent/signs.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "base/defs.h"
#include "base/glob.h"

static const struct {
	const char *key;
	const char *value;	/* glob */
	const char *sign;
} signs[] = {
	{ "external-source", "kubernetes", "its metadata says external-source=kubernetes" },
	{ "external-source", "nomad", "its metadata says external-source=nomad" },
	{ "external-k8s-ns", "*", "its metadata has external-k8s-ns: synchronised from Kubernetes" },
	{ "k8s-namespace", "*", "its metadata has k8s-namespace: a pod" },
	{ "k8s-service-name", "*", "its metadata has k8s-service-name: a pod" },
	{ "pod-name", "*", "its metadata has pod-name: a pod" },
	{ "managed-by", "consul-k8s*", "its metadata says managed-by=consul-k8s" },
	{ "kubernetes.io/*", "*", "its metadata has Kubernetes labels" },
	{ "container_id", "*", "its metadata names a container" },
	{ "container-id", "*", "its metadata names a container" },
};

const char *sign_of_meta(const char *key, const char *value)
{
	for (size_t i = 0; i < ELEMENTS(signs); i++)
		if (glob_match(signs[i].key, key) && glob_match(signs[i].value, value))
			return signs[i].sign;
	return NULL;
}

/* A deployment's pod: "app-6f9c8d7b5-x2k9p", in the letters that Kubernetes draws from. */
static bool is_pod_name(const char *s)
{
	static const char drawn[] = "bcdfghjklmnpqrstvwxz2456789";
	enum { SUFFIX = 5, HASH_MIN = 8, HASH_MAX = 10 };
	size_t n = strlen(s), hash = 0;

	if (n < SUFFIX + 2 || s[n - SUFFIX - 1] != '-' || strspn(s + n - SUFFIX, drawn) != SUFFIX)
		return false;
	n -= SUFFIX + 1;			/* up to the last hyphen */
	while (hash < n && s[n - hash - 1] != '-')
		hash++;
	return hash < n - 1 && hash >= HASH_MIN && hash <= HASH_MAX && strspn(s + n - hash, drawn) >= hash;
}

const char *sign_of_instance(const char *id)
{
	if (glob_match("_nomad-task-*", id))
		return "its id is that of a Nomad task";
	return is_pod_name(id) ? "its id is the name of a Kubernetes pod" : NULL;
}

const char *sign_of_node(const char *node)
{
	return glob_match("k8s-sync*", node) ? "its node is k8s-sync: synchronised from Kubernetes" : NULL;
}
