#include "lib/unit.h"

#include <errno.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/loop.h"
#include "control/join_token.h"
#include "control/store.h"
#include "control/vip.h"
#include "lib/registrybed.h"

static char dir[64];
static struct store *store;

static int setup(void **state)
{
	struct diag d = {};

	(void)state;
	snprintf(dir, sizeof(dir), "/tmp/store-XXXXXX");
	assert_non_null(mkdtemp(dir));
	assert_int_equal(store_open(dir, &store, &d), 0);
	return 0;
}

static int teardown(void **state)
{
	static const char *const names[] = { "controller.db", "controller.db-wal", "controller.db-shm", "controller.db-journal" };
	char path[128];

	(void)state;
	store_close(store);
	for (size_t i = 0; i < ELEMENTS(names); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		unlink(path);
	}
	return rmdir(dir);
}

static void reopen(void)
{
	struct diag d = {};

	store_close(store);
	assert_int_equal(store_open(dir, &store, &d), 0);
}

static void a_nic_is_kept_over_a_restart(void **state)
{
	struct store_nic n = { .id = "a", .fingerprint = { 1, 2 }, .previous = { 3 }, .enrolled_at = 4, .renewed_at = 5, .not_after = 6,
			       .revoked_at = 7, .revoke_reason = "why", .hostname = "h", .software = "s" };
	struct store_nic got;

	(void)state;
	assert_int_equal(store_nic_get(store, "a", &got), -ENOENT);
	assert_int_equal(store_nic_put(store, &n), 0);
	reopen();
	assert_int_equal(store_nic_get(store, "a", &got), 0);
	assert_memory_equal(got.fingerprint, n.fingerprint, sizeof(n.fingerprint));
	assert_memory_equal(got.previous, n.previous, sizeof(n.previous));
	assert_string_equal(got.revoke_reason, "why");
	assert_int_equal(got.revoked_at, 7);
	n.revoked_at = 0;
	assert_int_equal(store_nic_put(store, &n), 0);
	assert_int_equal(store_nic_get(store, "a", &got), 0);
	assert_int_equal(got.revoked_at, 0);
}

/* Which of its certificates a NIC has called with: what it was given meanwhile is another. */
static void a_nics_use_is_of_one_certificate(void **state)
{
	struct store_nic n = { .id = "a", .fingerprint = { 1 } }, got;
	uint8_t first[STORE_HASH_LEN] = { 1 };

	(void)state;
	assert_int_equal(store_nic_put(store, &n), 0);
	assert_int_equal(store_nic_get(store, "a", &got), 0);
	assert_false(got.used);
	assert_int_equal(store_nic_used(store, "a", first), 0);
	reopen();
	assert_int_equal(store_nic_get(store, "a", &got), 0);
	assert_true(got.used);
	memcpy(got.previous, got.fingerprint, sizeof(got.previous));
	got.fingerprint[0] = 2;
	assert_int_equal(store_nic_put(store, &got), 0);
	assert_int_equal(store_nic_get(store, "a", &got), 0);
	assert_false(got.used);
}

static void a_transaction_that_is_undone_leaves_nothing(void **state)
{
	struct store_nic n = { .id = "a" }, got;

	(void)state;
	assert_int_equal(store_begin(store), 0);
	assert_int_equal(store_nic_put(store, &n), 0);
	assert_int_equal(store_rollback(store), 0);
	assert_int_equal(store_nic_get(store, "a", &got), -ENOENT);
	assert_int_equal(store_begin(store), 0);
	assert_int_equal(store_nic_put(store, &n), 0);
	assert_int_equal(store_commit(store), 0);
	assert_int_equal(store_nic_get(store, "a", &got), 0);
}

static void count_cert(const struct store_cert *c, void *data)
{
	assert_string_equal(c->subject, "who");
	++*(int *)data;
}

