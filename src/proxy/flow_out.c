/*
 * Outbound: a VM has dialled somebody. Who is that, how is it reached, and if
 * it is not, who else will do?
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "proxy/flow.h"
#include "proxy/pool.h"
#include "proxy/hbone.h"
#include "proxy/upstream.h"


static const char no_waypoint_text[] = "the destination's waypoint is not known to the mesh";

void flow_out_accepted(struct worker_vm *v, int fd, const struct ip_port *src, const struct ip_port *dst)
{
	struct flow *f = flow_new(v, FLOW_OUTBOUND);

	if (!f) {
		close_fd(fd);
		return;
	}
	f->source = *src;
	f->destination = *dst;
	if (flow_take_local(f, fd, false) < 0) {
		flow_end(f, FLOW_R_INTERNAL, "no descriptors or memory");
		return;
	}
	flow_out_decide(f);
}

static void let_endpoint_go(struct flow *f)
{
	flow_leave_target(f, FLOW_R_CONNECT);
	if (f->workload_id != UINT32_MAX)
		balance_closed(f->v->w->balance, f->workload_id);
	f->workload_id = UINT32_MAX;
}

/* --- plain upstreams --- */

static void connect_plain(struct flow *f, enum upstream_kind kind, const struct ip_port *src, const struct ip_port *dst)
{
	struct worker *w = f->v->w;
	int fd;

	f->upstream = *dst;
	fd = upstream_connect(w, kind, src, dst);
	if (fd == -EAGAIN) {
		f->state = FLOW_DECIDING;
		f->attempts--;		/* it was none */
		flow_drop_target(f);
		flow_park(f, &w->no_socket, f->v->conf->limits.connect_timeout_ms);
		return;
	}
	if (fd < 0) {
		flow_out_failed(f, fd == -EADDRINUSE ? "a program of the NIC listens at the VM's port, on any address" :
				   fd == -EADDRNOTAVAIL ? "another connection of this VM has its port and goes there, too" : strerror(-fd));
		return;
	}
	f->state = FLOW_CONNECTING;
	if (flow_take_far(f, fd, true) < 0) {
		flow_end(f, FLOW_R_INTERNAL, "no memory to watch a socket");
		return;
	}
	flow_wait(f, &w->connecting, f->v->conf->limits.connect_timeout_ms);
}

/*
 * What is on another network has an address there, which here is nobody's or
 * another's; and its gateway wants a tunnel inside of a tunnel, which is not
 * made. So it is refused, whatever may go out in plaintext: the mesh says that
 * this one takes part.
 */
static void refuse_elsewhere(struct flow *f, const struct snap_workload *w, const char *what)
{
	const struct model_gateway *g = &snap_kind_ways(w->kind)->network_gateway;
	char why[600], address[IP_PORT_TEXT_LEN], gateway[200] = "no gateway";

	if (g->hostname)
		snprintf(gateway, sizeof(gateway), "gateway %.160s:%u", g->hostname, g->hbone_port);
	else if (!ip_is_none(&g->ip))
		snprintf(gateway, sizeof(gateway), "gateway %s", ip_port_format(&(struct ip_port){ g->ip, g->hbone_port }, address));
	/* Long ones are cut: first what one has to know. */
	snprintf(why, sizeof(why), "network \"%.63s\" (%s) is not reached: %.120s/%.120s%s is there", w->place->network, gateway, snap_kind_text(w->kind, SNAP_NAMESPACE),
		 snap_workload_name(w), what);
	flow_end(f, FLOW_R_NO_ENDPOINT, why);
}

/* As the VM meant it, untouched. */
static void pass_through(struct flow *f, enum vm_plain policy, const char *what)
{
	const struct snap_workload *far = f->v->w->snap ? snapshot_elsewhere(f->v->w->snap, &f->destination.ip) : NULL;

	if (far) {
		refuse_elsewhere(f, far, "");
		return;
	}
	if (policy == VM_PLAIN_DENY) {
		flow_end(f, FLOW_R_PLAINTEXT, what);
		return;
	}
	f->attempts++;
	connect_plain(f, UPSTREAM_FROM_VM, &f->source, &f->destination);
}

void flow_out_connected(struct flow *f)
{
	if (f->workload_id != UINT32_MAX)
		balance_succeeded(f->v->w->balance, f->workload_id);
	flow_open(f);
}

