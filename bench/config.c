/*
 * What the mesh's configuration costs a proxy: 10,000 endpoints are taken in,
 * then one of them changes, over and over. From the bytes of a resource, as the
 * mesh controller sends them, to a published snapshot.
 *
 *	config SERVICES ENDPOINTS_EACH CHANGES
 *
 * Prints one JSON object; times are of this process's CPU.
 */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "mesh/model.h"
#include "proxy/knowledge.h"

enum { SPREAD = 64 };

static double cpu_s(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static size_t allocated(void)
{
	struct mallinfo2 m = mallinfo2();

	return m.uordblks + m.hblkhd;
}

static void must(int r, const char *what)
{
	if (r < 0) {
		fprintf(stderr, "config: %s: %s\n", what, strerror(-r));
		exit(1);
	}
}

static void nothing(void *data)
{
	(void)data;
}

static struct ip ip_number(unsigned net, unsigned n)
{
	char text[32];
	struct ip ip;

	snprintf(text, sizeof(text), "10.%u.%u.%u", net, n / 256 % 256, n % 256);
	must(ip_parse(text, &ip), text);
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
	must(workload_encode(&w, out), "encode");
}

/* The two that tests/net/test_budgets.py counts by name: not inlined. */
__attribute__((noinline)) static void put(struct knowledge *k, unsigned n, const struct bytes *wire)
{
	char name[64];
	struct diag d = {};

	snprintf(name, sizeof(name), "bench//vm/%u", n);
	must(knowledge_put(k, 1, KNOWLEDGE_ADDRESS, name, wire->data, wire->len, &d), d.msg);
}

static void put_service(struct knowledge *k, unsigned n)
{
	char name[32], host[64], key[80];
	struct service_address address = { .network = "", .prefix_len = 128, .ip = ip_number(96, n) };
	struct port_map port = { 80, 8080, 0 };
	struct service s = {
		.name = name, .namespace = "bench", .hostname = host, .addresses = &address, .n_addresses = 1, .ports = &port, .n_ports = 1,
	};
	struct bytes wire;
	struct diag d = {};

	snprintf(name, sizeof(name), "s%u", n);
	snprintf(host, sizeof(host), "s%u.bench.mesh", n);
	snprintf(key, sizeof(key), "bench/%s", host);
	bytes_init(&wire, 4096);
	must(service_encode(&s, &wire), "encode");
	must(knowledge_put(k, 1, KNOWLEDGE_ADDRESS, key, wire.data, wire.len, &d), d.msg);
	bytes_deinit(&wire);
}

/* The load without the time that making its bytes took. */
static double take_in(struct knowledge *k, unsigned n_services, unsigned each)
{
	double used = 0;
	struct bytes wire;

	bytes_init(&wire, 4096);
	for (unsigned s = 0; s < n_services; s++) {
		double start = cpu_s();

		put_service(k, s);
		used += cpu_s() - start;
		for (unsigned e = 0; e < each; e++) {
			encode_workload(s * each + e, s, 1, &wire);
			start = cpu_s();
			put(k, s * each + e, &wire);
			used += cpu_s() - start;
		}
	}
	bytes_deinit(&wire);
	return used;
}

/* The same few of them in turn, all over the mesh, each between two addresses. */
__attribute__((noinline)) static double change(struct knowledge *k, unsigned each, unsigned n_all, unsigned n_changes)
{
	struct bytes wire[SPREAD][2];
	double start;

	for (unsigned i = 0; i < SPREAD * 2; i++) {
		unsigned n = i / 2 * (n_all / SPREAD);

		bytes_init(&wire[i / 2][i % 2], 4096);
		encode_workload(n, n / each, 1 + i % 2, &wire[i / 2][i % 2]);
	}
	start = cpu_s();
	for (unsigned i = 0; i < n_changes; i++)
		put(k, i % SPREAD * (n_all / SPREAD), &wire[i % SPREAD][~(i / SPREAD) & 1]);
	start = cpu_s() - start;
	for (unsigned i = 0; i < SPREAD * 2; i++)
		bytes_deinit(&wire[i / 2][i % 2]);
	return start;
}

int main(int argc, char **argv)
{
	struct loop *loop;
	struct knowledge *k;

	if (argc != 4) {
		fprintf(stderr, "usage: config SERVICES ENDPOINTS_EACH CHANGES\n");
		return 2;
	}

	unsigned n_services = (unsigned)strtoul(argv[1], NULL, 10), each = (unsigned)strtoul(argv[2], NULL, 10);
	unsigned n_changes = (unsigned)strtoul(argv[3], NULL, 10), n_all = n_services * each;
	must(loop_new(&loop), "loop");
	must(knowledge_new(loop, nothing, NULL, &k), "knowledge");

	size_t before = allocated();
	double load_s = take_in(k, n_services, each);
	size_t bytes = allocated() - before;
	double change_s = change(k, each, n_all, n_changes);
	printf("{\"load_s\": %.6f, \"bytes\": %zu, \"endpoints\": %u, \"change_us\": %.3f, \"known\": %zu}\n", load_s, bytes, n_all,
	       n_changes ? change_s / n_changes * 1e6 : 0, knowledge_n(k));
	knowledge_free(k);
	loop_free(loop);
	return 0;
}
