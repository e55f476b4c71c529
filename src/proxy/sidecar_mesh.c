/*
 * What a sidecar hears from the mesh: its certificate, what it subscribed to,
 * and what becomes of its token.
 */
#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/secret.h"
#include "mesh/model.h"
#include "proxy/credential.h"
#include "proxy/sidecar.h"
#include "proxy/sidecar_mesh.h"

enum {
	TOKEN_AGAIN_MS = 10000,		/* between two requests for a token */
};

/* Of the stream; the first ones as enum knowledge_kind. Only a controller of ours knows the last one. */
enum { TYPE_ADDRESS, TYPE_POLICY, TYPE_REVOCATIONS, N_TYPES };

/* --- token --- */

void sidecar_ask_token(struct sidecar *s)
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

void sidecar_ask_again(struct sidecar *s, uint64_t now_ms)
{
	if (s->token_wanted && now_ms - s->token_asked_ms >= TOKEN_AGAIN_MS)
		sidecar_ask_token(s);
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
	s->token_refusals = 0;
	if (r < 0)
		log_error("certificate cannot be used", log_str("vm", s->put->vm_id), log_str("reason", d.msg), log_errno(r));
	else
		log_info("certificate", log_str("vm", s->put->vm_id), log_str("identity", s->identity), log_int("not_after", s->not_after),
			 log_str("by", credential->renewed_itself ? "certificate" : "token"));
	if (r == 0)
		credential_give(s);
}