static void expired_certificates_are_forgotten(void **state)
{
	struct store_cert c = { .serial = "1", .subject = "who", .issued_at = 1, .not_after = 100 };
	int n = 0;

	(void)state;
	for (int i = 0; i < 5; i++, c.not_after += 100)
		assert_int_equal(store_cert_add(store, &c), 0);
	assert_int_equal(store_cert_prune(store, 250), 0);
	assert_int_equal(store_cert_each(store, 100, count_cert, &n), 0);
	assert_int_equal(n, 3);
}

static void take_guest(const char *id, const char *nic, const void *bytes, size_t len, void *data)
{
	snprintf(data, 64, "%s %s %.*s", id, nic, (int)len, (const char *)bytes);
}

static void count_revoked(const uint8_t origin[static STORE_ORIGIN_LEN], int64_t until, void *data)
{
	assert_int_equal(origin[0], 'o');
	*(int64_t *)data += until;
}

static void a_revocation_is_kept_until_it_is_over(void **state)
{
	int64_t sum = 0;

	(void)state;
	assert_int_equal(store_revoked_add(store, (const uint8_t *)"origin 1", 200), 0);
	assert_int_equal(store_revoked_add(store, (const uint8_t *)"origin 2", 300), 0);
	assert_int_equal(store_revoked_add(store, (const uint8_t *)"origin 2", 400), 0);
	reopen();
	assert_int_equal(store_revoked_each(store, count_revoked, &sum), 0);
	assert_int_equal(sum, 600);
	assert_int_equal(store_cert_prune(store, 250), 0);
	sum = 0;
	assert_int_equal(store_revoked_each(store, count_revoked, &sum), 0);
	assert_int_equal(sum, 400);
}

/* As a version that knew no revocations left it. */
static void an_older_database_gets_what_it_lacks(void **state)
{
	struct diag d = {};
	char path[128];
	sqlite3 *db;

	(void)state;
	store = store_close(store);
	snprintf(path, sizeof(path), "%s/controller.db", dir);
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, "DROP TABLE revoked", NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
	assert_int_equal(store_open(dir, &store, &d), 0);
	assert_int_equal(store_revoked_add(store, (const uint8_t *)"origin 1", 200), 0);
}

static void guests_come_and_go(void **state)
{
	char got[64] = "";

	(void)state;
	assert_int_equal(store_guest_put(store, "n/g", "n", "abc", 3), 0);
	assert_int_equal(store_guest_put(store, "n/g", "n", "abcd", 4), 0);
	reopen();
	assert_int_equal(store_guest_each(store, take_guest, got), 0);
	assert_string_equal(got, "n/g n abcd");
	assert_int_equal(store_guest_remove(store, "n/g"), 0);
	got[0] = 0;
	assert_int_equal(store_guest_each(store, take_guest, got), 0);
	assert_string_equal(got, "");
}

static void change_schema(const char *sql)
{
	char path[128];
	sqlite3 *db;

	store = store_close(store);
	snprintf(path, sizeof(path), "%s/controller.db", dir);
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
}

static void a_database_of_somebody_else_is_refused(void **state)
{
	struct diag d = {};

	(void)state;
	change_schema("UPDATE meta SET value = 2");
	assert_int_equal(store_open(dir, &store, &d), -EINVAL);
	assert_non_null(strstr(d.msg, "schema version 2"));
	change_schema("DELETE FROM meta");
	assert_int_equal(store_open(dir, &store, &d), -EINVAL);
	assert_non_null(strstr(d.msg, "not a database of outrigger-controller"));
	change_schema("DROP TABLE meta");
	assert_int_equal(store_open(dir, &store, &d), -EINVAL);
	assert_non_null(strstr(d.msg, "not a database of outrigger-controller"));
}

static void a_damaged_file_is_refused(void **state)
{
	struct diag d = {};
	char path[128];

	(void)state;
	store = store_close(store);
	snprintf(path, sizeof(path), "%s/controller.db", dir);
	FILE *f = fopen(path, "w");
	for (int i = 0; i < 1000; i++)
		fputs("nonsense", f);
	fclose(f);
	assert_int_equal(store_open(dir, &store, &d), -EINVAL);
	assert_string_equal(d.file, path);
}

