/*
 * A VM's service proxy: states, certificate, discovery stream.
 */
#include "proxy/sidecar.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "mesh/model.h"

enum {
	DEMAND_IDLE_MS = 30000,		/* so long an address that the mesh does not know is remembered without being used */
	TOKEN_AGAIN_MS = 10000,		/* between two requests for a token */
	LISTENER_DRAIN_MS = 300000,	/* of connections that came in by listeners that were replaced */
	CERT_TTL_S = 24 * 3600,
};

enum { TYPE_ADDRESS, TYPE_POLICY, N_TYPES };	/* of the stream; as enum knowledge_kind */

/* --- states --- */

static const char *const state_names[] = {
	[SIDECAR_STARTING] = "starting", [SIDECAR_CERTIFICATE] = "certificate", [SIDECAR_READY] = "ready",
	[SIDECAR_DEGRADED] = "degraded", [SIDECAR_DRAINING] = "draining", [SIDECAR_STOPPED] = "stopped",
	[SIDECAR_FAILED] = "failed",
};
_Static_assert(ELEMENTS(state_names) == _SIDECAR_STATE_N, "every state has a name");

const char *sidecar_state_name(enum sidecar_state s)
{
	return state_names[s];
}

/* What a state becomes may depend on what the sidecar has. */
enum becomes {
	NO,		/* the event means nothing here */
	STAY,
	ABLE,		/* it has a certificate: serves as far as it has a configuration */
	READY,
	DEGRADED,
	FAILED,
	LEAVE,		/* drains what it carries */
	STOPPED,
};

static const uint8_t transitions[_SIDECAR_STATE_N][_SIDECAR_EVENT_N] = {
	/*			  certificate  config          lost         expired      remove          gone */
	[SIDECAR_STARTING]    = { ABLE,        STAY,           STAY,        NO,          LEAVE,          NO },
	[SIDECAR_CERTIFICATE] = { STAY,        READY,          STAY,        FAILED,      LEAVE,          NO },
	[SIDECAR_READY]       = { STAY,        STAY,           DEGRADED,    FAILED,      LEAVE,          NO },
	[SIDECAR_DEGRADED]    = { STAY,        READY,          STAY,        FAILED,      LEAVE,          NO },
	[SIDECAR_DRAINING]    = { STAY,        STAY,           STAY,        STAY,        STAY,           STOPPED },
	[SIDECAR_STOPPED]     = { NO,          NO,             NO,          NO,          NO,             NO },
	[SIDECAR_FAILED]      = { ABLE,        STAY,           STAY,        STAY,        LEAVE,          NO },
};

int sidecar_next(enum sidecar_state s, enum sidecar_event ev, bool has_config, bool in_sync, bool serving)
{
	switch ((enum becomes)transitions[s][ev]) {
	case STAY:
		return (int)s;
	case ABLE:
		return has_config ? (in_sync ? SIDECAR_READY : SIDECAR_DEGRADED) : SIDECAR_CERTIFICATE;
	case READY:
		return SIDECAR_READY;
	case DEGRADED:
		return SIDECAR_DEGRADED;
	case FAILED:
		return SIDECAR_FAILED;
	case LEAVE:
		return serving ? SIDECAR_DRAINING : SIDECAR_STOPPED;
	case STOPPED:
		return SIDECAR_STOPPED;
	case NO:
		break;
	}
	return -1;
}

static void ask_token(struct sidecar *s)
{
	Outrigger__Ipc__ToAgent m = OUTRIGGER__IPC__TO_AGENT__INIT;
	Outrigger__Ipc__TokenWanted wanted = OUTRIGGER__IPC__TOKEN_WANTED__INIT;

	wanted.vm_id = s->put->vm_id;
	wanted.reason = s->token_reason;
	m.msg_case = OUTRIGGER__IPC__TO_AGENT__MSG_TOKEN_WANTED;
	m.token_wanted = &wanted;
	if (agent_link_send(s->proxy->link, &m, false) == 0)
		s->token_asked_ms = clock_mono_ms();
}

