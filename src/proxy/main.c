/*
 * outrigger-proxy: the service proxies of one isolation group.
 *
 * Started by the agent with a socket to it as descriptor 3 and with CAP_NET_ADMIN,
 * which it gives to its socket helper; after that it is nobody: no capability,
 * no way to gain one, a list of system calls.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "base/log.h"
#include "base/opt.h"
#include "base/sandbox.h"
#include "proxy/proxy.h"
#include "proxy/sockd.h"
#include "proxy/static_conf.h"

enum { AGENT_FD = 3 };

#define FIELD(member) offsetof(struct proxy_options, member)

static const struct opt options[] = {
	{ 'g', "group", OPT_STR, FIELD(group), .value = "NAME", .help = "isolation group that this process serves (default: default)" },
	{ 'w', "workers", OPT_UINT, FIELD(workers), .max = PROXY_WORKERS_MAX, .value = "N", .help = "worker threads (0: one a processor, at most 4)" },
	{ 0, "mark-base", OPT_UINT, FIELD(mark_base), .value = "N", .help = "base of socket marks, as in the agent's steering" },
	{ 0, "static", OPT_STR, FIELD(static_file), .value = "FILE", .help = "no agent: a YAML file says it all (for tests and benchmarks)" },
	{ 'u', "user", OPT_STR, FIELD(user), .value = "USER", .help = "become this user" },
	{ 0, "round-robin", OPT_FLAG, FIELD(round_robin), .help = "balance by turns instead of by load" },
	{ 0, "log-level", OPT_STR, FIELD(log_level), .value = "LEVEL", .help = "error, warn, info (default) or debug" },
	{ 0, "log-json", OPT_FLAG, FIELD(log_json), .help = "log in JSON" },
	{ 0, "version", OPT_FLAG, FIELD(version), .help = "print the version" },
};

static const struct opt_spec spec = {
	.usage = "outrigger-proxy [OPTION]...",
	.summary = "Carries the traffic of the VMs of one isolation group in the mesh.",
	.details = "The agent starts it, with a socket to itself as descriptor 3.",
	.opts = options, .n_opts = ELEMENTS(options),
};

static int parse(int argc, char **argv, struct proxy_options *o)
{
	struct diag d = {};
	enum log_level level;
	unsigned n_args;
	int r = opt_parse(&spec, argc, argv, o, &n_args, &d);

	if (r == OPT_E_HELP) {
		opt_help(&spec, stdout);
		return OPT_E_HELP;
	}
	if (r < 0) {
		fprintf(stderr, "outrigger-proxy: %s\n", d.msg);
		return r;
	}
	if (o->version) {
		printf("outrigger-proxy %s\n", OUTRIGGER_VERSION);
		return OPT_E_HELP;
	}
	if (log_level_parse(o->log_level, &level) < 0) {
		fprintf(stderr, "outrigger-proxy: --log-level: \"%s\" is not error, warn, info or debug\n", o->log_level);
		return -EINVAL;
	}
	log_setup("outrigger-proxy", level, o->log_json);
	return 0;
}

static bool is_socket(int fd)
{
	int type;
	socklen_t len = sizeof(type);

	return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 && type == SOCK_SEQPACKET;
}

/* What takes privileges, then nothing does any more. */
static int start_privileged(const struct proxy_options *o, int socks[PROXY_WORKERS_MAX + 1], struct diag *d)
{
	struct sandbox_user user = { .uid = (uid_t)-1 };
	int r = 0;

	if (!o->static_file)
		r = sockd_start(o->mark_base, proxy_n_workers(o) + 1, socks);
	if (r < 0) {
		diag_set(d, "the socket helper cannot be started: %s", strerror(-r));
		return r;
	}
	if (o->user)
		r = sandbox_user_parse(o->user, &user, d);
	return r < 0 ? r : sandbox_drop(&user, d);
}

