/*
 * A VM's service proxy: its states, what the workers get of it, how it is made
 * and changed. What it hears from the mesh is in sidecar_mesh.c.
 */
#include "mesh/pb.h"
#include "proxy/sidecar.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/secret.h"
#include "proxy/credential.h"
#include "proxy/sidecar_mesh.h"

enum {
	DEMAND_IDLE_MS = 30000,		/* so long an address that the mesh does not know is remembered without being used */
	REGISTER_MIN_MS = 10000,	/* a registration that was lost is not made anew before */
	REGISTER_MAX_MS = 60000,
	LISTENER_DRAIN_MS = 300000,	/* of connections that came in by listeners that were replaced */
};

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
	sidecar_report_health(s);	/* before the state: who hears that it serves knows how it is */
	sidecar_report(s);
	credential_give(s);
	if (s->token_wanted)
		sidecar_ask_token(s);
}

void sidecar_unreachable(struct sidecar *s, const char *address, const char *why)
{
	if (s->client)
		return;
	snprintf(s->detail, sizeof(s->detail), "the mesh controller %.70s cannot be reached: %.120s", address, why);
	sidecar_report(s);
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

void sidecar_event(struct sidecar *s, enum sidecar_event ev, const char *detail)
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
	bool made = r == 0;

	if (r == 0)
		r = slots_give(&s->proxy->slots, c);
	if (made)
		vm_conf_unref(c);
	s->unpushed = r < 0;
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

/* False: the workers never had it. */
static bool withdraw(struct sidecar *s, uint32_t drain_ms, uint32_t linger_ms)
{
	bool owed, had = slots_withdraw(&s->proxy->slots, s->vm, drain_ms, linger_ms, &owed);

	if (owed)
		LOG_LIMITED(LOG_L_ERROR, "workers do not let go of a VM yet", log_str("vm", s->put->vm_id), log_errno(-ENOMEM));
	return had;
}

/* The workers' part of it goes by itself; one that they never had goes at once. */
static void drop_vm(struct sidecar *s, uint32_t drain_ms)
{
	if (!s->vm)
		return;

	const struct slot *slot = &s->proxy->slots.v[s->vm->slot];
	if (s->serving)
		(void)!withdraw(s, drain_ms, 0);
	else if (slot->sidecar == s && !slot->withdrawn)
		slots_release(&s->proxy->slots, s->vm->slot);
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

void sidecar_remove(struct sidecar *s, uint32_t drain_ms, uint32_t linger_ms)
{
	s->ca = ca_client_free(s->ca);
	s->xds = xds_client_free(s->xds);
	s->health = vm_health_free(s->health);
	s->token_wanted = false;
	s->serving = s->serving && withdraw(s, drain_ms, linger_ms);
	sidecar_event(s, SIDECAR_EV_REMOVE, "");
}

void sidecar_cut(struct sidecar *s)
{
	if (s->serving)
		(void)!withdraw(s, 0, 0);
}

/*
 * The mesh may know our workload by another uid than the agent does (a
 * WorkloadEntry of istiod): then it is found by its address, and must be of our
 * identity.
 */
const char *sidecar_own_uid(const struct sidecar *s, char uid[static SNAP_UID_LEN])
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
		if (w && !strcmp(snap_kind_text(w->kind, SNAP_IDENTITY), s->identity))
			return snap_workload_uid(w, uid);
	}
	return s->put->uid;
}