static void want_token(struct sidecar *s, const struct grpc_status *status)
{
	if (status->code != GRPC_UNAUTHENTICATED && status->code != GRPC_PERMISSION_DENIED)
		return;
	snprintf(s->token_reason, sizeof(s->token_reason), "refused: %.140s", status->message);
	/* The first refusal may be for age, and another token mends it at once. When it does not, the tick asks on. */
	if (!s->token_wanted && (!s->token_refusals++ || clock_mono_ms() - s->token_asked_ms >= TOKEN_AGAIN_MS))
		sidecar_ask_token(s);
	s->token_wanted = true;
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

static void on_ca_fell_back(struct ca_client *client, void *data, const struct grpc_status *status)
{
	const struct sidecar *s = data;

	(void)client;
	LOG_LIMITED(LOG_L_WARN, "the certificate could not renew itself, the token is shown", log_str("vm", s->put->vm_id),
		    log_str("status", grpc_code_name(status->code)), log_str("reason", status->message));
}

static int start_ca(struct sidecar *s)
{
	static const struct ca_client_ops ops = { .issued = on_issued, .failed = on_ca_failed, .fell_back = on_ca_fell_back };
	const Outrigger__Ipc__MeshController *mc = s->proxy->setup->mesh_controller;
	const struct ca_client_options options = {
		.channel = s->proxy->channel, .id = s->identity, .token = s->token, .needs_token = true,
		.cluster_id = *mc->cluster_id ? mc->cluster_id : NULL, .roots_pem = mc->roots_pem, .ttl_s = mc->certificate_ttl_s,
		.renews_itself = mc->renew_by_certificate,
	};

	return ca_client_new(s->proxy->loop, &options, &ops, s, &s->ca);
}

/* --- discovery --- */

static int put(struct sidecar *s, enum knowledge_kind kind, const struct xds_resource *res, struct diag *d)
{
	int r = knowledge_put(s->proxy->knowledge, s->holder, kind, res->name, res->value, res->len, d);

	if (r == -EINVAL)
		LOG_LIMITED(LOG_L_WARN, "resource refused", log_str("vm", s->put->vm_id), log_str("type", knowledge_type_url(kind)),
			    log_str("name", res->name), log_str("reason", d->msg));
	return r;
}

static int put_address(void *data, const struct xds_resource *res, struct diag *d)
{
	struct sidecar *s = data;
	int r = put(s, KNOWLEDGE_ADDRESS, res, d);

	if (r == 0 && s->dns)
		vm_dns_told(s->dns, res->name);
	return r;
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
	if (s->dns)
		vm_dns_told(s->dns, name);
}

static void gone_policy(void *data, const char *name)
{
	struct sidecar *s = data;

	knowledge_gone(s->proxy->knowledge, s->holder, KNOWLEDGE_POLICY, name);
}

static int put_revocations(void *data, const struct xds_resource *res, struct diag *d)
{
	const struct sidecar *s = data;
	int r = proxy_revoke(s->proxy, res->value, res->len, d);

	if (r < 0)
		log_error("revocations are not understood", log_str("vm", s->put->vm_id), log_str("reason", d->msg), log_errno(r));
	return r;
}

/* What is revoked stays so until it has expired. */
static void gone_revocations(void *data, const char *name)
{
	(void)data;
	(void)name;
}

static void begin_address(void *data)
{
	struct sidecar *s = data;

	knowledge_begin(s->proxy->knowledge);
}

static int done_address(void *data)
{
	struct sidecar *s = data;
	int r = knowledge_end(s->proxy->knowledge);

	demand_review(&s->demand, loop_now_ms(s->proxy->loop));
	if (s->dns)
		vm_dns_review(s->dns);
	return r;
}

static const struct xds_type types[N_TYPES] = {
	[TYPE_ADDRESS] = { .url = MODEL_TYPE_ADDRESS, .on_demand = true, .begin = begin_address, .put = put_address,
			   .gone = gone_address, .done = done_address },
	[TYPE_POLICY] = { .url = MODEL_TYPE_AUTHORIZATION, .put = put_policy, .gone = gone_policy },
	/* One of an older version never answers. */
	[TYPE_REVOCATIONS] = { .url = REVOCATION_TYPE, .optional = true, .put = put_revocations, .gone = gone_revocations },
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
	struct sidecar *s = data;

	(void)client;
	s->token_refusals = 0;
	sidecar_set_config(s);
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
	if (*s->proxy->network)
		fields[n++] = (struct xds_node_field){ "NETWORK", s->proxy->network };
	for (size_t i = 0; i < m->n_node_metadata && n < NODE_FIELDS_MAX; i++)
		fields[n++] = (struct xds_node_field){ m->node_metadata[i]->key, m->node_metadata[i]->value };
	return n;
}

/*
 * Who registers is told nothing at all where his WorkloadGroup is away, not even
 * what concerns others. One that was in the mesh already goes on without being
 * registered, until it is tried again.
 */
static bool goes_on_unregistered(struct sidecar *s, const struct grpc_status *status)
{
	struct xds_node_field fields[NODE_FIELDS_MAX];

	if (status->code != GRPC_FAILED_PRECONDITION || !s->unregistered_ms || s->goes_unregistered)
		return false;		/* said of a stream that registers nothing it is a loss like any other */
	LOG_LIMITED(LOG_L_WARN, "the mesh controller does not register the VM", log_str("vm", s->put->vm_id), log_str("reason", status->message));
	s->goes_unregistered = true;
	xds_client_reopen(s->xds, node_metadata(s, fields) - s->put->n_node_metadata);
	return true;
}

void sidecar_register_again(struct sidecar *s, uint64_t now_ms)
{
	if (!s->put->n_node_metadata || !s->xds || !s->in_sync)
		return;
	char uid[SNAP_UID_LEN];

	if (snapshot_workload(knowledge_snapshot(s->proxy->knowledge), sidecar_own_uid(s, uid))) {
		s->unregistered_ms = 0;
		backoff_reset(&s->registering);
		return;
	}
	if (s->unregistered_ms && now_ms - s->unregistered_ms < s->register_wait_ms)
		return;
	if (s->unregistered_ms) {
		LOG_LIMITED(LOG_L_WARN, "the mesh controller has lost the VM: it is registered anew", log_str("vm", s->put->vm_id));
		s->goes_unregistered = false;
		xds_client_reopen(s->xds, SIZE_MAX);
	}
	s->unregistered_ms = now_ms;
	s->register_wait_ms = backoff_next(&s->registering);
}

static void on_lost(struct xds_client *client, void *data, const struct grpc_status *status)
{
	struct sidecar *s = data;
	char detail[256];

	(void)client;
	if (goes_on_unregistered(s, status))
		return;
	snprintf(detail, sizeof(detail), "no stream to the mesh controller: %s %.180s", grpc_code_name(status->code), status->message);
	LOG_LIMITED(LOG_L_WARN, "discovery stream lost", log_str("vm", s->put->vm_id), log_str("status", grpc_code_name(status->code)),
		    log_str("reason", status->message));
	s->in_sync = false;
	sidecar_event(s, SIDECAR_EV_LOST, detail);
	want_token(s, status);
}

int sidecar_subscribe_own(struct sidecar *s)
{
	char name[DEMAND_NAME_LEN];
	int r = *s->put->uid ? xds_client_subscribe(s->xds, TYPE_ADDRESS, s->put->uid) : 0;

	for (size_t i = 0; r == 0 && i < s->put->n_addresses; i++) {
		snprintf(name, sizeof(name), "/%s", s->put->addresses[i]);
		r = xds_client_subscribe(s->xds, TYPE_ADDRESS, name);
	}
	return r;
}

/*
 * What was restored is asked for anew, or it would be gone when that has had its
 * time: services, and workloads that none of them brings along. By one VM for
 * all: each asks for itself for what it uses.
 */
static int subscribe_restored(struct sidecar *s)
{
	const struct snapshot *known = knowledge_snapshot(s->proxy->knowledge);
	char uid[SNAP_UID_LEN];
	int r = 0;

	if (!s->proxy->restored || s->proxy->restored_wanted)
		return 0;
	s->proxy->restored_wanted = true;
	for (uint32_t i = 0; r == 0 && i < snapshot_n_services(known); i++) {
		const struct snap_def *def = snapshot_service_at(known, i)->def;

		if (def->defined)
			r = xds_client_subscribe(s->xds, TYPE_ADDRESS, snap_def_key(def));
	}
	for (uint32_t i = 0; r == 0 && i < snapshot_n_workloads(known); i++) {
		const struct snap_workload *w = snapshot_workload_at(known, i);

		if (!w->kind->n_members)
			r = xds_client_subscribe(s->xds, TYPE_ADDRESS, snap_workload_uid(w, uid));
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
		.types = types, .n_types = proxy_is_istio(s->proxy->setup->mesh_controller) ? TYPE_REVOCATIONS : N_TYPES, .data = s,
	};
	int r = xds_client_new(s->proxy->loop, &options, &ops, &s->xds);

	if (r < 0)
		return r;
	sidecar_say_health(s);
	r = subscribe_restored(s);
	if (r < 0)
		log_warn("what was known is not asked for", log_str("vm", s->put->vm_id), log_errno(r));
	return sidecar_subscribe_own(s);
}

int sidecar_start_clients(struct sidecar *s)
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
		secret_free(s->token);
		s->token = copy;
		s->token_wanted = false;
		if (s->ca)
			r = ca_client_set_token(s->ca, token);
		if (r == 0 && s->xds)
			r = xds_client_set_token(s->xds, token);
		if (r == 0)
			r = sidecar_start_clients(s);
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

static void demand_ask_again(void *data, const char *name)
{
	struct sidecar *s = data;

	if (s->xds)
		xds_client_ask_again(s->xds, TYPE_ADDRESS, name);
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

const struct demand_ops sidecar_demand_ops = {
	.subscribe = demand_subscribe, .unsubscribe = demand_unsubscribe, .ask_again = demand_ask_again, .absent = demand_absent, .known = demand_known,
};

/* --- names --- */

static const struct snap_service *names_service(void *data, const char *key)
{
	struct sidecar *s = data;
	const struct snap_service *service = snapshot_service(knowledge_snapshot(s->proxy->knowledge), key);

	return service && service->def->defined ? service : NULL;
}

static const struct snap_service *names_service_at(void *data, const struct ip *ip)
{
	struct sidecar *s = data;

	return snapshot_service_of_ip(knowledge_snapshot(s->proxy->knowledge), ip);
}

/*
 * A connection goes on to its server by a worker, which sees one end of a pair
 * of sockets as the VM's: so it is diverted, tunnelled, refused and counted as
 * all others.
 */
static int names_dial(void *data, const struct ip_port *src, const struct ip_port *dst)
{
	struct sidecar *s = data;
	int fds[2], r;

	if (!s->vm)
		return -ENOTCONN;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) < 0)
		return -errno;
	r = proxy_dial(s->proxy, s->vm, fds[1], src, dst);
	if (r < 0)
		close_fd(fds[0]);
	return r < 0 ? r : fds[0];
}

