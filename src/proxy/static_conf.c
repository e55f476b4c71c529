/*
 * The static mode's file.
 *
 * It is turned into the very messages that an agent would send, and into the
 * very resources that a mesh controller would; so everything behind is the same
 * as in a deployment.
 */
#include "proxy/static_conf.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/arena.h"
#include "base/conf_tree.h"
#include "base/fdmsg.h"
#include "base/secret.h"
#include "mesh/cert.h"
#include "mesh/model.h"
#include "proxy/sidecar.h"

enum { FILE_MAX_LEN = 8 * 1024 * 1024, ARENA_MAX = 64 * 1024 * 1024, HOLDER = KNOWLEDGE_RESTORED - 1 };

struct reading {
	const char *path;
	char dir[PATH_MAX];
	struct arena *arena;		/* for what lives as long as the reading */
	struct diag *diag;
};

/* --- the tree --- */

static int wrong(struct reading *rd, const struct conf_node *n, const char *what)
{
	return diag_at(rd->diag, rd->path, n->line, "%s%s%s", n->key ? n->key : "", n->key ? ": " : "", what);
}

static const char *text_of(const struct conf_node *map, const char *key, const char *dflt)
{
	const struct conf_node *n = conf_node_get(map, key);

	return n && n->kind == CONF_NODE_SCALAR ? n->text : dflt;
}

static size_t n_children(const struct conf_node *n)
{
	size_t count = 0;

	for (const struct conf_node *c = n ? n->children : NULL; c; c = c->next)
		count++;
	return count;
}

/* The texts of a list of scalars, as an array in the arena. */
static int texts_of(struct reading *rd, const struct conf_node *map, const char *key, char ***ret_texts, size_t *ret_n)
{
	const struct conf_node *n = conf_node_get(map, key);
	char **texts = arena_alloc(rd->arena, n_children(n), sizeof(*texts));
	size_t i = 0;

	if (!texts)
		return -ENOMEM;
	if (n && n->kind != CONF_NODE_LIST)
		return wrong(rd, n, "must be a list");
	for (const struct conf_node *c = n ? n->children : NULL; c; c = c->next) {
		if (c->kind != CONF_NODE_SCALAR)
			return wrong(rd, c, "must be a text");
		texts[i++] = c->text;
	}
	*ret_texts = texts;
	*ret_n = i;
	return 0;
}

static int ips_of(struct reading *rd, const struct conf_node *map, const struct ip **ret_ips, size_t *ret_n)
{
	const struct conf_node *n = conf_node_get(map, "addresses");
	struct ip *ips = arena_alloc(rd->arena, n_children(n), sizeof(*ips));
	size_t i = 0;

	if (!ips)
		return -ENOMEM;
	for (const struct conf_node *c = n ? n->children : NULL; c; c = c->next)
		if (c->kind != CONF_NODE_SCALAR || ip_parse(c->text, &ips[i++]) < 0)
			return wrong(rd, c, "must be an IP address");
	*ret_ips = ips;
	*ret_n = i;
	return 0;
}

static int port_of(struct reading *rd, const struct conf_node *n, const char *text, uint16_t *ret_port)
{
	char *end;
	unsigned long v = strtoul(text, &end, 10);

	if (!*text || *end || !v || v > 65535)
		return wrong(rd, n, "must be a port");
	*ret_port = (uint16_t)v;
	return 0;
}

/* {80: 8080} */
static int ports_of(struct reading *rd, const struct conf_node *n, const struct port_map **ret_ports, size_t *ret_n)
{
	struct port_map *ports = arena_alloc(rd->arena, n_children(n), sizeof(*ports));
	size_t i = 0;
	int r = ports ? 0 : -ENOMEM;

	if (n && n->kind != CONF_NODE_MAP)
		return wrong(rd, n, "must be a map of ports");
	for (const struct conf_node *c = n ? n->children : NULL; c && r == 0; c = c->next, i++) {
		r = port_of(rd, c, c->key, &ports[i].service_port);
		if (r == 0)
			r = port_of(rd, c, c->text ? c->text : "", &ports[i].target_port);
	}
	*ret_ports = ports;
	*ret_n = i;
	return r;
}