void sidecar_report(struct sidecar *s)
{
	Outrigger__Ipc__ToAgent m = OUTRIGGER__IPC__TO_AGENT__INIT;
	Outrigger__Ipc__VmStatus status = OUTRIGGER__IPC__VM_STATUS__INIT;

	status.vm_id = s->put->vm_id;
	status.state = (Outrigger__Ipc__VmState)s->state;
	status.detail = s->detail;
	status.identity = s->identity;
	status.cert_not_after = s->not_after;
	status.mono_ns = s->state_ns;
	m.msg_case = OUTRIGGER__IPC__TO_AGENT__MSG_VM_STATUS;
	m.vm_status = &status;
	int r = agent_link_send(s->proxy->link, &m, false);
	if (r < 0 && r != -ENOTCONN)
		log_warn("agent does not take a status", log_str("vm", s->put->vm_id), log_errno(r));
}

void sidecar_greet(struct sidecar *s)
{
	sidecar_report(s);
	if (s->token_wanted)
		ask_token(s);
}

static int on_end(struct defer *d)
{
	struct sidecar *s = container_of(d, struct sidecar, end);

	proxy_forget(s->proxy, s);
	return 0;
}

static int serve(struct sidecar *s);

static void enter(struct sidecar *s, enum sidecar_state next)
{
	bool changed = next != s->state;

	s->state = next;
	if (changed) {
		s->state_ns = clock_mono_ns();
		log_info("service proxy", log_str("vm", s->put->vm_id), log_str("state", state_names[next]),
			 log_str("identity", s->identity), log_str("detail", s->detail));
	}
	if (next == SIDECAR_READY || next == SIDECAR_DEGRADED) {
		int r = serve(s);

		if (r < 0)
			log_error("workers do not get a service proxy", log_str("vm", s->put->vm_id), log_errno(r));
	}
	sidecar_report(s);
	if (next == SIDECAR_STOPPED)
		loop_defer(s->proxy->loop, &s->end, on_end);
}

static void sidecar_event(struct sidecar *s, enum sidecar_event ev, const char *detail)
{
	int next = sidecar_next(s->state, ev, s->has_config, s->in_sync, s->serving);

	if (next < 0)
		return;
	if (detail)
		snprintf(s->detail, sizeof(s->detail), "%s", detail);
	enter(s, (enum sidecar_state)next);
}

/* --- the workers --- */

static bool wants_to_serve(const struct sidecar *s)
{
	return s->put->mode == OUTRIGGER__IPC__MODE__MODE_PERMISSIVE || s->put->mode == OUTRIGGER__IPC__MODE__MODE_STRICT;
}

static int push(struct sidecar *s)
{
	struct vm_conf *c;
	int r = sidecar_conf_make(s, &c);

	for (size_t i = 0; r == 0 && i < s->proxy->n_workers; i++)
		r = worker_put_vm(s->proxy->workers[i], c);
	if (r == 0)
		vm_conf_unref(c);
	return r;
}

/* Gives the workers the sidecar as it is now, if it is able to serve. */
static int serve(struct sidecar *s)
{
	if (!s->vm || !s->client || !s->has_config || !wants_to_serve(s))
		return 0;
	proxy_publish(s->proxy);	/* first what it needs to know */
	s->serving = true;
	return push(s);
}

static void withdraw(struct sidecar *s, struct vm *vm, uint32_t drain_ms)
{
	s->proxy->slots[vm->slot].withdrawn = true;
	for (size_t i = 0; i < s->proxy->n_workers; i++) {
		int r = worker_remove_vm(s->proxy->workers[i], vm, drain_ms);

		if (r < 0)
			log_error("worker does not take a removal", log_str("vm", s->put->vm_id), log_errno(r));
	}
}

