/*
 * Inbound: somebody wants to reach the VM, through a tunnel or in plaintext.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "mesh/names.h"
#include "proxy/flow.h"
#include "proxy/hbone.h"
#include "proxy/upstream.h"

/* --- may it? --- */

struct authz_verdict flow_in_check(struct worker_vm *target, const struct ip_port *source, const struct ip_port *destination,
				   const char *principal)
{
	const struct snapshot *s = target->w->snap;
	struct authz_conn conn = { .source = *source, .destination = *destination, .principal = principal };

	if (!s)
		return (struct authz_verdict){ .outcome = AUTHZ_UNDECIDED, .reason = AUTHZ_R_NOT_READY };
	return authz_check(s, snapshot_workload(s, target->conf->uid), &conn);
}

static const char *principal_of(const struct flow *f)
{
	return f->tunnel ? tls_peer_id(f->tunnel->tls) : NULL;
}

/* A CONNECT is answered, a plain connection is reset. */
static void refuse(struct flow *f, unsigned status, enum flow_result result, const char *why)
{
	if (f->tunnel && f->stream.id) {
		f->status = (uint16_t)status;
		f->refused = h2_respond(&f->tunnel->h2, &f->stream, status, NULL, 0, true) == 0;
	}
	flow_end(f, result, why);
}

static void flow_in_connect(struct flow *f, const struct ip_port *src, const struct ip_port *dst);

/*
 * istiod tells first that a workload has a new policy, then what it says: one
 * that is not there is waited for, as long as for anything that is asked for.
 */
bool flow_in_may_change(const struct authz_verdict *verdict)
{
	return verdict->outcome == AUTHZ_UNDECIDED || verdict->reason == AUTHZ_R_MISSING;
}

void flow_in_decide(struct flow *f)
{
	struct worker_vm *v = f->v;
	struct authz_verdict verdict = flow_in_check(v, &f->source, &f->upstream, principal_of(f));
	char text[AUTHZ_TEXT_LEN];

	f->state = FLOW_DECIDING;
	if (verdict.outcome == AUTHZ_ALLOWED) {
		flow_in_connect(f, &f->source, &f->upstream);
	} else if (flow_in_may_change(&verdict)) {
		flow_park(f, &v->w->parked, v->conf->limits.resolve_timeout_ms);
		if (f->state == FLOW_DECIDING && verdict.outcome == AUTHZ_UNDECIDED)
			flow_ask(f, &f->upstream.ip);
	} else {
		refuse(f, 401, FLOW_R_DENIED, authz_text(&verdict, text));
	}
}

void flow_in_recheck(struct flow *f, bool for_good)
{
	struct worker_vm *server = f->target ? f->target : f->v;
	struct authz_verdict verdict;
	char text[AUTHZ_TEXT_LEN];

	if ((f->direction != FLOW_INBOUND && !f->target) || (f->state != FLOW_OPEN && f->state != FLOW_CONNECTING))
		return;
	verdict = f->target ? flow_in_check(f->target, &f->source, &f->upstream, tls_ctx_id(f->v->conf->client)) :
			      flow_in_check(f->v, &f->source, &f->upstream, principal_of(f));
	if (verdict.outcome != AUTHZ_DENIED)
		return;
	if (for_good || !flow_in_may_change(&verdict))
		flow_end(f, FLOW_R_POLICY_CHANGED, authz_text(&verdict, text));
	else if (!server->missing_since_ms)
		server->missing_since_ms = loop_now_ms(server->w->loop);
}

/* --- to the VM --- */

