/*
 * outrigger envoy: makes an unmodified Envoy the sidecar of a container.
 *
 * Asks the mesh controller for the workload's certificate with a key of its
 * own, writes both where Envoy finds them (and again whenever they are
 * renewed), writes the bootstrap, runs Envoy, ends with it.
 */
#include <errno.h>
#include <limits.h>
#include <openssl/evp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/log.h"
#include "base/loop.h"
#include "base/secret.h"
#include "ctl/command.h"
#include "ctl/commands.h"
#include "ctl/envoy_bootstrap.h"
#include "ctl/envoy_capture.h"
#include "ctl/envoy_dir.h"
#include "ctl/envoy_options.h"
#include "ctl/envoy_process.h"
#include "mesh/ca_client.h"
#include "mesh/cert.h"
#include "mesh/identity.h"

enum {
	FILE_MAX = 256 * 1024,
	ONCE_TIMEOUT_MS = 15000,	/* --bootstrap gives up then */
	STOP_TIMEOUT_MS = 10000,	/* SIGKILL after SIGTERM */
	TOKEN_CHECK_MS = 5000,		/* the token's file may be replaced */
};

/* The controller's certificate is also good for this name. */
static const char CONTROLLER_NAME[] = "outrigger-controller";

struct envoy {
	struct envoy_options options;
	struct envoy_config *config;	/* of the options, completed */

	char hostname[HOST_NAME_MAX + 1];
	char controller_host[256];
	char trust_domain[IDENTITY_TRUST_DOMAIN_MAX + 1];
	char id[IDENTITY_TEXT_LEN];
	char *roots_pem;
	char *token;

	struct loop *loop;
	struct channel *channel;
	struct ca_client *ca;
	struct envoy_capture *capture;
	struct timer timer;		/* --bootstrap: giving up; else stopping */
	struct timer token_timer;
	struct envoy_dir dir;
	struct envoy_dir secrets;
	pid_t pid;
	bool has_certificate;
	bool stopping;
	int result;
};

/* --- files --- */

static char *read_text(const char *path, struct diag *d)
{
	FILE *f = fopen(path, "re");
	char *text = f ? malloc(FILE_MAX + 1) : NULL;
	size_t n = text ? fread(text, 1, FILE_MAX + 1, f) : 0;

	if (!text) {
		diag_at(d, path, 0, "%s", f ? "out of memory" : strerror(errno));
	} else if (n > FILE_MAX || ferror(f)) {
		diag_at(d, path, 0, "cannot read it, or larger than %d bytes", FILE_MAX);
		free(text);
		text = NULL;
	}
	if (f)
		fclose(f);
	if (text)
		text[n] = 0;
	return text;
}

/* Without the newline that files of tokens end with. NULL with words. */
static char *read_token(const struct envoy *e, struct diag *d)
{
	char *text;

	if (e->options.token_env) {
		const char *value = getenv(e->options.token_env);

		text = value ? strdup(value) : NULL;
		if (!text)
			diag_set(d, "the environment has no %s", e->options.token_env);
	} else {
		text = read_text(e->options.token_file, d);
	}
	if (text)
		text[strcspn(text, " \t\r\n")] = 0;
	return text;
}

/* --- Envoy --- */

static void stop(struct envoy *e, int result)
{
	if (e->result == COMMAND_OK)
		e->result = result;
	e->stopping = true;
	if (!e->pid)
		loop_stop(e->loop);
	else
		kill(e->pid, SIGTERM);
}

static void fail(struct envoy *e, const char *what, const struct diag *d)
{
	char text[DIAG_TEXT_LEN];

	log_error("cannot go on", log_str("step", what), log_str("error", diag_format(d, text)));
	stop(e, COMMAND_FAILED);
}

static int start_envoy(struct envoy *e, struct diag *d)
{
	char path[sizeof(e->dir.path) + 32];
	int r = envoy_dir_write_json(&e->dir, "bootstrap.json", envoy_bootstrap(e->config), d);

	if (r == 0 && e->config->capture)
		r = envoy_capture_new(e->loop, e->channel, e->config, &e->dir, &e->capture, d);
	if (r < 0)
		return r;
	snprintf(path, sizeof(path), "%s/bootstrap.json", e->dir.path);
	r = envoy_process_start(e->options.program, path, e->options.args, e->options.n_args, &e->pid);
	if (r < 0) {
		diag_set(d, "cannot run %s: %s", e->options.program, strerror(-r));
		return r;
	}
	log_info("envoy started", log_int("pid", e->pid), log_str("identity", e->id), log_str("bootstrap", path));
	return 0;
}

