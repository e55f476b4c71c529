#include "mesh/pb.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "envoy/discovery.pb-c.h"
#include "google/struct.pb-c.h"
#include "istio/workload.pb-c.h"
#include "lib/unit.h"

static const ProtobufCMessageDescriptor *const VALUE = &google__protobuf__value__descriptor;

/* A ListValue in a Value in a ListValue ... : two messages a level. */
static size_t nest(uint8_t *bytes, size_t size, unsigned levels)
{
	size_t len = 0;

	for (unsigned i = 0; i < levels; i++) {
		uint8_t head[16];
		size_t n = 0;
		size_t tags[2] = { 0x0a, 0x32 };	/* ListValue.values, Value.list_value */

		for (int k = 0; k < 2; k++) {
			size_t l = len;

			n = 0;
			head[n++] = (uint8_t)tags[k];
			do
				head[n++] = (uint8_t)((l & 0x7f) | (l > 0x7f ? 0x80 : 0));
			while (l >>= 7);
			assert_true(len + n <= size);
			memmove(bytes + n, bytes, len);
			memcpy(bytes, head, n);
			len += n;
		}
	}
	return len;
}

static void what_is_packed_is_unpacked(void **state)
{
	Istio__Workload__Workload w = ISTIO__WORKLOAD__WORKLOAD__INIT;
	ProtobufCMessage *m;
	uint8_t *bytes;
	size_t len;

	(void)state;
	w.uid = (char[]){ "u" };
	w.native_tunnel = 1;
	assert_int_equal(pb_pack(&w.base, &bytes, &len), 0);
	/* 20: uid and 14: native_tunnel, of the public definition */
	assert_int_equal(len, 6);
	assert_memory_equal(bytes, "\x70\x01\xa2\x01\x01u", 6);
	assert_int_equal(pb_unpack(&istio__workload__workload__descriptor, bytes, len, 0, &m), 0);
	assert_string_equal(((Istio__Workload__Workload *)(void *)m)->uid, "u");
	pb_free(m);
	free(bytes);
}

struct held {
	size_t bytes, pieces;
};

static void *held_alloc(void *data, size_t size)
{
	struct held *h = data;
	void *p = malloc(size);

	assert_non_null(p);
	h->bytes += malloc_usable_size(p);
	h->pieces++;
	return p;
}

static void held_free(void *data, void *p)
{
	struct held *h = data;

	if (!p)
		return;
	h->bytes -= malloc_usable_size(p);
	h->pieces--;
	free(p);
}

/* @message, decoded anew: what is said of it is what its pieces take, each with malloc()'s word and rounding. */
static void assert_memory(const ProtobufCMessage *message, size_t least)
{
	struct held held = {};
	ProtobufCAllocator allocator = { held_alloc, held_free, &held };
	ProtobufCMessage *m;
	uint8_t *bytes;
	size_t len;

	assert_int_equal(pb_pack(message, &bytes, &len), 0);
	m = protobuf_c_message_unpack(message->descriptor, &allocator, len, bytes);
	assert_non_null(m);
	assert_in_range(pb_memory(m), held.bytes, held.bytes + 32 * held.pieces);
	assert_true(held.bytes >= least * len);
	protobuf_c_message_free_unpacked(m, &allocator);
	assert_int_equal(held.pieces, 0);
	free(bytes);
}

static void the_memory_of_a_message_is_known(void **state)
{
	enum { MANY = 200 };
	static Istio__Workload__Workload w = ISTIO__WORKLOAD__WORKLOAD__INIT;
	static Istio__Workload__Workload__ServicesEntry entries[MANY], *services[MANY];
	static Istio__Workload__PortList lists[MANY];
	static Istio__Workload__Port ports[MANY], *some[MANY];
	ProtobufCBinaryData addresses[2] = { { 4, (uint8_t[]){ 10, 0, 0, 1 } }, { 16, (uint8_t[16]){ 1 } } };

	(void)state;
	assert_memory(&w.base, 0);
	for (int i = 0; i < MANY; i++) {
		istio__workload__port__init(&ports[i]);
		some[i] = &ports[i];
		istio__workload__port_list__init(&lists[i]);
		istio__workload__workload__services_entry__init(&entries[i]);
		services[i] = &entries[i];
	}
	w.services = services;
	w.n_services = MANY;
	assert_memory(&w.base, 14);		/* empty ones: two bytes each */
	for (int i = 0; i < MANY; i++) {
		lists[i].ports = some;
		lists[i].n_ports = i % 3;
		entries[i].key = (char[]){ "shop/orders.shop.svc.cluster.local" };
		entries[i].value = &lists[i];
	}
	w.uid = (char[]){ "vm" };
	w.addresses = addresses;
	w.n_addresses = 2;
	assert_memory(&w.base, 2);
}

