/*
 * The verdict: every cell of the rule, the signs, the container addresses.
 */
#include "lib/unit.h"

#include <stdlib.h>
#include <string.h>

#include "agent/verdict.h"

/*
 * A block for each finding of the port, a line for each of the containers, a
 * word for each of the registry, a letter for each of the probe: in each the
 * order is unknown, vm, container.
 */
static const char cells[] =
	/* port unknown */
	"??c ?vc ccc "		/* containers unknown */
	"?vc ?vc ccc "		/* containers vm */
	"ccc ccc ccc "		/* containers container */
	/* port vm */
	"?vc vvc ccc "
	"vvc vvc ccc "
	"ccc ccc ccc "
	/* port container */
	"ccc ccc ccc "
	"ccc ccc ccc "
	"ccc ccc ccc ";

static void every_cell_of_the_rule(void **state)
{
	static const char letter[] = { [VERDICT_UNKNOWN] = '?', [VERDICT_VM] = 'v', [VERDICT_CONTAINER] = 'c' };
	const char *cell = cells;

	(void)state;
	for (enum verdict port = 0; port < _VERDICT_N; port++)
		for (enum verdict containers = 0; containers < _VERDICT_N; containers++)
			for (enum verdict registry = 0; registry < _VERDICT_N; registry++) {
				for (enum verdict probe = 0; probe < _VERDICT_N; probe++) {
					enum verdict f[] = { port, containers, registry, probe };

					if (letter[verdict_combine(f)] != *cell)
						fail_msg("%s %s %s %s: %s, expected %c", verdict_name(port), verdict_name(containers),
							 verdict_name(registry), verdict_name(probe), verdict_name(verdict_combine(f)), *cell);
					cell++;
				}
				assert_int_equal(*cell++, ' ');
			}
	assert_int_equal(*cell, 0);
}

static void only_another_verdict_is_news(void **state)
{
	struct verdict_case v = {};

	(void)state;
	assert_false(verdict_note(&v, VERDICT_BY_PORT, VERDICT_VM, 1, "on %s", "tap0"));
	assert_int_equal(v.verdict, VERDICT_UNKNOWN);
	assert_true(verdict_note(&v, VERDICT_BY_CONTAINERS, VERDICT_VM, 2, "not listed"));
	assert_int_equal(v.verdict, VERDICT_VM);
	assert_false(verdict_note(&v, VERDICT_BY_PROBE, VERDICT_UNKNOWN, 3, "no answer"));
	assert_true(verdict_note(&v, VERDICT_BY_REGISTRY, VERDICT_CONTAINER, 4, "a pod"));
	assert_int_equal(v.verdict, VERDICT_CONTAINER);
	assert_false(verdict_note(&v, VERDICT_BY_PORT, VERDICT_VM, 9, "on %s", "tap0"));
	assert_int_equal(v.evidence[VERDICT_BY_PORT].at_wall_ms, 1);	/* the same again: the first time counts */
	assert_string_equal(v.evidence[VERDICT_BY_PORT].detail, "on tap0");
}

static struct containers *set(const char *const *prefixes, size_t n)
{
	Outrigger__V1__ContainerAddress a[8], *p[8];
	Outrigger__V1__ContainerSet pb = OUTRIGGER__V1__CONTAINER_SET__INIT;
	struct containers *c = NULL;
	struct diag d = {};

	for (size_t i = 0; i < n; i++) {
		outrigger__v1__container_address__init(&a[i]);
		a[i].prefix = strdup(prefixes[2 * i]);
		a[i].what = strdup(prefixes[2 * i + 1]);
		p[i] = &a[i];
	}
	pb.addresses = p;
	pb.n_addresses = n;
	int r = containers_decode(&pb, &c, &d);
	for (size_t i = 0; i < n; i++) {
		free(a[i].prefix);
		free(a[i].what);
	}
	assert_true(r == 0 ? c != NULL : d.msg[0]);
	return c;
}

