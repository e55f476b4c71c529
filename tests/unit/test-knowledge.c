#include "lib/unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/alloc.h"
#include "mesh/model.h"
#include "proxy/knowledge.h"
#include "proxy/state_file.h"

struct rig {
	struct loop *loop;
	struct knowledge *k;
	unsigned n_changed;
};

static void changed(void *data)
{
	((struct rig *)data)->n_changed++;
}

static int setup(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));

	assert_int_equal(loop_new(&r->loop), 0);
	assert_int_equal(knowledge_new(r->loop, "", changed, r, &r->k), 0);
	*state = r;
	return 0;
}

static int teardown(void **state)
{
	struct rig *r = *state;

	knowledge_free(r->k);
	loop_free(r->loop);
	free(r);
	return 0;
}

static struct bytes workload(const char *uid, const char *ip, bool unhealthy)
{
	struct workload w = {
		.uid = uid, .name = uid, .namespace = "shop", .network = "", .trust_domain = "td", .service_account = "web",
		.n_addresses = 1, .capacity = 1, .unhealthy = unhealthy,
	};
	struct bytes out;
	struct ip addr;

	assert_int_equal(ip_parse(ip, &addr), 0);
	w.addresses = &addr;
	bytes_init(&out, 65536);
	assert_int_equal(workload_encode(&w, &out), 0);
	return out;
}

static int put(struct rig *r, uint32_t holder, const char *uid, const char *ip, bool unhealthy, struct diag *d)
{
	struct bytes wire = workload(uid, ip, unhealthy);
	int result = knowledge_put(r->k, holder, KNOWLEDGE_ADDRESS, uid, "v1", wire.data, wire.len, d);

	bytes_deinit(&wire);
	return result;
}

static bool there(const struct rig *r, const char *uid)
{
	return snapshot_workload(knowledge_snapshot(r->k), uid) != NULL;
}

static void a_resource_stays_while_somebody_holds_it(void **state)
{
	struct rig *r = *state;
	struct diag d;

	assert_int_equal(put(r, 1, "a", "10.0.0.1", false, &d), 0);
	assert_int_equal(put(r, 2, "a", "10.0.0.1", false, &d), 0);
	knowledge_gone(r->k, 1, KNOWLEDGE_ADDRESS, "a");
	assert_true(there(r, "a"));
	knowledge_gone(r->k, 1, KNOWLEDGE_ADDRESS, "a");	/* twice is once */
	assert_true(there(r, "a"));
	knowledge_gone(r->k, 2, KNOWLEDGE_ADDRESS, "a");
	assert_false(there(r, "a"));
	assert_int_equal(knowledge_n(r->k), 0);
}

static void a_vm_that_goes_lets_go_of_all_it_held(void **state)
{
	struct rig *r = *state;
	struct diag d;

	assert_int_equal(put(r, 1, "a", "10.0.0.1", false, &d), 0);
	assert_int_equal(put(r, 1, "b", "10.0.0.2", false, &d), 0);
	assert_int_equal(put(r, 2, "b", "10.0.0.2", false, &d), 0);
	knowledge_drop(r->k, 1);
	assert_false(there(r, "a"));
	assert_true(there(r, "b"));
}

static void all_changes_of_a_turn_are_told_once(void **state)
{
	struct rig *r = *state;
	struct diag d;

	assert_int_equal(put(r, 1, "a", "10.0.0.1", false, &d), 0);
	assert_int_equal(put(r, 1, "b", "10.0.0.2", false, &d), 0);
	assert_int_equal(r->n_changed, 0);
	assert_int_equal(loop_turn(r->loop, 0), 0);
	assert_int_equal(r->n_changed, 1);
	assert_int_equal(put(r, 2, "b", "10.0.0.2", false, &d), 0);	/* nothing new */
	assert_int_equal(loop_turn(r->loop, 0), 0);
	assert_int_equal(r->n_changed, 1);
}

static void a_bad_resource_is_refused_and_the_last_good_one_stays(void **state)
{
	struct rig *r = *state;
	struct diag d = {};

	assert_int_equal(put(r, 1, "a", "10.0.0.1", false, &d), 0);
	assert_int_equal(knowledge_put(r->k, 1, KNOWLEDGE_ADDRESS, "a", "v2", (const uint8_t *)"\xff", 1, &d), -EINVAL);
	assert_int_not_equal(*d.msg, 0);
	assert_true(there(r, "a"));
	assert_int_equal(knowledge_put(r->k, 1, KNOWLEDGE_POLICY, "n/p", "v2", (const uint8_t *)"\xff", 1, &d), -EINVAL);
	assert_int_equal(knowledge_n(r->k), 1);
}

static void a_name_may_come_to_mean_another_thing(void **state)
{
	struct rig *r = *state;
	struct bytes wire = workload("b", "10.0.0.2", false);
	struct diag d;

	assert_int_equal(put(r, 1, "a", "10.0.0.1", false, &d), 0);
	assert_int_equal(knowledge_put(r->k, 1, KNOWLEDGE_ADDRESS, "a", "v2", wire.data, wire.len, &d), 0);
	assert_false(there(r, "a"));
	assert_true(there(r, "b"));
	bytes_deinit(&wire);
}

