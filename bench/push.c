/*
 * What a change costs the mesh controller: its discovery streams are told of
 * one endpoint that changed, over and over; then of one that none of them wants.
 *
 *	push STREAMS WORKLOADS CHANGES CHANGES_UNWANTED
 *
 * In process: a stream is what ads.c makes of one, and what it would send is
 * encoded and dropped (the linker sends grpc_call_send_pb() here). Each stream
 * wants one service, to which the first ten workloads belong.
 *
 * Prints one JSON object; times are of this process's CPU.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/ads_stream.h"
#include "cost.h"
#include "mesh/grpc_server.h"
#include "mesh/pb.h"

static const char SERVICE[] = "bench/s0.bench.mesh";

enum { MEMBERS = 10 };

static size_t n_sent;

int __wrap_grpc_call_send_pb(struct grpc_call *call, const ProtobufCMessage *message);

int __wrap_grpc_call_send_pb(struct grpc_call *call, const ProtobufCMessage *message)
{
	uint8_t *bytes;
	size_t len;
	int r = pb_pack(message, &bytes, &len);

	(void)call;
	if (r == 0)
		free(bytes);
	n_sent++;
	return r;
}

static void put(struct resources *r, unsigned n, unsigned version)
{
	char name[64], alias[64], bytes[160];
	const char *aliases[] = { alias }, *parents[] = { n < MEMBERS ? SERVICE : "bench/other.bench.mesh" };
	struct resource_content content = { bytes, sizeof(bytes), aliases, 1, parents, 1 };

	snprintf(name, sizeof(name), "bench//vm/%u", n);
	snprintf(alias, sizeof(alias), "net/10.1.%u.%u", n / 256, n % 256);
	memset(bytes, 'x', sizeof(bytes));
	snprintf(bytes, sizeof(bytes), "%u in version %u", n, version);
	cost_must(resources_put(r, RESOURCE_ADDRESS, name, &content) == 0, "put");
}

static void put_service(struct resources *r)
{
	struct resource_content content = { "service", 7, NULL, 0, NULL, 0 };

	cost_must(resources_put(r, RESOURCE_ADDRESS, SERVICE, &content) == 0, "put");
}

static void add_stream(struct ads *a, struct loop *loop)
{
	struct ads_stream *s = malloc(sizeof(*s));

	cost_must(s != NULL, "memory");
	ads_stream_init(s, a, (struct grpc_call *)(void *)loop, true);	/* a call that is there; nobody looks into it */
	s->has_node = s->types[RESOURCE_ADDRESS].started = s->types[RESOURCE_AUTHORIZATION].started = true;
	ads_set_wildcard(s, RESOURCE_AUTHORIZATION, true);

	struct ads_name *n = ads_name_get(s, RESOURCE_ADDRESS, SERVICE);
	cost_must(n != NULL, "memory");
	n->wanted = true;
}

static void acknowledge(struct ads *a)
{
	list_for_each(l, &a->streams)
		ads_pending_done(&list_entry(l, struct ads_stream, link)->types[RESOURCE_ADDRESS], "18446744073709551615");
}

/* What tests/net/test_budgets.py counts by name: not inlined. */
__attribute__((noinline)) static void push_one(struct ads *a, struct loop *loop, unsigned n, unsigned version)
{
	put(a->resources, n, version);
	cost_must(loop_turn(loop, 0) == 0, "turn");
}

/* The clock stands while streams acknowledge, which is a cost of their own. */
static double changes(struct ads *a, struct loop *loop, unsigned n, unsigned n_changes)
{
	double used = 0;

	for (unsigned i = 0; i < n_changes; i++) {
		double start = cost_cpu_s();

		push_one(a, loop, n, i + 2);
		used += cost_cpu_s() - start;
		acknowledge(a);
	}
	return n_changes ? used / n_changes : 0;
}

static void settled(void *data, const char *uid)
{
	(void)data;
	(void)uid;
}

int main(int argc, char **argv)
{
	static const struct ads_ops ops = { .settled = settled };
	struct resources resources;
	struct loop *loop;
	struct ads *a;

	if (argc != 5) {
		fprintf(stderr, "usage: push STREAMS WORKLOADS CHANGES CHANGES_UNWANTED\n");
		return 2;
	}

	unsigned n_streams = (unsigned)strtoul(argv[1], NULL, 10), n_workloads = (unsigned)strtoul(argv[2], NULL, 10);
	unsigned n_changes = (unsigned)strtoul(argv[3], NULL, 10), n_unwanted = (unsigned)strtoul(argv[4], NULL, 10);
	size_t before = cost_bytes();
	resources_init(&resources);
	cost_must(loop_new(&loop) == 0 && ads_new(loop, &resources, NULL, "net", &ops, NULL, &a) == 0, "memory");
	for (unsigned i = 0; i < n_streams; i++)
		add_stream(a, loop);
	put_service(&resources);
	for (unsigned i = 0; i < n_workloads; i++)
		put(&resources, i, 1);
	cost_must(loop_turn(loop, 0) == 0, "turn");
	acknowledge(a);
	size_t bytes = cost_bytes() - before;
	n_sent = 0;
	double wanted = changes(a, loop, 0, n_changes);
	size_t n_wanted = n_sent;
	double unwanted = changes(a, loop, n_workloads - 1, n_unwanted);
	printf("{\"bytes\": %zu, \"change_us\": %.3f, \"sent\": %zu, \"unwanted_us\": %.3f}\n", bytes, wanted * 1e6, n_wanted, unwanted * 1e6);

	list_for_each(l, &a->streams)
		list_entry(l, struct ads_stream, link)->call = NULL;
	ads_free(a);
	resources_deinit(&resources);
	loop_free(loop);
	return 0;
}