static int print_bootstrap(struct envoy *e)
{
	json_t *o = envoy_bootstrap(e->config);
	int r = o ? json_dumpf(o, stdout, JSON_INDENT(2)) : -1;

	putchar('\n');
	json_decref(o);
	return r;
}

static void on_child(struct envoy *e)
{
	int status;

	if (!e->pid || waitpid(e->pid, &status, WNOHANG) != e->pid)
		return;
	e->pid = 0;
	if (WIFSIGNALED(status))
		log_info("envoy ended", log_int("signal", WTERMSIG(status)));
	else
		log_info("envoy ended", log_int("exit_code", WEXITSTATUS(status)));
	stop(e, e->stopping ? COMMAND_OK : COMMAND_FAILED);
}

static int on_stop_timeout(struct timer *t)
{
	struct envoy *e = container_of(t, struct envoy, timer);

	if (e->pid)
		kill(e->pid, SIGKILL);
	return 0;
}

static void on_signal(int signo, void *data)
{
	struct envoy *e = data;

	if (signo == SIGCHLD) {
		on_child(e);
		return;
	}
	stop(e, COMMAND_OK);
	if (e->pid && timer_arm(e->loop, &e->timer, STOP_TIMEOUT_MS, on_stop_timeout) < 0)
		kill(e->pid, SIGKILL);
}

/* --- the certificate --- */

static int write_secrets(struct envoy *e, const struct ca_credential *c, struct diag *d)
{
	char *key_pem;
	int r = cert_key_to_pem(c->key, &key_pem);

	if (r < 0) {
		diag_set(d, "cannot write the key: %s", strerror(-r));
		return r;
	}
	r = envoy_dir_write_json(&e->secrets, "workload.json", envoy_sds_certificate(c->chain_pem, key_pem), d);
	secret_free(key_pem);
	if (r == 0)
		r = envoy_dir_write_json(&e->secrets, "roots.json", envoy_sds_roots(e->roots_pem), d);
	return r;
}

static int make_tls(const struct envoy *e, const struct ca_credential *c, struct tls_ctx **ret_ctx, struct diag *d)
{
	static const char *const alpn[] = { "h2", NULL };
	struct tls_config config = {
		.role = TLS_CLIENT, .roots_pem = e->roots_pem, .cert_pem = c ? c->chain_pem : NULL, .key = c ? c->key : NULL, .alpn = alpn,
	};

	return tls_ctx_new(&config, ret_ctx, d);
}

static void channel_settings(const struct envoy *e, struct tls_ctx *tls, const char *names[static ENVOY_NAMES_MAX + 1],
			     struct channel_options *o)
{
	memcpy(names, e->config->server_names, sizeof(e->config->server_names));
	names[e->config->n_server_names] = NULL;
	*o = (struct channel_options){ .target = e->config->controller, .tls = tls, .server_names = names };
}

/* From now on the certificate speaks for us: the token may be of one use, or short-lived. */
static int use_certificate(struct envoy *e, const struct ca_credential *c, struct diag *d)
{
	const char *names[ENVOY_NAMES_MAX + 1];
	struct channel_options options;
	struct tls_ctx *tls;
	int r = make_tls(e, c, &tls, d);

	if (r < 0)
		return r;
	channel_settings(e, tls, names, &options);
	r = channel_change(e->channel, &options, 0);
	tls_ctx_unref(tls);
	if (r == 0)
		r = ca_client_set_token(e->ca, NULL);
	if (r < 0)
		diag_set(d, "%s", strerror(-r));
	return r;
}

static void on_issued(struct ca_client *ca, void *data, const struct ca_credential *c)
{
	struct envoy *e = data;
	struct diag d = {};
	int r = write_secrets(e, c, &d);

	(void)ca;
	if (r < 0) {
		if (e->has_certificate)		/* the last one is still good; it will be tried again at half its life */
			log_error("cannot store the renewed certificate", log_str("error", d.msg));
		else
			fail(e, "store the certificate", &d);
		return;
	}
	log_info("certificate issued", log_str("identity", e->id), log_int("not_after", c->not_after));
	if (e->has_certificate || e->stopping)
		goto use;
	e->has_certificate = true;
	if (e->options.bootstrap_only) {
		stop(e, print_bootstrap(e) < 0 ? COMMAND_FAILED : COMMAND_OK);
		return;
	}
	if (start_envoy(e, &d) < 0) {
		fail(e, "start Envoy", &d);
		return;
	}
use:
	if (use_certificate(e, c, &d) < 0)
		log_error("cannot use the certificate towards the controller", log_str("error", d.msg));
}