static int file_of(struct reading *rd, const struct conf_node *n, char **ret_text)
{
	CLEANUP_FREE char *path = NULL;
	struct bytes in;
	uint8_t *to;

	if (n->kind != CONF_NODE_SCALAR)
		return wrong(rd, n, "must be a file");
	if (asprintf(&path, "%s%s%s", *n->text == '/' ? "" : rd->dir, *n->text == '/' ? "" : "/", n->text) < 0) {
		path = NULL;
		return -ENOMEM;
	}

	CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return diag_at(rd->diag, rd->path, n->line, "%s: %s", path, strerror(errno));
	bytes_init(&in, CERT_PEM_MAX + 1);
	for (ssize_t got = 1; got > 0; ) {
		to = bytes_reserve(&in, MIN((size_t)65536, in.max - in.len));
		got = to && in.max > in.len ? read(fd, to, MIN((size_t)65536, in.max - in.len)) : -1;
		if (got > 0)
			bytes_commit(&in, (size_t)got);
		else if (got < 0) {
			bytes_deinit(&in);
			return diag_at(rd->diag, rd->path, n->line, "%s: cannot be read, or is too long", path);
		}
	}
	*ret_text = strndup((const char *)in.data, in.len);
	bytes_deinit(&in);
	return *ret_text ? 0 : -ENOMEM;
}

/* --- resources --- */

static int hand_over(struct reading *rd, struct proxy *p, const struct conf_node *n, enum knowledge_kind kind, const char *name,
		     const struct bytes *wire)
{
	struct diag d = {};
	int r = knowledge_put(p->knowledge, HOLDER, kind, name, wire->data, wire->len, &d);

	return r == -EINVAL ? wrong(rd, n, d.msg) : r;
}

static int read_memberships(struct reading *rd, const struct conf_node *n, struct workload *w)
{
	const struct conf_node *map = conf_node_get(n, "services");
	struct workload_service *list = arena_alloc(rd->arena, n_children(map), sizeof(*list));
	int r = list ? 0 : -ENOMEM;

	for (const struct conf_node *c = map ? map->children : NULL; c && r == 0; c = c->next) {
		struct workload_service *s = &list[w->n_services++];

		s->key = c->key;
		r = ports_of(rd, c, &s->ports, &s->n_ports);
	}
	w->services = list;
	return r;
}

static int read_workload(struct reading *rd, struct proxy *p, const struct conf_node *n)
{
	struct workload w = {
		.uid = text_of(n, "uid", ""), .name = text_of(n, "name", text_of(n, "uid", "")), .namespace = text_of(n, "namespace", ""),
		.service_account = text_of(n, "service_account", "default"), .trust_domain = text_of(n, "trust_domain", p->setup->trust_domain),
		.workload_name = text_of(n, "workload_name", text_of(n, "name", "")), .network = text_of(n, "network", ""),
		.tunnel = !strcmp(text_of(n, "hbone", "false"), "true") ? TUNNEL_HBONE : TUNNEL_NONE,
		.unhealthy = !strcmp(text_of(n, "healthy", "true"), "false"),
		.capacity = (uint32_t)strtoul(text_of(n, "weight", "1"), NULL, 10),
	};
	struct bytes wire;
	struct ip_port gateway;
	char **policies;
	int r = ips_of(rd, n, &w.addresses, &w.n_addresses);

	if (r == 0 && conf_node_get(n, "gateway")) {
		if (ip_port_parse(text_of(n, "gateway", ""), &gateway) < 0)
			return wrong(rd, n, "gateway is no address and port");
		w.network_gateway = (struct model_gateway){ .ip = gateway.ip, .network = w.network, .hbone_port = gateway.port };
	}
	if (r == 0)
		r = read_memberships(rd, n, &w);
	if (r == 0)
		r = texts_of(rd, n, "policies", &policies, &w.n_policies);
	if (r < 0)
		return r;
	w.policies = (const char *const *)policies;
	bytes_init(&wire, FDMSG_MAX_LEN);
	r = workload_encode(&w, &wire);
	if (r == 0)
		r = hand_over(rd, p, n, KNOWLEDGE_ADDRESS, w.uid, &wire);
	bytes_deinit(&wire);
	return r;
}