static void a_second_process_is_refused(void **state)
{
	struct store *second;
	struct diag d = {};

	(void)state;
	assert_int_equal(store_open(dir, &second, &d), -EINVAL);
	assert_non_null(strstr(d.msg, "in use by another process"));
}

/* No write may be larger than what is there: as on a disk that is full. */
static void a_write_that_fails_is_an_error_and_changes_nothing(void **state)
{
	struct rlimit before, small = { .rlim_cur = 4096, .rlim_max = RLIM_INFINITY };
	struct store_nic n = { .id = "a" }, got;

	(void)state;
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
	small.rlim_max = before.rlim_max;
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	int r = store_nic_put(store, &n);
	int begun = store_begin(store);
	int put = begun < 0 ? begun : store_nic_put(store, &n);
	int committed = begun < 0 ? begun : store_commit(store);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
	assert_true(r == -EIO || r == -ENOSPC);
	assert_true(put < 0 || committed < 0);
	assert_true(strlen(store_error(store)) > 0);
	assert_int_equal(store_nic_get(store, "a", &got), -ENOENT);
	assert_int_equal(store_nic_put(store, &n), 0);
	assert_int_equal(store_nic_get(store, "a", &got), 0);
}

/* --- the registry's guests in it --- */

static struct reg_guest *come(struct registry_bed *bed, unsigned number)
{
	Outrigger__V1__Report r = OUTRIGGER__V1__REPORT__INIT;
	Outrigger__V1__Guest g = OUTRIGGER__V1__GUEST__INIT;
	char id[32];

	snprintf(id, sizeof(id), "nic-a/tap%u/x", number);
	g.guest_id = id;
	r.msg_case = OUTRIGGER__V1__REPORT__MSG_GUEST;
	r.guest = &g;
	assert_int_equal(registry_bed_report(bed->nic, &r, NULL), 0);
	return registry_guest(bed->reg, id);
}

static size_t waiting(const struct registry *reg)
{
	size_t n = 0;

	list_for_each(l, &reg->dropped)
		n++;
	return n;
}

static void count_row(const char *id, const char *nic, const void *bytes, size_t len, void *data)
{
	(void)id;
	(void)nic;
	(void)bytes;
	(void)len;
	++*(size_t *)data;
}

static size_t rows(void)
{
	size_t n = 0;

	assert_int_equal(store_guest_each(store, count_row, &n), 0);
	return n;
}

/* Guests that nobody has written need not be removed: those that flap on a full disk would be remembered without end. */
static void what_waits_for_a_full_disk_is_bounded_by_what_is_there(void **state)
{
	struct registry_bed bed = { .store = store };
	struct rlimit before, small = { .rlim_cur = 4096 };

	(void)state;
	registry_bed_init(&bed, "trust_domain: t.mesh\n");
	struct reg_guest *kept = come(&bed, 0), *old = come(&bed, 1);
	reg_store_flush(bed.reg);
	assert_int_equal(rows(), 2);

	assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
	small.rlim_max = before.rlim_max;
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	registry_guest_remove(old);
	for (unsigned i = 2; i < 50; i++) {
		struct reg_guest *g = come(&bed, i);

		reg_store_flush(bed.reg);
		registry_guest_remove(g);
	}
	int error = bed.reg->last_store_error;
	size_t n = waiting(bed.reg);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
	assert_true(error < 0);
	assert_int_equal(n, 1);
	assert_int_equal(rows(), 2);

	come(&bed, 50);
	reg_store_flush(bed.reg);
	assert_int_equal(bed.reg->last_store_error, 0);
	assert_int_equal(waiting(bed.reg), 0);
	assert_int_equal(rows(), 2);			/* the one that was kept, and the last */
	registry_guest_remove(kept);
	reg_store_flush(bed.reg);
	assert_int_equal(rows(), 1);
	registry_bed_deinit(&bed);
}

