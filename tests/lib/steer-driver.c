/*
 * Drives the real root monitor for the tests: the worker of an agent, as small
 * as can be. Commands come as lines on standard input; each is answered by one
 * JSON line {"r": result, ...} on standard output. Events come as lines with
 * "ev". Connections that reach a listener are served by a toy proxy: it
 * answers "NAME peer PEER dst DST\n" and echoes (mode answer), or connects on
 * to the original destination in the name of the peer (mode relay).
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "agent/capture.h"
#include "agent/monitor.h"
#include "agent/monitor_client.h"
#include "agent/ports.h"
#include "base/fdmsg.h"
#include "base/log.h"
#include "base/loop.h"
#include "proxy/sockd.h"

enum { MAX_LISTENERS = 64, RELAY_BUF = 65536 };

struct driver {
	struct loop *loop;
	struct monitor_client *client;
	struct capture *capture;
	struct ports *ports;
	struct sockd_pool *pool;
	struct watch input;
	struct watch monitor;
	char line[4096];
	size_t line_len;
	bool quiet_capture;
	uint64_t captured;
};

struct listener {
	struct watch watch;
	struct driver *d;
	uint32_t vm;
	int direction;
	bool relay;
	bool used;
};

static struct driver driver;
static struct listener listeners[MAX_LISTENERS];

/* --- output --- */

static void print(json_t *o)
{
	char *s = json_dumps(o, JSON_COMPACT | JSON_SORT_KEYS);

	puts(s);
	fflush(stdout);
	free(s);
	json_decref(o);
}

static json_t *json_ip_port(const struct ip_port *a)
{
	char text[IP_PORT_TEXT_LEN];

	return json_string(ip_port_format(a, text));
}

static json_t *json_hex(const uint8_t *data, size_t len)
{
	static char text[2 * 65536 + 1];

	len = MIN(len, (size_t)65536);
	for (size_t i = 0; i < len; i++)
		sprintf(text + 2 * i, "%02x", data[i]);
	text[2 * len] = 0;
	return json_string(text);
}

/* --- the toy proxy --- */

struct side {
	struct watch watch;
	struct conn *conn;
	int fd;
	uint8_t buf[RELAY_BUF];
	size_t at, len;
	bool eof, shut;
};

struct conn {
	struct side sides[2];
	bool echo;
	bool connected;
	struct defer defer;
};

static int free_conn(struct defer *df)
{
	struct conn *c = container_of(df, struct conn, defer);

	for (int i = 0; i < 2; i++)
		close_fd(c->sides[i].fd);
	free(c);
	return 0;
}

static void end_conn(struct conn *c)
{
	for (int i = 0; i < 2; i++)
		watch_remove(&c->sides[i].watch);
	loop_defer(driver.loop, &c->defer, free_conn);
}

/* Moves what one side has read to the other, until neither can. False: the connection is over. */
static bool pump(struct side *from, struct side *to)
{
	for (;;) {
		if (from->at == from->len && !from->eof) {
			ssize_t n = recv(from->fd, from->buf, sizeof(from->buf), 0);
			if (n < 0)
				return errno == EAGAIN;
			from->eof = n == 0;
			from->at = 0;
			from->len = (size_t)n;
		}
		if (from->at < from->len) {
			ssize_t n = send(to->fd, from->buf + from->at, from->len - from->at, MSG_NOSIGNAL);
			if (n < 0)
				return errno == EAGAIN;
			from->at += (size_t)n;
			continue;
		}
		if (from->eof) {
			if (!to->shut)
				shutdown(to->fd, SHUT_WR);
			to->shut = true;
			return true;
		}
	}
}