static const struct vm_dns_ops dns_ops = {
	.names = { .subscribe = demand_subscribe, .unsubscribe = demand_unsubscribe, .ask_again = demand_ask_again, .service = names_service,
		   .service_at = names_service_at },
	.conns = { .dial = names_dial },
};

void sidecar_take_names(struct sidecar *s, struct vm *vm, int fd, const struct ip_port *src, const struct ip_port *dst)
{
	if (s->dns && vm == s->vm && vm_dns_take(s->dns, fd, src, dst) == 0)
		return;
	if (proxy_dial(s->proxy, vm, fd, src, dst) < 0)		/* as one to any other port */
		LOG_LIMITED(LOG_L_WARN, "connection for names is not taken", log_str("vm", s->put->vm_id), log_errno(-ENOMEM));
}

int sidecar_set_dns(struct sidecar *s, int fds[2])
{
	int r;

	if (s->dns)
		return vm_dns_replace(s->dns, fds);
	r = vm_dns_new(s->proxy->loop, fds, &dns_ops, s, &s->dns);
	if (r == 0)
		vm_dns_set(s->dns, s->put);
	return r;
}

static bool is_own(const struct sidecar *s, const struct ip *ip)
{
	for (size_t i = 0; i < s->put->n_addresses; i++) {
		struct ip own;

		if (ip_parse(s->put->addresses[i], &own) == 0 && ip_equal(&own, ip))
			return true;
	}
	return false;
}

