/*
 * Services of a Kubernetes cluster in the registry.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "control/registry.h"
#include "mesh/names.h"

static int host_of(const struct registry *reg, const char *namespace, const char *name, char host[static NAMES_HOST_LEN])
{
	int n = snprintf(host, NAMES_HOST_LEN, "%s.%s.svc.%s", name, namespace, reg->config->kubernetes.cluster_domain);

	return n < NAMES_HOST_LEN ? 0 : -EINVAL;
}

static struct reg_service *find(const struct registry *reg, const char *namespace, const char *host)
{
	char key[REG_MAX_TEXT + NAMES_HOST_LEN];

	snprintf(key, sizeof(key), "%s/%s", namespace, host);
	return reg_service_find(reg, key);
}

struct reg_service *reg_kube_service_find(const struct registry *reg, const char *namespace, const char *name)
{
	char host[NAMES_HOST_LEN];
	struct reg_service *s = host_of(reg, namespace, name, host) == 0 ? find(reg, namespace, host) : NULL;

	return s && s->kube ? s : NULL;
}

struct reg_service *reg_kube_service_of_claim(const struct registry *reg, const struct config_onboarding *policy, const char *service)
{
	char host[NAMES_HOST_LEN], suffix[NAMES_HOST_LEN + sizeof(NAMES_SUFFIX) + 2];
	size_t len, n;

	if (!policy->kubernetes_services || names_service_host(service, policy->namespace, host) < 0)
		return NULL;
	n = (size_t)snprintf(suffix, sizeof(suffix), ".%s.%s", policy->namespace, NAMES_SUFFIX);
	len = strlen(host);
	if (len <= n)
		return NULL;
	host[len - n] = 0;
	return reg_kube_service_find(reg, policy->namespace, host);
}

/* VMs that may be endpoints of Services come to this one, or leave it. */
static void mark_guests(struct registry *reg, const char *namespace, size_t n_namespace)
{
	map_for_each(l, &reg->guests) {
		struct reg_guest *g = container_of(l, struct reg_guest, link);

		if (g->policy && g->policy->kubernetes_services && g->policy->namespace && strlen(g->policy->namespace) == n_namespace &&
		    !memcmp(g->policy->namespace, namespace, n_namespace))
			reg_guest_mark(reg, g);
	}
}

/* Not their bytes: nobody has written those between the members. */
static bool same_ports(const struct port_map *a, const struct port_map *b, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (a[i].service_port != b[i].service_port || a[i].target_port != b[i].target_port || a[i].app_protocol != b[i].app_protocol)
			return false;
	return true;
}

int reg_kube_service_put(struct registry *reg, const struct reg_kube_service *k)
{
	char host[NAMES_HOST_LEN];
	int r = host_of(reg, k->namespace, k->name, host);
	struct reg_service *s = r == 0 ? find(reg, k->namespace, host) : NULL;

	if (r < 0)
		return r;
	if (s && s->declared && !s->kube)
		return -EEXIST;
	if (!s && reg->services.n >= REG_MAX_SERVICES)
		return -ENOMEM;
	if (!s)
		s = reg_service_new(reg, k->namespace, host, k->name);
	if (!s || reg_service_set_addresses(s, k->addresses, k->n_addresses) < 0)
		return -ENOMEM;
	if (!s->kube || s->n_ports != k->n_ports || !same_ports(s->ports, k->ports, k->n_ports))
		mark_guests(reg, s->key, s->n_namespace);
	reg_founder_drop(reg, s);
	s->declared = s->kube = true;
	s->n_ports = MIN(k->n_ports, (size_t)REG_MAX_PORTS);
	memcpy(s->ports, k->ports, s->n_ports * sizeof(*s->ports));
	reg_service_mark(reg, s);
	return 0;
}

void reg_kube_service_remove(struct registry *reg, struct reg_service *s)
{
	mark_guests(reg, s->key, s->n_namespace);
	reg_service_remove(reg, s);
}
