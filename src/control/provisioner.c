/*
 * What all sessions of NICs have in common: when they are told what.
 */
#include "control/provisioner.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "control/provisioner_session.h"

enum {
	ENROLMENTS_BURST_PART = 6,	/* so large a part of a minute's may come at once */
	MAX_ROOTS_FILE = 1 << 20,
	NODES_MS = 100,
};

/* --- life --- */

static int load_mesh_roots(struct provisioner *p, const struct config *config)
{
	size_t size = 0;
	FILE *f;

	if (config->mesh.kind == MESH_EMBEDDED) {
		p->roots_pem = strdup(authority_roots_pem(p->o.authority));
		return p->roots_pem ? 0 : -ENOMEM;
	}
	if (!config->mesh.roots_file)
		return 0;		/* the cluster tells them */
	f = fopen(config->mesh.roots_file, "re");
	if (!f) {
		int r = -errno;

		log_error("the roots of the mesh cannot be read", log_str("file", config->mesh.roots_file), log_errno(r));
		return r;
	}
	ssize_t n = getdelim(&p->roots_pem, &size, 0, f);
	fclose(f);
	return n > 0 && n < MAX_ROOTS_FILE ? 0 : -EINVAL;
}

static void set_limits(struct provisioner *p)
{
	const struct config_limits *limits = &p->config->limits;

	limiter_set(&p->enrolments, limits->enrolments_per_minute / ENROLMENTS_BURST_PART, limits->enrolments_per_minute * 60);
	limiter_set(&p->requests, limits->requests_per_minute, limits->requests_per_minute * 60);
}

int provisioner_new(const struct provisioner_options *options, struct provisioner **ret_provisioner)
{
	struct provisioner *p = calloc(1, sizeof(*p));
	int r;

	if (!p)
		return -ENOMEM;
	p->o = *options;
	p->config = options->config;
	set_limits(p);
	p->version = (uint64_t)clock_wall_ms();
	list_init(&p->sessions);
	r = load_mesh_roots(p, options->config);
	if (r < 0) {
		provisioner_free(p);
		return r;
	}
	*ret_provisioner = p;
	return 0;
}

struct provisioner *provisioner_free(struct provisioner *p)
{
	if (!p)
		return NULL;
	list_for_each_safe(l, &p->sessions) {
		struct session *s = list_entry(l, struct session, link);

		if (s->call)
			grpc_call_cancel(s->call);
		session_free(s);
	}
	timer_cancel(&p->nodes);
	free(p->roots_pem);
	free(p);
	return NULL;
}

int provisioner_apply(struct provisioner *p, const struct config *config)
{
	uint64_t now = (uint64_t)clock_wall_ms();

	p->config = config;
	set_limits(p);
	p->version = MAX(p->version + 1, now);
	list_for_each(l, &p->sessions) {
		struct session *s = list_entry(l, struct session, link);

		if (!s->nic || !s->call)
			continue;
		session_push_policies(s);
		session_push_containers(s);
		session_push_nodes(s);
	}
	return 0;
}

void provisioner_policies(struct provisioner *p)
{
	uint64_t now = (uint64_t)clock_wall_ms();

	p->version = MAX(p->version + 1, now);
	list_for_each(l, &p->sessions) {
		struct session *s = list_entry(l, struct session, link);

		if (s->nic && s->call)
			session_push_policies(s);
	}
}

void provisioner_containers(struct provisioner *p)
{
	uint64_t now = (uint64_t)clock_wall_ms();

	p->version = MAX(p->version + 1, now);
	list_for_each(l, &p->sessions) {
		struct session *s = list_entry(l, struct session, link);

		if (s->nic && s->call)
			session_push_containers(s);
	}
}

static int on_nodes(struct timer *t)
{
	struct provisioner *p = container_of(t, struct provisioner, nodes);

	list_for_each(l, &p->sessions) {
		struct session *s = list_entry(l, struct session, link);

		if (s->nic && s->call)
			session_push_nodes(s);
	}
	return 0;
}

void provisioner_nodes(struct provisioner *p)
{
	if (p->o.cluster && !p->nodes.loop)
		(void)!timer_arm(p->o.loop, &p->nodes, NODES_MS, on_nodes);	/* no memory: with the next change */
}

void provisioner_set_roots(struct provisioner *p, const char *roots_pem)
{
	char *copy = strdup(roots_pem);

	if (!copy) {
		log_error("out of memory: the NICs were not told of the mesh's roots");
		return;
	}
	free(p->roots_pem);
	p->roots_pem = copy;
	list_for_each(l, &p->sessions) {
		struct session *s = list_entry(l, struct session, link);

		if (s->nic && s->call)
			session_push_welcome(s);
	}
}

struct provisioner_counters provisioner_counters(const struct provisioner *p)
{
	struct provisioner_counters c = p->counters;

	c.n_limited = p->enrolments.n_refused + p->requests.n_refused;
	return c;
}