static int read_service(struct reading *rd, struct proxy *p, const struct conf_node *n)
{
	struct service s = { .name = text_of(n, "name", ""), .namespace = text_of(n, "namespace", ""),
			     .hostname = text_of(n, "hostname", text_of(n, "name", "")) };
	const struct ip *ips;
	struct service_address *addresses;
	CLEANUP_FREE char *key = NULL;
	struct bytes wire;
	char **sans;
	int r = ips_of(rd, n, &ips, &s.n_addresses);

	if (r == 0)
		r = ports_of(rd, conf_node_get(n, "ports"), &s.ports, &s.n_ports);
	if (r == 0)
		r = texts_of(rd, n, "sans", &sans, &s.n_sans);
	if (r < 0)
		return r;
	s.sans = (const char *const *)sans;
	addresses = arena_alloc(rd->arena, s.n_addresses, sizeof(*addresses));
	if (!addresses)
		return -ENOMEM;
	for (size_t i = 0; i < s.n_addresses; i++)
		addresses[i] = (struct service_address){ "", ips[i], 128 };
	s.addresses = addresses;
	if (asprintf(&key, "%s/%s", s.namespace, s.hostname) < 0) {
		key = NULL;
		return -ENOMEM;
	}
	bytes_init(&wire, FDMSG_MAX_LEN);
	r = service_encode(&s, &wire);
	if (r == 0)
		r = hand_over(rd, p, n, KNOWLEDGE_ADDRESS, key, &wire);
	bytes_deinit(&wire);
	return r;
}

static int read_matches(struct reading *rd, const struct conf_node *n, const char *key, struct text_matches *ret_matches)
{
	struct text_match *list;
	char **texts;
	size_t count;
	int r = texts_of(rd, n, key, &texts, &count);

	if (r < 0)
		return r;
	list = arena_alloc(rd->arena, count, sizeof(*list));
	if (!list)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++)
		list[i] = (struct text_match){ TEXT_EXACT, texts[i] };
	*ret_matches = (struct text_matches){ list, count };
	return 0;
}

static int read_policy(struct reading *rd, struct proxy *p, const struct conf_node *n)
{
	static const struct text_match anybody = { TEXT_PRESENCE, "" };
	struct policy_match match = {};
	const struct policy_clause clause = { &match, 1, false };
	const struct policy_rule rule = { &clause, 1, false };
	struct policy policy = {
		.name = text_of(n, "name", ""), .namespace = text_of(n, "namespace", ""), .rules = &rule, .n_rules = 1,
		.scope = *text_of(n, "namespace", "") ? POLICY_NAMESPACE : POLICY_GLOBAL,
		.action = !strcmp(text_of(n, "action", "allow"), "deny") ? POLICY_DENY : POLICY_ALLOW,
	};
	CLEANUP_FREE char *key = NULL;
	struct bytes wire;
	int r = read_matches(rd, n, "principals", &match.principals);

	if (r == 0)
		r = read_matches(rd, n, "namespaces", &match.namespaces);
	if (r < 0)
		return r;
	if (!strcmp(text_of(n, "not_principals_present", "false"), "true"))
		match.not_principals = (struct text_matches){ &anybody, 1 };
	if (asprintf(&key, "%s/%s", policy.namespace, policy.name) < 0) {
		key = NULL;
		return -ENOMEM;
	}
	bytes_init(&wire, FDMSG_MAX_LEN);
	r = policy_encode(&policy, &wire);
	if (r == 0)
		r = hand_over(rd, p, n, KNOWLEDGE_POLICY, key, &wire);
	bytes_deinit(&wire);
	return r;
}

