/*
 * What the mesh's configuration costs a proxy: 10,000 endpoints are taken in,
 * then one of them changes, over and over. From the bytes of a resource, as the
 * mesh controller sends them, to a published snapshot.
 *
 *	config SERVICES ENDPOINTS_EACH CHANGES TOGETHER
 *
 * TOGETHER: changes in one answer of the mesh controller. Between the two it has
 * two seconds of rest, in which it tidies up: that counts as loading.
 *
 * Prints one JSON object; times are of this process's CPU.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/loop.h"
#include "cost.h"
#include "mesh/model.h"
#include "proxy/knowledge.h"

enum { SPREAD = 64, ANSWER = 1000 };	/* ANSWER: resources that the mesh controller sends in one */

static void nothing(void *data)
{
	(void)data;
}

static struct ip ip_number(unsigned net, unsigned n)
{
	char text[32];
	struct ip ip;

	snprintf(text, sizeof(text), "10.%u.%u.%u", net, n / 256 % 256, n % 256);
	cost_must(ip_parse(text, &ip) == 0, text);
	return ip;
}

static void encode_workload(unsigned n, unsigned service, unsigned net, struct bytes *out)
{
	char uid[64], name[32], key[64], account[32];
	struct port_map port = { 80, 8080, 0 };
	struct workload_service member = { key, &port, 1 };
	struct ip ip = ip_number(net, n);
	struct workload w = {
		.uid = uid, .name = name, .namespace = "bench", .network = "", .trust_domain = "bench.mesh", .service_account = account,
		.workload_name = account, .addresses = &ip, .n_addresses = 1, .tunnel = TUNNEL_HBONE, .capacity = 1, .services = &member, .n_services = 1,
	};

	snprintf(uid, sizeof(uid), "bench//vm/%u", n);
	snprintf(name, sizeof(name), "vm-%u", n);
	snprintf(key, sizeof(key), "bench/s%u.bench.mesh", service);
	snprintf(account, sizeof(account), "s%u", service);
	out->len = 0;
	cost_must(workload_encode(&w, out) == 0, "encode");
}

struct resource {
	char name[80];
	struct bytes wire;
};

static void make_endpoint(struct resource *to, unsigned n, unsigned service, unsigned net)
{
	snprintf(to->name, sizeof(to->name), "bench//vm/%u", n);
	bytes_init(&to->wire, 4096);
	encode_workload(n, service, net, &to->wire);
}

static void make_service(struct resource *to, unsigned n)
{
	char name[32], host[64];
	struct service_address address = { .network = "", .prefix_len = 128, .ip = ip_number(96, n) };
	struct port_map port = { 80, 8080, 0 };
	struct service s = {
		.name = name, .namespace = "bench", .hostname = host, .addresses = &address, .n_addresses = 1, .ports = &port, .n_ports = 1,
	};

	snprintf(name, sizeof(name), "s%u", n);
	snprintf(host, sizeof(host), "s%u.bench.mesh", n);
	snprintf(to->name, sizeof(to->name), "bench/%s", host);
	bytes_init(&to->wire, 4096);
	cost_must(service_encode(&s, &to->wire) == 0, "encode");
}

/* Each service in front of its endpoints. */
static struct resource *make_all(unsigned n_services, unsigned each)
{
	struct resource *all = calloc(n_services * (each + 1), sizeof(*all)), *to = all;

	cost_must(all != NULL, "memory");
	for (unsigned s = 0; s < n_services; s++) {
		make_service(to++, s);
		for (unsigned e = 0; e < each; e++)
			make_endpoint(to++, s * each + e, s, 1);
	}
	return all;
}

static void resources_free(struct resource *list, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		bytes_deinit(&list[i].wire);
	free(list);
}

