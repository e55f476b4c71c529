/*
 * The controller put together.
 */
#include "control/server.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/log.h"
#include "control/onboard.h"
#include "control/rest.h"
#include "mesh/identity.h"

enum {
	MAX_NAMES = 64,			/* in the listeners' certificates */
	CHECK_CERTIFICATES_MS = 60000,
	FIRST_CHECK_MS = 100,		/* how long they live is looked at then */
	NIC_KEEPALIVE_MS = 10000,	/* a server without power says nothing: its VMs are to leave the mesh all the same, soon */
	NIC_KEEPALIVE_TIMEOUT_MS = 10000,
	MESH_MAX_MESSAGE = 16 << 20,
	MESH_MAX_QUEUED = 64 << 20,
};

/* --- methods --- */

static void on_enroll(struct grpc_call *call, void *data, const uint8_t *bytes, size_t len)
{
	provisioner_enroll(((struct server *)data)->provisioner, call, bytes, len);
}

static void on_renew(struct grpc_call *call, void *data, const uint8_t *bytes, size_t len)
{
	provisioner_renew(((struct server *)data)->provisioner, call, bytes, len);
}

static void on_session(struct grpc_call *call, void *data)
{
	provisioner_open_session(((struct server *)data)->provisioner, call);
}

static void on_delta(struct grpc_call *call, void *data)
{
	ads_open_delta(((struct server *)data)->ads, call);
}

static void on_sotw(struct grpc_call *call, void *data)
{
	ads_open_sotw(((struct server *)data)->ads, call);
}

static void on_create_certificate(struct grpc_call *call, void *data, const uint8_t *bytes, size_t len)
{
	signing_create(&((struct server *)data)->signing, call, bytes, len);
}

static const struct grpc_method provisioner_methods[] = {
	{ .path = PROVISIONER_ENROLL_PATH, .unary = on_enroll },
	{ .path = PROVISIONER_RENEW_PATH, .unary = on_renew },
	{ .path = PROVISIONER_SESSION_PATH, .open = on_session },
};

static const struct grpc_method mesh_methods[] = {
	{ .path = ADS_DELTA_PATH, .open = on_delta },
	{ .path = ADS_SOTW_PATH, .open = on_sotw },
	{ .path = SIGNING_PATH, .unary = on_create_certificate },
};

/* --- certificates of the listeners --- */

struct names {
	const char *v[MAX_NAMES + 1];
	size_t n;
	char hostname[256];
	char listen[3][IP_TEXT_LEN];
};

static void add_name(struct names *names, const char *name)
{
	for (size_t i = 0; i < names->n; i++)
		if (!strcmp(names->v[i], name))
			return;
	if (*name && names->n < MAX_NAMES)
		names->v[names->n++] = name;
}

static void collect_names(const struct config *c, struct names *names)
{
	const struct ip_port *listen[] = { &c->listen.provisioner, &c->listen.mesh, &c->listen.rest };

	*names = (struct names){};
	add_name(names, "outrigger-controller");
	add_name(names, "localhost");
	add_name(names, "127.0.0.1");
	add_name(names, "::1");
	if (!gethostname(names->hostname, sizeof(names->hostname) - 1))
		add_name(names, names->hostname);
	for (size_t i = 0; i < ELEMENTS(listen); i++)
		if (!ip_is_none(&listen[i]->ip))
			add_name(names, ip_format(&listen[i]->ip, names->listen[i]));
	for (size_t i = 0; i < c->server_names.n; i++)
		add_name(names, c->server_names.v[i]);
	for (size_t i = 0; i < c->advertise.server_names.n; i++)
		add_name(names, c->advertise.server_names.v[i]);
}

static int make_tls(struct server *s, const char *const *alpn, struct tls_ctx **ret_ctx, struct diag *d)
{
	char id_text[IDENTITY_TEXT_LEN];
	struct identity id;
	struct names names;
	int r = identity_workload(s->config->trust_domain, REG_ROOT_NAMESPACE, "controller", &id);

	if (r < 0)
		return r;
	collect_names(s->config, &names);
	return authority_server_tls(s->authority, identity_format(&id, id_text), names.v, s->config->ca.server_ttl_ms / 1000, TLS_VERIFY_REQUEST, alpn, ret_ctx, d);
}