typedef int read_fn(struct reading *rd, struct proxy *p, const struct conf_node *n);

static int read_each(struct reading *rd, struct proxy *p, const struct conf_node *root, const char *key, read_fn *fn)
{
	const struct conf_node *list = conf_node_get(root, key);
	int r = 0;

	if (list && list->kind != CONF_NODE_LIST)
		return wrong(rd, list, "must be a list");
	for (const struct conf_node *c = list ? list->children : NULL; c && r == 0; c = c->next)
		r = c->kind == CONF_NODE_MAP ? fn(rd, p, c) : wrong(rd, c, "must be a map");
	return r;
}

static int read_resources(struct reading *rd, struct proxy *p, const struct conf_node *root)
{
	int r = read_each(rd, p, root, "workloads", read_workload);

	if (r == 0)
		r = read_each(rd, p, root, "services", read_service);
	if (r == 0)
		r = read_each(rd, p, root, "policies", read_policy);
	if (r == 0)
		knowledge_policies_known(p->knowledge);
	return r;
}

/* --- the set-up --- */

static int read_setup(struct reading *rd, struct proxy *p, const struct conf_node *root)
{
	Outrigger__Ipc__Setup setup = OUTRIGGER__IPC__SETUP__INIT;
	Outrigger__Ipc__MeshController mc = OUTRIGGER__IPC__MESH_CONTROLLER__INIT;
	const struct conf_node *roots = conf_node_get(root, "roots");
	const struct conf_node *controller = conf_node_get(root, "controller");
	CLEANUP_FREE char *roots_pem = NULL;
	struct diag d = {};
	int r = roots ? file_of(rd, roots, &roots_pem) : wrong(rd, root, "roots are missing");

	if (r < 0)
		return r;
	setup.trust_domain = (char *)(uintptr_t)text_of(root, "trust_domain", "cluster.local");
	setup.admin_path = (char *)(uintptr_t)text_of(root, "admin", "");
	setup.access_log = (char *)(uintptr_t)text_of(root, "access_log", "");
	setup.access_log_json = !strcmp(text_of(root, "access_log_json", "false"), "true");
	setup.log_level = (char *)(uintptr_t)p->options.log_level;
	setup.log_json = p->options.log_json;
	setup.resume_path = (char *)(uintptr_t)text_of(root, "resume", "");
	setup.mesh_controller = &mc;
	mc.roots_pem = roots_pem;
	if (controller) {
		mc.address = (char *)(uintptr_t)text_of(controller, "address", "");
		mc.cluster_id = (char *)(uintptr_t)text_of(controller, "cluster_id", "");
		mc.network = (char *)(uintptr_t)text_of(controller, "network", "");
		r = texts_of(rd, controller, "server_names", &mc.server_names, &mc.n_server_names);
		if (r < 0)
			return r;
	}
	r = proxy_setup(p, &setup, NULL, &d);
	return r == -EINVAL ? wrong(rd, root, d.msg) : r;
}

/* --- VMs --- */

static int listen_on(struct reading *rd, const struct conf_node *n, int *ret_fd)
{
	struct sockaddr_storage sa;
	struct ip_port addr;
	int one = 1;

	*ret_fd = -1;
	if (!n)
		return 0;
	if (n->kind != CONF_NODE_SCALAR || ip_port_parse(n->text, &addr) < 0)
		return wrong(rd, n, "must be address:port");

	socklen_t len = ip_port_to_sockaddr(&addr, 0, &sa);
	CLEANUP_FD int fd = socket(sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 || bind(fd, (struct sockaddr *)&sa, len) < 0 ||
	    listen(fd, 4096) < 0)
		return diag_at(rd->diag, rd->path, n->line, "cannot listen on %s: %s", n->text, strerror(errno));
	*ret_fd = steal_fd(&fd);
	return 0;
}