static void nesting_has_a_limit(void **state)
{
	uint8_t bytes[4096] = {};
	ProtobufCMessage *m;

	(void)state;
	assert_int_equal(pb_unpack(VALUE, bytes, nest(bytes, sizeof(bytes), PB_DEPTH_MAX / 2), 0, &m), 0);
	pb_free(m);
	assert_int_equal(pb_unpack(VALUE, bytes, nest(bytes, sizeof(bytes), PB_DEPTH_MAX / 2 + 1), 0, &m), -E2BIG);
	assert_int_equal(pb_unpack(VALUE, bytes, nest(bytes, sizeof(bytes), 500), 0, &m), -E2BIG);
}

static void memory_has_a_limit(void **state)
{
	static uint8_t bytes[200000];
	ProtobufCMessage *m;

	(void)state;
	for (size_t i = 0; i < sizeof(bytes); i += 2)
		bytes[i] = 0x12;	/* resources: empty ones, 2 bytes each */
	assert_int_equal(pb_unpack(&envoy__service__discovery__v3__delta_discovery_response__descriptor, bytes, sizeof(bytes), 0, &m), -E2BIG);
	assert_int_equal(pb_unpack(&envoy__service__discovery__v3__delta_discovery_response__descriptor, bytes, sizeof(bytes), 64 << 20, &m), 0);
	pb_free(m);
}

static void truncated_messages_are_refused(void **state)
{
	static const uint8_t bytes[] = { 0x0a, 0x05, 0x0a, 0x03, 'a', 'b', 'c' };	/* Address.workload.name */
	ProtobufCMessage *m;

	(void)state;
	assert_int_equal(pb_unpack(&istio__workload__address__descriptor, bytes, sizeof(bytes), 0, &m), 0);
	pb_free(m);
	assert_int_equal(pb_unpack(&istio__workload__address__descriptor, NULL, 0, 0, &m), 0);	/* an empty message is one */
	pb_free(m);
	for (size_t n = 1; n < sizeof(bytes); n++)
		assert_int_equal(pb_unpack(&istio__workload__address__descriptor, bytes, n, 0, &m), -EBADMSG);
}

static void wrong_lengths_and_groups_are_refused(void **state)
{
	static const struct { uint8_t bytes[12]; size_t len; } bad[] = {
		{ { 0x0a, 0x06, 0x0a, 0x03, 'a', 'b', 'c' }, 7 }, { { 0x0a, 0x05, 0x0a, 0x04, 'a', 'b', 'c' }, 7 },
		{ { 0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01 }, 11 }, { { 0x0b, 0x0c }, 2 }, { { 0x80 }, 1 },
		{ { 0x80, 0x00, 0x5b }, 3 }, { { 0x80, 0x80, 0x80, 0x80, 0x10, 0x00 }, 6 },	/* field 0, field 2^29 */
	};
	ProtobufCMessage *m;

	(void)state;
	for (size_t i = 0; i < ELEMENTS(bad); i++)
		assert_int_equal(pb_unpack(&istio__workload__address__descriptor, bad[i].bytes, bad[i].len, 0, &m), -EBADMSG);
}

static void what_is_not_known_can_be_forgotten(void **state)
{
	/* a Value, its ListValue, and the bool in that, each with a field 15 that nobody has defined */
	static const uint8_t bytes[] = { 0x78, 1, 0x32, 8, 0x78, 3, 0x0a, 4, 0x78, 2, 0x20, 1 };
	static const uint8_t known[] = { 0x32, 4, 0x0a, 2, 0x20, 1 };
	ProtobufCMessage *m;
	uint8_t *packed;
	size_t len;

	(void)state;
	assert_int_equal(pb_unpack(VALUE, bytes, sizeof(bytes), 0, &m), 0);
	pb_drop_unknown(m);
	assert_int_equal(pb_pack(m, &packed, &len), 0);
	assert_int_equal(len, sizeof(known));
	assert_memory_equal(packed, known, len);
	free(packed);
	pb_free(m);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_packed_is_unpacked),
		cmocka_unit_test(the_memory_of_a_message_is_known),
		cmocka_unit_test(nesting_has_a_limit),
		cmocka_unit_test(memory_has_a_limit),
		cmocka_unit_test(truncated_messages_are_refused),
		cmocka_unit_test(wrong_lengths_and_groups_are_refused),
		cmocka_unit_test(what_is_not_known_can_be_forgotten),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