/* The workers' part of it goes by itself; one that they never had goes at once. */
static void drop_vm(struct sidecar *s, uint32_t drain_ms)
{
	if (!s->vm)
		return;

	const struct proxy_slot *slot = &s->proxy->slots[s->vm->slot];
	if (s->serving)
		withdraw(s, s->vm, drain_ms);
	else if (slot->sidecar == s && !slot->withdrawn)
		proxy_slot_release(s->proxy, s->vm->slot);
	s->serving = false;
	s->vm = vm_unref(s->vm);
}

void sidecar_removed(struct sidecar *s, const struct vm *vm)
{
	if (vm != s->vm || s->state != SIDECAR_DRAINING)
		return;
	s->serving = false;
	sidecar_event(s, SIDECAR_EV_GONE, "");
}

void sidecar_remove(struct sidecar *s, uint32_t drain_ms)
{
	s->ca = ca_client_free(s->ca);
	s->xds = xds_client_free(s->xds);
	s->token_wanted = false;
	if (s->serving)
		withdraw(s, s->vm, drain_ms);
	sidecar_event(s, SIDECAR_EV_REMOVE, "");
}

/* --- certificate --- */

static int make_contexts(struct sidecar *s, EVP_PKEY *key, const char *chain_pem, struct tls_ctx *ret[2], struct diag *d)
{
	static const char *const alpn[] = { "h2", NULL };

	for (int i = 0; i < 2; i++) {
		const struct tls_config config = {
			.role = i ? TLS_SERVER : TLS_CLIENT, .verify = TLS_VERIFY_REQUIRE, .cert_pem = chain_pem, .key = key,
			.roots_pem = s->proxy->setup->mesh_controller->roots_pem, .alpn = alpn,
		};
		int r = tls_ctx_new(&config, &ret[i], d);

		if (r < 0) {
			if (i)
				tls_ctx_unref(ret[0]);
			return r;
		}
	}
	return 0;
}

int sidecar_set_credential(struct sidecar *s, EVP_PKEY *key, const char *chain_pem, struct diag *reterr_diag)
{
	struct tls_ctx *ctx[2];
	char *chain = strdup(chain_pem);
	int r = chain ? make_contexts(s, key, chain, ctx, reterr_diag) : -ENOMEM;

	if (r < 0) {
		free(chain);
		return r;
	}
	EVP_PKEY_up_ref(key);
	EVP_PKEY_free(s->key);
	s->key = key;
	free(s->chain_pem);
	s->chain_pem = chain;
	tls_ctx_unref(s->client);
	tls_ctx_unref(s->server);
	s->client = ctx[0];
	s->server = ctx[1];
	s->not_before = tls_ctx_not_before(s->client);
	s->not_after = tls_ctx_not_after(s->client);
	sidecar_event(s, SIDECAR_EV_CERTIFICATE, NULL);
	return 0;
}

static void on_issued(struct ca_client *client, void *data, const struct ca_credential *credential)
{
	struct sidecar *s = data;
	struct diag d = {};
	int r = sidecar_set_credential(s, credential->key, credential->chain_pem, &d);

	(void)client;
	if (r < 0)
		log_error("certificate cannot be used", log_str("vm", s->put->vm_id), log_str("reason", d.msg), log_errno(r));
	else
		log_info("certificate", log_str("vm", s->put->vm_id), log_str("identity", s->identity), log_int("not_after", s->not_after));
}

static void want_token(struct sidecar *s, const struct grpc_status *status)
{
	if (status->code != GRPC_UNAUTHENTICATED && status->code != GRPC_PERMISSION_DENIED)
		return;
	snprintf(s->token_reason, sizeof(s->token_reason), "refused: %.140s", status->message);
	if (!s->token_wanted || clock_mono_ms() - s->token_asked_ms >= TOKEN_AGAIN_MS) {
		s->token_wanted = true;
		ask_token(s);
	}
}