static void on_failed(struct ca_client *ca, void *data, const struct grpc_status *status)
{
	struct envoy *e = data;
	bool refused = status->code == GRPC_UNAUTHENTICATED || status->code == GRPC_PERMISSION_DENIED || status->code == GRPC_DATA_LOSS ||
		       status->code == GRPC_INVALID_ARGUMENT;

	(void)ca;
	LOG_LIMITED(LOG_L_ERROR, "no certificate", log_str("identity", e->id), log_str("code", grpc_code_name(status->code)),
		    log_str("error", status->message));
	if (e->options.bootstrap_only && refused)
		stop(e, COMMAND_FAILED);
	if (status->code == GRPC_UNAUTHENTICATED && e->has_certificate) {	/* not any more: so by the token again */
		struct diag d = {};
		char *token = read_token(e, &d);

		if (token && ca_client_set_token(e->ca, token) < 0)
			log_error("cannot use the token", log_str("error", "out of memory"));
		secret_free(token);
	}
}

/* A token that is mounted into a container is replaced before it expires. */
static int on_token_timer(struct timer *t)
{
	struct envoy *e = container_of(t, struct envoy, token_timer);
	struct diag d = {};
	char *token = e->has_certificate ? NULL : read_token(e, &d);

	if (token && strcmp(token, e->token) != 0 && ca_client_set_token(e->ca, token) == 0) {
		secret_free(e->token);
		e->token = steal_ptr(&token);
	}
	secret_free(token);
	return timer_arm(e->loop, t, TOKEN_CHECK_MS, on_token_timer);
}

static int on_give_up(struct timer *t)
{
	struct envoy *e = container_of(t, struct envoy, timer);
	struct diag d = {};

	diag_set(&d, "no certificate within %d s: %s", ONCE_TIMEOUT_MS / 1000, channel_error(e->channel));
	fail(e, "get a certificate", &d);
	return 0;
}

/* --- preparation --- */

/* The address from which the controller is reached: what peers will dial. */
static int own_address(const char *controller, struct ip *ret_ip)
{
	struct sockaddr_storage sa;
	struct ip_port addr;
	socklen_t len = sizeof(sa);

	if (ip_port_parse(controller, &addr) < 0)
		return -EDESTADDRREQ;
	socklen_t to_len = ip_port_to_sockaddr(&addr, 0, &sa);
	CLEANUP_FD int fd = socket(sa.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&sa, to_len) < 0 || getsockname(fd, (struct sockaddr *)&sa, &len) < 0)
		return -errno;
	int r = ip_port_from_sockaddr(&sa, &addr);
	if (r == 0)
		*ret_ip = addr.ip;
	return r;
}

/* Our own roots say which trust domain they are of; others do not. */
static void find_trust_domain(struct envoy *e)
{
	struct cert_info info;
	struct identity id;

	if (e->config->trust_domain)
		return;
	if (cert_info(e->roots_pem, &info) == 0 && identity_parse(info.id, &id) == 0)
		memcpy(e->trust_domain, id.trust_domain, sizeof(e->trust_domain));
	else
		memcpy(e->trust_domain, "cluster.local", sizeof("cluster.local"));
	e->config->trust_domain = e->trust_domain;
}

static int check_names(struct envoy *e, struct diag *d)
{
	const char *colon = strrchr(e->config->controller, ':');
	struct envoy_config *c = e->config;
	struct ip_port addr;
	struct identity id;

	if (!colon || colon == c->controller || (size_t)(colon - c->controller) >= sizeof(e->controller_host))
		return diag_set(d, "--controller wants HOST:PORT, not '%s'", c->controller);
	if (ip_port_parse(c->controller, &addr) == 0)
		ip_format(&addr.ip, e->controller_host);
	else
		memcpy(e->controller_host, c->controller, (size_t)(colon - c->controller));
	if (!c->n_server_names) {
		c->server_names[c->n_server_names++] = e->controller_host;
		c->server_names[c->n_server_names++] = CONTROLLER_NAME;
	}
	if (identity_workload(c->trust_domain, c->ns, c->service_account, &id) < 0)
		return diag_set(d, "trust domain '%s', namespace '%s' and service account '%s' make no identity", c->trust_domain, c->ns,
				c->service_account);
	identity_format(&id, e->id);
	return 0;
}