/* --- an endpoint of the mesh --- */

/* @meant: the service that was dialled, or NULL. */
static void note_endpoint(struct flow *f, const struct snap_endpoint *e, const struct snap_service *meant, bool mutual_tls)
{
	struct worker *w = f->v->w;
	const char *ids[SNAP_IDS_MAX];

	f->attempts++;
	f->upstream = e->target;
	flow_peer_unref(f->peer);
	f->peer = peers_get(w, e->workload, meant, mutual_tls && snap_endpoint_ids(e, ids) ? ids[0] : NULL, mutual_tls);
	if (e->workload && balance_opened(w->balance, e->workload->id) == 0)
		f->workload_id = e->workload->id;
}

static void dial_hbone(struct flow *f, const struct snap_endpoint *e)
{
	struct worker_vm *v = f->v;
	char why[160];
	int r;

	f->hbone = true;
	f->state = FLOW_WAITING;
	r = pool_join(v, f, e, why);
	if (r < 0) {
		flow_out_failed(f, why);
		return;
	}
	if (f->state == FLOW_WAITING || f->state == FLOW_REQUESTED)
		flow_wait(f, f->pool ? &f->pool->waiting : &v->w->connecting, v->conf->limits.connect_timeout_ms);
}

/*
 * Both VMs are in this process: authorised by both identities, and then
 * directly, since there is no wire between them that TLS could protect.
 */
static void connect_neighbour(struct flow *f, struct worker_vm *to, const struct snap_endpoint *e)
{
	struct authz_verdict verdict;
	char text[AUTHZ_TEXT_LEN];

	if (to == f->v) {		/* itself: nobody to be asked */
		connect_plain(f, UPSTREAM_OWN, &f->source, &e->target);
		return;
	}
	verdict = flow_in_check(to, &f->source, &e->target, tls_ctx_id(f->v->conf->client));
	if (flow_in_may_change(&verdict)) {
		f->state = FLOW_DECIDING;
		flow_park(f, &f->v->w->parked, f->v->conf->limits.resolve_timeout_ms);
		return;
	}
	if (verdict.outcome != AUTHZ_ALLOWED) {
		free(f->why);
		f->why = strdup(authz_text(&verdict, text));
		flow_target_denies(f, to);
		flow_end(f, FLOW_R_DENIED, NULL);
		return;
	}
	if (!flow_take_target(f, to)) {
		flow_out_failed(f, "the VM has too many connections");
		return;
	}
	connect_plain(f, UPSTREAM_TO_VM, &f->source, &e->target);
}

static void dial(struct flow *f, const struct snap_endpoint *e, const struct snap_service *meant)
{
	struct worker *w = f->v->w;
	struct worker_vm *neighbour = e->is_waypoint ? NULL : worker_vm_by_ip(w, &e->target.ip);

	if (e->tunnel == TUNNEL_HBONE && !f->v->conf->client) {
		f->state = FLOW_DECIDING;	/* its certificate is on its way */
		flow_park(f, &w->parked, f->v->conf->limits.resolve_timeout_ms);
		return;
	}
	note_endpoint(f, e, meant, e->tunnel == TUNNEL_HBONE);
	if (e->tunnel == TUNNEL_HBONE && neighbour && !neighbour->removed) {
		connect_neighbour(f, neighbour, e);
	} else if (e->tunnel == TUNNEL_HBONE) {
		dial_hbone(f, e);
	} else if (e->tunnel == TUNNEL_NONE && f->v->conf->plain_mesh == VM_PLAIN_ALLOW) {
		bool same = ip_equal(&e->target.ip, &f->destination.ip) && e->target.port == f->destination.port;

		connect_plain(f, same ? UPSTREAM_FROM_VM : UPSTREAM_OWN, &f->source, &e->target);
	} else if (e->tunnel == TUNNEL_NONE) {
		flow_end(f, FLOW_R_PLAINTEXT, "the destination speaks no mutual TLS");
	} else {
		flow_out_failed(f, "the destination speaks a kind of tunnel that we do not");
	}
}