static void on_ca_failed(struct ca_client *client, void *data, const struct grpc_status *status)
{
	struct sidecar *s = data;

	(void)client;
	LOG_LIMITED(LOG_L_WARN, "certificate was not issued", log_str("vm", s->put->vm_id),
		    log_str("status", grpc_code_name(status->code)), log_str("reason", status->message));
	if (!s->client) {
		snprintf(s->detail, sizeof(s->detail), "no certificate: %s %.200s", grpc_code_name(status->code), status->message);
		sidecar_report(s);
	}
	want_token(s, status);
}

static int start_ca(struct sidecar *s)
{
	static const struct ca_client_ops ops = { .issued = on_issued, .failed = on_ca_failed };
	const Outrigger__Ipc__MeshController *mc = s->proxy->setup->mesh_controller;
	const struct ca_client_options options = {
		.channel = s->proxy->channel, .id = s->identity, .token = s->token, .needs_token = true,
		.cluster_id = *mc->cluster_id ? mc->cluster_id : NULL, .roots_pem = mc->roots_pem, .ttl_s = CERT_TTL_S,
	};

	return ca_client_new(s->proxy->loop, &options, &ops, s, &s->ca);
}

/* --- discovery --- */

static int put(struct sidecar *s, enum knowledge_kind kind, const struct xds_resource *res, struct diag *d)
{
	int r = knowledge_put(s->proxy->knowledge, s->holder, kind, res->name, res->version, res->value, res->len, d);

	if (r == -EINVAL)
		LOG_LIMITED(LOG_L_WARN, "resource refused", log_str("vm", s->put->vm_id), log_str("type", knowledge_type_url(kind)),
			    log_str("name", res->name), log_str("reason", d->msg));
	return r;
}

static int put_address(void *data, const struct xds_resource *res, struct diag *d)
{
	return put(data, KNOWLEDGE_ADDRESS, res, d);
}

static int put_policy(void *data, const struct xds_resource *res, struct diag *d)
{
	return put(data, KNOWLEDGE_POLICY, res, d);
}

static void gone_address(void *data, const char *name)
{
	struct sidecar *s = data;

	knowledge_gone(s->proxy->knowledge, s->holder, KNOWLEDGE_ADDRESS, name);
	demand_answered(&s->demand, name);
}

static void gone_policy(void *data, const char *name)
{
	struct sidecar *s = data;

	knowledge_gone(s->proxy->knowledge, s->holder, KNOWLEDGE_POLICY, name);
}

static void done_address(void *data)
{
	struct sidecar *s = data;

	demand_review(&s->demand, loop_now_ms(s->proxy->loop));
}

static const struct xds_type types[N_TYPES] = {
	[TYPE_ADDRESS] = { MODEL_TYPE_ADDRESS, true, put_address, gone_address, done_address },
	[TYPE_POLICY]  = { MODEL_TYPE_AUTHORIZATION, false, put_policy, gone_policy, NULL },
};

void sidecar_set_config(struct sidecar *s)
{
	s->has_config = true;
	s->in_sync = true;
	knowledge_policies_known(s->proxy->knowledge);
	sidecar_event(s, SIDECAR_EV_CONFIG, "");
}

static void on_synced(struct xds_client *client, void *data)
{
	(void)client;
	sidecar_set_config(data);
}

static void on_lost(struct xds_client *client, void *data, const struct grpc_status *status)
{
	struct sidecar *s = data;
	char detail[256];

	(void)client;
	snprintf(detail, sizeof(detail), "no stream to the mesh controller: %s %.180s", grpc_code_name(status->code), status->message);
	LOG_LIMITED(LOG_L_WARN, "discovery stream lost", log_str("vm", s->put->vm_id), log_str("status", grpc_code_name(status->code)),
		    log_str("reason", status->message));
	s->in_sync = false;
	sidecar_event(s, SIDECAR_EV_LOST, detail);
	want_token(s, status);
}