static void flow_in_connect(struct flow *f, const struct ip_port *src, const struct ip_port *dst)
{
	struct worker *w = f->v->w;
	struct ip_port from = *src;
	int fd, r;

	/* The port is the tunnel's, which many connections share, or one that somebody else has chosen. */
	if (f->tunnel)
		from.port = 0;
	/* From another process on this NIC, by loopback: the VM could not answer to that, but to the NIC. */
	if (ip_is_loopback(&from.ip))
		from = (struct ip_port){};
	f->attempts = 1;
	fd = upstream_connect(w, UPSTREAM_TO_VM, &from, dst);
	if (fd == -EAGAIN) {
		flow_park(f, &w->no_socket, f->v->conf->limits.connect_timeout_ms);
		return;
	}
	if (fd < 0) {
		flow_in_failed(f, strerror(-fd));
		return;
	}
	f->state = FLOW_CONNECTING;
	r = f->tunnel ? flow_take_local(f, fd, true) : flow_take_far(f, fd, true);
	if (r < 0)
		refuse(f, 503, FLOW_R_INTERNAL, "no memory to watch a socket");
	else
		flow_wait(f, &w->connecting, f->v->conf->limits.connect_timeout_ms);
}

void flow_in_connected(struct flow *f)
{
	if (f->tunnel) {
		f->status = 200;
		if (h2_respond(&f->tunnel->h2, &f->stream, 200, NULL, 0, false) < 0) {
			flow_end(f, FLOW_R_INTERNAL, "out of memory");
			return;
		}
	}
	flow_open(f);
}

void flow_in_failed(struct flow *f, const char *why)
{
	refuse(f, 503, FLOW_R_CONNECT, why);
}

static void gave_no_decision(struct flow *f)
{
	struct authz_verdict verdict = flow_in_check(f->v, &f->source, &f->upstream, principal_of(f));
	char text[AUTHZ_TEXT_LEN];

	if (verdict.outcome == AUTHZ_DENIED)
		refuse(f, 401, FLOW_R_DENIED, authz_text(&verdict, text));
	else
		refuse(f, 503, FLOW_R_UNKNOWN, "the mesh did not say in time who may connect");
}

void flow_in_timeout(struct flow *f)
{
	if (f->state == FLOW_CONNECTING)
		refuse(f, 503, FLOW_R_CONNECT, "connecting took too long");
	else if (f->state == FLOW_DECIDING)
		gave_no_decision(f);
}

/* --- plaintext --- */

void flow_in_accepted(struct worker_vm *v, int fd, const struct ip_port *src, const struct ip_port *dst)
{
	struct flow *f = flow_new(v, FLOW_INBOUND);

	if (!f) {
		close_fd(fd);
		return;
	}
	f->source = *src;
	f->destination = f->upstream = *dst;
	if (flow_take_local(f, fd, false) < 0) {
		flow_end(f, FLOW_R_INTERNAL, "no descriptors or memory");
		return;
	}
	if (v->conf->plain_in == VM_PLAIN_DENY) {
		flow_end(f, FLOW_R_PLAINTEXT, "only mutual TLS may reach this VM");
		return;
	}
	if (v->w->snap)
		f->peer = peers_get(v->w, snapshot_workload_by_ip(v->w->snap, &src->ip), NULL, NULL, false);
	flow_in_decide(f);
}

/* --- HBONE --- */

/*
 * The client's own address, which a proxy in between (a NIC's, a node's) tells
 * in "forwarded: for=". It is believed if the mesh says that the identity that
 * was proved lives there; else anybody could pass for any address.
 */
static struct ip_port client_of(const struct hbone *t, const struct h2_message *m)
{
	const char *value = h2_message_get(m, "forwarded"), *id = tls_peer_id(t->tls), *at, *end;
	const struct snap_workload *w;
	char text[IP_PORT_TEXT_LEN];
	struct ip_port claimed;

	at = value ? strstr(value, "for=") : NULL;
	if (!at || !id || !t->v->w->snap)
		return t->remote;
	at += at[4] == '"' ? 5 : 4;
	end = at + strcspn(at, "\";, ");
	if ((size_t)(end - at) >= sizeof(text))
		return t->remote;
	memcpy(text, at, (size_t)(end - at));
	text[end - at] = 0;
	if (ip_port_parse(text, &claimed) < 0) {
		claimed.port = 0;
		if (ip_parse(text, &claimed.ip) < 0)
			return t->remote;
	}
	w = snapshot_workload_by_ip(t->v->w->snap, &claimed.ip);
	return w && !strcmp(snap_kind_text(w->kind, SNAP_IDENTITY), id) ? claimed : t->remote;
}