static int on_side(struct watch *w, uint32_t events)
{
	struct side *s = container_of(w, struct side, watch);
	struct conn *c = s->conn;
	bool ok;

	if (c->echo) {
		ok = pump(s, s) && !s->shut;
	} else {
		int error = 0;
		socklen_t len = sizeof(error);

		if (s == &c->sides[1] && !c->connected) {
			getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &len);
			c->connected = !error && events & EPOLLOUT;
		}
		ok = !error && (!c->connected || (pump(&c->sides[0], &c->sides[1]) && pump(&c->sides[1], &c->sides[0])));
		ok = ok && !(c->sides[0].shut && c->sides[1].shut);
	}
	if (!ok)
		end_conn(c);
	return 0;
}

static int watch_side(struct conn *c, int i, int fd)
{
	c->sides[i].conn = c;
	c->sides[i].fd = fd;
	return watch_add(driver.loop, &c->sides[i].watch, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP, true, on_side);
}

/* In the name of the peer, to where it wanted to go. */
static int connect_on(const struct listener *l, const struct ip_port *peer, const struct ip_port *dst)
{
	int family = ip_is_v4(&dst->ip) ? AF_INET : AF_INET6;
	int fd = sockd_take(driver.pool, l->direction == MONITOR_OUTBOUND ? SOCKD_FROM_VM : SOCKD_TO_VM, family);
	struct sockaddr_storage sa;
	socklen_t len;

	if (fd < 0)
		return fd;
	len = ip_port_to_sockaddr(peer, family, &sa);
	if (bind(fd, (struct sockaddr *)&sa, len) < 0)
		return -errno;
	len = ip_port_to_sockaddr(dst, family, &sa);
	if (connect(fd, (struct sockaddr *)&sa, len) < 0 && errno != EINPROGRESS)
		return -errno;
	return fd;
}

static int start_conn(struct listener *l, int fd, const struct ip_port *peer, const struct ip_port *dst)
{
	char a[IP_PORT_TEXT_LEN], b[IP_PORT_TEXT_LEN], text[256];
	struct conn *c = calloc(1, sizeof(*c));
	int up, n;

	if (!c)
		return -ENOMEM;
	c->sides[0].fd = c->sides[1].fd = -1;
	if (l->relay) {
		up = connect_on(l, peer, dst);
		if (up < 0) {
			print(json_pack("{s:s,s:i}", "ev", "upstream", "r", up));
			free(c);
			close(fd);
			return 0;
		}
		int r = watch_side(c, 0, fd);
		return r < 0 ? r : watch_side(c, 1, up);
	}
	c->echo = true;
	n = snprintf(text, sizeof(text), "%s%u peer %s dst %s\n", l->direction == MONITOR_OUTBOUND ? "out" : "in", l->vm,
		     ip_port_format(peer, a), ip_port_format(dst, b));
	(void)!send(fd, text, (size_t)n, MSG_NOSIGNAL);
	return watch_side(c, 0, fd);
}

