#include "lib/unit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mesh/pb.h"
#include "mesh/revocation.h"
#include "outrigger/revocation.pb-c.h"

enum { NOW = 1000, MAX_ROWS = 8 };

struct row {
	struct revocation_origin origin;
	int64_t until;
	size_t len;		/* 0: as it should be */
};

static uint8_t *encode(const struct row *rows, size_t n, size_t *ret_len)
{
	Outrigger__V1__Revocations m = OUTRIGGER__V1__REVOCATIONS__INIT;
	Outrigger__V1__Revocation v[MAX_ROWS], *list[MAX_ROWS];
	uint8_t *bytes;

	assert_true(n <= MAX_ROWS);
	for (size_t i = 0; i < n; i++) {
		outrigger__v1__revocation__init(&v[i]);
		v[i].origin = (ProtobufCBinaryData){ rows[i].len ? rows[i].len : REVOCATION_ORIGIN_LEN, (uint8_t *)(uintptr_t)rows[i].origin.b };
		v[i].until = rows[i].until;
		list[i] = &v[i];
	}
	m.revoked = list;
	m.n_revoked = n;
	assert_int_equal(pb_pack(&m.base, &bytes, ret_len), 0);
	return bytes;
}

/* Gives @old's reference away. */
static struct revocations *merged(struct revocations *old, const struct row *rows, size_t n, int64_t now)
{
	struct revocations *list = NULL;
	struct diag d = {};
	size_t len;
	uint8_t *bytes = encode(rows, n, &len);

	assert_int_equal(revocations_merge(old, bytes, len, now, &list, &d), 0);
	revocations_unref(old);
	free(bytes);
	return list;
}

static bool is_revoked(const struct revocations *list, const struct revocation_origin *origin)
{
	uint8_t serial[REVOCATION_SERIAL_LEN];

	assert_int_equal(revocation_serial(origin, serial), 0);
	return revocations_has(list, serial, sizeof(serial));
}

static void a_serial_tells_its_nics_enrolment_and_nothing_else(void **state)
{
	struct revocation_origin a = revocation_origin_of_nic("nic-a", 5), got;
	struct revocation_origin later = revocation_origin_of_nic("nic-a", 6), other = revocation_origin_of_nic("nic-b", 5);
	uint8_t one[REVOCATION_SERIAL_LEN], two[REVOCATION_SERIAL_LEN];

	(void)state;
	assert_memory_not_equal(a.b, later.b, sizeof(a.b));
	assert_memory_not_equal(a.b, other.b, sizeof(a.b));
	assert_int_equal(revocation_serial(&a, one), 0);
	assert_int_equal(revocation_serial(&a, two), 0);
	assert_memory_not_equal(one, two, sizeof(one));
	assert_true(revocation_origin_of_serial(one, sizeof(one), &got));
	assert_memory_equal(got.b, a.b, sizeof(a.b));
	assert_false(revocation_origin_of_serial(one, sizeof(one) - 1, &got));
	assert_false(revocation_origin_of_serial(one, 0, &got));
}

static void other_serials_are_of_no_nic(void **state)
{
	uint8_t serial[REVOCATION_SERIAL_LEN];
	struct revocation_origin got;

	(void)state;
	for (int i = 0; i < 1000; i++) {
		assert_int_equal(revocation_serial(NULL, serial), 0);
		assert_false(revocation_origin_of_serial(serial, sizeof(serial), &got));
		assert_true(serial[0] > 0 && serial[0] < 0x80);		/* positive, and 20 bytes long */
	}
}

static void what_is_listed_is_revoked(void **state)
{
	struct revocation_origin a = revocation_origin_of_nic("a", 1), b = revocation_origin_of_nic("b", 1), c = revocation_origin_of_nic("c", 1);
	const struct row rows[] = { { a, NOW + 10 }, { c, NOW + 20 } };
	struct revocations *list = merged(NULL, rows, 2, NOW);

	(void)state;
	assert_int_equal(revocations_n(list), 2);
	assert_true(is_revoked(list, &a));
	assert_false(is_revoked(list, &b));
	assert_true(is_revoked(list, &c));
	assert_false(is_revoked(list, NULL));
	assert_false(is_revoked(NULL, &a));
	revocations_unref(list);
}

static void an_older_list_takes_nothing_back(void **state)
{
	struct revocation_origin a = revocation_origin_of_nic("a", 1), b = revocation_origin_of_nic("b", 1);
	const struct row both[] = { { a, NOW + 10 }, { b, NOW + 20 } }, shorter[] = { { b, NOW + 5 } };
	struct revocations *list = merged(NULL, both, 2, NOW), *before = list;

	(void)state;
	list = merged(list, shorter, 1, NOW);
	assert_ptr_equal(list, before);		/* nothing is new */
	list = merged(list, shorter, 0, NOW + 6);
	assert_true(is_revoked(list, &a) && is_revoked(list, &b));
	list = merged(list, shorter, 0, NOW + 10);
	assert_false(is_revoked(list, &a));	/* its certificates have expired */
	assert_true(is_revoked(list, &b));
	list = merged(list, both, 2, NOW + 30);
	assert_int_equal(revocations_n(list), 0);
	revocations_unref(list);
}

static void what_is_malformed_is_refused_whole(void **state)
{
	struct revocation_origin a = revocation_origin_of_nic("a", 1);
	const struct row rows[] = { { a, NOW + 10 }, { a, NOW + 10, .len = REVOCATION_ORIGIN_LEN - 1 } };
	struct revocations *list = NULL;
	struct diag d = {};
	size_t len;
	uint8_t *bytes = encode(rows, 2, &len);

	(void)state;
	assert_int_equal(revocations_merge(NULL, bytes, len, NOW, &list, &d), -EBADMSG);
	assert_non_null(strstr(d.msg, "origin of 7 bytes"));
	assert_null(list);
	free(bytes);

	bytes = encode(rows, 1, &len);
	for (size_t i = 1; i < len; i++) {
		int r = revocations_merge(NULL, bytes, i, NOW, &list, &d);

		assert_true(r == -EBADMSG || (r == 0 && !revocations_n(list)));
		list = revocations_unref(list);
	}
	free(bytes);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_serial_tells_its_nics_enrolment_and_nothing_else),
		cmocka_unit_test(other_serials_are_of_no_nic),
		cmocka_unit_test(what_is_listed_is_revoked),
		cmocka_unit_test(an_older_list_takes_nothing_back),
		cmocka_unit_test(what_is_malformed_is_refused_whole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