static const char *const alpn_h2[] = { "h2", NULL };
static const char *const alpn_http[] = { "http/1.1", NULL };

/* All or none: they are of one age. */
static int renew_certificates(struct server *s, struct diag *d)
{
	struct tls_ctx *grpc, *rest;
	int r = make_tls(s, alpn_h2, &grpc, d);

	if (r < 0)
		return r;
	r = make_tls(s, alpn_http, &rest, d);
	if (r == 0) {
		grpc_server_set_tls(s->provisioner_server, grpc);
		grpc_server_set_tls(s->mesh_server, grpc);
		httpd_set_tls(s->httpd, rest);
		s->server_not_after = tls_ctx_not_after(grpc);
		tls_ctx_unref(rest);
	}
	tls_ctx_unref(grpc);
	return r;
}

static int on_check_certificates(struct timer *t)
{
	struct server *s = container_of(t, struct server, certificates);
	int64_t ttl_s = s->config->ca.server_ttl_ms / 1000;
	struct diag diag = {};

	if (s->server_not_after - clock_wall_s() < ttl_s / 2) {
		if (renew_certificates(s, &diag) < 0)
			log_error("the listeners' certificates cannot be renewed", log_str("reason", diag.msg));
		else
			log_info("the listeners' certificates were renewed");
	}
	return timer_arm(s->loop, t, (uint64_t)MIN(MAX(ttl_s * 100, (int64_t)100), (int64_t)CHECK_CERTIFICATES_MS), on_check_certificates);
}

/* --- listeners --- */

static int listen_on(struct grpc_server *server, const char *what, const struct ip_port *addr, struct diag *d)
{
	struct ip_port bound;
	char text[IP_PORT_TEXT_LEN], why[sizeof(d->msg)];
	int r = grpc_server_listen(server, addr, &bound, d);

	if (r < 0) {
		snprintf(why, sizeof(why), "%s", d->msg);
		diag_set(d, "listen.%s: %s", what, why[0] ? why : strerror(-r));
		return r;
	}
	log_info("listening", log_str("for", what), log_str("address", ip_port_format(&bound, text)));
	return 0;
}

static int start_grpc(struct server *s, struct tls_ctx *tls, struct diag *d)
{
	struct grpc_server_options options = {
		.tls = tls, .trust_domain = s->config->trust_domain, .methods = provisioner_methods, .n_methods = ELEMENTS(provisioner_methods),
		.keepalive_ms = NIC_KEEPALIVE_MS, .keepalive_timeout_ms = NIC_KEEPALIVE_TIMEOUT_MS, .data = s,
	};
	int r = grpc_server_new(s->loop, &options, &s->provisioner_server);

	if (r < 0)
		return r;
	options.keepalive_ms = options.keepalive_timeout_ms = 0;
	options.methods = mesh_methods;
	options.n_methods = ELEMENTS(mesh_methods);
	options.max_message = MESH_MAX_MESSAGE;
	options.max_queued = MESH_MAX_QUEUED;
	r = grpc_server_new(s->loop, &options, &s->mesh_server);
	if (r == 0)
		r = listen_on(s->provisioner_server, "provisioner", &s->config->listen.provisioner, d);
	if (r == 0 && s->config->mesh.kind == MESH_EMBEDDED)
		r = listen_on(s->mesh_server, "mesh", &s->config->listen.mesh, d);
	return r;
}

static int start_listeners(struct server *s, struct diag *d)
{
	struct tls_ctx *tls, *rest_tls;
	char why[sizeof(d->msg)];
	int r = make_tls(s, alpn_h2, &tls, d);

	if (r < 0)
		return r;
	s->server_not_after = tls_ctx_not_after(tls);
	r = start_grpc(s, tls, d);
	tls_ctx_unref(tls);
	if (r < 0)
		return r;
	r = make_tls(s, alpn_http, &rest_tls, d);
	if (r < 0)
		return r;
	r = rest_start(s, rest_tls, d);
	tls_ctx_unref(rest_tls);
	if (r < 0 && !d->file[0]) {
		snprintf(why, sizeof(why), "%s", d->msg);
		diag_set(d, "listen.rest: %s", why[0] ? why : strerror(-r));
	}
	return r;
}