static int on_accept(struct watch *w, uint32_t events)
{
	struct listener *l = container_of(w, struct listener, watch);
	struct sockaddr_storage sa;
	struct ip_port peer, dst;
	socklen_t len;
	int fd;

	(void)events;
	while (len = sizeof(sa), (fd = accept4(w->fd, (struct sockaddr *)&sa, &len, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
		int r = ip_port_from_sockaddr(&sa, &peer);

		len = sizeof(sa);
		if (r < 0 || getsockname(fd, (struct sockaddr *)&sa, &len) < 0 || ip_port_from_sockaddr(&sa, &dst) < 0) {
			close(fd);
			continue;
		}
		r = start_conn(l, fd, &peer, &dst);
		if (r < 0)
			return r;
	}
	return 0;
}

/* --- events --- */

static int on_record(const struct capture_record *r, void *data)
{
	static const char *const kinds[] = { "udp", "tcp", "learn" };
	struct driver *d = data;

	d->captured += r->len;
	if (d->quiet_capture)
		return 0;
	print(json_pack("{s:s,s:s,s:i,s:i,s:i,s:i,s:i,s:o,s:o,s:I,s:I,s:i,s:I,s:I,s:o,s:I,s:o}", "ev", "record",
		"kind", kinds[r->kind], "ifindex", r->ifindex, "vm", r->vm, "vlan", r->vlan, "to_vm", r->direction == CAPTURE_TO_VM,
		"flags", r->flags, "src", json_ip_port(&r->src), "dst", json_ip_port(&r->dst), "seq", (json_int_t)r->seq,
		"ack", (json_int_t)r->ack, "tcp_flags", r->tcp_flags, "total", (json_int_t)r->total,
		"offset", (json_int_t)r->offset, "data", json_hex(r->data, r->len), "lost", (json_int_t)r->lost,
		"src_mac", json_hex(r->src_mac, 6)));
	return 0;
}

static void on_port(enum ports_event event, const struct port_info *p, void *data)
{
	static const char *const names[] = { "new", "changed", "gone" };

	(void)data;
	print(json_pack("{s:s,s:s,s:s,s:i,s:s,s:b,s:b}", "ev", "port", "what", names[event], "name", p->name,
			"ifindex", p->ifindex, "master_kind", p->master_kind, "up", p->up, "carrier", p->carrier));
}

static void on_exit_of_proxy(const struct monitor_exit *e, void *data)
{
	(void)data;
	print(json_pack("{s:s,s:i,s:i}", "ev", "exit", "proxy", e->proxy, "status", e->status));
}

static int on_monitor(struct watch *w, uint32_t events)
{
	(void)w, (void)events;
	return monitor_client_dispatch(driver.client);
}

/* --- commands --- */

static const char *str(json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "";
}

static uint32_t num(json_t *o, const char *key)
{
	return (uint32_t)json_integer_value(json_object_get(o, key));
}

static struct ip addr(json_t *o, const char *key)
{
	struct ip ip = {};

	(void)!ip_parse(str(o, key), &ip);
	return ip;
}

static int cmd_load(json_t *o, json_t *a)
{
	struct monitor_loaded l;
	int r = monitor_load(driver.client, &l);

	(void)o;
	if (r < 0)
		return r;
	json_object_set_new(a, "tcx", json_boolean(l.tcx));
	json_object_set_new(a, "adopted", json_boolean(l.adopted));
	return capture_new(driver.loop, l.ring_fd, l.ring_bytes, on_record, &driver, &driver.capture);
}

static int cmd_port(json_t *o, json_t *a)
{
	struct monitor_port p = {
		.ifindex = if_nametoindex(str(o, "dev")), .vlan = (uint16_t)num(o, "vlan"), .vm = num(o, "vm"),
		.role = num(o, "vm") ? MONITOR_ROLE_VM : MONITOR_ROLE_UPLINK, .flags = num(o, "flags"),
		.topology = (enum monitor_topology)num(o, "topology"),
		.out_ifindex = if_nametoindex(str(o, "out")), .out_vlan = (uint16_t)num(o, "out_vlan"),
	};

	(void)a;
	return monitor_port_add(driver.client, &p);
}

static int cmd_port_remove(json_t *o, json_t *a)
{
	(void)a;
	return monitor_port_remove(driver.client, num(o, "ifindex"), (uint16_t)num(o, "vlan"));
}

static int cmd_addr(json_t *o, json_t *a)
{
	unsigned m[6] = {};
	uint8_t mac[6];
	struct ip ip = addr(o, "addr");

	(void)a;
	sscanf(str(o, "mac"), "%x:%x:%x:%x:%x:%x", m, m + 1, m + 2, m + 3, m + 4, m + 5);
	for (int i = 0; i < 6; i++)
		mac[i] = (uint8_t)m[i];
	return monitor_address_add(driver.client, num(o, "vm"), &ip, mac);
}

static int cmd_addr_remove(json_t *o, json_t *a)
{
	struct ip ip = addr(o, "addr");

	(void)a;
	return monitor_address_remove(driver.client, num(o, "vm"), &ip);
}

static int cmd_clear(json_t *o, json_t *a)
{
	(void)a;
	return monitor_vm_clear(driver.client, num(o, "vm"));
}

static int cmd_sniff(json_t *o, json_t *a)
{
	struct monitor_sniff ports[MONITOR_MAX_SNIFF];
	json_t *list = json_object_get(o, "ports");
	size_t n = json_array_size(list);

	(void)a;
	for (size_t i = 0; i < n && i < MONITOR_MAX_SNIFF; i++) {
		const char *s = json_string_value(json_array_get(list, i));	/* "udp/53" */

		ports[i] = (struct monitor_sniff){ .udp = s[0] == 'u', .port = (uint16_t)atoi(s + 4) };
	}
	return monitor_sniff_set(driver.client, ports, n);
}

static int divert_of(json_t *o, struct monitor_divert *d)
{
	*d = (struct monitor_divert){
		.vm = num(o, "vm"), .direction = (enum monitor_direction)num(o, "direction"), .port = (uint16_t)num(o, "port"),
		.flags = (uint16_t)num(o, "flags"),
	};
	return ip_prefix_parse(str(o, "dst"), &d->dst);
}

static int cmd_divert(json_t *o, json_t *a)
{
	struct monitor_divert d;
	int r = divert_of(o, &d);

	(void)a;
	return r < 0 ? r : monitor_divert_add(driver.client, &d);
}

static int cmd_divert_remove(json_t *o, json_t *a)
{
	struct monitor_divert d;
	int r = divert_of(o, &d);

	(void)a;
	return r < 0 ? r : monitor_divert_remove(driver.client, &d);
}

static int cmd_settle(json_t *o, json_t *a)
{
	(void)a;
	return monitor_diverts_settle(driver.client, num(o, "vm"));
}

static int cmd_listen(json_t *o, json_t *a)
{
	int fds[2];
	int r = monitor_listeners_make(driver.client, num(o, "vm"), fds);

	(void)a;
	for (int d = 0; r == 0 && d < 2; d++) {
		struct listener *l = listeners;

		while (l->used)
			l++;
		*l = (struct listener){ .vm = num(o, "vm"), .direction = d, .relay = num(o, "relay"), .used = true };
		r = watch_add(driver.loop, &l->watch, fds[d], EPOLLIN, false, on_accept);
	}
	return r;
}

static int cmd_unlisten(json_t *o, json_t *a)
{
	(void)a;
	for (size_t i = 0; i < MAX_LISTENERS; i++) {
		if (!listeners[i].used || listeners[i].vm != num(o, "vm"))
			continue;
		int fd = listeners[i].watch.fd;
		watch_remove(&listeners[i].watch);
		close(fd);
		listeners[i].used = false;
	}
	return 0;
}

static int cmd_counters(json_t *o, json_t *a)
{
	struct monitor_counters c;
	int r = monitor_counters_get(driver.client, num(o, "vm"), &c);

	for (unsigned i = 0; r == 0 && steer_counter_name(i); i++)
		json_object_set_new(a, steer_counter_name(i), json_integer((json_int_t)c.v[i]));
	return r;
}

static int cmd_checks(json_t *o, json_t *a)
{
	struct monitor_check checks[MONITOR_MAX_CHECKS];
	json_t *list = json_array();
	size_t n = 0;
	int r = monitor_checks(driver.client, checks, &n);

	(void)o;
	for (size_t i = 0; r == 0 && i < n; i++)
		json_array_append_new(list, json_pack("{s:b,s:b,s:s,s:s}", "ok", checks[i].ok, "fatal", checks[i].fatal,
						      "what", checks[i].what, "found", checks[i].found));
	json_object_set_new(a, "checks", list);
	return r;
}

static int cmd_probe(json_t *o, json_t *a)
{
	struct monitor_probe p = { .source = addr(o, "source") };
	struct monitor_probe_answer answer;
	struct ip_port local;
	int fd, error = 0;
	socklen_t len = sizeof(error);
	int r = ip_port_parse(str(o, "target"), &p.target);

	if (r == 0)
		r = monitor_probe_open(driver.client, &p, &fd, &local);
	if (r < 0)
		return r;

	struct pollfd wait = { .fd = fd, .events = POLLOUT };
	int ready = poll(&wait, 1, 2000);
	getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len);
	json_object_set_new(a, "error", json_integer(ready ? error : ETIMEDOUT));
	r = monitor_probe_result(driver.client, &p.target, &local, &answer);
	close(fd);
	if (r < 0)
		return r;
	json_object_set_new(a, "ifindex", json_integer(answer.ifindex));
	json_object_set_new(a, "vm", json_integer(answer.vm));
	json_object_set_new(a, "vlan", json_integer(answer.vlan));
	json_object_set_new(a, "refused", json_boolean(answer.refused));
	json_object_set_new(a, "mac", json_hex(answer.mac, 6));
	return 0;
}

static int cmd_spawn(json_t *o, json_t *a)
{
	struct monitor_spawn s = { .group = str(o, "group"), .workers = 1 };
	uint32_t proxy = 0;
	pid_t pid = 0;

	int out = 1;
	s.fds = &out;
	s.n_fds = 1;
	int r = monitor_proxy_spawn(driver.client, &s, &proxy, &pid);
	json_object_set_new(a, "proxy", json_integer(proxy));
	json_object_set_new(a, "pid", json_integer(pid));
	return r;
}

static int cmd_user(json_t *o, json_t *a)
{
	uid_t uid = 0;
	int r = monitor_proxy_user(driver.client, str(o, "group"), &uid);

	json_object_set_new(a, "uid", json_integer(uid));
	return r;
}

static int cmd_access_log(json_t *o, json_t *a)
{
	int fd, r = monitor_access_log(driver.client, str(o, "path"), &fd);

	(void)a;
	if (r < 0)
		return r;
	r = write(fd, "a line\n", 7) == 7 ? 0 : -errno;
	close(fd);
	return r;
}

static int cmd_signal(json_t *o, json_t *a)
{
	(void)a;
	return monitor_proxy_signal(driver.client, num(o, "proxy"), (int)num(o, "signo"));
}

static int cmd_watch_ports(json_t *o, json_t *a)
{
	const char *patterns[] = { str(o, "pattern") };

	(void)a;
	return ports_new(driver.loop, patterns, 1, on_port, NULL, &driver.ports);
}

static int cmd_captured(json_t *o, json_t *a)
{
	driver.quiet_capture = num(o, "quiet");
	json_object_set_new(a, "bytes", json_integer((json_int_t)driver.captured));
	return 0;
}

/* What no worker of ours sends: for the tests of the monitor's suspicion. */
static int cmd_raw(json_t *o, json_t *a)
{
	uint32_t words[64] = { num(o, "op"), 0, 7 };

	(void)a;
	return fdmsg_send(monitor_client_fd(driver.client), words, num(o, "len"), NULL, 0);
}

static const struct {
	const char *name;
	int (*run)(json_t *o, json_t *a);
} commands[] = {
	{ "load", cmd_load },
	{ "port", cmd_port },
	{ "port_remove", cmd_port_remove },
	{ "addr", cmd_addr },
	{ "addr_remove", cmd_addr_remove },
	{ "clear", cmd_clear },
	{ "sniff", cmd_sniff },
	{ "divert", cmd_divert },
	{ "divert_remove", cmd_divert_remove },
	{ "settle", cmd_settle },
	{ "listen", cmd_listen },
	{ "unlisten", cmd_unlisten },
	{ "counters", cmd_counters },
	{ "checks", cmd_checks },
	{ "probe", cmd_probe },
	{ "spawn", cmd_spawn },
	{ "user", cmd_user },
	{ "access_log", cmd_access_log },
	{ "signal", cmd_signal },
	{ "watch_ports", cmd_watch_ports },
	{ "captured", cmd_captured },
	{ "raw", cmd_raw },
};

static void run_command(const char *line)
{
	json_t *o = json_loads(line, 0, NULL);
	json_t *a = json_object();
	int r = -EINVAL;

	for (size_t i = 0; o && i < ELEMENTS(commands); i++)
		if (!strcmp(commands[i].name, str(o, "cmd")))
			r = commands[i].run(o, a);
	json_object_set_new(a, "r", json_integer(r));
	print(a);
	json_decref(o);
}

static int on_input(struct watch *w, uint32_t events)
{
	struct driver *d = &driver;
	ssize_t n = read(w->fd, d->line + d->line_len, sizeof(d->line) - 1 - d->line_len);
	char *end;

	(void)events;
	if (n <= 0) {
		loop_stop(d->loop);
		return 0;
	}
	d->line_len += (size_t)n;
	d->line[d->line_len] = 0;
	while ((end = strchr(d->line, '\n'))) {
		*end = 0;
		run_command(d->line);
		d->line_len -= (size_t)(end + 1 - d->line);
		memmove(d->line, end + 1, d->line_len + 1);
	}
	return 0;
}

/* --- life --- */

static int work(const struct steer_conf *conf, int sock)
{
	int pool_sock;
	int r = sockd_start(conf->mark_base, 1, &pool_sock);

	if (r == 0)
		r = monitor_drop_worker(conf);
	if (r == 0)
		r = prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 ? -errno : 0;
	if (r == 0)
		r = loop_new(&driver.loop);
	if (r == 0)
		r = sockd_pool_new(driver.loop, pool_sock, SOCKD_MAX_BATCH, &driver.pool);
	if (r == 0)
		r = monitor_client_new(sock, &driver.client);
	if (r < 0)
		return r;
	monitor_client_on_exit(driver.client, on_exit_of_proxy, NULL);
	r = watch_add(driver.loop, &driver.monitor, sock, EPOLLIN, false, on_monitor);
	if (r == 0)
		r = watch_add(driver.loop, &driver.input, 0, EPOLLIN, false, on_input);
	return r < 0 ? r : loop_run(driver.loop);
}

static void configure(struct steer_conf *c, int argc, char **argv)
{
	steer_conf_init(c);
	c->pin_dir[0] = 0;
	for (int i = 1; i + 1 < argc; i += 2) {
		if (!strcmp(argv[i], "--clsact"))
			c->force_clsact = atoi(argv[i + 1]);
		else if (!strcmp(argv[i], "--pin"))
			snprintf(c->pin_dir, sizeof(c->pin_dir), "%s", argv[i + 1]);
		else if (!strcmp(argv[i], "--only"))
			c->vm_ports[c->n_vm_ports++] = argv[i + 1];
		else if (!strcmp(argv[i], "--uplink"))
			c->uplinks[c->n_uplinks++] = argv[i + 1];
		else if (!strcmp(argv[i], "--out"))
			c->outs[c->n_outs++] = argv[i + 1];
		else if (!strcmp(argv[i], "--proxy"))
			snprintf(c->proxy_path, sizeof(c->proxy_path), "%s", argv[i + 1]);
		else if (!strcmp(argv[i], "--access-log"))
			c->access_log = argv[i + 1];
		else if (!strcmp(argv[i], "--max-flows-per-vm"))
			c->max_flows_per_vm = (uint32_t)atoi(argv[i + 1]);
	}
}

int main(int argc, char **argv)
{
	struct steer_conf conf;
	int pair[2];

	signal(SIGPIPE, SIG_IGN);
	log_setup("steer-driver", LOG_L_DEBUG, false);
	configure(&conf, argc, argv);
	if (fdmsg_pair(pair) < 0)
		return 1;

	pid_t pid = fork();
	if (pid == 0) {
		close(pair[1]);
		int r = work(&conf, pair[0]);
		if (r < 0)
			fprintf(stderr, "worker: %s\n", strerror(-r));
		return r < 0;
	}
	close(pair[0]);
	close(0);	/* the worker's */
	int r = monitor_run(&conf, pair[1], 0);
	if (r < 0)
		fprintf(stderr, "monitor: %s\n", strerror(-r));
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return r < 0;
}
