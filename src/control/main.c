/*
 * outrigger-controller: the edge services controller.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/opt.h"
#include "base/sandbox.h"
#include "control/kube_look.h"
#include "control/kube_manifest.h"
#include "control/server.h"

struct arguments {
	const char *config;
	bool check;
	bool manual;
	bool manifest;
	bool plan;
	bool version;
};

static const struct opt options[] = {
	{ 'c', "config", OPT_STR, offsetof(struct arguments, config), .value = "FILE", .help = "configuration (default /etc/outrigger/controller.yaml)" },
	{ 0, "check", OPT_FLAG, offsetof(struct arguments, check), .help = "only read the configuration and say what is wrong with it" },
	{ 0, "kubernetes", OPT_FLAG, offsetof(struct arguments, manifest),
	  .help = "print what the onboarding policies need in a cluster with Istio, for kubectl apply -f -" },
	{ 0, "kubernetes-plan", OPT_FLAG, offsetof(struct arguments, plan),
	  .help = "look into the cluster, and print what kubernetes.manage would create, change and delete there" },
	{ 0, "manual", OPT_FLAG, offsetof(struct arguments, manual), .help = "print the reference manual of the configuration" },
	{ 'V', "version", OPT_FLAG, offsetof(struct arguments, version), .help = "print the version" },
};

static int print_manual(void)
{
	struct bytes out;

	bytes_init(&out, 1 << 20);
	int r = conf_manual(&config_table, &out);
	if (r == 0)
		fwrite(out.data, 1, out.len, stdout);
	bytes_deinit(&out);
	return r < 0 ? 1 : 0;
}

static int fail(const struct diag *diag, int r)
{
	char text[DIAG_TEXT_LEN];

	fprintf(stderr, "outrigger-controller: %s\n", diag->msg[0] ? diag_format(diag, text) : strerror(-r));
	return 1;
}

/* Root is good for nothing here but for becoming somebody else, who needs a place for the state. */
static int give_up_rights(const struct config *config, struct diag *d)
{
	struct sandbox_user user = { .uid = (uid_t)-1, .gid = (gid_t)-1 };
	int r = config->user && geteuid() == 0 ? sandbox_user_parse(config->user, &user, d) : 0;

	if (r < 0)
		return r;
	if (user.uid != (uid_t)-1 && mkdir(config->state_dir, 0700) == 0 && chown(config->state_dir, user.uid, user.gid) < 0)
		return diag_at(d, config->state_dir, 0, "cannot be given to '%s': %m", config->user);
	return sandbox_drop(&user, d);
}

static void on_signal(int signo, void *data)
{
	struct server *s = data;

	if (signo == SIGHUP) {
		server_reload(s);
		return;
	}
	log_info("stopping", log_int("signal", signo));
	loop_stop(s->loop);
}

static int serve(const char *path, struct diag *d)
{
	static const int signals[] = { SIGTERM, SIGINT, SIGHUP };
	struct loop *loop;
	struct server *s;
	int r = loop_new(&loop);

	if (r < 0)
		return r;
	r = server_new(loop, path, &s, d);
	if (r == 0) {
		r = loop_on_signal(loop, signals, ELEMENTS(signals), on_signal, s);
		/* libcurl asks DNS for the API server's name in a thread. */
		if (r == 0)
			r = sandbox_confine(SANDBOX_CORE | SANDBOX_LOOP | SANDBOX_SOCKETS | SANDBOX_WRITE_FILES |
					    (s->cluster ? SANDBOX_THREADS : 0), d);
		if (r == 0) {
			log_info("ready", log_str("version", OUTRIGGER_VERSION), log_str("trust_domain", s->config->trust_domain));
			r = loop_run(loop);
		}
		server_free(s);
	}
	int last = loop_turn(loop, 0);		/* connections free themselves at the end of a turn */
	loop_free(loop);
	return r < 0 ? r : last;
}

static int run(const struct arguments *args)
{
	struct diag diag = {};
	struct config *config;
	int r = config_load(args->config, &config, &diag);

	if (r < 0)
		return fail(&diag, r);
	if (args->manifest || args->plan) {
		r = args->plan ? kube_look_print(config, stdout, &diag) : kube_manifest_print(config, stdout);
		config_free(config);
		return r < 0 ? fail(&diag, r) : 0;
	}
	if (args->check) {
		printf("%s is good\n", args->config);
		config_free(config);
		return 0;
	}
	log_setup("outrigger-controller", (enum log_level)config->log_level, config->log_json);
	umask(0077);
	signal(SIGPIPE, SIG_IGN);
	r = give_up_rights(config, &diag);
	config_free(config);
	if (r < 0)
		return fail(&diag, r);
	r = serve(args->config, &diag);
	return r < 0 ? fail(&diag, r) : 0;
}

int main(int argc, char **argv)
{
	static const struct opt_spec spec = {
		.usage = "outrigger-controller [OPTION]...",
		.summary = "The edge services controller: provisions NICs, is the mesh's control plane, signs certificates, keeps the registry.",
		.opts = options, .n_opts = ELEMENTS(options),
	};
	struct arguments args = { .config = "/etc/outrigger/controller.yaml" };
	struct diag diag = {};
	unsigned n_args;
	int r = opt_parse(&spec, argc, argv, &args, &n_args, &diag);

	if (r == OPT_E_HELP) {
		opt_help(&spec, stdout);
		return 0;
	}
	if (r < 0) {
		fail(&diag, r);
		return 2;
	}
	if (args.version) {
		printf("outrigger-controller %s\n", OUTRIGGER_VERSION);
		return 0;
	}
	return args.manual ? print_manual() : run(&args);
}
