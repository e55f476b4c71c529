/*
 * What the controller has told.
 */
#include "agent/knowledge.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/member.h"
#include "agent/reports.h"
#include "agent/state.h"
#include "agent/worker.h"
#include "base/log.h"
#include "mesh/pb.h"

enum { STATE_VERSION = 1, MAX_MESSAGE = 256 << 20 };

static const char welcome_file[] = "mesh";
static const char policies_file[] = "policies";
static const char containers_file[] = "containers";
static const char nodes_file[] = "nodes";

/* What could not be written: the controller does not say it again. */
struct knowledge_file {
	struct knowledge_file *next;
	const char *name;
	size_t len;
	uint8_t data[];
};

static int write_file(const struct worker *w, const char *name, const uint8_t *data, size_t len)
{
	return state_save(w->conf->state_dir, name, STATE_VERSION, len ? data : (const uint8_t *)"", len, 0600);
}

/* True: there was one of that name. */
static bool forget_unsaved(struct worker *w, const char *name)
{
	for (struct knowledge_file **at = &w->unsaved; *at; at = &(*at)->next) {
		struct knowledge_file *f = *at;

		if (strcmp(f->name, name))
			continue;
		*at = f->next;
		free(f);
		return true;
	}
	return false;
}

static void save(struct worker *w, const char *name, const ProtobufCMessage *m)
{
	bool unsaved = forget_unsaved(w, name);
	CLEANUP_FREE uint8_t *data = NULL;
	struct knowledge_file *f;
	size_t len;
	int r = pb_pack(m, &data, &len);

	if (r == 0)
		r = write_file(w, name, data, len);
	state_note(&unsaved, name, "a restart without the controller starts from older", r);
	f = unsaved && data ? malloc(sizeof(*f) + len) : NULL;
	if (!f)
		return;
	*f = (struct knowledge_file){ .next = w->unsaved, .name = name, .len = len };
	memcpy(f->data, data, len);
	w->unsaved = f;
}

void knowledge_save_again(struct worker *w)
{
	for (struct knowledge_file *f = w->unsaved, *next; f; f = next) {
		bool unsaved = true;

		next = f->next;
		state_note(&unsaved, f->name, "", write_file(w, f->name, f->data, f->len));
		if (!unsaved)
			forget_unsaved(w, f->name);
	}
}

/* --- the mesh's control plane --- */

void knowledge_take_welcome(struct worker *w, const Outrigger__V1__Welcome *m, bool is_news)
{
	const struct config_proxy *conf = &w->conf->proxy;
	static char levels[][8] = { "error", "warn", "info", "debug" };
	Outrigger__Ipc__MeshController mesh = OUTRIGGER__IPC__MESH_CONTROLLER__INIT;
	Outrigger__Ipc__Setup setup = OUTRIGGER__IPC__SETUP__INIT;
	int r;

	mesh.address = m->mesh_controller;
	mesh.server_names = m->mesh_server_names;
	mesh.n_server_names = m->n_mesh_server_names;
	mesh.roots_pem = m->roots_pem;
	mesh.kind = m->mesh_kind;
	mesh.cluster_id = m->cluster_id;
	mesh.network = m->network;
	mesh.certificate_ttl_s = m->certificate_ttl_s;
	mesh.renew_by_certificate = m->renew_by_certificate;
	setup.nic_id = w->conf->nic;
	setup.mesh_controller = &mesh;
	setup.trust_domain = m->trust_domain;
	setup.workers = conf->workers;
	setup.access_log = conf->access_log ? conf->access_log : setup.access_log;
	setup.access_log_json = conf->access_log_json;
	setup.log_level = levels[w->conf->log.level];
	setup.log_json = w->conf->log.json;
	setup.mark_reply = w->conf->steering.mark_base + STEER_MARK_ANSWER;
	list_for_each(l, &w->places.places)
		setup.l2 |= list_entry(l, struct place, link)->bridged;
	w->told_l2 = setup.l2;
	r = supervisor_set_mesh(&w->supervisor, &setup);
	if (r < 0) {
		log_error("the proxies could not be told of the mesh", log_errno(r));
		return;
	}
	snprintf(w->trust_domain, sizeof(w->trust_domain), "%s", m->trust_domain);
	snprintf(w->cluster_id, sizeof(w->cluster_id), "%s", m->cluster_id);
	snprintf(w->network, sizeof(w->network), "%s", m->network);
	snprintf(w->mesh_controller, sizeof(w->mesh_controller), "%s", m->mesh_controller);
	if (is_news)
		save(w, welcome_file, &m->base);
}