enum { NODE_FIELDS_MAX = 48 };

static size_t node_metadata(const struct sidecar *s, struct xds_node_field fields[static NODE_FIELDS_MAX])
{
	const Outrigger__Ipc__VmPut *m = s->put;
	const char *cluster = s->proxy->setup->mesh_controller->cluster_id;
	size_t n = 0;

	fields[n++] = (struct xds_node_field){ "NAME", m->workload_name };
	fields[n++] = (struct xds_node_field){ "NAMESPACE", m->namespace_ };
	fields[n++] = (struct xds_node_field){ "SERVICE_ACCOUNT", m->service_account };
	if (m->n_addresses)
		fields[n++] = (struct xds_node_field){ "INSTANCE_IPS", m->addresses[0] };
	if (*cluster)
		fields[n++] = (struct xds_node_field){ "CLUSTER_ID", cluster };
	for (size_t i = 0; i < m->n_node_metadata && n < NODE_FIELDS_MAX; i++)
		fields[n++] = (struct xds_node_field){ m->node_metadata[i]->key, m->node_metadata[i]->value };
	return n;
}

/* Its own workload is what policies are looked up by. */
static int subscribe_own(struct sidecar *s)
{
	char name[DEMAND_NAME_LEN];
	int r = *s->put->uid ? xds_client_subscribe(s->xds, TYPE_ADDRESS, s->put->uid) : 0;

	for (size_t i = 0; r == 0 && i < s->put->n_addresses; i++) {
		snprintf(name, sizeof(name), "/%s", s->put->addresses[i]);
		r = xds_client_subscribe(s->xds, TYPE_ADDRESS, name);
	}
	return r;
}

static int start_xds(struct sidecar *s)
{
	static const struct xds_client_ops ops = { .synced = on_synced, .lost = on_lost };
	const Outrigger__Ipc__VmPut *m = s->put;
	const char *cluster = s->proxy->setup->mesh_controller->cluster_id;
	struct xds_node_field fields[NODE_FIELDS_MAX];
	char node[1024];

	snprintf(node, sizeof(node), "ztunnel~%s~%s.%s~%s.svc.cluster.local", m->n_addresses ? m->addresses[0] : "0.0.0.0",
		 m->workload_name, m->namespace_, m->namespace_);
	const struct xds_client_options options = {
		.channel = s->proxy->channel, .node_id = node, .metadata = fields, .n_metadata = node_metadata(s, fields),
		.locality = *m->locality ? m->locality : NULL, .token = s->token, .cluster_id = *cluster ? cluster : NULL,
		.types = types, .n_types = N_TYPES, .data = s,
	};
	int r = xds_client_new(s->proxy->loop, &options, &ops, &s->xds);

	return r < 0 ? r : subscribe_own(s);
}

/* Starts what can be started: it takes a controller, and a token to show it. */
static int start_clients(struct sidecar *s)
{
	int r = 0;

	if (!s->proxy->channel || !s->token)
		return 0;
	if (!s->ca)
		r = start_ca(s);
	if (r == 0 && !s->xds)
		r = start_xds(s);
	return r;
}

void sidecar_token(struct sidecar *s, const char *token, const char *refused)
{
	char *copy;
	int r = 0;

	if (*refused) {
		snprintf(s->detail, sizeof(s->detail), "no token: %.200s", refused);
		log_warn("no token for a VM", log_str("vm", s->put->vm_id), log_str("reason", refused));
		sidecar_report(s);
		return;
	}
	if (!*token || s->state == SIDECAR_DRAINING || s->state == SIDECAR_STOPPED)
		return;
	copy = strdup(token);
	if (copy) {
		free(s->token);
		s->token = copy;
		s->token_wanted = false;
		if (s->ca)
			r = ca_client_set_token(s->ca, token);
		if (r == 0 && s->xds)
			r = xds_client_set_token(s->xds, token);
		if (r == 0)
			r = start_clients(s);
	}
	if (!copy || r < 0)
		log_error("token cannot be used", log_str("vm", s->put->vm_id), log_errno(copy ? r : -ENOMEM));
}

