/*
 * What the items of controller.yaml say of each other: names that are there once, references that lead
 * somewhere, and settings that go together.
 */
#include "control/config_check.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/map.h"
#include "mesh/names.h"

struct check {
	const struct config *c;
	const char *file;
	struct diag *diag;
};

static bool namespace_known(const struct config *c, const char *name)
{
	for (size_t i = 0; i < c->namespaces.n; i++)
		if (!strcmp(c->namespaces.v[i], name))
			return true;
	return !c->namespaces.n;
}

static int check_namespace(const struct check *k, const char *name, unsigned line)
{
	if (!name || namespace_known(k->c, name))
		return 0;
	return diag_at(k->diag, k->file, line, "namespace '%s' is not listed under 'namespaces'", name);
}

/* Names that must differ: @what/@ns/@name. */
struct seen {
	struct map_link link;
	unsigned line;
	char text[];
};

static int check_unique(const struct check *k, struct map *seen, const char *what, const char *ns, const char *name, unsigned line)
{
	size_t size = strlen(what) + strlen(ns) + strlen(name) + 3;
	struct seen *s = malloc(sizeof(*s) + size);
	int r;

	if (!s)
		return -ENOMEM;
	snprintf(s->text, size, "%s %s/%s", what, ns, name);
	s->line = line;
	r = map_add(seen, &s->link, s->text, strlen(s->text));
	if (r == -EEXIST) {
		const struct seen *first = container_of(map_find_str(seen, s->text), struct seen, link);

		r = diag_at(k->diag, k->file, line, "%s '%s' is there twice, first in line %u", what, name, first->line);
	}
	if (r < 0)
		free(s);
	return r;
}

static const struct config_service *find_service(const struct config *c, const char *ns, const char *ref)
{
	const char *slash = strchr(ref, '/');
	const char *name = slash ? slash + 1 : ref;
	size_t n_ns = slash ? (size_t)(slash - ref) : strlen(ns);

	config_for_each(const struct config_service, s, &c->services)
		if (!strcmp(s->name, name) && strlen(s->namespace) == n_ns && !memcmp(s->namespace, slash ? ref : ns, n_ns))
			return s;
	return NULL;
}

static int check_workload(const struct check *k, struct map *seen, const struct config_workload *w)
{
	char text[IP_TEXT_LEN];
	int r = check_namespace(k, w->namespace, w->line);

	if (r == 0)
		r = check_unique(k, seen, "workload", w->namespace, w->name, w->line);
	for (size_t i = 0; r == 0 && i < w->addresses.n; i++) {
		if (w->addresses.v[i].len != 128)
			return diag_at(k->diag, k->file, w->line, "workload '%s': an address is wanted, not a prefix", w->name);
		r = check_unique(k, seen, "address", "", ip_format(&w->addresses.v[i].ip, text), w->line);
	}
	for (size_t i = 0; r == 0 && i < w->services.n; i++)
		if (!find_service(k->c, w->namespace, w->services.v[i]))
			r = diag_at(k->diag, k->file, w->line, "workload '%s': there is no service '%s' under 'services'", w->name, w->services.v[i]);
	return r;
}

static int check_service(const struct check *k, struct map *seen, const struct config_service *s)
{
	char host[NAMES_HOST_LEN], text[IP_TEXT_LEN];
	int r = check_namespace(k, s->namespace, s->line);

	if (r == 0 && !s->hostname && names_service_host(s->name, s->namespace, host) < 0)
		r = diag_at(k->diag, k->file, s->line, "service '%s': no host name can be made of it, give a 'hostname'", s->name);
	if (r == 0)
		r = check_unique(k, seen, "service", s->namespace, s->name, s->line);
	if (r == 0)
		r = check_unique(k, seen, "hostname", s->namespace, s->hostname ? s->hostname : host, s->line);
	for (size_t i = 0; r == 0 && i < s->addresses.n; i++) {
		if (s->addresses.v[i].len != 128)
			return diag_at(k->diag, k->file, s->line, "service '%s': an address is wanted, not a prefix", s->name);
		r = check_unique(k, seen, "address", "", ip_format(&s->addresses.v[i].ip, text), s->line);
	}
	return r;
}