/* --- join tokens --- */

static void a_token_is_good_once(void **state)
{
	char token[JOIN_TOKEN_LEN], id[STORE_ID_LEN], why[JOIN_TOKEN_WHY_LEN] = "";
	struct store_token row;

	(void)state;
	assert_int_equal(join_token_create(store, "a", "note", 60, token, &row), 0);
	assert_int_equal(strlen(token), 16 + 1 + 43);
	assert_int_equal(join_token_check(store, token, "a", id, why), 0);
	assert_string_equal(id, row.id);
	assert_int_equal(join_token_check(store, token, "b", id, why), JOIN_TOKEN_E_OTHER_NIC);
	assert_int_equal(store_token_use(store, id, "a", clock_wall_s()), 0);
	assert_int_equal(store_token_use(store, id, "a", clock_wall_s()), -EALREADY);
	reopen();
	assert_int_equal(join_token_check(store, token, "a", id, why), JOIN_TOKEN_E_USED);
	assert_non_null(strstr(why, "by NIC 'a'"));
}

static void wrong_tokens_are_told_apart_only_when_the_secret_is_right(void **state)
{
	char token[JOIN_TOKEN_LEN], id[STORE_ID_LEN], why[JOIN_TOKEN_WHY_LEN] = "";
	struct store_token row;

	(void)state;
	assert_int_equal(join_token_create(store, "", "", -5, token, &row), 0);
	assert_int_equal(join_token_check(store, token, "x", id, why), JOIN_TOKEN_E_EXPIRED);
	assert_int_equal(store_token_revoke(store, row.id, clock_wall_s()), 0);
	assert_int_equal(join_token_check(store, token, "x", id, why), JOIN_TOKEN_E_REVOKED);
	for (size_t i = 0; token[i]; i++) {
		char wrong[JOIN_TOKEN_LEN];

		memcpy(wrong, token, sizeof(wrong));
		wrong[i] = wrong[i] == 'x' ? 'y' : 'x';
		assert_int_equal(join_token_check(store, wrong, "x", id, why), JOIN_TOKEN_E_UNKNOWN);
		memcpy(wrong, token, sizeof(wrong));
		wrong[i] = 0;
		assert_int_equal(join_token_check(store, wrong, "x", id, why), JOIN_TOKEN_E_UNKNOWN);
	}
	assert_int_equal(store_token_revoke(store, "none", 1), -ENOENT);
}

/* --- virtual addresses --- */

static void a_service_keeps_its_address(void **state)
{
	struct ip_prefix prefix;
	struct ip first[50], again;
	struct vips v;
	bool stored;
	char key[32];

	(void)state;
	assert_int_equal(ip_prefix_parse("10.99.0.0/26", &prefix), 0);
	assert_int_equal(vips_init(&v, &prefix, store), 0);
	for (int i = 0; i < 50; i++) {
		snprintf(key, sizeof(key), "ns/host%d", i);
		assert_int_equal(vips_get(&v, key, &first[i], &stored), 0);
		assert_true(stored && ip_in_prefix(&first[i], &prefix));
		assert_true((first[i].b[15] & 63) != 0 && (first[i].b[15] & 63) != 63);
		for (int k = 0; k < i; k++)
			assert_false(ip_equal(&first[i], &first[k]));
	}
	vips_deinit(&v);
	reopen();
	assert_int_equal(vips_init(&v, &prefix, store), 0);
	for (int i = 49; i >= 0; i--) {
		snprintf(key, sizeof(key), "ns/host%d", i);
		assert_int_equal(vips_get(&v, key, &again, &stored), 0);
		assert_true(ip_equal(&again, &first[i]));
	}
	vips_deinit(&v);
}