static void reload(struct proxy *p)
{
	char text[DIAG_TEXT_LEN];
	struct diag d = {};
	int r = static_conf_reload(p, p->options.static_file, &d);

	if (r < 0)
		log_error("file is not used", log_str("reason", diag_format(&d, text)), log_errno(r));
	else
		log_info("file was read again");
}

static int attach(struct proxy *p, struct diag *d)
{
	int r;

	if (p->options.static_file) {
		p->reload = reload;
		return static_conf_load(p, p->options.static_file, d);
	}
	r = agent_link_open(p->link, AGENT_FD);
	if (r < 0)
		diag_set(d, "descriptor %d, the agent: %s", AGENT_FD, strerror(-r));
	return r;
}

/* As many descriptors as the administrator allows: the soft limit is for programs that call select(). */
static int raise_descriptors(const struct proxy_options *o, struct diag *d)
{
	unsigned n = proxy_n_workers(o);
	uint64_t least = budget_least_descriptors(n), idle;
	struct rlimit l;

	if (getrlimit(RLIMIT_NOFILE, &l) < 0)
		return 0;
	if (l.rlim_cur < l.rlim_max) {
		l.rlim_cur = l.rlim_max;
		if (setrlimit(RLIMIT_NOFILE, &l) < 0)
			log_warn("the limit of descriptors cannot be raised", log_int("to", (int64_t)l.rlim_max), log_errno(errno));
	}
	if (l.rlim_cur < least) {
		diag_set(d, "%llu descriptors are too few (LimitNOFILE=, ulimit -n): %llu are needed", (unsigned long long)l.rlim_cur, (unsigned long long)least);
		return -EMFILE;
	}
	idle = budget_idle_descriptors(n, budget_spare_sockets(l.rlim_cur, n));
	if (l.rlim_cur < 2 * idle + 256)
		log_warn("few descriptors (LimitNOFILE=, ulimit -n): connections will be refused", log_int("limit", (int64_t)l.rlim_cur),
			 log_int("needed_idle", (int64_t)idle), log_int("connections_per_vm", (int64_t)budget_connections(l.rlim_cur)));
	return 0;
}

static int run(const struct proxy_options *o, struct diag *d)
{
	static struct proxy p;		/* large: the slots */
	int socks[PROXY_WORKERS_MAX + 1];
	int r;

	r = raise_descriptors(o, d);
	if (r == 0)
		r = start_privileged(o, socks, d);
	if (r < 0)
		return r;
	r = sandbox_confine(SANDBOX_LOOP | SANDBOX_THREADS | SANDBOX_SOCKETS | SANDBOX_WRITE_FILES, d);
	if (r < 0)
		return r;
	r = proxy_init(&p, o, o->static_file ? NULL : socks);
	if (r < 0) {
		diag_set(d, "cannot start: %s", strerror(-r));
		return r;
	}
	r = attach(&p, d);
	if (r == 0) {
		log_info("started", log_str("version", OUTRIGGER_VERSION), log_str("group", o->group), log_int("workers", (int64_t)p.n_workers));
		r = loop_run(p.loop);
		if (r < 0)
			diag_set(d, "the loop ended: %s", strerror(-r));
	}
	proxy_deinit(&p);
	return r;
}

int main(int argc, char **argv)
{
	struct proxy_options o = { .group = "default", .log_level = "info" };
	char text[DIAG_TEXT_LEN];
	struct diag d = {};
	int r = parse(argc, argv, &o);

	if (r)
		return r < 0 ? 2 : 0;
	if (!o.static_file && !is_socket(AGENT_FD)) {
		fprintf(stderr, "outrigger-proxy: descriptor %d is not a socket to an agent; use --static FILE to run without one\n", AGENT_FD);
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	agent_link_find_binary();
	r = run(&o, &d);
	if (r < 0) {
		log_error("cannot go on", log_str("reason", diag_format(&d, text)), log_errno(r));
		return 1;
	}
	log_info("stopped");
	return 0;
}