void sidecar_review(struct sidecar *s)
{
	char room[SNAP_UID_LEN];
	const char *uid = sidecar_own_uid(s, room);
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

static void tell_budgets(struct sidecar *s, uint64_t now_ms)
{
	struct vm_counters c = {};

	if (!s->vm)
		return;
	vm_count(s->vm, &c);
	for (int b = 0; b < _VM_BUDGET_N; b++) {
		uint64_t n = budget_watch_due(&s->budgets, (enum vm_budget)b, c.over_budget[b], now_ms);

		if (n)
			log_warn("a VM is over its budget", log_str("vm", s->put->vm_id), log_str("budget", vm_budget_name((enum vm_budget)b)),
				 log_int("times", (int64_t)n));
	}
}

void sidecar_tick(struct sidecar *s)
{
	uint64_t now_ms = loop_now_ms(s->proxy->loop);

	tell_budgets(s, now_ms);
	if (s->unpushed && s->serving && s->state != SIDECAR_DRAINING && push(s) < 0)
		LOG_LIMITED(LOG_L_ERROR, "workers do not get a service proxy yet", log_str("vm", s->put->vm_id), log_errno(-ENOMEM));
	demand_sweep(&s->demand, now_ms, DEMAND_IDLE_MS);
	if (s->dns)
		vm_dns_tick(s->dns);
	if (s->not_after && clock_wall_s() >= s->not_after && s->state != SIDECAR_FAILED)
		sidecar_event(s, SIDECAR_EV_EXPIRED, "the certificate has expired");
	sidecar_ask_again(s, now_ms);
	sidecar_register_again(s, now_ms);
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
	if (s->ca && setup->mesh_controller) {
		r = ca_client_set_roots(s->ca, setup->mesh_controller->roots_pem);
		ca_client_set_ttl(s->ca, setup->mesh_controller->certificate_ttl_s);
		ca_client_set_renewal(s->ca, setup->mesh_controller->renew_by_certificate);
	}
	if (r == 0 && !*d.msg)
		r = sidecar_start_clients(s);
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
	int slot = slots_take(&s->proxy->slots, s);
	struct vm *vm;
	int r;

	if (slot < 0) {
		close_fd(outbound_fd);
		close_fd(inbound_fd);
		return slot;
	}
	r = vm_new((uint32_t)slot, s->put->vm_id, outbound_fd, inbound_fd, s->proxy->n_workers, &vm);
	if (r < 0) {
		slots_release(&s->proxy->slots, (uint32_t)slot);
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
		return s->vm || s->put->standby ? 0 : diag_set(d, "VM %s: without listeners", s->put->vm_id);
	if (n_fds != 2)
		return diag_set(d, "VM %s: %zu listeners, must be 2", s->put->vm_id, n_fds);
	r = set_vm(s, steal_fd(&fds[0]), steal_fd(&fds[1]), LISTENER_DRAIN_MS);
	if (r == -ENOSPC)
		return diag_set(d, "VM %.200s: this process serves %d VMs already", s->put->vm_id, SLOTS_MAX);
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

/* Without the token, which has a place of its own. */
static Outrigger__Ipc__VmPut *copy_put(const Outrigger__Ipc__VmPut *m)
{
	Outrigger__Ipc__VmPut *copy = pb_copy(&m->base);

	if (copy)
		explicit_bzero(copy->token, strlen(copy->token));
	return copy;
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
	list_init(&s->shown);
	demand_init(&s->demand, p->network, &sidecar_demand_ops, s);
	s->put = copy_put(m);
	s->uid = strdup(m->uid);
	s->vm_id = strdup(m->vm_id);
	if (*m->token)
		s->token = strdup(m->token);
	s->has_config = p->restored;
	r = s->put && s->uid && s->vm_id && (s->token || !*m->token) ? take_listeners(s, fds, n_fds, reterr_diag) : -ENOMEM;
	if (r == 0)
		r = vm_health_new(p->loop, p->sockd, sidecar_health_changed, s, &s->health);
	if (r == 0)
		sidecar_set_health(s);
	if (r < 0) {
		sidecar_free(s);
		return r;
	}
	snprintf(s->token_reason, sizeof(s->token_reason), "first");
	s->token_wanted = !s->token;
	s->registering = (struct backoff){ .min_ms = REGISTER_MIN_MS, .max_ms = REGISTER_MAX_MS };
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
	copy = copy_put(m);
	if (!copy)
		return -ENOMEM;
	moved = strcmp(m->namespace_, s->put->namespace_) || strcmp(m->service_account, s->put->service_account);
	pb_free(s->put);
	s->put = copy;
	if (s->dns)
		vm_dns_set(s->dns, copy);
	r = take_listeners(s, fds, n_fds, reterr_diag);
	if (r < 0)
		return r;
	if (moved) {	/* somebody else from here on: another certificate, another stream */
		s->ca = ca_client_free(s->ca);
		s->xds = xds_client_free(s->xds);
		if (s->dns)
			vm_dns_forget(s->dns);
		knowledge_drop(s->proxy->knowledge, s->holder);
		sidecar_setup(s);
	} else if (s->xds) {
		r = sidecar_subscribe_own(s);
	}
	if (*m->token)
		sidecar_token(s, m->token, "");
	if (r == 0 && s->serving && !wants_to_serve(s))
		r = renew_vm(s);
	sidecar_set_health(s);
	if (n_fds)
		sidecar_report_health(s);
	sidecar_review(s);
	if (r == 0 && (s->state == SIDECAR_READY || s->state == SIDECAR_DEGRADED))
		r = serve(s);
	sidecar_report(s);
	if (!n_fds)
		credential_give(s);	/* an agent that adopts us heard our greeting before it knew of the VM */
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
	vm_dns_free(s->dns);
	s->health = vm_health_free(s->health);
	drop_vm(s, 0);
	slots_forget_sidecar(&s->proxy->slots, s);
	tls_ctx_unref(s->client);
	tls_ctx_unref(s->server);
	EVP_PKEY_free(s->key);
	free(s->chain_pem);
	secret_free(s->token);
	free(s->uid);
	free(s->vm_id);
	pb_free(s->put);
	free(s);
	return NULL;
}