static struct ip ip(const char *text)
{
	struct ip a;

	assert_int_equal(ip_parse(text, &a), 0);
	return a;
}

static void the_longest_prefix_names_the_container(void **state)
{
	static const char *const prefixes[] = {
		"10.244.0.0/16", "pods of k1", "10.244.3.7", "pod shop/cart-1", "fd00:1::/33", "v6 pods", "10.244.3.0/27", "node 3",
	};
	struct containers *c = set(prefixes, 4);
	struct ip a;

	(void)state;
	a = ip("10.244.3.7");
	assert_string_equal(containers_find(c, &a)->what, "pod shop/cart-1");
	a = ip("10.244.3.31");
	assert_string_equal(containers_find(c, &a)->what, "node 3");
	a = ip("10.244.3.32");
	assert_string_equal(containers_find(c, &a)->what, "pods of k1");
	a = ip("fd00:1:7fff::1");
	assert_string_equal(containers_find(c, &a)->what, "v6 pods");
	a = ip("fd00:1:8000::1");
	assert_null(containers_find(c, &a));
	a = ip("10.245.0.1");
	assert_null(containers_find(c, &a));
	containers_free(c);
}

static void a_bad_container_address_refuses_the_set(void **state)
{
	static const char *const prefixes[] = { "10.0.0.1", "a", "10.0.0.300", "b" };

	(void)state;
	assert_null(set(prefixes, 2));
}

struct scene {
	struct guest_address address;
	struct guest guest;
	struct catalog_guest owner;
	struct claim claim;
};

static void scene_init(struct scene *s, enum guest_source source)
{
	*s = (struct scene){ .guest = { .link = { .port = "tap0", .mac = { 2, 0, 0, 0, 0, 1 } } } };
	s->address = (struct guest_address){ .guest = &s->guest, .ip = ip("10.0.0.1"), .source = source };
	s->guest.addresses[0] = &s->address;
	s->guest.n_addresses = 1;
	s->owner.guest = &s->guest;
	s->claim = (struct claim){ .owner = &s->owner, .address = s->address.ip, .port = 80 };
}

static void a_known_address_outside_of_all_containers_needs_nobodys_answer(void **state)
{
	static const char *const prefixes[] = { "10.244.0.0/16", "pods" };
	struct containers *none = set(prefixes, 1);
	struct verdict_case v = {};
	struct scene s;

	(void)state;
	scene_init(&s, GUEST_BY_ARP);
	assert_false(verdict_of_claim(&v, &s.claim, NULL, NULL, 0));
	assert_int_equal(v.verdict, VERDICT_UNKNOWN);
	assert_true(verdict_of_claim(&v, &s.claim, none, NULL, 0));
	assert_int_equal(v.verdict, VERDICT_VM);
	v = (struct verdict_case){};
	assert_true(verdict_of_guest(&v, &s.guest, none, 0));
	assert_int_equal(v.verdict, VERDICT_VM);

	/* The source of packets is not enough: it takes the probe. */
	v = (struct verdict_case){};
	scene_init(&s, GUEST_BY_TRAFFIC);
	assert_false(verdict_of_claim(&v, &s.claim, none, NULL, 0));
	assert_true(verdict_note(&v, VERDICT_BY_PROBE, VERDICT_VM, 0, "answered"));
	containers_free(none);
}

static void what_runs_inside_a_vm_is_a_container(void **state)
{
	struct verdict_case v = {};
	struct scene s;

	(void)state;
	scene_init(&s, GUEST_BY_ARP);
	s.claim.address = ip("10.244.0.5");
	s.claim.behind = true;
	assert_true(verdict_of_claim(&v, &s.claim, NULL, NULL, 0));
	assert_int_equal(v.verdict, VERDICT_CONTAINER);
}