/* The waypoint through which @ip is to be reached, if the mesh wants one there: subscribed for the VM's life. */
static int want_waypoint(struct sidecar *s, const struct ip *ip)
{
	const struct model_gateway *g = snapshot_waypoint(knowledge_snapshot(s->proxy->knowledge), ip);
	char name[2 * MODEL_NAME_MAX + 2];

	if (!g || !s->xds)
		return 0;
	if (!g->hostname)
		return demand_want(&s->demand, &g->ip, loop_now_ms(s->proxy->loop));
	snprintf(name, sizeof(name), "%s/%s", g->namespace, g->hostname);
	return xds_client_subscribe(s->xds, TYPE_ADDRESS, name);
}

void sidecar_resolve(struct sidecar *s, const struct ip *ip)
{
	int r;

	if (is_own(s, ip))
		return;		/* is subscribed from the beginning */
	r = demand_want(&s->demand, ip, loop_now_ms(s->proxy->loop));
	if (r == 0)
		r = want_waypoint(s, ip);
	if (r == 0)
		demand_review(&s->demand, loop_now_ms(s->proxy->loop));
	else
		LOG_LIMITED(LOG_L_WARN, "destination is not looked up", log_str("vm", s->put->vm_id), log_ip("destination", ip), log_errno(r));
}

/*
 * It may be known because another VM has asked for it, or by the last
 * configuration: it would go with those, and could not be asked for while the
 * mesh controller is away.
 */
void sidecar_used(struct sidecar *s, const struct ip *ip)
{
	if (!demand_used(&s->demand, ip, loop_now_ms(s->proxy->loop)) && s->xds && demand_known(s, ip))
		sidecar_resolve(s, ip);
}
