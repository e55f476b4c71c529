/*
 * A VM and its server say what they like, in datagrams and on a connection; the
 * first byte of each message says which of them. Each query comes out exactly
 * once, or waits; what the VM is told of the mesh can be read.
 */
#include <stdint.h>
#include <stdlib.h>

#include "../lib/dns_mesh.h"
#include "proxy/dns_conn.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct dns_mesh mesh;
static uint64_t n_out, n_dropped;

static void to_vm(void *data, const struct dns_way *way, const void *message, size_t len)
{
	(void)data;
	(void)way;
	if (len > 65535 || (len && !message))
		abort();
}

static void to_server(void *data, const struct dns_way *way, const void *message, size_t len)
{
	(void)way;
	to_vm(data, way, message, len);
	n_out++;
}

static const struct dns_broker_ops ops = { .to_vm = to_vm, .to_server = to_server };

enum { FROM_SERVER = 1, CONNECTED = 2, FILL = 4, HIDDEN = 8, SHORT_NAMES = 16 };

static void one(struct dns_broker *b, uint8_t how, const uint8_t *message, size_t len)
{
	static int some;
	struct dns_way way = { .client = { dns_mesh_ip("10.66.0.12"), 4000 }, .server = dns_mesh_ip("10.66.0.1"),
			       .conn = how & CONNECTED ? (struct dns_conn *)(void *)&some : NULL };

	mesh.hidden = how & HIDDEN;
	if (how & FROM_SERVER)
		dns_broker_response(b, &way, message, len);
	else
		dns_broker_query(b, &way, message, len);
	if (b->count.forwarded != n_out || b->count.answered + b->count.forwarded + b->n_pending + n_dropped < b->count.queries)
		abort();
	mesh.hidden = false;
	dns_names_told(&b->names, "demo/web.demo.svc.cluster.local");
	dns_broker_review(b);
	if (how & 0x20)
		dns_broker_server_gone(b, way.conn);
	if (how & 0x40) {
		n_dropped += b->n_pending;
		dns_broker_drop(b, way.conn);
		n_dropped -= b->n_pending;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char namespace[] = "demo", kubernetes[] = "svc.cluster.local", any[] = ".", example[] = "example.com";
	char *domains[] = { kubernetes, example, any };
	Outrigger__Ipc__VmPut put = OUTRIGGER__IPC__VM_PUT__INIT;
	static struct loop *loop;
	struct dns_broker b;

	if (!loop && (loop_new(&loop) < 0 || dns_mesh_init(&mesh) < 0))
		abort();
	put.namespace_ = namespace;
	put.dns = size && data[0] & FILL ? OUTRIGGER__IPC__DNS_MODE__DNS_FILL : OUTRIGGER__IPC__DNS_MODE__DNS_ANSWER;
	put.dns_domains = domains;
	put.n_dns_domains = ELEMENTS(domains) - !(size && data[0] & SHORT_NAMES);
	n_out = n_dropped = 0;
	dns_broker_init(&b, loop, &ops, NULL, &dns_mesh_ops, &mesh);
	b.put = &put;
	while (size > 2) {
		size_t len = data[1] < size - 2 ? data[1] : size - 2;

		one(&b, data[0], data + 2, len);
		data += 2 + len;
		size -= 2 + len;
	}
	dns_broker_deinit(&b);
	return 0;
}