/* --- parts --- */

static void on_settled(void *data, const char *uid)
{
	registry_in_mesh(((struct server *)data)->registry, uid);
}

/* --- the Kubernetes cluster --- */

static void on_containers(void *data)
{
	struct server *s = data;

	if (!s->provisioner)
		return;
	provisioner_containers(s->provisioner);
	provisioner_nodes(s->provisioner);
}

static void on_groups(void *data)
{
	struct server *s = data;

	if (s->provisioner)
		provisioner_policies(s->provisioner);
}

static void on_roots(void *data, const char *roots_pem)
{
	struct server *s = data;

	if (s->provisioner)
		provisioner_set_roots(s->provisioner, roots_pem);
}

static const struct reg_guest *guest_at(const struct reg_nic *nic, const struct ip *address)
{
	list_for_each(l, &nic->guests) {
		const struct reg_guest *g = list_entry(l, struct reg_guest, in_nic);

		if (reg_guest_has_ip(g, address))
			return g;
	}
	return NULL;
}

static bool proxy_has_left(const struct reg_guest *g)
{
	return g->proxy && (!strcmp(g->proxy->state, "draining") || !strcmp(g->proxy->state, "stopped"));
}

/*
 * Only a NIC that has said all that it knows can say that a VM is gone. One that
 * is away may serve its VMs as before; after a long time it is taken for dead.
 * Entries of NICs that never enrolled here are another controller's.
 */
static bool on_wanted(void *data, const char *nic_id, const struct ip *address)
{
	const struct server *s = data;
	const struct reg_nic *nic = registry_nic(s->registry, nic_id);
	int64_t away_since = nic && nic->lost_at ? nic->lost_at : s->started_at;
	const struct reg_guest *g;
	struct store_nic stored;

	if (!nic || !nic->connected || !nic->synced)
		return clock_wall_s() - away_since < s->config->kubernetes.dead_nic_ms / 1000 || store_nic_get(s->store, nic_id, &stored) < 0;
	g = guest_at(nic, address);
	return g && onboard_joins(g->policy) && !proxy_has_left(g);
}

static void on_entry(void *data, const char *nic_id, const struct ip *address)
{
	struct server *s = data;
	const struct reg_nic *nic = registry_nic(s->registry, nic_id);
	const struct reg_guest *g = nic ? guest_at(nic, address) : NULL;

	if (g && g->workload)
		registry_in_mesh(s->registry, g->workload->uid);
}

static void on_guests_changed(void *data)
{
	struct server *s = data;

	cluster_guests_changed(s->cluster);
	if (s->provisioner)
		provisioner_nodes(s->provisioner);
	if (s->kube_mesh)
		kube_mesh_retry(s->kube_mesh);
}

static void read_begin(void *data, enum kube_kind kind)
{
	kube_mesh_begin(data, kind);
}

static void read_put(void *data, enum kube_kind kind, const json_t *object)
{
	kube_mesh_put(data, kind, object);
}

static void read_gone(void *data, enum kube_kind kind, const json_t *object)
{
	kube_mesh_gone(data, kind, object);
}

static void read_synced(void *data, enum kube_kind kind)
{
	kube_mesh_synced(data, kind);
}

static void on_offer(const struct reg_guest *from, const struct reg_guest *to, void *data)
{
	provisioner_hand_over(((struct server *)data)->provisioner, from, to);
}

static void on_moved(const struct reg_guest *from, const struct reg_guest *to, void *data)
{
	provisioner_moved(((struct server *)data)->provisioner, from, to);
}