/* "host:port" of a service of which this VM is an endpoint. */
static bool resolve_host(struct worker_vm *v, const char *authority, struct ip_port *ret_dst)
{
	const struct snapshot *s = v->w->snap;
	const struct snap_workload *own = s ? snapshot_workload(s, v->conf->uid) : NULL;
	const char *colon = strrchr(authority, ':');
	size_t len = colon ? (size_t)(colon - authority) : 0;
	char host[NAMES_HOST_LEN];
	struct snap_route route;
	uint16_t port;

	if (!own || !len || len >= sizeof(host) || ip_parse_port(colon + 1, &port) < 0 || !port)
		return false;
	for (size_t i = 0; i < len; i++)	/* RFC 3986, section 3.2.2: case does not matter */
		host[i] = authority[i] >= 'A' && authority[i] <= 'Z' ? (char)(authority[i] | 0x20) : authority[i];
	if (snapshot_route_host(s, host, len, port, v->conf->namespace, &route) != 0 || !route.service)
		return false;
	ret_dst->port = snap_target_port(route.service, own, port);
	return ret_dst->port != 0;
}

/* What a CONNECT asks for. NULL, or why it is refused. */
static const char *target_of(const struct hbone *t, const struct h2_message *m, struct ip_port *ret_dst)
{
	struct ip_port dst;

	if (strcmp(m->method, "CONNECT") != 0 || m->protocol)
		return "not a plain CONNECT";
	*ret_dst = t->local;
	if (ip_port_parse(m->authority, &dst) < 0)
		return resolve_host(t->v, m->authority, ret_dst) ? NULL : "the authority is no service of this VM";
	if (!ip_equal(&dst.ip, &t->local.ip))
		return "the authority names another address than the one dialled";
	if (!dst.port)
		return "the authority has no port";
	*ret_dst = dst;
	return NULL;
}

/* The workload at @source, if it is the one that the certificate names. Else no more is known than the name: once for the whole tunnel. */
static struct flow_peer *peer_of(struct hbone *t, const struct ip *source)
{
	const struct snap_workload *from = snapshot_workload_by_ip(t->v->w->snap, source);
	const char *id = tls_peer_id(t->tls);

	if (from && id && !strcmp(snap_kind_text(from->kind, SNAP_IDENTITY), id))
		return peers_get(t->v->w, from, NULL, id, true);
	if (!t->stranger)
		t->stranger = peers_get(t->v->w, NULL, NULL, id, true);
	return flow_peer_ref(t->stranger);
}

void flow_in_request(struct hbone *t, const struct h2_message *m, bool end)
{
	struct worker_vm *v = t->v;
	struct flow *f;
	const char *why;

	if (!peer_share_may_connect(t)) {
		worker_over(v, VM_B_CONNECTIONS);
		return;			/* not accepted: REFUSED_STREAM */
	}
	f = flow_new(v, FLOW_INBOUND);
	if (!f)
		return;
	if (h2_accept(&t->h2, &f->stream) < 0) {
		flow_end(f, FLOW_R_INTERNAL, "out of memory");
		return;
	}
	f->tunnel = t;
	f->hbone = true;
	f->local.connecting = true;	/* what comes before the VM is there, waits */
	list_append(&t->flows, &f->of_other);
	peer_share_flow_comes(t);
	t->idle_ms = 0;
	f->source = client_of(t, m);
	f->destination = f->upstream = t->local;
	if (v->w->snap)
		f->peer = peer_of(t, &f->source.ip);
	why = target_of(t, m, &f->upstream);
	f->destination = f->upstream;
	if (why)
		refuse(f, 400, FLOW_R_BAD_REQUEST, why);
	else
		flow_in_decide(f);
	if (end)
		flow_from_stream(f, NULL, 0, true);	/* the client has nothing to say, but listens */
}
