/*
 * outrigger-agent: reads its configuration as root, then becomes two processes:
 * the monitor keeps the privileges and parses nothing from the network, the
 * worker has none and does everything else.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "agent/config.h"
#include "agent/monitor.h"
#include "agent/worker.h"
#include "base/conf.h"
#include "base/fdmsg.h"
#include "base/log.h"
#include "base/opt.h"

struct options {
	const char *config;
	bool check;
	bool manual;
	bool version;
};

static const struct opt opts[] = {
	{ 'c', "config", OPT_STR, offsetof(struct options, config), .value = "FILE", .help = "configuration, /etc/outrigger/agent.yaml by default" },
	{ 0, "check-config", OPT_FLAG, offsetof(struct options, check), .help = "read the configuration, say what is wrong with it, and end" },
	{ 0, "manual", OPT_FLAG, offsetof(struct options, manual), .help = "print the configuration's reference (Markdown)" },
	{ 0, "version", OPT_FLAG, offsetof(struct options, version), .help = "print the version" },
};
static const struct opt_spec spec = {
	.usage = "outrigger-agent [OPTION]...",
	.summary = "The mesh agent on a NIC: finds the services of VMs and gives them service proxies.",
	.opts = opts, .n_opts = ELEMENTS(opts),
};

static int complain(const struct diag *d)
{
	char text[DIAG_TEXT_LEN];

	fprintf(stderr, "outrigger-agent: %s\n", diag_format(d, text));
	return EXIT_FAILURE;
}

static int print_manual(void)
{
	struct bytes out;
	int r;

	bytes_init(&out, 1 << 20);
	r = conf_manual(config_table(), &out);
	if (r == 0)
		fwrite(out.data, 1, out.len, stdout);
	bytes_deinit(&out);
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* --- what only root can do, before the worker loses its privileges --- */

/*
 * The directory and its parents. The last one is @uid's; it may be there from
 * another start, of a worker that was not itself, and is not followed elsewhere.
 */