/* --- destinations --- */

static int demand_subscribe(void *data, const char *name)
{
	struct sidecar *s = data;

	return s->xds ? xds_client_subscribe(s->xds, TYPE_ADDRESS, name) : -ENOTCONN;
}

static void demand_unsubscribe(void *data, const char *name)
{
	struct sidecar *s = data;

	if (s->xds)
		xds_client_unsubscribe(s->xds, TYPE_ADDRESS, name);
}

static void demand_absent(void *data, const struct ip *ip, bool absent)
{
	struct sidecar *s = data;

	knowledge_absent(s->proxy->knowledge, ip, absent);
}

static bool demand_known(void *data, const struct ip *ip)
{
	struct sidecar *s = data;
	struct snap_route route;
	int r = snapshot_route(knowledge_snapshot(s->proxy->knowledge), &(struct ip_port){ *ip, 0 }, &route);

	return r == 0 || r == SNAP_E_NO_PORT;
}

static const struct demand_ops demand_ops = {
	.subscribe = demand_subscribe, .unsubscribe = demand_unsubscribe, .absent = demand_absent, .known = demand_known,
};

static bool is_own(const struct sidecar *s, const struct ip *ip)
{
	for (size_t i = 0; i < s->put->n_addresses; i++) {
		struct ip own;

		if (ip_parse(s->put->addresses[i], &own) == 0 && ip_equal(&own, ip))
			return true;
	}
	return false;
}

void sidecar_resolve(struct sidecar *s, const struct ip *ip)
{
	int r;

	if (is_own(s, ip))
		return;		/* is subscribed from the beginning */
	r = demand_want(&s->demand, ip, loop_now_ms(s->proxy->loop));
	if (r == 0)
		demand_review(&s->demand, loop_now_ms(s->proxy->loop));
	else
		LOG_LIMITED(LOG_L_WARN, "destination is not looked up", log_str("vm", s->put->vm_id), log_ip("destination", ip), log_errno(r));
}

void sidecar_used(struct sidecar *s, const struct ip *ip)
{
	demand_used(&s->demand, ip, loop_now_ms(s->proxy->loop));
}

/*
 * The mesh may know our workload by another uid than the agent does (a
 * WorkloadEntry of istiod): then it is found by its address, and must be of our
 * identity.
 */
static const char *own_uid(const struct sidecar *s)
{
	const struct snapshot *snap = knowledge_snapshot(s->proxy->knowledge);

	if (*s->put->uid && snapshot_workload(snap, s->put->uid))
		return s->put->uid;
	for (size_t i = 0; i < s->put->n_addresses; i++) {
		const struct snap_workload *w;
		struct ip ip;

		if (ip_parse(s->put->addresses[i], &ip) < 0)
			continue;
		w = snapshot_workload_by_ip(snap, &ip);
		if (w && !strcmp(w->kind->identity, s->identity))
			return snap_workload_uid(w);
	}
	return s->put->uid;
}

void sidecar_review(struct sidecar *s)
{
	const char *uid = own_uid(s);
	char *copy;

	if (!strcmp(uid, s->uid))
		return;
	copy = strdup(uid);
	if (!copy)
		return;		/* the next change brings us here again */
	free(s->uid);
	s->uid = copy;
	if (s->serving && s->state != SIDECAR_DRAINING && push(s) < 0)
		log_error("workers do not get a service proxy", log_str("vm", s->put->vm_id), log_errno(-ENOMEM));
}

void sidecar_tick(struct sidecar *s)
{
	uint64_t now_ms = loop_now_ms(s->proxy->loop);

	demand_sweep(&s->demand, now_ms, DEMAND_IDLE_MS);
	if (s->not_after && clock_wall_s() >= s->not_after && s->state != SIDECAR_FAILED)
		sidecar_event(s, SIDECAR_EV_EXPIRED, "the certificate has expired");
	if (s->token_wanted && now_ms - s->token_asked_ms >= TOKEN_AGAIN_MS)
		ask_token(s);
}

