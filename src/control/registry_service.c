/*
 * Services, workloads, and which workload serves which service.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "control/registry.h"
#include "mesh/names.h"

/* --- services --- */

struct reg_service *reg_service_find(const struct registry *reg, const char *key)
{
	struct map_link *l = map_find_str(&reg->services, key);

	return l ? container_of(l, struct reg_service, link) : NULL;
}

static void service_free(struct registry *reg, struct reg_service *s)
{
	reg_founder_drop(reg, s);
	if (s->name_key)
		map_remove(&reg->declared, &s->name_link);
	list_unlink(&s->dirty);
	free(s->addresses);
	free(s->key);
	free(s->name);
	free(s->name_key);
	free(s);
}

struct reg_service *reg_service_new(struct registry *reg, const char *namespace, const char *hostname, const char *name)
{
	struct reg_service *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	list_init(&s->dirty);
	list_init(&s->members);
	s->name = strdup(name);
	if (!s->name || asprintf(&s->key, "%s/%s", namespace, hostname) < 0) {
		s->key = NULL;
		service_free(reg, s);
		return NULL;
	}
	s->n_namespace = strlen(namespace);
	s->hostname = s->key + s->n_namespace + 1;
	if (map_add(&reg->services, &s->link, s->key, strlen(s->key)) < 0) {
		service_free(reg, s);
		return NULL;
	}
	return s;
}

void reg_service_remove(struct registry *reg, struct reg_service *s)
{
	list_for_each_safe(l, &s->members) {
		struct reg_member *m = list_entry(l, struct reg_member, in_service);

		list_unlink(&m->in_service);
		list_unlink(&m->in_workload);
		reg_workload_mark(reg, m->workload);
		free(m->ports);
		free(m);
	}
	reg_withdraw_service(reg, s);
	vips_release(&reg->vips, s->key);
	map_remove(&reg->services, &s->link);
	service_free(reg, s);
}

int reg_service_set_addresses(struct reg_service *s, const struct ip *ips, size_t n)
{
	struct ip *copy = n ? malloc(n * sizeof(*copy)) : NULL;

	if (n && !copy)
		return -ENOMEM;
	if (n)
		memcpy(copy, ips, n * sizeof(*copy));
	free(s->addresses);
	s->addresses = copy;
	s->n_addresses = n;
	return 0;
}

static int assign_address(struct registry *reg, struct reg_service *s)
{
	bool stored;
	struct ip ip;
	int r = vips_get(&reg->vips, s->key, &ip, &stored);

	if (r == -ENOSPC) {
		LOG_LIMITED(LOG_L_WARN, "no virtual address is left for a service", log_str("service", s->key));
		return 0;		/* reached by its name and its workloads' addresses only */
	}
	if (r == 0 && !stored)
		LOG_LIMITED(LOG_L_ERROR, "a virtual address could not be stored", log_str("service", s->key));
	return r < 0 ? r : reg_service_set_addresses(s, &ip, 1);
}

/* One that nobody has declared: its first member is @g. */
static struct reg_service *found(struct registry *reg, struct reg_guest *g, const char *host, const char *service)
{
	struct reg_service *s = reg_service_new(reg, g->policy->namespace, host, service);

	if (s && (reg_founder_add(reg, s, g->nic->id) < 0 || assign_address(reg, s) < 0)) {
		reg_service_remove(reg, s);
		return NULL;
	}
	if (s)
		reg_service_mark(reg, s);
	return s;
}

/* Why @g may not be the first of a service; NULL: it may. */
static const char *founding_obstacle(struct registry *reg, struct reg_guest *g)
{
	if (reg->services.n >= REG_MAX_SERVICES)
		return "the mesh has as many services as it can have";
	if (reg_founder_may(reg, g->nic->id))
		return NULL;
	g->over_share = true;
	reg->n_over_share++;
	LOG_LIMITED(LOG_L_WARN, "a NIC's VMs have registered as many new services as they may (limits.services_per_nic)",
		    log_str("nic", g->nic->id), log_str("guest", g->pb->guest_id), log_int("limit", (int64_t)reg_founder_share(reg)));
	return "the VMs of its NIC have registered as many new services as they may: raise limits.services_per_nic in controller.yaml, "
	       "or have its policy list the names that they may claim";
}

struct reg_service *reg_service_of_claim(struct registry *reg, struct reg_guest *g, const char *service, const char **ret_why)
{
	const struct config_onboarding *policy = g->policy;
	const char *namespace = policy->namespace;
	char host[NAMES_HOST_LEN], key[REG_MAX_TEXT + NAMES_HOST_LEN];
	struct map_link *l;
	struct reg_service *s;