static int number_of(struct reading *rd, const struct conf_node *map, const char *key, uint64_t max, uint64_t *ret_value)
{
	const struct conf_node *n = conf_node_get(map, key);
	unsigned long long v;
	char *end;

	if (!n)
		return 0;
	errno = 0;
	v = n->kind == CONF_NODE_SCALAR ? strtoull(n->text, &end, 10) : 0;
	if (!v || errno || *end || v > max)
		return wrong(rd, n, "must be a positive number");
	*ret_value = v;
	return 0;
}

static int read_limits(struct reading *rd, const struct conf_node *n, Outrigger__Ipc__Limits *ret_limits)
{
	uint64_t connections = 0, rate = 0, idle_s = 0;
	int r = number_of(rd, n, "connections", UINT32_MAX, &connections);

	if (r == 0)
		r = number_of(rd, n, "connection_rate", UINT32_MAX, &rate);
	if (r == 0)
		r = number_of(rd, n, "buffered_bytes", UINT64_MAX, &ret_limits->buffered_bytes);
	if (r == 0)
		r = number_of(rd, n, "idle_timeout_s", UINT32_MAX, &idle_s);
	ret_limits->connections = (uint32_t)connections;
	ret_limits->connection_rate = (uint32_t)rate;
	ret_limits->idle_timeout_s = (uint32_t)idle_s;
	return r;
}

static int read_vm_message(struct reading *rd, const struct conf_node *n, Outrigger__Ipc__VmPut *m)
{
	const struct conf_node *token = conf_node_get(n, "token");
	char *text;
	int r = texts_of(rd, n, "addresses", &m->addresses, &m->n_addresses);

	if (r < 0)
		return r;
	m->vm_id = (char *)(uintptr_t)text_of(n, "id", "");
	m->uid = (char *)(uintptr_t)text_of(n, "uid", "");
	m->namespace_ = (char *)(uintptr_t)text_of(n, "namespace", "default");
	m->service_account = (char *)(uintptr_t)text_of(n, "service_account", "default");
	m->workload_name = (char *)(uintptr_t)text_of(n, "workload", text_of(n, "id", ""));
	m->mode = !strcmp(text_of(n, "mode", "strict"), "permissive") ? OUTRIGGER__IPC__MODE__MODE_PERMISSIVE :
									 OUTRIGGER__IPC__MODE__MODE_STRICT;
	if (!token)
		return 0;
	r = file_of(rd, token, &text);
	if (r < 0)
		return r;
	text[strcspn(text, "\r\n")] = '\0';
	m->token = arena_str(rd->arena, text);
	free(text);
	return m->token ? 0 : -ENOMEM;
}

static int read_credential(struct reading *rd, struct proxy *p, const struct conf_node *n)
{
	const struct conf_node *cert = conf_node_get(n, "cert");
	const struct conf_node *key = conf_node_get(n, "key");
	struct sidecar *s = proxy_sidecar(p, text_of(n, "id", ""));
	CLEANUP_FREE char *chain = NULL;
	CLEANUP_KEY EVP_PKEY *pkey = NULL;
	struct diag d = {};
	char *pem = NULL;
	int r;

	if (!s || !cert)
		return 0;
	if (!key)
		return wrong(rd, cert, "without key");
	r = file_of(rd, cert, &chain);
	if (r == 0)
		r = file_of(rd, key, &pem);
	if (r == 0)
		r = cert_key_from_pem(pem, &pkey) < 0 ? wrong(rd, key, "is not a private key") : 0;
	if (r == 0) {
		r = sidecar_set_credential(s, pkey, chain, &d);
		if (r == -EINVAL)
			r = wrong(rd, cert, d.msg);
	}
	secret_free(pem);
	return r;
}

