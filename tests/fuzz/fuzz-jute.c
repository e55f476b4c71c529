/*
 * ZooKeeper's records, and what nodes say about instances.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/jute.h"
#include "proto/zk_instance.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void instance(const struct jute_request *r)
{
	struct zk_instance i;
	char service[ZK_INSTANCE_MAX_NAME];
	char *path = strndup(r->path.p ? r->path.p : "", r->path.len);

	if (!path)
		return;
	if (zk_instance_read(path, r->data.p, r->data.len, &i)) {
		if (!i.service[0] || !i.id[0])
			abort();
		zk_instance_deinit(&i);
	}
	if (zk_instance_read_name(path, &i))
		zk_instance_deinit(&i);
	zk_instance_read_consumer(path, service);
	zk_dir_is_service(path);
	free(path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct jute_connect c;
	struct jute_request r;
	struct jute_reply reply;
	struct jute_str path;
	int32_t op;

	(void)!jute_connect_request(data, size, &c);
	(void)!jute_connect_response(data, size, &c);
	if (jute_request_decode(data, size, &r)) {
		instance(&r);
		if (r.op == JUTE_MULTI)
			while (jute_multi_request_next(&r.ops, &r))
				instance(&r);
	}
	if (jute_reply_decode(data, size, &reply))
		while (jute_multi_reply_next(&reply.body, &op, &path))
			;
	return 0;
}