	snprintf(key, sizeof(key), "%s/%s", namespace, service);
	l = map_find_str(&reg->declared, key);
	if (l)
		return container_of(l, struct reg_service, name_link);
	s = reg_kube_service_of_claim(reg, policy, service);
	if (s)
		return s;
	*ret_why = "no host name can be made of its name";
	if (names_service_host(service, namespace, host) < 0)
		return NULL;
	snprintf(key, sizeof(key), "%s/%s", namespace, host);
	s = reg_service_find(reg, key);
	if (s)
		return s;
	*ret_why = founding_obstacle(reg, g);
	if (*ret_why)
		return NULL;
	*ret_why = "memory is short";
	return found(reg, g, host, service);
}

static int set_addresses(struct registry *reg, struct reg_service *s, const struct config_service *c)
{
	CLEANUP_FREE struct ip *ips = calloc(c->addresses.n + 1, sizeof(*ips));

	if (!c->addresses.n)
		return assign_address(reg, s);
	if (!ips)
		return -ENOMEM;
	for (size_t i = 0; i < c->addresses.n; i++)
		ips[i] = c->addresses.v[i].ip;
	return reg_service_set_addresses(s, ips, c->addresses.n);
}

static int declare(struct registry *reg, const struct config_service *c)
{
	char host[NAMES_HOST_LEN], key[REG_MAX_TEXT + NAMES_HOST_LEN];
	const char *hostname = c->hostname;
	struct reg_service *s;

	if (!hostname) {
		if (names_service_host(c->name, c->namespace, host) < 0)
			return 0;	/* the configuration was checked: it has one */
		hostname = host;
	}
	snprintf(key, sizeof(key), "%s/%s", c->namespace, hostname);
	s = reg_service_find(reg, key);
	if (!s)
		s = reg_service_new(reg, c->namespace, hostname, c->name);
	if (!s)
		return -ENOMEM;
	if (s->name_key && strcmp(s->name, c->name) != 0) {
		map_remove(&reg->declared, &s->name_link);
		free(s->name_key);
		s->name_key = NULL;
	}
	if (!s->name_key) {
		if (asprintf(&s->name_key, "%s/%s", c->namespace, c->name) < 0)
			s->name_key = NULL;
		if (!s->name_key || map_add(&reg->declared, &s->name_link, s->name_key, strlen(s->name_key)) < 0) {
			free(s->name_key);
			s->name_key = NULL;
			return -ENOMEM;
		}
		char *name = strdup(c->name);
		if (!name)
			return -ENOMEM;
		free(s->name);
		s->name = name;
	}
	reg_founder_drop(reg, s);
	s->declared = true;
	s->kube = false;		/* the configuration's word counts; pods leave it when they are settled again */
	s->stale = false;
	s->n_ports = 0;
	config_for_each(const struct config_port, p, &c->ports)
		s->ports[s->n_ports++] = (struct port_map){ (uint16_t)p->port, (uint16_t)(p->target_port ? p->target_port : p->port),
							    (uint8_t)p->protocol };
	reg_service_mark(reg, s);
	return set_addresses(reg, s, c);
}

int reg_services_apply(struct registry *reg, const struct config *config)
{
	map_for_each(l, &reg->services)
		container_of(l, struct reg_service, link)->stale = container_of(l, struct reg_service, link)->declared && !container_of(l, struct reg_service, link)->kube;
	config_for_each(const struct config_service, c, &config->services) {
		int r = declare(reg, c);

		if (r < 0)
			return r;
	}
	map_for_each(l, &reg->services)
		if (container_of(l, struct reg_service, link)->stale)
			reg_service_remove(reg, container_of(l, struct reg_service, link));
	return 0;
}

bool reg_service_map_port(const struct reg_service *s, uint16_t target, enum app_protocol protocol, struct port_map *ret_port)
{
	const struct port_map *found = NULL;

	for (size_t i = 0; i < s->n_ports && !found; i++)
		if (s->ports[i].target_port == target || s->ports[i].service_port == target)
			found = &s->ports[i];
	for (size_t i = 0; i < s->n_ports && !found; i++)	/* VMs of one service may listen on different ports */
		if (s->n_ports == 1 || (protocol != APP_UNKNOWN && s->ports[i].app_protocol == protocol))
			found = &s->ports[i];
	if (!found)
		return false;
	*ret_port = (struct port_map){ found->service_port, target, found->app_protocol };
	return true;
}

/* --- workloads --- */

struct reg_workload *reg_workload_find(const struct registry *reg, const char *uid)
{
	struct map_link *l = map_find_str(&reg->workloads, uid);