static void when_addresses_run_out_it_is_said(void **state)
{
	struct ip_prefix prefix;
	struct ip ip;
	struct vips v;
	bool stored;
	char key[32];

	(void)state;
	assert_int_equal(ip_prefix_parse("fd00::/125", &prefix), 0);
	assert_int_equal(vips_init(&v, &prefix, NULL), 0);
	for (int i = 0; i < 6; i++) {
		snprintf(key, sizeof(key), "ns/host%d", i);
		assert_int_equal(vips_get(&v, key, &ip, &stored), 0);
	}
	assert_int_equal(vips_get(&v, "ns/more", &ip, &stored), -ENOSPC);
	assert_int_equal(vips_get(&v, "ns/host3", &ip, &stored), 0);
	vips_deinit(&v);
}

/* It is there for its return as long as nobody else wants it, also over a restart. */
static void an_address_without_a_service_is_given_to_the_next(void **state)
{
	struct ip_prefix prefix;
	struct ip ip, first, again;
	struct vips v;
	bool stored;
	char key[32];

	(void)state;
	assert_int_equal(ip_prefix_parse("10.98.0.0/29", &prefix), 0);
	assert_int_equal(vips_init(&v, &prefix, store), 0);
	assert_int_equal(vips_size(&v), 6);
	for (int i = 0; i < 6; i++) {
		snprintf(key, sizeof(key), "ns/gone%d", i);
		assert_int_equal(vips_get(&v, key, i ? &ip : &first, &stored), 0);
	}
	vips_release(&v, "ns/gone0");
	vips_release(&v, "ns/gone0");
	vips_release(&v, "ns/never");
	assert_int_equal(vips_get(&v, "ns/gone0", &again, &stored), 0);
	assert_true(ip_equal(&first, &again));
	assert_int_equal(vips_get(&v, "ns/new", &ip, &stored), -ENOSPC);
	vips_release(&v, "ns/gone0");
	vips_release(&v, "ns/gone1");
	assert_int_equal(vips_get(&v, "ns/new", &ip, &stored), 0);
	assert_true(ip_equal(&first, &ip) && stored);	/* of the one that had gone first */
	assert_int_equal(vips_get(&v, "ns/gone1", &ip, &stored), 0);
	assert_int_equal(vips_get(&v, "ns/gone0", &ip, &stored), -ENOSPC);
	vips_deinit(&v);
	reopen();
	assert_int_equal(vips_init(&v, &prefix, store), 0);
	assert_int_equal(vips_get(&v, "ns/new", &ip, &stored), 0);
	assert_true(ip_equal(&first, &ip));
	vips_deinit(&v);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_nic_is_kept_over_a_restart, setup, teardown),
		cmocka_unit_test_setup_teardown(a_nics_use_is_of_one_certificate, setup, teardown),
		cmocka_unit_test_setup_teardown(a_transaction_that_is_undone_leaves_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(expired_certificates_are_forgotten, setup, teardown),
		cmocka_unit_test_setup_teardown(a_revocation_is_kept_until_it_is_over, setup, teardown),
		cmocka_unit_test_setup_teardown(an_older_database_gets_what_it_lacks, setup, teardown),
		cmocka_unit_test_setup_teardown(guests_come_and_go, setup, teardown),
		cmocka_unit_test_setup_teardown(a_database_of_somebody_else_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(a_damaged_file_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(a_second_process_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(a_write_that_fails_is_an_error_and_changes_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(what_waits_for_a_full_disk_is_bounded_by_what_is_there, setup, teardown),
		cmocka_unit_test_setup_teardown(a_token_is_good_once, setup, teardown),
		cmocka_unit_test_setup_teardown(wrong_tokens_are_told_apart_only_when_the_secret_is_right, setup, teardown),
		cmocka_unit_test_setup_teardown(a_service_keeps_its_address, setup, teardown),
		cmocka_unit_test_setup_teardown(when_addresses_run_out_it_is_said, setup, teardown),
		cmocka_unit_test_setup_teardown(an_address_without_a_service_is_given_to_the_next, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