/* --- making and changing --- */

void sidecar_setup(struct sidecar *s)
{
	const Outrigger__Ipc__Setup *setup = s->proxy->setup;
	struct identity id;
	struct diag d = {};
	int r = 0;

	if (!setup || s->state == SIDECAR_DRAINING || s->state == SIDECAR_STOPPED)
		return;
	if (identity_workload(setup->trust_domain, s->put->namespace_, s->put->service_account, &id) < 0)
		diag_set(&d, "trust domain, namespace and service account do not make an identity");
	else
		identity_format(&id, s->identity);
	if (s->ca && setup->mesh_controller)
		r = ca_client_set_roots(s->ca, setup->mesh_controller->roots_pem);
	if (r == 0 && !*d.msg)
		r = start_clients(s);
	if (r == 0 && !*d.msg && s->key)	/* other roots: other contexts with the same certificate */
		r = sidecar_set_credential(s, s->key, s->chain_pem, &d);
	if (r < 0 || *d.msg) {
		snprintf(s->detail, sizeof(s->detail), "%.200s", *d.msg ? d.msg : strerror(-r));
		log_error("service proxy cannot be set up", log_str("vm", s->put->vm_id), log_str("reason", s->detail));
		enter(s, SIDECAR_FAILED);
	}
}

static int check(const Outrigger__Ipc__VmPut *m, struct diag *d)
{
	struct ip ip;

	if (!*m->vm_id || strlen(m->vm_id) > 200)
		return diag_set(d, "a VM without an id, or with one of over 200 bytes");
	if (!identity_name_valid(m->namespace_) || !identity_name_valid(m->service_account))
		return diag_set(d, "VM %s: namespace or service account is not a name", m->vm_id);
	if (m->n_addresses > VM_MAX_ADDRESSES)
		return diag_set(d, "VM %s: more than %d addresses", m->vm_id, VM_MAX_ADDRESSES);
	for (size_t i = 0; i < m->n_addresses; i++)
		if (ip_parse(m->addresses[i], &ip) < 0)
			return diag_set(d, "VM %s: \"%.64s\" is not an address", m->vm_id, m->addresses[i]);
	return 0;
}

/* Another struct vm in place of the one there is, which the workers let go of if they have it. Takes the listeners over. */
static int set_vm(struct sidecar *s, int outbound_fd, int inbound_fd, uint32_t drain_ms)
{
	int slot = proxy_slot_take(s->proxy, s);
	struct vm *vm;
	int r;

	if (slot < 0) {
		close_fd(outbound_fd);
		close_fd(inbound_fd);
		return slot;
	}
	r = vm_new((uint32_t)slot, s->put->vm_id, outbound_fd, inbound_fd, s->proxy->n_workers, &vm);
	if (r < 0) {
		proxy_slot_release(s->proxy, (uint32_t)slot);
		return r;
	}
	drop_vm(s, drain_ms);
	s->vm = vm;
	return 0;
}

static int take_listeners(struct sidecar *s, int *fds, size_t n_fds, struct diag *d)
{
	int r;

	if (!n_fds)
		return s->vm ? 0 : diag_set(d, "VM %s: without listeners", s->put->vm_id);
	if (n_fds != 2)
		return diag_set(d, "VM %s: %zu listeners, must be 2", s->put->vm_id, n_fds);
	r = set_vm(s, steal_fd(&fds[0]), steal_fd(&fds[1]), LISTENER_DRAIN_MS);
	if (r == -ENOSPC)
		return diag_set(d, "VM %.200s: this process serves %d VMs already", s->put->vm_id, PROXY_VMS_MAX);
	return r;
}