	return l ? container_of(l, struct reg_workload, link) : NULL;
}

int reg_workload_new(struct registry *reg, const char *uid, struct reg_workload **ret_workload)
{
	struct reg_workload *w = calloc(1, sizeof(*w));
	int r = -ENOMEM;

	if (!w)
		return r;
	list_init(&w->dirty);
	list_init(&w->members);
	w->type = 2;			/* POD: a single one */
	w->uid = strdup(uid);
	if (w->uid)
		r = map_add(&reg->workloads, &w->link, w->uid, strlen(w->uid));
	if (r < 0) {
		free(w->uid);
		free(w);
		return r;
	}
	*ret_workload = w;
	return 0;
}

static int replace(char **text, const char *with)
{
	char *copy;

	if (*text && !strcmp(*text, with))
		return 0;
	copy = strdup(with);
	if (!copy)
		return -ENOMEM;
	free(*text);
	*text = copy;
	return 0;
}

int reg_workload_set(struct reg_workload *w, const char *name, const char *namespace, const char *service_account, const char *node)
{
	if (replace(&w->name, name) < 0 || replace(&w->namespace, namespace) < 0 ||
	    replace(&w->service_account, service_account) < 0 || replace(&w->node, node) < 0)
		return -ENOMEM;
	return 0;
}

static void free_addresses(struct registry *reg, struct reg_workload *w)
{
	for (size_t i = 0; i < w->n_addresses && !w->host_network; i++)
		map_remove(&reg->addresses, &w->addresses[i].link);
	if (w->n_addresses) {
		reg->addresses_freed = true;
		reg_settle_later(reg);
	}
	free(w->addresses);
	w->addresses = NULL;
	w->n_addresses = 0;
}

static bool same_addresses(const struct reg_workload *w, const struct ip *ips, size_t n)
{
	if (w->n_addresses != n)
		return false;
	for (size_t i = 0; i < n; i++)
		if (!ip_equal(&w->addresses[i].ip, &ips[i]))
			return false;
	return true;
}

int reg_workload_set_addresses(struct registry *reg, struct reg_workload *w, const struct ip *ips, size_t n,
			       struct reg_workload **ret_owner)
{
	struct reg_address *list;

	if (same_addresses(w, ips, n))
		return 0;
	for (size_t i = 0; i < n && !w->host_network; i++) {
		struct map_link *l = map_find(&reg->addresses, ips[i].b, sizeof(ips[i].b));

		if (l && container_of(l, struct reg_address, link)->workload != w) {
			*ret_owner = container_of(l, struct reg_address, link)->workload;
			return -EEXIST;
		}
	}
	list = calloc(n, sizeof(*list));
	if (!list)
		return -ENOMEM;
	free_addresses(reg, w);
	w->addresses = list;
	for (size_t i = 0; i < n; i++) {
		struct reg_address *a = &list[w->n_addresses];

		a->ip = ips[i];
		a->workload = w;
		int r = w->host_network ? 0 : map_add(&reg->addresses, &a->link, a->ip.b, sizeof(a->ip.b));
		if (r == -ENOMEM)
			return r;
		w->n_addresses += r == 0;	/* an address that is listed twice counts once */
	}
	return 0;
}

static void member_free(struct registry *reg, struct reg_member *m)
{
	struct reg_service *s = m->service;

	list_unlink(&m->in_service);
	list_unlink(&m->in_workload);
	free(m->ports);
	free(m);
	if (list_empty(&s->members))
		s->empty_since_ms = loop_now_ms(reg->loop);
	reg_service_mark(reg, s);
}

void reg_workload_leave_all(struct registry *reg, struct reg_workload *w)
{
	list_for_each_safe(l, &w->members)
		member_free(reg, list_entry(l, struct reg_member, in_workload));
}

void reg_workload_remove(struct registry *reg, struct reg_workload *w)
{
	reg_workload_leave_all(reg, w);
	free_addresses(reg, w);
	resources_remove(reg->resources, RESOURCE_ADDRESS, w->uid);
	if (w->guest)
		w->guest->workload = NULL;
	map_remove(&reg->workloads, &w->link);
	list_unlink(&w->dirty);
	free(w->uid);
	free(w->name);
	free(w->namespace);
	free(w->service_account);
	free(w->node);
	free(w);
}

static struct reg_member *find_member(const struct reg_workload *w, const struct reg_service *s)
{
	list_for_each(l, &w->members)
		if (list_entry(l, struct reg_member, in_workload)->service == s)
			return list_entry(l, struct reg_member, in_workload);
	return NULL;
}

