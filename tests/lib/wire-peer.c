/*
 * The data path and the TLS connections by themselves, for interoperability
 * tests: no agent, no control plane, the mesh comes from the command line.
 *
 *	wire-peer tls-server IP:PORT cert=F key=F roots=F [tls12]
 *		echoes what it gets
 *	wire-peer tls-client IP:PORT cert=F key=F roots=F [name=SERVER]
 *		standard input and output are the connection
 *	wire-peer hbone cert=F key=F roots=F own=NS/SA vm=IP [outbound=IP:PORT] [inbound=IP:PORT]
 *			[service=VIP:PORT,NS/SA,IP:PORT[,plain]]... [host=HOSTNAME:PORT,PORT] [workers=N]
 *		a worker with one VM; prints reports of connections, one JSON object a line; ends with its standard input
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "mesh/tls_conn.h"
#include "proxy/worker.h"

enum { MAX_FILE = 64 * 1024, MAX_SERVICES = 32, MAX_WORKERS = 4 };

static struct loop *loop;

static void die(const char *what, const char *why)
{
	fprintf(stderr, "wire-peer: %s: %s\n", what, why);
	exit(1);
}

static void must(int r, const char *what)
{
	if (r != 0)
		die(what, r < 0 ? strerror(-r) : "failed");
}

static char *slurp(const char *path)
{
	FILE *f = fopen(path, "re");
	char *text = calloc(1, MAX_FILE);

	if (!f || !text || !fread(text, 1, MAX_FILE - 1, f))
		die(path, "cannot be read");
	fclose(f);
	return text;
}

/* The value of "name=value" among the arguments, from @from on; NULL without. */
static const char *option(char **argv, const char *name, int *from)
{
	size_t n = strlen(name);

	for (int i = from ? *from : 0; argv[i]; i++)
		if (!strncmp(argv[i], name, n) && (argv[i][n] == '=' || !argv[i][n])) {
			if (from)
				*from = i + 1;
			return argv[i][n] ? argv[i] + n + 1 : "";
		}
	return NULL;
}

static struct tls_ctx *make_ctx(char **argv, enum tls_role role, const char *const *alpn)
{
	struct tls_config c = { .role = role, .alpn = alpn, .allow_tls12 = option(argv, "tls12", NULL) };
	struct tls_ctx *ctx;
	struct diag d = {};

	if (option(argv, "cert", NULL)) {
		c.cert_pem = slurp(option(argv, "cert", NULL));
		c.key_pem = slurp(option(argv, "key", NULL));
	}
	c.roots_pem = slurp(option(argv, "roots", NULL));
	if (tls_ctx_new(&c, &ctx, &d) < 0)
		die("certificates", d.msg);
	free((void *)(uintptr_t)c.cert_pem);
	free((void *)(uintptr_t)c.key_pem);
	free((void *)(uintptr_t)c.roots_pem);
	return ctx;
}

static struct ip_port address(const char *text)
{
	struct ip_port a;

	if (ip_port_parse(text, &a) < 0)
		die(text, "is no address with a port");
	return a;
}