static void a_port_of_the_node_that_the_vm_is_belongs_to_its_pod(void **state)
{
	static const char *const prefixes[] = { "10.244.0.0/16", "pods" };
	struct containers *none = set(prefixes, 1);
	struct node_port port = { .key = 80, .what = (char[]){ "pod shop/web on node v" } };
	struct node node = { .name = (char[]){ "v" } };
	struct verdict_case v = {};
	struct scene s;

	(void)state;
	scene_init(&s, GUEST_BY_ARP);
	map_init(&node.ports);
	assert_true(verdict_of_claim(&v, &s.claim, none, &node, 0));
	assert_int_equal(v.verdict, VERDICT_VM);
	assert_int_equal(map_add(&node.ports, &port.by_port, &port.key, sizeof(port.key)), 0);
	assert_true(verdict_of_claim(&v, &s.claim, none, &node, 0));
	assert_int_equal(v.verdict, VERDICT_CONTAINER);
	assert_string_equal(v.evidence[VERDICT_BY_CONTAINERS].detail, "the VM is the Kubernetes node v, and 10.0.0.1:80 is a container's: pod shop/web on node v");
	s.claim.udp = true;
	assert_true(verdict_of_claim(&v, &s.claim, none, &node, 0));
	assert_int_equal(v.verdict, VERDICT_VM);
	map_deinit(&node.ports);
	containers_free(none);
}

static void orchestrators_sign_their_registrations(void **state)
{
	static const struct {
		const char *key, *value;
		bool sign;
	} rows[] = {
		{ "external-source", "kubernetes", true }, { "external-source", "nomad", true }, { "external-source", "terraform", false },
		{ "pod-name", "cart-1", true }, { "k8s-namespace", "shop", true }, { "managed-by", "consul-k8s-endpoints-controller", true },
		{ "managed-by", "ansible", false }, { "version", "1.0", false },
	};
	struct scene s;

	(void)state;
	for (size_t i = 0; i < ELEMENTS(rows); i++) {
		char key[64], value[64];

		strcpy(key, rows[i].key);
		strcpy(value, rows[i].value);
		scene_init(&s, GUEST_BY_ARP);
		s.claim.metadata[0] = (struct claim_meta){ key, value };
		s.claim.n_metadata = 1;
		assert_int_equal(verdict_sign(&s.claim) != NULL, rows[i].sign);
	}
	char task[] = "_nomad-task-1b2c-web";
	scene_init(&s, GUEST_BY_ARP);
	s.claim.sources[0].instance = task;
	s.claim.n_sources = 1;
	assert_non_null(verdict_sign(&s.claim));
}

static void a_long_finding_ends_with_a_whole_character(void **state)
{
	struct verdict_case v = {};
	char detail[2 * VERDICT_DETAIL_LEN];

	(void)state;
	for (size_t pad = 0; pad < 4; pad++) {
		size_t n = pad;

		memset(detail, 'x', pad);
		while (n + 5 < sizeof(detail)) {
			memcpy(detail + n, "\xf0\x9f\x90\x9a", 4);
			n += 4;
		}
		detail[n] = '\0';
		verdict_note(&v, VERDICT_BY_REGISTRY, VERDICT_VM, 1, "%s", detail);
		assert_int_equal((strlen(v.evidence[VERDICT_BY_REGISTRY].detail) - pad) % 4, 0);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_cell_of_the_rule),
		cmocka_unit_test(only_another_verdict_is_news),
		cmocka_unit_test(the_longest_prefix_names_the_container),
		cmocka_unit_test(a_bad_container_address_refuses_the_set),
		cmocka_unit_test(a_known_address_outside_of_all_containers_needs_nobodys_answer),
		cmocka_unit_test(what_runs_inside_a_vm_is_a_container),
		cmocka_unit_test(a_port_of_the_node_that_the_vm_is_belongs_to_its_pod),
		cmocka_unit_test(orchestrators_sign_their_registrations),
		cmocka_unit_test(a_long_finding_ends_with_a_whole_character),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