static int pick_one(const struct flow *f, const struct snap_route *way, size_t n_tried, struct snap_endpoint *ret_endpoint)
{
	struct worker *w = f->v->w;
	struct balance_ask ask = {
		.snapshot = w->snap,
		.route = way,
		.source = snapshot_workload(w->snap, f->v->conf->uid),
		.tried = f->tried,
		.n_tried = n_tried,
		.now_ms = loop_now_ms(w->loop),
	};

	return balance_pick(w->balance, &ask, ret_endpoint);
}

/* @way: how it is reached; @meant NULL: as it was dialled, else that was @meant, and @way leads to its waypoint. */
static void pick(struct flow *f, const struct snap_route *way, const struct snap_route *meant)
{
	struct snap_endpoint e;

	switch (pick_one(f, way, f->n_tried, &e)) {
	case 0:
		if (meant)
			snap_endpoint_through(&e, &f->destination);
		dial(f, &e, meant ? meant->service : e.service);
		break;
	case BALANCE_E_NONE:
		flow_end(f, FLOW_R_NO_ENDPOINT, meant ? "the destination's waypoint has no endpoint" : "the service has no endpoint");
		break;
	case BALANCE_E_UNHEALTHY:
		flow_end(f, FLOW_R_NO_ENDPOINT, meant ? "the destination's waypoint is not healthy" : "no endpoint of the service is healthy");
		break;
	case BALANCE_E_ELSEWHERE:
		refuse_elsewhere(f, snapshot_service_elsewhere(way->service), meant ? " (its waypoint)" : "");
		break;
	default:
		flow_end(f, FLOW_R_CONNECT, meant ? "the destination's waypoint could not be reached" : "no endpoint could be reached");
		break;
	}
}

/*
 * Policies and routes of HTTP are in force at the waypoint: nothing goes past
 * it, not even while it is away.
 */
static void pick_waypoint(struct flow *f, const struct snap_route *meant, const struct model_gateway *waypoint)
{
	struct worker_vm *v = f->v;
	struct snap_route way;

	switch (snapshot_route_gateway(v->w->snap, waypoint, &way)) {
	case 0:
		pick(f, &way, meant);
		break;
	case SNAP_E_UNKNOWN:
		f->no_waypoint = true;
		flow_park(f, &v->w->parked, v->conf->limits.resolve_timeout_ms);
		if (f->state == FLOW_DECIDING)
			flow_ask(f, &f->destination.ip);
		break;
	default:
		flow_end(f, FLOW_R_NO_ENDPOINT, no_waypoint_text);
		break;
	}
}

void flow_out_decide(struct flow *f)
{
	struct worker_vm *v = f->v;
	const struct model_gateway *waypoint;
	struct snap_route route;
	int r;

	f->state = FLOW_DECIDING;
	f->unresolved = f->no_waypoint = false;
	let_endpoint_go(f);		/* of an attempt that came to nothing for want of a socket */
	r = v->w->snap ? snapshot_route(v->w->snap, &f->destination, &route) : SNAP_E_UNKNOWN;
	switch (r) {
	case 0:
		waypoint = snap_route_waypoint(&route);
		if (waypoint)
			pick_waypoint(f, &route, waypoint);
		else
			pick(f, &route, NULL);
		break;
	case SNAP_E_UNKNOWN:
		f->unresolved = true;
		flow_park(f, &v->w->parked, v->conf->limits.resolve_timeout_ms);
		if (f->state == FLOW_DECIDING)
			flow_ask(f, &f->destination.ip);
		break;
	case SNAP_E_ABSENT:
		pass_through(f, v->conf->plain_absent, "the mesh does not know the destination");
		break;
	default:
		flow_end(f, FLOW_R_NO_PORT, "the service has no such port");
		break;
	}
}

/* --- attempts that fail --- */

static void give_up(struct flow *f, const char *why)
{
	free(f->why);
	f->why = strdup(why);
	timer_cancel(&f->timer);
	list_unlink(&f->waiting);
	flow_leave(f);
}

/* The endpoint is well, but has not looked at this stream: REFUSED_STREAM, RFC 9113 section 8.7. */
void flow_out_refused(struct flow *f, const char *why)
{
	if (f->attempts >= FLOW_ATTEMPTS_MAX) {
		flow_out_failed(f, why);
		return;
	}
	give_up(f, why);
	flow_out_decide(f);
}