static int find_defaults(struct envoy *e, struct diag *d)
{
	struct envoy_config *c = e->config;

	if (!c->name) {
		if (gethostname(e->hostname, sizeof(e->hostname)) < 0)
			return diag_set(d, "--name is missing");
		c->name = e->hostname;
	}
	if (!c->n_addresses) {
		int r = own_address(c->controller, &c->addresses[0]);
		if (r < 0)
			return diag_set(d, "--address is missing, and there is no way to find it: %s", strerror(-r));
		c->n_addresses = 1;
	}
	return check_names(e, d);
}

static int prepare(struct envoy *e, struct diag *d)
{
	int r;

	e->roots_pem = read_text(e->options.roots_file, d);
	if (!e->roots_pem)
		return -EINVAL;
	e->token = read_token(e, d);
	if (!e->token)
		return -EINVAL;
	find_trust_domain(e);
	r = find_defaults(e, d);
	if (r < 0)
		return r;
	r = envoy_dir_open(&e->dir, e->options.dir_path ?: "outrigger-envoy", d);
	if (r < 0)
		return r;
	/* A bootstrap that is only printed is for an Envoy that starts when we are gone. */
	if (e->options.bootstrap_only || envoy_dir_open_memory(&e->secrets) < 0) {
		r = envoy_dir_open(&e->secrets, e->dir.path, d);
		if (r < 0)
			return r;
	}
	e->config->sds_dir = e->secrets.path;
	e->config->xds_dir = e->dir.path;
	return 0;
}

static int connect_controller(struct envoy *e, struct diag *d)
{
	static const struct ca_client_ops ops = { on_issued, on_failed };
	struct ca_client_options options = { .id = e->id, .token = e->token, .needs_token = true, .roots_pem = e->roots_pem };
	const char *names[ENVOY_NAMES_MAX + 1];
	struct channel_options channel;
	struct tls_ctx *tls;
	int r = make_tls(e, NULL, &tls, d);

	if (r < 0)
		return r;
	channel_settings(e, tls, names, &channel);
	r = channel_new(e->loop, &channel, &e->channel);
	tls_ctx_unref(tls);
	options.channel = e->channel;
	if (r == 0)
		r = ca_client_new(e->loop, &options, &ops, e, &e->ca);
	if (r < 0)
		diag_set(d, "%s", strerror(-r));
	return r;
}

static int run(struct envoy *e, struct diag *d)
{
	static const int signals[] = { SIGTERM, SIGINT, SIGHUP, SIGCHLD };
	int r = loop_new(&e->loop);

	if (r == 0)
		r = loop_on_signal(e->loop, signals, ELEMENTS(signals), on_signal, e);
	if (r == 0)
		r = timer_arm(e->loop, &e->token_timer, TOKEN_CHECK_MS, on_token_timer);
	if (r == 0 && e->options.bootstrap_only)
		r = timer_arm(e->loop, &e->timer, ONCE_TIMEOUT_MS, on_give_up);
	if (r < 0) {
		diag_set(d, "%s", strerror(-r));
		return r;
	}
	r = connect_controller(e, d);
	return r < 0 ? r : loop_run(e->loop);
}

static void clean_up(struct envoy *e)
{
	envoy_capture_free(e->capture);
	ca_client_free(e->ca);
	channel_free(e->channel);
	if (e->loop && loop_turn(e->loop, 0) < 0)
		e->result = COMMAND_FAILED;
	loop_free(e->loop);
	if (!e->options.bootstrap_only) {
		envoy_dir_remove(&e->secrets, "workload.json");
		envoy_dir_remove(&e->secrets, "roots.json");
	}
	envoy_dir_close(&e->secrets);
	envoy_dir_close(&e->dir);
	secret_free(e->token);
	free(e->roots_pem);
}

/* --- the command --- */

static int run_envoy(int argc, char **argv)
{
	struct envoy e = { .config = &e.options.config, .dir.fd = -1, .secrets.fd = -1 };
	char text[DIAG_TEXT_LEN];
	struct diag d = {};
	int r = envoy_options_parse(argc, argv, &e.options);

	if (r >= 0)
		return r;
	log_setup("outrigger-envoy", LOG_L_INFO, false);
	r = prepare(&e, &d);
	if (r == 0)
		r = run(&e, &d);
	if (r < 0) {
		fprintf(stderr, "outrigger envoy: %s\n", d.msg[0] ? diag_format(&d, text) : strerror(-r));
		e.result = COMMAND_FAILED;
	}
	clean_up(&e);
	return e.result;
}

const struct command command_envoy = { "envoy", "run Envoy as a container's sidecar in the mesh", run_envoy };