static int start_cluster(struct server *s, struct diag *d)
{
	static const struct kube_reader reader = { .begin = read_begin, .put = read_put, .gone = read_gone, .synced = read_synced };
	int r = s->config->kubernetes.namespaces.n ? kube_mesh_new(s->loop, s->registry, &s->kube_mesh) : 0;
	const struct cluster_ops ops = {
		.containers = on_containers, .roots = on_roots, .wanted = on_wanted, .seen = on_entry, .groups = on_groups,
		.reader = s->kube_mesh ? &reader : NULL, .reader_data = s->kube_mesh,
	};

	if (r == 0 && config_has_kubernetes(s->config))
		r = cluster_new(s->loop, s->config, &ops, s, &s->cluster, d);
	const struct config *c = s->config;
	const struct tokens_options tokens = {
		.issuer = s->issuer, .kube = r == 0 && c->mesh.tokens == TOKENS_REQUEST ? cluster_kube(s->cluster) : NULL,
		.config = c,
	};

	s->registry->moves = (struct registry_moves){ .offer = on_offer, .moved = on_moved, .data = s };
	s->registry->changed = on_guests_changed;
	s->registry->changed_data = s;
	return r < 0 ? r : tokens_new(&tokens, &s->tokens);
}

static int make_state_dir(const char *path, struct diag *d)
{
	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return diag_at(d, path, 0, "the state directory cannot be made: %m");
	return 0;
}

static int start_parts(struct server *s, struct diag *d)
{
	static const struct ads_ops ads_ops = { .settled = on_settled };
	int r = make_state_dir(s->config->state_dir, d);

	if (r == 0)
		r = store_open(s->config->state_dir, &s->store, d);
	if (r == 0)
		r = authority_new(s->loop, s->config, s->store, &s->authority, d);
	if (r == 0)
		r = issuer_new(s->loop, s->config, &s->issuer, d);
	if (r == 0)
		r = registry_new(s->loop, &s->resources, s->store, s->config, &s->registry);
	if (r == 0)
		r = revoker_new(s->loop, s->store, &s->resources, &s->revoker);
	if (r < 0)
		return r;
	s->authn = (struct authn){
		.issuer = s->issuer, .registry = s->registry, .store = s->store, .revoker = s->revoker, .trust_domain = s->config->trust_domain,
	};
	authn_init(&s->authn);
	signing_init(&s->signing, &s->authn, s->authority, s->config);
	r = ads_new(s->loop, &s->resources, &s->authn, s->config->mesh.network, &ads_ops, s, &s->ads);
	if (r == 0)
		r = start_cluster(s, d);
	if (r < 0)
		return r;
	const struct provisioner_options options = {
		.loop = s->loop, .config = s->config, .authority = s->authority, .issuer = s->issuer, .registry = s->registry,
		.store = s->store, .revoker = s->revoker, .tokens = s->tokens, .cluster = s->cluster,
	};
	return provisioner_new(&options, &s->provisioner);
}

int server_new(struct loop *loop, const char *config_path, struct server **ret_server, struct diag *reterr_diag)
{
	struct server *s = calloc(1, sizeof(*s));
	int r = -ENOMEM;

	if (!s)
		return r;
	s->loop = loop;
	s->config_watch.fd = -1;
	s->started_at = s->config_loaded_at = clock_wall_s();
	resources_init(&s->resources);
	s->config_path = strdup(config_path);
	if (s->config_path)
		r = config_load(config_path, &s->config, reterr_diag);
	if (r == 0)
		r = start_parts(s, reterr_diag);
	if (r == 0)
		r = start_listeners(s, reterr_diag);
	if (r == 0)
		r = config_watch_start(s);
	if (r == 0)
		r = timer_arm(loop, &s->certificates, FIRST_CHECK_MS, on_check_certificates);
	if (r < 0) {
		server_free(s);
		return r;
	}
	*ret_server = s;
	return 0;
}

struct server *server_free(struct server *s)
{
	if (!s)
		return NULL;
	config_watch_stop(s);
	timer_cancel(&s->certificates);
	httpd_free(s->httpd);
	ads_free(s->ads);
	if (s->registry) {		/* who listened goes */
		s->registry->changed = NULL;
		s->registry->moves = (struct registry_moves){};
	}
	s->provisioner = provisioner_free(s->provisioner);
	tokens_free(s->tokens);
	grpc_server_free(s->mesh_server);
	grpc_server_free(s->provisioner_server);
	cluster_free(s->cluster);
	kube_mesh_free(s->kube_mesh);
	revoker_free(s->revoker);
	registry_free(s->registry);
	resources_deinit(&s->resources);
	issuer_free(s->issuer);
	authority_free(s->authority);
	store_close(s->store);
	config_free(s->config);
	free(s->rest_token);
	free(s->config_path);
	free(s);
	return NULL;
}

