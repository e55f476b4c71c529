#include "lib/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
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
	assert_int_equal(knowledge_new(r->loop, changed, r, &r->k), 0);
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
	int result = knowledge_put(r->k, holder, KNOWLEDGE_ADDRESS, uid, wire.data, wire.len, d);

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
	assert_int_equal(knowledge_put(r->k, 1, KNOWLEDGE_ADDRESS, "a", (const uint8_t *)"\xff", 1, &d), -EINVAL);
	assert_int_not_equal(*d.msg, 0);
	assert_true(there(r, "a"));
	assert_int_equal(knowledge_put(r->k, 1, KNOWLEDGE_POLICY, "n/p", (const uint8_t *)"\xff", 1, &d), -EINVAL);
	assert_int_equal(knowledge_n(r->k), 1);
}

static void a_name_may_come_to_mean_another_thing(void **state)
{
	struct rig *r = *state;
	struct bytes wire = workload("b", "10.0.0.2", false);
	struct diag d;

	assert_int_equal(put(r, 1, "a", "10.0.0.1", false, &d), 0);
	assert_int_equal(knowledge_put(r->k, 1, KNOWLEDGE_ADDRESS, "a", wire.data, wire.len, &d), 0);
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
		int result = knowledge_put(r->k, 1, KNOWLEDGE_ADDRESS, "a", wire.data, wire.len, &d);
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

static void many_hold_one_resource(void **state)
{
	enum { N = 9 };
	struct rig *r = *state;
	struct diag d;

	for (uint32_t again = 0; again < 2; again++)
		for (uint32_t holder = 1; holder <= N; holder++)
			assert_int_equal(put(r, holder, "a", "10.0.0.1", false, &d), 0);
	for (uint32_t holder = N; holder >= 1; holder--) {
		assert_true(there(r, "a"));
		knowledge_gone(r->k, holder, KNOWLEDGE_ADDRESS, "a");
		if (holder == 5)
			assert_int_equal(put(r, N + 1, "a", "10.0.0.1", false, &d), 0);
		if (holder == 3)
			knowledge_drop(r->k, N + 1);
	}
	assert_false(there(r, "a"));
}

/* Services and policies by their bytes, workloads from the snapshot: what a snapshot shows is the same afterwards. */
static struct bytes full_workload(const char *uid, uint16_t target_port)
{
	static struct port_map ports[] = { { 80, 0, APP_HTTP11 }, { 443, 8443, APP_TLS } };
	static const struct workload_service services[] = { { "shop/web.mesh", ports, 2 }, { "shop/bare.mesh", NULL, 0 } };
	static const char *const policies[] = { "shop/p", "shop/q" };
	struct ip ips[2];
	struct workload w = {
		.uid = uid, .name = "a", .namespace = "shop", .network = "net", .trust_domain = "td", .service_account = "web", .node = "n",
		.canonical_name = "c", .canonical_revision = "v2", .workload_name = "dep", .cluster_id = "k", .locality = { "r", "z", "s" },
		.addresses = ips, .n_addresses = 2, .tunnel = TUNNEL_HBONE, .unhealthy = true, .capacity = 7, .services = services,
		.n_services = 2, .policies = policies, .n_policies = 2,
	};
	struct bytes out;

	ports[0].target_port = target_port;
	assert_int_equal(ip_parse("10.0.0.1", &ips[0]), 0);
	assert_int_equal(ip_parse("2001:db8::1", &ips[1]), 0);
	bytes_init(&out, 65536);
	assert_int_equal(workload_encode(&w, &out), 0);
	return out;
}

static struct bytes full_service(void)
{
	static const char *const sans[] = { "spiffe://td/ns/x/sa/y" };
	static const struct port_map ports[] = { { 80, 8080, APP_HTTP11 } };
	struct service s = { .name = "web", .namespace = "shop", .hostname = "web.mesh", .ports = ports, .n_ports = 1, .sans = sans, .n_sans = 1 };
	struct bytes out;

	bytes_init(&out, 65536);
	assert_int_equal(service_encode(&s, &out), 0);
	return out;
}

static void same_in_both(const struct rig *a, const struct rig *b, const char *uid)
{
	const struct snap_workload *w = snapshot_workload(knowledge_snapshot(a->k), uid);
	const struct snap_workload *v = snapshot_workload(knowledge_snapshot(b->k), uid);
	struct ip x, y;

	assert_non_null(w);
	assert_non_null(v);
	assert_int_equal(w->n_addresses, v->n_addresses);
	struct snap_addresses of_w = snap_workload_addresses(w), of_v = snap_workload_addresses(v);
	while (snap_address_next(&of_w, &x)) {
		assert_true(snap_address_next(&of_v, &y));
		assert_true(ip_equal(&x, &y));
	}
	assert_string_equal(snap_workload_name(w), snap_workload_name(v));
	assert_true(w->kind->weight == v->kind->weight && w->tunnel == v->tunnel && w->healthy == v->healthy && w->reachable == v->reachable);
	for (unsigned i = 0; i < _SNAP_TEXT_N; i++)
		assert_string_equal(snap_kind_text(w->kind, (enum snap_text)i), snap_kind_text(v->kind, (enum snap_text)i));
	assert_int_equal(w->kind->n_policies, 2);
	assert_int_equal(v->kind->n_policies, 2);
	assert_string_equal(snap_text_next(snap_kind_policies(w->kind)), snap_text_next(snap_kind_policies(v->kind)));
	assert_int_equal(w->kind->n_members, v->kind->n_members);
	uint32_t n, m;
	const struct snap_port *of_a = snap_kind_ports(w->kind, 0, &n), *of_b = snap_kind_ports(v->kind, 0, &m);
	assert_int_equal(n, 2);
	assert_int_equal(m, 2);
	assert_memory_equal(of_a, of_b, 2 * sizeof(struct snap_port));
	const char *const *p = (const char *const *)w->place, *const *q = (const char *const *)v->place;
	for (size_t i = 0; i < sizeof(*w->place) / sizeof(char *); i++)
		assert_string_equal(p[i], q[i]);
}

static void a_saved_workload_is_all_that_a_snapshot_shows(void **state)
{
	struct bytes wire = full_workload("uid-a", 0), changed = full_workload("uid-b", 8081), service = full_service();
	struct rig *r = *state;
	struct rig *other;
	struct bytes file;
	struct diag d = {};

	assert_int_equal(knowledge_put(r->k, 1, KNOWLEDGE_ADDRESS, "uid-a", wire.data, wire.len, &d), 0);
	assert_int_equal(knowledge_put(r->k, 1, KNOWLEDGE_ADDRESS, "under another name", changed.data, changed.len, &d), 0);
	assert_int_equal(knowledge_put(r->k, 1, KNOWLEDGE_ADDRESS, "shop/web.mesh", service.data, service.len, &d), 0);
	for (size_t n = 1; ; n++) {
		bytes_init(&file, 1 << 20);
		alloc_fail_at(n);
		int result = knowledge_save(r->k, &file);
		if (alloc_fail_stop() < n) {
			assert_int_equal(result, 0);
			break;
		}
		assert_int_equal(result, -ENOMEM);
		bytes_deinit(&file);
	}
	assert_int_equal(setup((void **)&other), 0);
	assert_int_equal(knowledge_load(other->k, file.data, file.len, &d), 0);
	assert_int_equal(knowledge_n(other->k), 3);
	same_in_both(r, other, "uid-a");
	same_in_both(r, other, "uid-b");
	assert_non_null(snapshot_service(knowledge_snapshot(other->k), "shop/web.mesh"));
	assert_int_equal(snapshot_service(knowledge_snapshot(other->k), "shop/web.mesh")->def->n_sans, 1);
	teardown((void **)&other);
	bytes_deinit(&file);
	bytes_deinit(&service);
	bytes_deinit(&changed);
	bytes_deinit(&wire);
}

static void what_comes_together_is_published_together(void **state)
{
	struct rig *r = *state;
	struct bytes a = workload("a", "10.0.0.1", false), b = workload("b", "10.0.0.2", false);
	struct diag d;

	knowledge_begin(r->k);
	assert_int_equal(knowledge_put(r->k, 1, KNOWLEDGE_ADDRESS, "a", a.data, a.len, &d), 0);
	assert_int_equal(knowledge_put(r->k, 1, KNOWLEDGE_ADDRESS, "b", b.data, b.len, &d), 0);
	assert_false(there(r, "a"));
	knowledge_gone(r->k, 1, KNOWLEDGE_ADDRESS, "a");
	assert_int_equal(knowledge_end(r->k), 0);
	assert_false(there(r, "a"));
	assert_true(there(r, "b"));

	/* Who else holds it is not forgotten by what comes in between. */
	knowledge_begin(r->k);
	assert_int_equal(knowledge_put(r->k, 2, KNOWLEDGE_ADDRESS, "a", a.data, a.len, &d), 0);
	assert_int_equal(knowledge_put(r->k, 2, KNOWLEDGE_ADDRESS, "b", b.data, b.len, &d), 0);
	assert_int_equal(knowledge_put(r->k, 1, KNOWLEDGE_ADDRESS, "a", a.data, a.len, &d), 0);
	assert_int_equal(knowledge_end(r->k), 0);
	knowledge_drop(r->k, 2);
	assert_true(there(r, "a") && there(r, "b"));
	knowledge_drop(r->k, 1);
	assert_int_equal(knowledge_n(r->k), 0);
	bytes_deinit(&a);
	bytes_deinit(&b);
}

enum { TOGETHER = 3 };

static bool is_as_put(const struct rig *r, const char *uid, bool unhealthy)
{
	const struct snap_workload *w = snapshot_workload(knowledge_snapshot(r->k), uid);

	return w && w->healthy != unhealthy;
}

static void out_of_memory_costs_one_of_those_together_a_while(void **state)
{
	static const char *const uids[TOGETHER] = { "a", "b", "c" }, *const ips[TOGETHER] = { "10.0.0.1", "10.0.0.2", "10.0.0.3" };
	struct rig *r = *state;
	struct bytes service = full_service();
	struct diag d;

	for (size_t n = 1; ; n++) {
		struct bytes wire[TOGETHER];
		size_t n_as_put = 0;

		for (unsigned i = 0; i < TOGETHER; i++)
			wire[i] = workload(uids[i], ips[i], n % 2);
		assert_int_equal(put(r, 1, "goes", "10.0.0.9", n % 2, &d), 0);
		alloc_fail_once_at(n);
		knowledge_begin(r->k);
		for (unsigned i = 0; i < TOGETHER; i++)
			assert_int_equal(knowledge_put(r->k, 1, KNOWLEDGE_ADDRESS, uids[i], wire[i].data, wire[i].len, &d), 0);
		knowledge_gone(r->k, 1, KNOWLEDGE_ADDRESS, "goes");
		int result = knowledge_put(r->k, 1, KNOWLEDGE_ADDRESS, "shop/web.mesh", service.data, service.len, &d);
		assert_true(result == 0 || result == -ENOMEM);
		assert_int_equal(knowledge_end(r->k), 0);
		size_t used = alloc_fail_stop();
		for (unsigned i = 0; i < TOGETHER; i++) {
			n_as_put += is_as_put(r, uids[i], n % 2);
			bytes_deinit(&wire[i]);
		}
		assert_true(n_as_put >= TOGETHER - 1);
		if (used < n) {
			assert_int_equal(n_as_put, TOGETHER);
			break;
		}
		if (n % 2)
			knowledge_gone(r->k, 1, KNOWLEDGE_ADDRESS, "shop/web.mesh");
	}
	for (int i = 0; i < 40 && there(r, "goes"); i++)
		assert_int_equal(loop_turn(r->loop, 100), 0);
	assert_false(there(r, "goes"));
	knowledge_drop(r->k, 1);
	for (int i = 0; i < 40 && knowledge_n(r->k); i++)
		assert_int_equal(loop_turn(r->loop, 100), 0);
	assert_int_equal(knowledge_n(r->k), 0);
	bytes_deinit(&service);
}

static void a_state_file_of_another_version_is_refused_by_name(void **state)
{
	static const uint8_t next[] = "\x0a\x17outrigger-proxy state 2";
	struct rig *r = *state;
	struct diag d = {};

	assert_int_equal(knowledge_load(r->k, next, sizeof(next) - 1, &d), -EINVAL);
	assert_non_null(strstr(d.msg, "outrigger-proxy state 2"));
}

struct files {
	char dir[32];
	char paths[STATE_FILES][48];
};

static void files_make(struct files *f)
{
	strcpy(f->dir, "/tmp/test-knowledge-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	for (int i = 0; i < STATE_FILES; i++)
		snprintf(f->paths[i], sizeof(f->paths[i]), "%s/%d", f->dir, i);
}

static void files_remove(struct files *f)
{
	for (int i = 0; i < STATE_FILES; i++)
		unlink(f->paths[i]);
	rmdir(f->dir);
}

static int files_open(const struct files *f, struct state_file *s, struct knowledge *k, struct diag *d)
{
	int fds[STATE_FILES];

	for (int i = 0; i < STATE_FILES; i++)
		fds[i] = open(f->paths[i], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	return state_file_open(s, fds, k, d);
}

/* Whether a program that starts now finds @name. */
static bool restored(const struct files *f, const char *name)
{
	struct state_file s;
	struct diag d = {};
	struct rig *other;
	bool found;

	assert_int_equal(setup((void **)&other), 0);
	assert_int_equal(files_open(f, &s, other->k, &d), 0);
	found = there(other, name);
	state_file_close(&s);
	teardown((void **)&other);
	return found;
}

static void one_of_two_files_is_always_whole(void **state)
{
	struct rig *r = *state;
	struct state_file s;
	struct stat first, second;
	struct files f;
	struct diag d = {};

	files_make(&f);
	assert_int_equal(files_open(&f, &s, r->k, &d), 0);
	assert_int_equal(put(r, 1, "a", "10.0.0.1", false, &d), 0);
	assert_int_equal(state_file_save(&s, r->k, &d), 0);
	assert_int_equal(stat(f.paths[0], &first), 0);
	assert_int_equal(state_file_save(&s, r->k, &d), 0);		/* nothing has changed */
	assert_int_equal(stat(f.paths[1], &second), 0);
	assert_true(first.st_size > 0);
	assert_int_equal(second.st_size, 0);
	assert_true(restored(&f, "a"));
	assert_int_equal(put(r, 1, "b", "10.0.0.2", false, &d), 0);
	assert_int_equal(state_file_save(&s, r->k, &d), 0);
	assert_true(restored(&f, "b"));
	assert_int_equal(stat(f.paths[1], &second), 0);
	for (off_t len = second.st_size - 1; len >= 0; len -= 7) {	/* a power cut while the newer one was written */
		assert_int_equal(truncate(f.paths[1], len), 0);
		assert_false(restored(&f, "b"));
		assert_true(restored(&f, "a"));
	}
	state_file_close(&s);

	/* And on from there. */
	assert_int_equal(files_open(&f, &s, NULL, &d), 0);
	assert_int_equal(state_file_save(&s, r->k, &d), 0);
	assert_true(restored(&f, "b"));
	state_file_close(&s);
	files_remove(&f);
}

static void a_full_disk_costs_nothing_but_the_time_that_it_is_full(void **state)
{
	struct rlimit before, small = { .rlim_cur = 16, .rlim_max = RLIM_INFINITY };
	struct rig *r = *state;
	struct state_file s;
	struct files f;
	struct diag d = {};
	struct stat st;

	files_make(&f);
	assert_int_equal(files_open(&f, &s, r->k, &d), 0);
	assert_int_equal(put(r, 1, "a", "10.0.0.1", false, &d), 0);
	assert_int_equal(state_file_save(&s, r->k, &d), 0);
	assert_int_equal(put(r, 1, "b", "10.0.0.2", false, &d), 0);

	assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	for (int i = 0; i < 3; i++) {
		assert_true(state_file_save(&s, r->k, &d) < 0);
		assert_non_null(strstr(d.msg, "cannot be kept"));
	}
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
	assert_int_equal(stat(f.paths[1], &st), 0);
	assert_int_equal(st.st_size, 0);		/* nothing that is half there takes room */
	assert_true(restored(&f, "a"));
	assert_false(restored(&f, "b"));

	/* And nobody has to change anything for it to be written. */
	assert_int_equal(state_file_save(&s, r->k, &d), 0);
	assert_true(restored(&f, "b"));
	state_file_close(&s);
	files_remove(&f);
}

static void a_state_file_of_another_format_is_not_read(void **state)
{
	static const char next[] = "outrigger-proxy state file 2 7 0 ";
	struct rig *r = *state;
	struct state_file s;
	char text[200];
	struct files f;
	struct diag d = {};
	int fd;

	files_make(&f);
	memset(text, ' ', sizeof(text));
	memcpy(text, next, sizeof(next) - 1);
	fd = open(f.paths[1], O_WRONLY | O_CREAT, 0600);
	assert_int_equal(write(fd, text, sizeof(text)), sizeof(text));
	close(fd);
	assert_int_equal(files_open(&f, &s, r->k, &d), -EINVAL);
	assert_non_null(strstr(d.msg, "version is 2"));
	assert_int_equal(put(r, 1, "a", "10.0.0.1", false, &d), 0);
	assert_int_equal(state_file_save(&s, r->k, &d), 0);		/* written over */
	state_file_close(&s);
	files_remove(&f);
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
		RIGGED(what_comes_together_is_published_together),
		RIGGED(out_of_memory_costs_one_of_those_together_a_while),
		RIGGED(what_is_saved_is_loaded_again),
		RIGGED(many_hold_one_resource),
		RIGGED(a_saved_workload_is_all_that_a_snapshot_shows),
		RIGGED(a_state_file_of_another_version_is_refused_by_name),
		RIGGED(one_of_two_files_is_always_whole),
		RIGGED(a_full_disk_costs_nothing_but_the_time_that_it_is_full),
		RIGGED(a_state_file_of_another_format_is_not_read),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
