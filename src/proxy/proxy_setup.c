/*
 * What the agent says of the mesh and of this process: put into force, again
 * and again, where it differs from what is.
 */
#include "proxy/proxy.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "mesh/pb.h"
#include "proxy/sidecar.h"

enum { CHANNEL_GRACE_MS = 10000 };

/* --- the mesh controller --- */

bool proxy_is_istio(const Outrigger__Ipc__MeshController *mc)
{
	return !strcmp(mc->kind, "istio");
}

/* A VM that serves loses its stream as well, and says so; one that does not yet would say nothing. */
static void on_channel_down(struct channel_user *user, int r, const char *text)
{
	struct proxy *p = container_of(user, struct proxy, channel_watch);
	const char *address = p->setup && p->setup->mesh_controller ? p->setup->mesh_controller->address : "";

	(void)r;
	LOG_LIMITED(LOG_L_WARN, "no connection to the mesh controller", log_str("address", address), log_str("reason", text));
	map_for_each(l, &p->sidecars)
		sidecar_unreachable(container_of(l, struct sidecar, link), address, text);
}

static void on_channel_up(struct channel_user *user, struct grpc_client *client)
{
	(void)user;
	(void)client;
}

static int setup_channel(struct proxy *p, const Outrigger__Ipc__MeshController *mc, struct diag *d)
{
	static const char *const alpn[] = { "h2", NULL };
	const struct tls_config config = {
		.role = TLS_CLIENT, .verify = TLS_VERIFY_REQUIRE, .roots_pem = mc->roots_pem, .alpn = alpn,
		.allow_tls12 = proxy_is_istio(mc),	/* not between parts of our own */
	};
	struct tls_ctx *tls;
	const char *names[9] = {};
	int r = tls_ctx_new(&config, &tls, d);

	if (r < 0)
		return r;
	for (size_t i = 0; i < mc->n_server_names && i < ELEMENTS(names) - 1; i++)
		names[i] = mc->server_names[i];

	const struct channel_options options = { .target = mc->address, .tls = tls, .server_names = names };
	if (p->channel)
		r = channel_change(p->channel, &options, CHANNEL_GRACE_MS);
	else
		r = channel_new(p->loop, &options, &p->channel);
	if (r == 0 && !p->channel_watch.channel) {
		p->channel_watch.up = on_channel_up;
		p->channel_watch.down = on_channel_down;
		channel_attach(p->channel, &p->channel_watch);
	}
	tls_ctx_unref(tls);
	return r == -EINVAL ? diag_set(d, "mesh controller \"%.200s\" is not host:port", mc->address) : r;
}

/* --- setup --- */

static bool same_message(const ProtobufCMessage *a, const ProtobufCMessage *b)
{
	CLEANUP_FREE uint8_t *pa = NULL, *pb = NULL;
	size_t na, nb;

	if (pb_pack(a, &pa, &na) < 0 || pb_pack(b, &pb, &nb) < 0)
		return false;
	return na == nb && (!na || !memcmp(pa, pb, na));
}

static bool same_controller(const Outrigger__Ipc__Setup *a, const Outrigger__Ipc__Setup *b)
{
	return a && a->mesh_controller && same_message(&a->mesh_controller->base, &b->mesh_controller->base);
}

static int setup_files(struct proxy *p, const Outrigger__Ipc__Setup *m, struct diag *d)
{
	struct access_log *log = NULL;
	int r = 0;

	if (!p->setup || strcmp(m->access_log, p->setup->access_log) || m->access_log_json != p->setup->access_log_json ||
	    m->access_log_comes != p->setup->access_log_comes) {
		r = access_log_new(p->loop, m->access_log_comes ? "" : m->access_log, m->access_log_json, &log, d);
		if (r < 0)
			return r;
		access_log_free(p->access_log);
		p->access_log = log;
	}
	if (*m->resume_path)
		r = agent_link_listen(p->link, m->resume_path, d);
	if (r == 0 && *m->admin_path)
		r = admin_listen(p, m->admin_path, d);
	return r;
}

/* Once; when there is knowledge already, the files are only to be written. */
static void setup_state(struct proxy *p, int *fds)
{
	bool restored = knowledge_n(p->knowledge) == 0;
	struct diag d = {};
	int r;

	if (!fds || state_file_is_open(&p->state))
		return;
	r = state_file_open(&p->state, fds, restored ? p->knowledge : NULL, &d);
	fds[0] = fds[1] = -1;
	if (r < 0)
		log_warn("last configuration is not used", log_str("reason", d.msg), log_errno(r));
	if (restored && knowledge_n(p->knowledge)) {
		p->restored = true;
		knowledge_policies_known(p->knowledge);
		log_info("last configuration is in force", log_int("resources", (int64_t)knowledge_n(p->knowledge)));
	}
}

/* Everything that is known goes by it: for another one, it takes another process. */
static int setup_network(struct proxy *p, const char *network)
{
	int r = knowledge_set_network(p->knowledge, network);

	if (r == -EBUSY) {
		log_warn("the network is another one now: that takes effect when this process is replaced (outrigger proxies upgrade)",
			 log_str("network", p->network), log_str("new", network));
		return 0;
	}
	if (r == 0)
		snprintf(p->network, sizeof(p->network), "%s", network);
	return r;
}

static int setup_check(const Outrigger__Ipc__Setup *m, struct diag *d)
{
	if (!identity_trust_domain_valid(m->trust_domain))
		return diag_set(d, "\"%.64s\" is not a trust domain", m->trust_domain);
	if (!m->mesh_controller || !*m->mesh_controller->roots_pem)
		return diag_set(d, "without trust roots");
	if (strlen(m->mesh_controller->network) >= NAMES_NETWORK_LEN)
		return diag_set(d, "the network's name is too long");
	if (m->hbone_port && m->hbone_port != SNAP_HBONE_PORT)
		return diag_set(d, "HBONE port %u: only %d is supported", m->hbone_port, SNAP_HBONE_PORT);
	return 0;
}

int proxy_setup(struct proxy *p, const Outrigger__Ipc__Setup *m, int *state_fds, struct diag *reterr_diag)
{
	Outrigger__Ipc__Setup *copy;
	enum log_level level;
	int r = setup_check(m, reterr_diag);

	if (r < 0)
		return r;
	p->standby = !p->options.static_file && !*m->resume_path;
	r = setup_network(p, m->mesh_controller->network);
	if (r < 0)
		return r;
	setup_state(p, state_fds);
	/* An agent that was restarted says what the last one said: no reason to leave the mesh controller and come back. */
	if (p->setup && same_message(&p->setup->base, &m->base))
		return 0;
	copy = pb_copy(&m->base);
	if (!copy)
		return -ENOMEM;
	if (*m->log_level && log_level_parse(m->log_level, &level) == 0)
		log_change(level, m->log_json);
	r = setup_files(p, m, reterr_diag);
	if (r == 0 && *m->mesh_controller->address && !(p->channel && same_controller(p->setup, m)))
		r = setup_channel(p, m->mesh_controller, reterr_diag);
	if (r < 0) {
		protobuf_c_message_free_unpacked(&copy->base, NULL);
		return r;
	}
	if (p->setup)
		protobuf_c_message_free_unpacked(&p->setup->base, NULL);
	p->setup = copy;
	map_for_each(l, &p->sidecars)
		sidecar_setup(container_of(l, struct sidecar, link));
	return 0;
}