/* --- policies --- */

void knowledge_take_policies(struct worker *w, const Outrigger__V1__PolicySet *m, bool is_news)
{
	struct policy_set *set;
	struct diag d = {};
	int r = policy_set_decode(m, &set, &d);

	if (r < 0) {
		snprintf(w->policy_refused, sizeof(w->policy_refused), "version %llu: %.200s", (unsigned long long)m->version,
			 d.msg[0] ? d.msg : strerror(-r));
		log_error("the onboarding policies are refused, the last ones stay in force", log_str("why", w->policy_refused));
		if (is_news)
			report_policy_ack(w, m->version, d.msg[0] ? d.msg : strerror(-r));
		return;
	}
	/* Members point into the old set: until they decide anew, at the end of this turn, they point at nobody's. */
	map_for_each(l, &w->guests.by_id) {
		struct member *member = member_of(container_of(l, struct guest, by_id));

		if (member) {
			member->policy = policy_match(set, w->conf->nic, member->guest);
			member_touch(member);
		}
	}
	policy_set_free(w->policies);
	w->policies = set;
	w->policy_refused[0] = 0;
	log_info("onboarding policies", log_int("version", (int64_t)m->version), log_int("policies", (int64_t)set->n));
	if (is_news) {
		save(w, policies_file, &m->base);
		report_policy_ack(w, m->version, NULL);
	}
}

/* --- container-registered addresses --- */

void knowledge_take_containers(struct worker *w, const Outrigger__V1__ContainerSet *m, bool is_news)
{
	struct containers *set;
	struct diag d = {};
	int r = containers_decode(m, &set, &d);

	if (r < 0) {
		log_error("the container addresses are refused, the last ones stay in force", log_str("why", d.msg), log_errno(r));
		return;
	}
	containers_free(w->containers);
	w->containers = set;
	log_info("container addresses", log_int("version", (int64_t)m->version), log_int("prefixes", (int64_t)set->by_prefix.n));
	if (is_news)
		save(w, containers_file, &m->base);
}

/* --- guests that are nodes of the cluster --- */

void knowledge_take_nodes(struct worker *w, const Outrigger__V1__NodeSet *m, bool is_news)
{
	struct nodes *set;
	struct diag d = {};
	int r = nodes_decode(m, &set, &d);

	if (r < 0) {
		log_error("the nodes of the cluster are refused, the last ones stay in force", log_str("why", d.msg), log_errno(r));
		return;
	}
	nodes_free(w->nodes);
	w->nodes = set;
	log_info("guests that are nodes of the cluster", log_int("nodes", (int64_t)set->by_guest.n));
	if (is_news)
		save(w, nodes_file, &m->base);
}

/* --- loading --- */

static int load(struct worker *w, const char *name, const ProtobufCMessageDescriptor *type, ProtobufCMessage **ret_message)
{
	CLEANUP_FREE void *data = NULL;
	size_t len;
	int r = state_load(w->conf->state_dir, name, STATE_VERSION, &data, &len);

	if (r == 0)
		r = pb_unpack(type, data, len, MAX_MESSAGE, ret_message);
	if (r < 0 && r != -ENOENT)
		log_warn("a state file cannot be used", log_str("file", name), log_errno(r));
	return r;
}

void knowledge_repeat_welcome(struct worker *w)
{
	ProtobufCMessage *m;

	if (load(w, welcome_file, &outrigger__v1__welcome__descriptor, &m) == 0) {
		knowledge_take_welcome(w, (const void *)m, false);
		pb_free(m);
	}
}

int knowledge_load(struct worker *w)
{
	ProtobufCMessage *m;

	knowledge_repeat_welcome(w);
	if (load(w, policies_file, &outrigger__v1__policy_set__descriptor, &m) == 0) {
		knowledge_take_policies(w, (const void *)m, false);
		pb_free(m);
	}
	if (load(w, containers_file, &outrigger__v1__container_set__descriptor, &m) == 0) {
		knowledge_take_containers(w, (const void *)m, false);
		pb_free(m);
	}
	if (load(w, nodes_file, &outrigger__v1__node_set__descriptor, &m) == 0) {
		knowledge_take_nodes(w, (const void *)m, false);
		pb_free(m);
	}
	return 0;
}