/* What the workers were told to let go of cannot be given to them again: the same listeners, as another struct vm. */
static int renew_vm(struct sidecar *s)
{
	int fds[2] = { s->vm->outbound_fd, s->vm->inbound_fd };

	for (int i = 0; i < 2; i++)
		fds[i] = fds[i] >= 0 ? fcntl(fds[i], F_DUPFD_CLOEXEC, 3) : -1;
	return set_vm(s, fds[0], fds[1], 0);
}

int sidecar_new(struct proxy *p, const Outrigger__Ipc__VmPut *m, int *fds, size_t n_fds,
		struct sidecar **ret_sidecar, struct diag *reterr_diag)
{
	struct sidecar *s;
	int r = check(m, reterr_diag);

	if (r < 0)
		return r;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->proxy = p;
	s->holder = ++p->next_holder;
	s->state_ns = clock_mono_ns();
	list_init(&s->leaving);
	demand_init(&s->demand, "", &demand_ops, s);
	s->put = proxy_copy_pb(&m->base);
	s->uid = strdup(m->uid);
	s->vm_id = strdup(m->vm_id);
	if (*m->token)
		s->token = strdup(m->token);
	s->has_config = p->restored;
	r = s->put && s->uid && s->vm_id && (s->token || !*m->token) ? take_listeners(s, fds, n_fds, reterr_diag) : -ENOMEM;
	if (r < 0) {
		sidecar_free(s);
		return r;
	}
	snprintf(s->token_reason, sizeof(s->token_reason), "first");
	s->token_wanted = !s->token;
	*ret_sidecar = s;
	return 0;
}

int sidecar_update(struct sidecar *s, const Outrigger__Ipc__VmPut *m, int *fds, size_t n_fds, struct diag *reterr_diag)
{
	Outrigger__Ipc__VmPut *copy;
	bool moved;
	int r = check(m, reterr_diag);

	if (r < 0)
		return r;
	copy = proxy_copy_pb(&m->base);
	if (!copy)
		return -ENOMEM;
	moved = strcmp(m->namespace_, s->put->namespace_) || strcmp(m->service_account, s->put->service_account);
	protobuf_c_message_free_unpacked(&s->put->base, NULL);
	s->put = copy;
	r = take_listeners(s, fds, n_fds, reterr_diag);
	if (r < 0)
		return r;
	if (moved) {	/* somebody else from here on: another certificate, another stream */
		s->ca = ca_client_free(s->ca);
		s->xds = xds_client_free(s->xds);
		knowledge_drop(s->proxy->knowledge, s->holder);
		sidecar_setup(s);
	} else if (s->xds) {
		r = subscribe_own(s);
	}
	if (*m->token)
		sidecar_token(s, m->token, "");
	if (r == 0 && s->serving && !wants_to_serve(s))
		r = renew_vm(s);
	sidecar_review(s);
	if (r == 0 && (s->state == SIDECAR_READY || s->state == SIDECAR_DEGRADED))
		r = serve(s);
	sidecar_report(s);
	return r;
}

struct sidecar *sidecar_free(struct sidecar *s)
{
	if (!s)
		return NULL;
	defer_cancel(&s->end);
	ca_client_free(s->ca);
	xds_client_free(s->xds);
	demand_deinit(&s->demand);
	drop_vm(s, 0);
	for (size_t i = 0; i < PROXY_VMS_MAX; i++)
		if (s->proxy->slots[i].sidecar == s)
			s->proxy->slots[i].sidecar = NULL;
	tls_ctx_unref(s->client);
	tls_ctx_unref(s->server);
	EVP_PKEY_free(s->key);
	free(s->chain_pem);
	if (s->token)
		explicit_bzero(s->token, strlen(s->token));
	free(s->token);
	free(s->uid);
	free(s->vm_id);
	if (s->put)
		protobuf_c_message_free_unpacked(&s->put->base, NULL);
	free(s);
	return NULL;
}