/* @n of them as answers of at most @together. */
static void put(struct knowledge *k, const struct resource *const *list, unsigned n, unsigned together)
{
	struct diag d = {};

	for (unsigned i = 0; i < n; i++) {
		if (i % together == 0)
			knowledge_begin(k);
		cost_must(knowledge_put(k, 1, KNOWLEDGE_ADDRESS, list[i]->name, list[i]->wire.data, list[i]->wire.len, &d) == 0, d.msg);
		if (i % together == together - 1 || i == n - 1)
			cost_must(knowledge_end(k) == 0, "end");
	}
}

/* The two that tests/net/test_budgets.py counts by name: not inlined. */
__attribute__((noinline)) static double bench_load(struct knowledge *k, const struct resource *const *list, unsigned n)
{
	double start = cost_cpu_s();

	put(k, list, n, ANSWER);
	return cost_cpu_s() - start;
}

__attribute__((noinline)) static double bench_change(struct knowledge *k, const struct resource *const *list, unsigned n, unsigned together)
{
	double start = cost_cpu_s();

	put(k, list, n, together);
	return cost_cpu_s() - start;
}

static double load_all(struct knowledge *k, const struct resource *all, unsigned n)
{
	const struct resource **list = calloc(n, sizeof(*list));
	double used;

	cost_must(list != NULL, "memory");
	for (unsigned i = 0; i < n; i++)
		list[i] = &all[i];
	used = bench_load(k, list, n);
	free(list);
	return used;
}

/* The same few of them in turn, all over the mesh, each between two addresses. */
static double change_some(struct knowledge *k, unsigned each, unsigned n_all, unsigned n_changes, unsigned together)
{
	struct resource *some = calloc(SPREAD * 2, sizeof(*some));
	const struct resource **list = calloc(n_changes, sizeof(*list));
	double used;

	cost_must(some && list, "memory");
	for (unsigned i = 0; i < SPREAD * 2; i++) {
		unsigned n = i / 2 * (n_all / SPREAD);

		make_endpoint(&some[i], n, n / each, 1 + i % 2);
	}
	for (unsigned i = 0; i < n_changes; i++)
		list[i] = &some[i % SPREAD * 2 + (~(i / SPREAD) & 1)];
	used = bench_change(k, list, n_changes, together);
	free(list);
	resources_free(some, SPREAD * 2);
	return used;
}

/* It tidies up when nothing has changed for a second. */
static double settle(struct loop *loop)
{
	enum { TURNS = 25, TURN_MS = 100 };
	double start = cost_cpu_s();

	for (int i = 0; i < TURNS; i++)
		cost_must(loop_turn(loop, TURN_MS) == 0, "turn");
	return cost_cpu_s() - start;
}

int main(int argc, char **argv)
{
	struct loop *loop;
	struct knowledge *k;

	if (argc != 5) {
		fprintf(stderr, "usage: config SERVICES ENDPOINTS_EACH CHANGES TOGETHER\n");
		return 2;
	}

	unsigned n_services = (unsigned)strtoul(argv[1], NULL, 10), each = (unsigned)strtoul(argv[2], NULL, 10);
	unsigned n_changes = (unsigned)strtoul(argv[3], NULL, 10), together = (unsigned)strtoul(argv[4], NULL, 10);
	unsigned n_all = n_services * each;
	struct resource *all = make_all(n_services, each);
	cost_must(loop_new(&loop) == 0, "memory");
	cost_must(knowledge_new(loop, nothing, NULL, &k) == 0, "memory");

	size_t before = cost_bytes();
	double load_s = load_all(k, all, n_all + n_services) + settle(loop);
	size_t bytes = cost_bytes() - before;
	double change_s = n_changes ? change_some(k, each, n_all, n_changes, together) : 0;
	printf("{\"load_s\": %.6f, \"bytes\": %zu, \"endpoints\": %u, \"change_us\": %.3f, \"known\": %zu}\n", load_s, bytes, n_all,
	       n_changes ? change_s / n_changes * 1e6 : 0, knowledge_n(k));
	resources_free(all, n_all + n_services);
	knowledge_free(k);
	loop_free(loop);
	return 0;
}