static int check_kubernetes(const struct check *k)
{
	const struct config *c = k->c;

	if (c->kubernetes.kubeconfig && c->kubernetes.in_cluster)
		return diag_at(k->diag, k->file, 0, "kubernetes: either kubeconfig or in_cluster");
	if (c->mesh.tokens == TOKENS_REQUEST && !config_has_kubernetes(c))
		return diag_at(k->diag, k->file, 0, "mesh.tokens token_request needs kubernetes.kubeconfig or kubernetes.in_cluster");
	if ((c->kubernetes.namespaces.n || c->kubernetes.services.n) && (c->mesh.kind == MESH_ISTIO || !config_has_kubernetes(c)))
		return diag_at(k->diag, k->file, 0, "kubernetes.namespaces and kubernetes.services are for the embedded mesh and a cluster: %s",
			       c->mesh.kind == MESH_ISTIO ? "Istio has them by itself" : "kubeconfig or in_cluster is missing");
	if (c->kubernetes.services.n && !c->kubernetes.namespaces.n)
		return diag_at(k->diag, k->file, 0, "kubernetes.services without kubernetes.namespaces: there is nothing to choose from");
	return 0;
}

static int check_istio(const struct check *k)
{
	const struct config *c = k->c;

	if (!c->advertise.mesh)
		return diag_at(k->diag, k->file, 0, "mesh.kind istio needs advertise.mesh: where istiod is");
	if (!c->mesh.roots_file && !config_has_kubernetes(c))
		return diag_at(k->diag, k->file, 0, "mesh.kind istio needs mesh.roots_file, or a cluster under 'kubernetes' to read the roots from");
	config_for_each(const struct config_onboarding, p, &c->onboarding)
		if (p->mode >= MODE_PERMISSIVE && p->services.n && !p->workload_group)
			return diag_at(k->diag, k->file, p->line, "onboarding '%s': a VM with services needs a workload_group in an Istio mesh", p->name);
	return 0;
}

static int check_embedded_mesh(const struct check *k)
{
	if (k->c->mesh.renewal == RENEWAL_CERTIFICATE)
		return diag_at(k->diag, k->file, 0, "mesh.renewal certificate is for mesh.kind istio: the embedded mesh controller takes tokens only");
	return 0;
}

static int check_lists(const struct check *k, struct map *seen)
{
	int r;

	config_for_each(const struct config_onboarding, p, &k->c->onboarding) {
		r = check_unique(k, seen, "onboarding", "", p->name, p->line);
		if (r == 0)
			r = check_namespace(k, p->namespace, p->line);
		if (r < 0)
			return r;
	}
	config_for_each(const struct config_service, s, &k->c->services) {
		r = check_service(k, seen, s);
		if (r < 0)
			return r;
	}
	config_for_each(const struct config_workload, w, &k->c->workloads) {
		r = check_workload(k, seen, w);
		if (r < 0)
			return r;
	}
	config_for_each(const struct config_authorization, a, &k->c->authorization) {
		r = check_unique(k, seen, "authorization", a->namespace ? a->namespace : "", a->name, a->line);
		if (r == 0)
			r = check_namespace(k, a->namespace, a->line);
		if (r < 0)
			return r;
	}
	return 0;
}

static int check_settings(const struct check *k)
{
	int r = check_kubernetes(k);

	if (r == 0)
		r = k->c->mesh.kind == MESH_ISTIO ? check_istio(k) : check_embedded_mesh(k);
	if (r == 0 && k->c->virtual_addresses.len > 126)
		r = diag_at(k->diag, k->file, 0, "virtual_addresses: too small, a /30 at least is needed");
	return r;
}

int config_check(const struct config *c, const char *file, struct diag *reterr_diag)
{
	const struct check k = { c, file, reterr_diag };
	struct map seen;
	int r;

	map_init(&seen);
	r = check_lists(&k, &seen);
	if (r == 0)
		r = check_settings(&k);
	map_for_each(l, &seen)
		free(container_of(l, struct seen, link));
	map_deinit(&seen);
	return r;
}