static void without_memory_it_is_tried_again(void **state)
{
	struct rig *r = *state;
	struct diag d;

	for (size_t n = 1; ; n++) {
		struct bytes wire = workload("a", "10.0.0.1", n % 2);

		alloc_fail_once_at(n);
		int result = knowledge_put(r->k, 1, KNOWLEDGE_ADDRESS, "a", "v", wire.data, wire.len, &d);
		size_t used = alloc_fail_stop();
		bytes_deinit(&wire);
		assert_true(result == 0 || result == -ENOMEM);
		if (result == 0 && used >= n && knowledge_n(r->k)) {
			/* Taken, perhaps not published yet: time brings it. */
			for (int i = 0; i < 40 && (!there(r, "a") || snapshot_workload(knowledge_snapshot(r->k), "a")->healthy == n % 2); i++)
				assert_int_equal(loop_turn(r->loop, 100), 0);
			assert_true(there(r, "a"));
		}
		if (used < n)
			break;
	}
}

static void what_is_saved_is_loaded_again(void **state)
{
	struct rig *r = *state;
	struct rig *other;
	struct bytes file;
	struct diag d = {};

	assert_int_equal(put(r, 1, "a", "10.0.0.1", false, &d), 0);
	assert_int_equal(put(r, 1, "b", "10.0.0.2", true, &d), 0);
	bytes_init(&file, 1 << 20);
	assert_int_equal(knowledge_save(r->k, &file), 0);

	assert_int_equal(setup((void **)&other), 0);
	assert_int_equal(knowledge_load(other->k, file.data, file.len, &d), 0);
	assert_true(there(other, "a"));
	assert_true(there(other, "b"));
	assert_int_equal(put(other, 1, "a", "10.0.0.1", false, &d), 0);
	knowledge_drop(other->k, KNOWLEDGE_RESTORED);
	assert_true(there(other, "a"));
	assert_false(there(other, "b"));

	for (size_t len = 0; len < file.len; len++) {		/* cut off anywhere */
		int result = knowledge_load(other->k, file.data, len, &d);

		assert_true(result == 0 || result == -EINVAL);
	}
	teardown((void **)&other);
	bytes_deinit(&file);
}

static void a_state_file_of_another_version_is_refused_by_name(void **state)
{
	static const uint8_t next[] = "\x0a\x17outrigger-proxy state 2";
	struct rig *r = *state;
	struct diag d = {};

	assert_int_equal(knowledge_load(r->k, next, sizeof(next) - 1, &d), -EINVAL);
	assert_non_null(strstr(d.msg, "outrigger-proxy state 2"));
}

static void the_file_is_replaced_whole_and_only_when_something_changed(void **state)
{
	struct rig *r = *state;
	char dir[] = "/tmp/test-knowledge-XXXXXX";
	char path[64];
	struct state_file f = {}, g = {};
	struct stat first, second;
	struct diag d = {};
	struct rig *other;

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/g.mesh", dir);
	assert_int_equal(state_file_open(&f, dir, "g", r->k, &d), 0);
	assert_int_equal(put(r, 1, "a", "10.0.0.1", false, &d), 0);
	assert_int_equal(state_file_save(&f, r->k, &d), 0);
	assert_int_equal(stat(path, &first), 0);
	assert_int_equal(first.st_mode & 0777, 0600);
	assert_int_equal(state_file_save(&f, r->k, &d), 0);
	assert_int_equal(stat(path, &second), 0);
	assert_int_equal(first.st_ino, second.st_ino);

	assert_int_equal(setup((void **)&other), 0);
	assert_int_equal(state_file_open(&g, dir, "g", other->k, &d), 0);
	assert_true(there(other, "a"));
	teardown((void **)&other);
	unlink(path);
	rmdir(dir);
	assert_int_equal(put(r, 1, "b", "10.0.0.2", false, &d), 0);
	assert_true(state_file_save(&f, r->k, &d) < 0);		/* the folder is gone */
	assert_non_null(strstr(d.msg, "g.mesh"));
	state_file_close(&f);
	state_file_close(&g);
}

#define RIGGED(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		RIGGED(a_resource_stays_while_somebody_holds_it),
		RIGGED(a_vm_that_goes_lets_go_of_all_it_held),
		RIGGED(all_changes_of_a_turn_are_told_once),
		RIGGED(a_bad_resource_is_refused_and_the_last_good_one_stays),
		RIGGED(a_name_may_come_to_mean_another_thing),
		RIGGED(without_memory_it_is_tried_again),
		RIGGED(what_is_saved_is_loaded_again),
		RIGGED(a_state_file_of_another_version_is_refused_by_name),
		RIGGED(the_file_is_replaced_whole_and_only_when_something_changed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
