/*
 * VMs and their configurations: references, and what goes with the last one.
 */
#include "proxy/vm.h"

#include <errno.h>
#include <string.h>

enum {
	DEFAULT_CONNECTIONS = 12000,	/* 10,500 for one peer */
	DEFAULT_BUFFERED = 64 * 1024 * 1024,
	DEFAULT_TEED = 8 * 1024 * 1024,
	DEFAULT_HANDSHAKES = 512,
	DEFAULT_TUNNELS = 4096,
	DEFAULT_CONNECT_MS = 5000,
	DEFAULT_RESOLVE_MS = 5000,
};

int vm_new(uint32_t slot, const char *id, int outbound_fd, int inbound_fd, size_t n_workers, struct vm **ret_vm)
{
	struct vm *vm = calloc(1, sizeof(*vm) + n_workers * sizeof(vm->counters[0]));
	char *copy = strdup(id);

	if (!vm || !copy) {
		free(vm);
		free(copy);
		close_fd(outbound_fd);
		close_fd(inbound_fd);
		return -ENOMEM;
	}
	vm->n_refs = 1;
	vm->slot = slot;
	vm->id = copy;
	vm->outbound_fd = outbound_fd;
	vm->inbound_fd = inbound_fd;
	vm->n_workers = n_workers;
	*ret_vm = vm;
	return 0;
}

struct vm *vm_ref(struct vm *vm)
{
	__atomic_add_fetch(&vm->n_refs, 1, __ATOMIC_RELAXED);
	return vm;
}

struct vm *vm_unref(struct vm *vm)
{
	if (!vm || __atomic_sub_fetch(&vm->n_refs, 1, __ATOMIC_ACQ_REL) != 0)
		return NULL;
	close_fd(vm->outbound_fd);
	close_fd(vm->inbound_fd);
	free(vm->id);
	free(vm);
	return NULL;
}

void vm_count(const struct vm *vm, struct vm_counters *ret_sum)
{
	enum { N = sizeof(struct vm_counters) / sizeof(uint64_t) };
	uint64_t *sum = (uint64_t *)ret_sum;

	_Static_assert(sizeof(struct vm_counters) % sizeof(uint64_t) == 0, "counters are all alike");
	memset(ret_sum, 0, sizeof(*ret_sum));
	for (size_t w = 0; w < vm->n_workers; w++)
		for (size_t i = 0; i < N; i++)
			sum[i] += __atomic_load_n((const uint64_t *)&vm->counters[w] + i, __ATOMIC_RELAXED);
}

int vm_conf_new(struct vm *vm, struct vm_conf **ret_conf)
{
	struct vm_conf *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->n_refs = 1;
	c->vm = vm_ref(vm);
	c->limits = (struct vm_limits){
		.connections = DEFAULT_CONNECTIONS,
		.buffered_bytes = DEFAULT_BUFFERED,
		.teed_bytes = DEFAULT_TEED,
		.handshakes = DEFAULT_HANDSHAKES,
		.tunnels = DEFAULT_TUNNELS,
		.connect_timeout_ms = DEFAULT_CONNECT_MS,
		.resolve_timeout_ms = DEFAULT_RESOLVE_MS,
	};
	*ret_conf = c;
	return 0;
}

struct vm_conf *vm_conf_ref(struct vm_conf *c)
{
	__atomic_add_fetch(&c->n_refs, 1, __ATOMIC_RELAXED);
	return c;
}

struct vm_conf *vm_conf_unref(struct vm_conf *c)
{
	if (!c || __atomic_sub_fetch(&c->n_refs, 1, __ATOMIC_ACQ_REL) != 0)
		return NULL;
	vm_unref(c->vm);
	tls_ctx_unref(c->client);
	tls_ctx_unref(c->server);
	free(c->uid);
	free(c->namespace);
	free(c->trust_domain);
	free(c->baggage);
	free(c);
	return NULL;
}