static int listen_at(const char *text)
{
	struct ip_port a = address(text);
	struct sockaddr_storage sa;
	socklen_t len = ip_port_to_sockaddr(&a, 0, &sa);
	int fd = socket(sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (fd < 0 || bind(fd, (struct sockaddr *)&sa, len) < 0 || listen(fd, 1024) < 0)
		die(text, strerror(errno));
	return fd;
}

/* --- TLS connections --- */

static struct watch listen_watch, stdin_watch;
static struct tls_ctx *tls;
static struct tls_conn *client;

static void note_opened(struct tls_conn *c, void *data)
{
	const char *id = tls_peer_id(tls_conn_session(c));

	(void)data;
	fprintf(stderr, "opened: peer %s\n", id ? id : "-");
}

static void note_closed(struct tls_conn *c, void *data, int r, const char *text)
{
	(void)data;
	fprintf(stderr, "closed: %d %s\n", r, text);
	tls_conn_free(c);
	if (c == client)
		loop_stop(loop);
}

static void echo(struct tls_conn *c, void *data, const uint8_t *bytes, size_t len)
{
	(void)data;
	must(tls_conn_write(c, bytes, len), "echo");
}

static int on_accept(struct watch *w, uint32_t events)
{
	static const struct tls_conn_ops ops = { .opened = note_opened, .received = echo, .closed = note_closed };
	int fd = accept4(w->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	struct tls_conn *c;

	(void)events;
	if (fd >= 0)
		must(tls_conn_new(loop, fd, tls, NULL, NULL, &ops, NULL, &c), "accept");
	return 0;
}

static int run_tls_server(char **argv)
{
	tls = make_ctx(argv, TLS_SERVER, NULL);
	must(watch_add(loop, &listen_watch, listen_at(argv[0]), EPOLLIN, false, on_accept), "watch");
	fprintf(stderr, "ready\n");
	return loop_run(loop);
}

static int on_stdin(struct watch *w, uint32_t events)
{
	char buf[16384];
	ssize_t n = read(w->fd, buf, sizeof(buf));

	(void)events;
	if (n > 0) {
		must(tls_conn_write(client, buf, (size_t)n), "write");
		return 0;
	}
	watch_remove(w);
	tls_conn_shutdown(client);
	return 0;
}

static void on_client_opened(struct tls_conn *c, void *data)
{
	note_opened(c, data);
	must(watch_add(loop, &stdin_watch, 0, EPOLLIN, false, on_stdin), "stdin");
}

static void to_stdout(struct tls_conn *c, void *data, const uint8_t *bytes, size_t len)
{
	(void)c;
	(void)data;
	if (write(1, bytes, len) != (ssize_t)len)
		die("stdout", strerror(errno));
}

static int run_tls_client(char **argv)
{
	static const struct tls_conn_ops ops = { .opened = on_client_opened, .received = to_stdout, .closed = note_closed };
	struct tls_expect expect = { .server_name = option(argv, "name", NULL) };
	struct ip_port addr = address(argv[0]);

	tls = make_ctx(argv, TLS_CLIENT, NULL);
	must(tls_conn_dial(loop, &addr, tls, &expect, NULL, &ops, NULL, &client), "dial");
	return loop_run(loop);
}

/* --- HBONE --- */

static struct mailbox box;
static struct snap_store *store;

static void on_resolve(void *data, struct vm *vm, const struct ip *ip)
{
	(void)data;
	(void)vm;
	(void)ip;
}

static void on_report(void *data, struct flow_report *r)
{
	static const char *const events[] = { "opened", "progress", "closed" };
	char source[IP_PORT_TEXT_LEN];

	(void)data;
	printf("{\"event\": \"%s\", \"direction\": \"%s\", \"result\": \"%s\", \"hbone\": %s, \"status\": %u, \"source\": \"%s\", "
	       "\"sent\": %llu, \"received\": %llu, \"identity\": \"%s\", \"why\": \"%s\"}\n",
	       events[r->event], r->direction == FLOW_OUTBOUND ? "outbound" : "inbound", flow_result_name(r->result),
	       r->hbone ? "true" : "false", r->status, ip_port_format(&r->source, source), (unsigned long long)r->bytes_sent,
	       (unsigned long long)r->bytes_received, r->peer ? r->peer->identity : "", r->why ? r->why : "");
	fflush(stdout);
	flow_report_free(r);
}

static void on_tee(void *data, struct flow_tee *t)
{
	(void)data;
	flow_tee_free(t);
}

static void deliver(void *data)
{
	(void)data;
	mailbox_deliver(&box, NULL);
}

static int on_stdin_end(struct watch *w, uint32_t events)
{
	char c;

	(void)events;
	if (read(w->fd, &c, 1) <= 0)
		loop_stop(loop);
	return 0;
}

/* "NS/SA" */
static void put_workload(const char *uid, const struct ip *ip, const char *account, enum tunnel tunnel, const char *service,
			 const struct port_map *port)
{
	CLEANUP_FREE char *ns = strdup(account);
	char *slash = ns ? strchr(ns, '/') : NULL;
	struct workload_service member = { service, port, 1 };
	struct workload w = {
		.uid = uid, .name = uid, .namespace = ns, .network = "", .trust_domain = "td", .service_account = slash ? slash + 1 : "",
		.workload_name = uid, .canonical_name = uid, .addresses = ip, .n_addresses = 1, .tunnel = tunnel, .capacity = 1,
		.services = &member, .n_services = service ? 1 : 0,
	};

	if (!slash)
		die(account, "is not namespace/account");
	*slash = 0;
	must(snap_store_put_workload(store, &w), "workload");
}

/* "VIP:PORT,NS/SA,IP:PORT[,plain]" */
static void put_service(const char *text, int n)
{
	char vip[64], account[128], target[64], kind[16] = "", name[32], key[64], uid[32];
	struct service_address a = { .network = "", .prefix_len = 128 };

	if (sscanf(text, "%63[^,],%127[^,],%63[^,],%15s", vip, account, target, kind) < 3)
		die(text, "is no service");
	struct ip_port v = address(vip), t = address(target);
	struct port_map port = { v.port, t.port, APP_TCP };
	snprintf(name, sizeof(name), "service-%d", n);
	snprintf(key, sizeof(key), "test/%s", name);
	snprintf(uid, sizeof(uid), "endpoint-%d", n);
	a.ip = v.ip;

	struct service s = {
		.name = name, .namespace = "test", .hostname = name, .addresses = &a, .n_addresses = 1, .ports = &port, .n_ports = 1,
	};
	must(snap_store_put_service(store, &s), "service");
	put_workload(uid, &t.ip, account, strcmp(kind, "plain") ? TUNNEL_HBONE : TUNNEL_NONE, key, &port);
}

/* "HOSTNAME:PORT,TARGETPORT": a service of which this VM is an endpoint */
static void put_own(char **argv, const struct ip *ip)
{
	const char *own = option(argv, "own", NULL), *host = option(argv, "host", NULL);
	struct port_map port = {};
	char name[128], key[160];

	if (!host) {
		put_workload("own", ip, own, TUNNEL_HBONE, NULL, NULL);
		return;
	}
	if (sscanf(host, "%127[^:]:%hu,%hu", name, &port.service_port, &port.target_port) != 3)
		die(host, "is no host name with ports");
	snprintf(key, sizeof(key), "test/%s", name);
	struct service s = { .name = name, .namespace = "test", .hostname = name, .ports = &port, .n_ports = 1 };
	must(snap_store_put_service(store, &s), "service");
	put_workload("own", ip, own, TUNNEL_HBONE, key, &port);
}

static int run_hbone(char **argv)
{
	static const char *const h2[] = { "h2", NULL };
	static const struct worker_events events = { on_resolve, on_report, on_tee, NULL };
	const char *outbound = option(argv, "outbound", NULL), *inbound = option(argv, "inbound", NULL), *text;
	size_t n_workers = option(argv, "workers", NULL) ? strtoul(option(argv, "workers", NULL), NULL, 10) : 1;
	struct worker *workers[MAX_WORKERS];
	struct snapshot *snap;
	struct vm_conf *c;
	struct vm *vm;
	int at = 0;

	mailbox_init(&box, loop);
	loop_on_wake(loop, deliver, NULL);
	must(vm_new(0, "vm", outbound ? listen_at(outbound) : -1, inbound ? listen_at(inbound) : -1, n_workers, &vm), "vm");
	must(vm_conf_new(vm, &c), "vm");
	c->uid = strdup("own");
	c->trust_domain = strdup("td");
	c->client = make_ctx(argv, TLS_CLIENT, h2);
	c->server = make_ctx(argv, TLS_SERVER, h2);
	c->plain_mesh = VM_PLAIN_ALLOW;
	must(ip_parse(option(argv, "vm", NULL), &c->addresses[c->n_addresses++]), "vm=");

	must(snap_store_new("", &store), "store");
	must(snap_store_set_policies_known(store, true), "store");
	put_own(argv, &c->addresses[0]);
	for (int n = 0; (text = option(argv, "service", &at)); n++)
		put_service(text, n);
	must(snap_store_publish(store, &snap), "snapshot");

	for (size_t i = 0; i < n_workers && i < MAX_WORKERS; i++) {
		struct worker_conf wc = {
			.main = &box, .events = &events, .index = i, .n_workers = n_workers, .sockd_sock = -1,
			.hbone_port = inbound ? address(inbound).port : SNAP_HBONE_PORT,
		};

		must(worker_new(&wc, &workers[i]), "worker");
		must(worker_set_snapshot(workers[i], snap), "worker");
		must(worker_put_vm(workers[i], c), "worker");
	}
	must(watch_add(loop, &stdin_watch, 0, EPOLLIN, false, on_stdin_end), "stdin");
	printf("{\"event\": \"ready\"}\n");
	fflush(stdout);
	must(loop_run(loop), "loop");
	for (size_t i = 0; i < n_workers && i < MAX_WORKERS; i++)
		worker_stop(workers[i]);
	vm_conf_unref(c);
	vm_unref(vm);
	snapshot_unref(snap);
	snap_store_free(store);
	return 0;
}

int main(int argc, char **argv)
{
	int r;

	if (argc < 3)
		die("usage", "see its source");
	must(loop_new(&loop), "loop");
	if (!strcmp(argv[1], "tls-server"))
		r = run_tls_server(argv + 2);
	else if (!strcmp(argv[1], "tls-client"))
		r = run_tls_client(argv + 2);
	else
		r = run_hbone(argv + 2);
	tls_ctx_unref(tls);
	loop_free(loop);
	return r < 0;
}