static int read_vm(struct reading *rd, struct proxy *p, const struct conf_node *n)
{
	Outrigger__Ipc__VmPut m = OUTRIGGER__IPC__VM_PUT__INIT;
	Outrigger__Ipc__Limits limits = OUTRIGGER__IPC__LIMITS__INIT;
	const struct conf_node *own = conf_node_get(n, "limits");
	int fds[2] = { -1, -1 };
	struct diag d = {};
	int r = read_vm_message(rd, n, &m);

	if (r == 0 && own) {
		m.limits = &limits;
		r = read_limits(rd, own, &limits);
	}
	if (r == 0)
		r = listen_on(rd, conf_node_get(n, "outbound"), &fds[0]);
	if (r == 0)
		r = listen_on(rd, conf_node_get(n, "inbound"), &fds[1]);
	if (r == 0) {
		r = proxy_vm_put(p, &m, fds, 2, &d);
		if (r == -EINVAL)
			r = wrong(rd, n, d.msg);
	}
	close_fd(fds[0]);
	close_fd(fds[1]);
	if (r == 0)
		r = read_credential(rd, p, n);
	if (r == 0 && !p->channel)
		sidecar_set_config(proxy_sidecar(p, m.vm_id));
	return r;
}

/* --- the whole --- */

static int read_file(const char *path, struct bytes *out, struct diag *d)
{
	CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return diag_at(d, path, 0, "%s", strerror(errno));
	if (st.st_size > FILE_MAX_LEN)
		return diag_at(d, path, 0, "is larger than %d bytes", FILE_MAX_LEN);

	uint8_t *to = bytes_reserve(out, (size_t)st.st_size + 1);
	ssize_t n = to ? read(fd, to, (size_t)st.st_size) : -1;
	if (n < 0)
		return to ? diag_at(d, path, 0, "%s", strerror(errno)) : -ENOMEM;
	bytes_commit(out, (size_t)n);
	return 0;
}

typedef int apply_fn(struct reading *rd, struct proxy *p, const struct conf_node *root);

static void folder_of(const char *path, char dir[static PATH_MAX])
{
	char copy[PATH_MAX];

	snprintf(copy, sizeof(copy), "%s", path);	/* dirname() writes into what it is given */
	snprintf(dir, PATH_MAX, "%s", dirname(copy));
}

static int with_file(struct proxy *p, const char *path, apply_fn *apply, struct diag *d)
{
	struct reading rd = { .path = path, .diag = d };
	struct conf_node *root = NULL;
	struct bytes text;
	int r;

	folder_of(path, rd.dir);
	bytes_init(&text, FILE_MAX_LEN + 2);
	r = read_file(path, &text, d);
	if (r == 0)
		r = conf_tree_parse(path, (const char *)text.data, text.len, &root, d);
	if (r == 0)
		r = arena_new(ARENA_MAX, &rd.arena);
	if (r == 0)
		r = apply(&rd, p, root);
	arena_free(rd.arena);
	conf_tree_free(root);
	bytes_deinit(&text);
	return r;
}

static int apply_all(struct reading *rd, struct proxy *p, const struct conf_node *root)
{
	int r = read_setup(rd, p, root);

	if (r == 0)
		r = read_resources(rd, p, root);
	if (r == 0)
		r = read_each(rd, p, root, "vms", read_vm);
	return r;
}

/* The workers hear of it at the end of the turn, so they see all of it at once. */
static int apply_again(struct reading *rd, struct proxy *p, const struct conf_node *root)
{
	int r;

	knowledge_drop(p->knowledge, HOLDER);
	r = read_resources(rd, p, root);
	if (r == 0)
		r = read_each(rd, p, root, "vms", read_credential);
	return r;
}

int static_conf_load(struct proxy *p, const char *path, struct diag *reterr_diag)
{
	return with_file(p, path, apply_all, reterr_diag);
}

int static_conf_reload(struct proxy *p, const char *path, struct diag *reterr_diag)
{
	return with_file(p, path, apply_again, reterr_diag);
}