/* --- another configuration --- */

static void refuse_config(struct server *s, const struct diag *diag)
{
	char text[DIAG_TEXT_LEN];

	if (!strcmp(s->config_error.msg, diag->msg) && s->config_error.line == diag->line)
		return;			/* said already */
	s->config_error = *diag;
	s->config_refused_at = clock_wall_s();
	s->n_refusals++;
	log_error("the configuration is refused, the last good one stays in force", log_str("reason", diag_format(diag, text)));
}

/* As an editor or a full disk leaves it for a moment: nobody means "take all policies away" by that. */
static bool says_nothing(const char *path)
{
	FILE *f = fopen(path, "re");
	char line[256];
	bool found = false;

	if (!f)
		return false;		/* its error is found by reading it */
	while (!found && fgets(line, sizeof(line), f)) {
		const char *at = line + strspn(line, " \t\r\n");

		found = *at && *at != '#' && strncmp(at, "---", 3) != 0;
		while (!strchr(line, '\n') && fgets(line, sizeof(line), f))
			;		/* the rest of a long line */
	}
	fclose(f);
	return !found;
}

/* Settings that only a start reads keep their old value; that they differ is shown. */
static bool needs_restart(struct server *s, const struct config *next)
{
	char path[CONF_PATH_LEN];

	if (!conf_differs(&config_table, s->config, next, CONF_RESTART, path)) {
		s->restart_needed[0] = 0;
		return false;
	}
	if (strcmp(s->restart_needed, path) != 0)
		log_warn("a changed setting takes effect after a restart", log_str("setting", path));
	snprintf(s->restart_needed, sizeof(s->restart_needed), "%s", path);
	return true;
}

static void apply(struct server *s, struct config *next)
{
	struct config *before = s->config;

	if (registry_apply(s->registry, next) < 0) {
		log_error("out of memory: the configuration was not taken");
		if (registry_apply(s->registry, before) == 0) {
			config_free(next);
			return;
		}
		log_error("out of memory: the registry is incomplete until the next change");
		next->half_taken = before->half_taken;
		before->half_taken = next;
		return;
	}
	s->config = next;
	if (s->kube_mesh)
		kube_mesh_apply(s->kube_mesh);
	if (cluster_apply(s->cluster, next) < 0)
		log_error("out of memory: the cluster's objects are kept by the configuration before");
	issuer_apply(s->issuer, next);
	tokens_apply(s->tokens, next);
	s->signing.config = next;
	s->authn.trust_domain = next->trust_domain;
	if (provisioner_apply(s->provisioner, next) < 0)
		log_error("out of memory: the NICs were not told of the new configuration");
	s->config_loaded_at = clock_wall_s();
	s->n_reloads++;
	log_info("the configuration was taken", log_str("file", s->config_path));
	config_free(before);
}

void server_reload(struct server *s)
{
	struct diag diag = {};
	struct config *next;
	char path[CONF_PATH_LEN];
	int r;

	if (says_nothing(s->config_path)) {
		diag_at(&diag, s->config_path, 1, "the file is empty");
		refuse_config(s, &diag);
		return;
	}
	r = config_load(s->config_path, &next, &diag);
	if (r < 0) {
		if (!diag.msg[0])
			diag_set(&diag, "%s", strerror(-r));
		refuse_config(s, &diag);
		return;
	}
	if (s->config_error.msg[0])
		log_info("the configuration file is good again");
	s->config_error = (struct diag){};
	if (needs_restart(s, next)) {
		config_free(next);	/* whole or not at all */
		return;
	}
	if (conf_differs(&config_table, s->config, next, CONF_LIVE, path))
		apply(s, next);
	else
		config_free(next);
}