void flow_out_failed(struct flow *f, const char *why)
{
	struct worker *w = f->v->w;
	bool of_mesh = f->workload_id != UINT32_MAX;

	if (f->state == FLOW_DEAD)
		return;
	give_up(f, why);
	if (of_mesh) {
		balance_failed(w->balance, f->workload_id, loop_now_ms(w->loop));
		if (f->n_tried < ELEMENTS(f->tried))
			f->tried[f->n_tried++] = f->workload_id;
		let_endpoint_go(f);
	}
	if (!of_mesh || f->attempts >= FLOW_ATTEMPTS_MAX) {
		flow_end(f, FLOW_R_CONNECT, NULL);
		return;
	}
	worker_add(&f->v->count->retries, 1);
	flow_out_decide(f);
}

/* Is there an endpoint that is well, besides the one at hand? */
static bool has_other(struct flow *f)
{
	struct worker *w = f->v->w;
	const struct model_gateway *waypoint;
	struct snap_route route, way;
	struct snap_endpoint e;

	if (f->workload_id == UINT32_MAX || f->attempts >= FLOW_ATTEMPTS_MAX || f->n_tried >= ELEMENTS(f->tried))
		return false;
	if (!w->snap || snapshot_route(w->snap, &f->destination, &route) != 0)
		return false;
	waypoint = snap_route_waypoint(&route);
	if (waypoint && snapshot_route_gateway(w->snap, waypoint, &way) != 0)
		return false;
	f->tried[f->n_tried] = f->workload_id;
	return pick_one(f, waypoint ? &way : &route, f->n_tried + 1u, &e) == 0 &&
	       (!e.workload || !balance_is_out(w->balance, e.workload->id, loop_now_ms(w->loop)));
}

void flow_out_hesitate(struct flow *f, const char *why)
{
	if ((f->state == FLOW_REQUESTED || f->state == FLOW_WAITING) && has_other(f))
		flow_out_failed(f, why);
}

void flow_out_timeout(struct flow *f)
{
	struct worker_vm *v = f->v;

	switch (f->state) {
	case FLOW_DECIDING:
		if (f->unresolved)
			pass_through(f, v->conf->plain_unresolved, "the mesh did not say in time what the destination is");
		else if (f->no_waypoint)
			flow_end(f, FLOW_R_NO_ENDPOINT, no_waypoint_text);
		else if (!v->conf->client)
			flow_end(f, FLOW_R_NO_CERTIFICATE, "this VM's proxy has no certificate yet");
		else
			flow_end(f, FLOW_R_INTERNAL, "no socket, or no policy, in time");
		break;
	case FLOW_CONNECTING:
	case FLOW_WAITING:
	case FLOW_REQUESTED:
		flow_out_failed(f, "connecting took too long");
		break;
	default:
		break;
	}
}

/* --- the CONNECT --- */

void flow_out_request(struct flow *f, struct hbone *t)
{
	char authority[IP_PORT_TEXT_LEN], source[IP_PORT_TEXT_LEN], forwarded[IP_PORT_TEXT_LEN + 8];
	struct h2_header list[4];
	size_t n = 0;
	int r;

	ip_port_format(&f->upstream, authority);
	ip_port_format(&f->source, source);
	snprintf(forwarded, sizeof(forwarded), "for=\"%s\"", source);
	list[n++] = h2_header(":method", "CONNECT");
	list[n++] = h2_header(":authority", authority);
	list[n++] = h2_header_once("forwarded", forwarded);
	if (f->v->conf->baggage)
		list[n++] = h2_header("baggage", f->v->conf->baggage);
	r = h2_open(&t->h2, &f->stream, list, n, false);
	if (r < 0) {
		flow_out_failed(f, r == -ENOMEM ? "out of memory" : "the tunnel takes no more streams");
		return;
	}
	f->tunnel = t;
	list_append(&t->flows, &f->of_other);
	t->idle_ms = 0;
	f->state = FLOW_REQUESTED;
}

void flow_out_response(struct flow *f, unsigned status)
{
	char why[64];

	f->status = (uint16_t)status;
	if (status >= 200 && status < 300) {
		balance_succeeded(f->v->w->balance, f->workload_id);
		flow_open(f);
		return;
	}
	snprintf(why, sizeof(why), "the peer answered %u", status);
	if (status == 401 || status == 403)
		flow_end(f, FLOW_R_DENIED, why);	/* its policy: others of the service have the same */
	else
		flow_out_failed(f, why);
}