static struct reg_member *member_new(struct reg_workload *w, struct reg_service *s)
{
	struct reg_member *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	m->service = s;
	m->workload = w;
	list_append(&s->members, &m->in_service);
	list_append(&w->members, &m->in_workload);
	s->empty_since_ms = 0;
	return m;
}

int reg_workload_join(struct registry *reg, struct reg_workload *w, struct reg_service *s, struct port_map port, bool unhealthy)
{
	struct reg_member *m = find_member(w, s);
	struct port_map *ports;

	if (!m)
		m = member_new(w, s);
	if (!m)
		return -ENOMEM;
	m->unhealthy |= unhealthy;
	reg_service_mark(reg, s);
	for (size_t i = 0; i < m->n_ports; i++)
		if (m->ports[i].service_port == port.service_port && m->ports[i].target_port == port.target_port)
			return 0;
	if (m->n_ports == REG_MAX_PORTS)
		return -E2BIG;
	ports = realloc(m->ports, (m->n_ports + 1) * sizeof(*ports));
	if (!ports)
		return -ENOMEM;
	m->ports = ports;
	m->ports[m->n_ports++] = port;
	return 0;
}

bool reg_workload_unhealthy(const struct reg_workload *w)
{
	list_for_each(l, &w->members)
		if (!list_entry(l, struct reg_member, in_workload)->unhealthy)
			return false;
	return !list_empty(&w->members);
}

/* --- workloads of the configuration --- */

static int join_declared(struct registry *reg, struct reg_workload *w, const struct config_workload *c)
{
	reg_workload_leave_all(reg, w);
	for (size_t i = 0; i < c->services.n; i++) {
		char key[REG_MAX_TEXT + NAMES_HOST_LEN];
		struct map_link *l;

		if (strchr(c->services.v[i], '/'))
			snprintf(key, sizeof(key), "%s", c->services.v[i]);
		else
			snprintf(key, sizeof(key), "%s/%s", c->namespace, c->services.v[i]);
		l = map_find_str(&reg->declared, key);
		if (!l)
			continue;	/* the configuration was checked: it is there */

		struct reg_service *s = container_of(l, struct reg_service, name_link);
		for (size_t k = 0; k < s->n_ports; k++) {
			int r = reg_workload_join(reg, w, s, s->ports[k], false);

			if (r < 0)
				return r;
		}
	}
	return 0;
}

static int take_addresses(struct registry *reg, struct reg_workload *w, const struct config_workload *c)
{
	struct ip ips[16];
	size_t n = MIN(c->addresses.n, ELEMENTS(ips));
	struct reg_workload *owner;
	int r;

	for (size_t i = 0; i < n; i++)
		ips[i] = c->addresses.v[i].ip;
	while ((r = reg_workload_set_addresses(reg, w, ips, n, &owner)) == -EEXIST) {
		if (owner->guest) {
			log_warn("a guest's address is given to a workload of the configuration", log_str("guest", owner->uid),
				 log_str("workload", w->uid));
			reg_guest_mark(reg, owner->guest);
			reg_workload_remove(reg, owner);
		} else {
			free_addresses(reg, owner);	/* it is going to get its own in this round, or to be removed */
		}
	}
	return r;
}

static int apply_workload(struct registry *reg, const struct config_workload *c)
{
	char uid[NAMES_UID_LEN];
	struct reg_workload *w;
	int r = 0;

	snprintf(uid, sizeof(uid), "config/%s/%s", c->namespace, c->name);
	w = reg_workload_find(reg, uid);
	if (!w)
		r = reg_workload_new(reg, uid, &w);
	if (r == 0)
		r = reg_workload_set(w, c->name, c->namespace, c->service_account, c->node ? c->node : "");
	if (r == 0)
		r = take_addresses(reg, w, c);
	if (r < 0)
		return r;
	w->stale = false;
	w->tunnel = (enum tunnel)c->tunnel;
	w->weight = c->weight;
	w->labels = &c->labels;
	reg_workload_mark(reg, w);
	return join_declared(reg, w, c);
}

int reg_workloads_apply(struct registry *reg, const struct config *config)
{
	map_for_each(l, &reg->workloads)
		container_of(l, struct reg_workload, link)->stale = !container_of(l, struct reg_workload, link)->guest && !container_of(l, struct reg_workload, link)->kube;
	config_for_each(const struct config_workload, c, &config->workloads) {
		int r = apply_workload(reg, c);

		if (r < 0)
			return r;
	}
	map_for_each(l, &reg->workloads)
		if (container_of(l, struct reg_workload, link)->stale)
			reg_workload_remove(reg, container_of(l, struct reg_workload, link));
	return 0;
}