static int make_dir(const char *path, mode_t mode, uid_t uid, gid_t gid)
{
	char part[PATH_MAX];

	if ((size_t)snprintf(part, sizeof(part), "%s", path) >= sizeof(part))
		return -ENAMETOOLONG;
	for (char *slash = strchr(part + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = 0;
		if (mkdir(part, 0755) < 0 && errno != EEXIST)
			return -errno;
		*slash = '/';
	}
	if (mkdir(part, mode) < 0 && errno != EEXIST)
		return -errno;

	CLEANUP_FD int fd = open(part, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fchown(fd, uid, gid) < 0 || fchmod(fd, mode) < 0)
		return -errno;
	return 0;
}

static int make_dirs(const struct config *conf, struct diag *d)
{
	uid_t uid = conf->steering.worker_uid;
	struct steer_conf steer;
	int r;

	r = make_dir(conf->state_dir, 0700, uid, uid);
	if (r < 0)
		return diag_set(d, "state_dir %s: %s", conf->state_dir, strerror(-r));
	/* The worker makes its socket there, and cannot put another "proxies" in the place of the monitor's. */
	r = make_dir(conf->run_dir, 01775, 0, uid);
	if (r < 0)
		return diag_set(d, "run_dir %s: %s", conf->run_dir, strerror(-r));
	/* The proxies' sockets are in folders of their groups, which the monitor makes. */
	config_steer(conf, &steer);
	r = make_dir(steer.proxies_dir, 0750, 0, steer_conf_proxies_gid(&steer));
	if (r < 0)
		return diag_set(d, "run_dir %s: %s", steer.proxies_dir, strerror(-r));
	return 0;
}

static int read_file(const char *path, size_t max, char **ret_text)
{
	CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
	char *text = calloc(1, max + 1);
	ssize_t n = fd < 0 || !text ? -1 : read(fd, text, max);

	if (n < 0) {
		int r = text ? -errno : -ENOMEM;

		free(text);
		return r;
	}
	*ret_text = text;
	return 0;
}

static int read_secrets(const struct config *conf, char **ret_roots, char **ret_token, struct diag *d)
{
	char *env = getenv("OUTRIGGER_JOIN_TOKEN");
	int r = 0;

	if (conf->controller.roots) {
		r = read_file(conf->controller.roots, 1 << 20, ret_roots);
		if (r < 0)
			return diag_set(d, "controller: roots %s: %s", conf->controller.roots, strerror(-r));
	} else if (conf->controller.address) {
		return diag_set(d, "controller: \"roots\" is needed to know the controller by");
	}
	if (env && env[0]) {
		*ret_token = strdup(env);
		explicit_bzero(env, strlen(env));	/* it would stay in /proc/PID/environ, and in the worker's */
		unsetenv("OUTRIGGER_JOIN_TOKEN");
	} else if (conf->controller.join_token_file) {
		r = read_file(conf->controller.join_token_file, 4096, ret_token);
		if (r == -ENOENT)	/* used up and removed: the certificate is there */
			return 0;
		if (r < 0)
			return diag_set(d, "controller: join_token_file %s: %s", conf->controller.join_token_file, strerror(-r));
	}
	if (*ret_token)
		(*ret_token)[strcspn(*ret_token, " \r\n\t")] = 0;
	return 0;
}

/* The program beside this one. */
static int find_proxy(struct config *conf, struct diag *d)
{
	char self[PATH_MAX], path[PATH_MAX];
	ssize_t n;
	char *slash;

	if (conf->proxy.path)
		return 0;
	n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (n < 0)
		return diag_set(d, "/proc/self/exe: %s", strerror(errno));
	self[n] = 0;
	slash = strrchr(self, '/');
	snprintf(path, sizeof(path), "%.*s/outrigger-proxy", (int)(slash - self), self);
	/* In the build tree each program has its folder. */
	if (access(path, X_OK) < 0)
		snprintf(path, sizeof(path), "%.*s/../proxy/outrigger-proxy", (int)(slash - self), self);
	conf->proxy.path = realpath(path, NULL);
	return conf->proxy.path ? 0 : diag_set(d, "no outrigger-proxy beside this program: \"proxy: path\" says where it is");
}

/* --- the two processes --- */

static int run_worker(const struct worker_start *start, const struct steer_conf *steer, int sock)
{
	int r;

	log_setup("outrigger-agent", (enum log_level)start->conf->log.level, start->conf->log.json);
	r = monitor_drop_worker(steer);
	if (r < 0) {
		log_error("the worker could not give up its privileges", log_errno(r));
		return EXIT_FAILURE;
	}
	r = worker_run(start, sock);
	if (r < 0)
		log_error("the worker ends", log_errno(r));
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

static void wipe(char *text)
{
	if (text)
		explicit_bzero(text, strlen(text));
}

static int run(struct config *conf, const char *path, char *roots, char *token)
{
	struct worker_start start = { .conf = conf, .conf_path = path, .roots_pem = roots, .join_token = token };
	struct steer_conf steer;
	int socks[2], status = 0, r;
	pid_t pid;

	config_steer(conf, &steer);
	r = fdmsg_pair(socks);
	if (r < 0) {
		log_error("no socket pair", log_errno(r));
		return EXIT_FAILURE;
	}
	pid = fork();
	if (pid < 0) {
		log_error("no worker process", log_errno(errno));
		return EXIT_FAILURE;
	}
	if (pid == 0) {
		close_fd(socks[0]);
		_exit(run_worker(&start, &steer, socks[1]));
	}
	close_fd(socks[1]);
	wipe(token);
	log_setup("outrigger-agent-monitor", (enum log_level)conf->log.level, conf->log.json);
	r = monitor_run(&steer, socks[0], pid);
	if (r < 0)
		log_error("the monitor ends", log_errno(r));
	if (waitpid(pid, &status, 0) < 0 || r < 0)
		return EXIT_FAILURE;
	return WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_FAILURE;
}

int main(int argc, char **argv)
{
	struct options o = { .config = "/etc/outrigger/agent.yaml" };
	char *roots = NULL, *token = NULL;
	struct config conf;
	struct diag d = {};
	unsigned n_args;
	int r = opt_parse(&spec, argc, argv, &o, &n_args, &d);

	if (r == OPT_E_HELP) {
		opt_help(&spec, stdout);
		return EXIT_SUCCESS;
	}
	if (r < 0)
		return complain(&d);
	if (o.version) {
		printf("outrigger-agent %s\n", OUTRIGGER_VERSION);
		return EXIT_SUCCESS;
	}
	if (o.manual)
		return print_manual();
	r = config_load(o.config, &conf, &d);
	if (r < 0)
		return complain(&d);
	if (o.check) {
		printf("%s is good\n", o.config);
		return EXIT_SUCCESS;
	}
	log_setup("outrigger-agent", (enum log_level)conf.log.level, conf.log.json);
	if (read_secrets(&conf, &roots, &token, &d) < 0 || find_proxy(&conf, &d) < 0 || make_dirs(&conf, &d) < 0)
		return complain(&d);
	signal(SIGHUP, SIG_IGN);	/* until there is somebody who can read it again */
	r = run(&conf, o.config, roots, token);
	free(roots);
	free(token);
	config_free(&conf);
	return r;
}
