/*
 * The state machine of delta ADS, told as conversations: what we send is
 * written down as text, what the server sends is made from text.
 */
#include "mesh/xds.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "lib/unit.h"
#include "mesh/pb.h"

static const char ADDRESS[] = "type.googleapis.com/istio.workload.Address";
static const char POLICY[] = "type.googleapis.com/istio.security.Authorization";
enum { T_ADDRESS, T_POLICY };

static char sent[4096];		/* one line a request */
static char heard[4096];	/* what the types' functions were told */
static bool full;		/* the stream takes nothing */
static struct xds *x;
static Envoy__Config__Core__V3__Node node = ENVOY__CONFIG__CORE__V3__NODE__INIT;

static void add(char *log, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void add(char *log, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(log + strlen(log), 4096 - strlen(log), fmt, ap);
	va_end(ap);
}

static int compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Tables have no order: sort what came out of one. */
static void add_sorted(const char *sign, char **names, size_t n)
{
	if (n)
		qsort(names, n, sizeof(*names), compare);
	for (size_t i = 0; i < n; i++)
		add(sent, " %s%s", sign, names[i]);
}

static int send_request(void *data, const Envoy__Service__Discovery__V3__DeltaDiscoveryRequest *r)
{
	char versions[16][64];
	char *list[16];

	assert_ptr_equal(data, &x);
	if (full)
		return -ENOBUFS;
	add(sent, "%s%s", r->node ? "node " : "", !strcmp(r->type_url, ADDRESS) ? "address" : !strcmp(r->type_url, POLICY) ? "policy" : "?");
	add_sorted("+", r->resource_names_subscribe, r->n_resource_names_subscribe);
	add_sorted("-", r->resource_names_unsubscribe, r->n_resource_names_unsubscribe);
	for (size_t i = 0; i < r->n_initial_resource_versions; i++) {
		snprintf(versions[i], 64, "%s=%s", r->initial_resource_versions[i]->key, r->initial_resource_versions[i]->value);
		list[i] = versions[i];
	}
	add_sorted("have:", list, r->n_initial_resource_versions);
	if (r->response_nonce[0])
		add(sent, " %s:%s", r->error_detail ? "nack" : "ack", r->response_nonce);
	if (r->error_detail)
		add(sent, " \"%s\"", r->error_detail->message);
	add(sent, "\n");
	return 0;
}

static int put_address(void *data, const struct xds_resource *r, struct diag *reterr_diag)
{
	(void)data;
	add(heard, "put %s@%s=%.*s\n", r->name, r->version, (int)r->len, (const char *)r->value);
	if (r->len == 3 && !memcmp(r->value, "bad", 3))
		return diag_set(reterr_diag, "it is bad");
	return 0;
}

static void gone_address(void *data, const char *name)
{
	(void)data;
	add(heard, "gone %s\n", name);
}

static bool lost;		/* what done_address() says */

static int done_address(void *data)
{
	(void)data;
	add(heard, "done\n");
	return lost ? -ENOMEM : 0;
}

static int put_policy(void *data, const struct xds_resource *r, struct diag *reterr_diag)
{
	(void)data;
	(void)reterr_diag;
	add(heard, "policy %s\n", r->name);
	return 0;
}

static void gone_policy(void *data, const char *name)
{
	(void)data;
	add(heard, "no policy %s\n", name);
}

static const struct xds_type types[] = {
	[T_ADDRESS] = { .url = ADDRESS, .on_demand = true, .put = put_address, .gone = gone_address, .done = done_address },
	[T_POLICY] = { .url = POLICY, .put = put_policy, .gone = gone_policy },
};

static void expect(char *log, const char *what)
{
	assert_string_equal(log, what);
	log[0] = 0;
}

static int setup(void **state)
{
	(void)state;
	sent[0] = heard[0] = 0;
	full = false;
	assert_int_equal(xds_new(types, ELEMENTS(types), NULL, &x), 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	x = xds_free(x);
	return 0;
}

static void begin(void)
{
	assert_int_equal(xds_begin(x, &node, send_request, &x), 0);
}

/* An answer from words: "name@version=value", "-name"; NULL ends them. */
static int answer(const char *url, const char *nonce, const char *const *words)
{
	Envoy__Service__Discovery__V3__DeltaDiscoveryResponse r = ENVOY__SERVICE__DISCOVERY__V3__DELTA_DISCOVERY_RESPONSE__INIT;
	Envoy__Service__Discovery__V3__Resource resources[8], *pointers[8];
	Google__Protobuf__Any any[8];
	static char text[8][XDS_VERSION_MAX + 64];
	char *removed[8];
	uint8_t *bytes;
	size_t len;

	r.type_url = (char *)(uintptr_t)url;
	r.nonce = (char *)(uintptr_t)nonce;
	r.resources = pointers;
	r.removed_resources = removed;
	for (size_t i = 0; words[i]; i++) {
		size_t n = r.n_resources;

		snprintf(text[i], sizeof(text[i]), "%s", words[i]);
		if (text[i][0] == '-') {
			removed[r.n_removed_resources++] = text[i] + 1;
			continue;
		}
		resources[n] = (Envoy__Service__Discovery__V3__Resource)ENVOY__SERVICE__DISCOVERY__V3__RESOURCE__INIT;
		any[n] = (Google__Protobuf__Any)GOOGLE__PROTOBUF__ANY__INIT;
		any[n].type_url = r.type_url;
		any[n].value.data = (uint8_t *)strchr(text[i], '=') + 1;
		any[n].value.len = strlen((char *)any[n].value.data);
		any[n].value.data[-1] = 0;
		resources[n].version = strchr(text[i], '@') + 1;
		resources[n].version[-1] = 0;
		resources[n].name = text[i];
		resources[n].resource = &any[n];
		pointers[n] = &resources[n];
		r.n_resources++;
	}
	assert_int_equal(pb_pack(&r.base, &bytes, &len), 0);
	int result = xds_receive(x, bytes, len);
	free(bytes);
	return result;
}

#define ANSWER(url, nonce, ...)	answer(url, nonce, (const char *const[]){ __VA_ARGS__ __VA_OPT__(,) NULL })

static void flush(void)
{
	assert_int_equal(xds_flush(x), 0);
}

static void a_stream_begins_with_the_node_and_both_types(void **state)
{
	(void)state;
	begin();
	expect(sent, "node address +* -*\npolicy +*\n");
	assert_false(xds_synced(x, T_POLICY));
	assert_int_equal(ANSWER(POLICY, "n1", "ns/p1@1=x"), 0);
	assert_int_equal(ANSWER(ADDRESS, "n2"), 0);
	flush();
	expect(heard, "policy ns/p1\ndone\n");
	expect(sent, "address ack:n2\npolicy ack:n1\n");
	assert_true(xds_synced(x, T_POLICY) && xds_synced(x, T_ADDRESS));
}

static void names_are_asked_for_once(void **state)
{
	(void)state;
	begin();
	sent[0] = 0;
	assert_int_equal(xds_subscribe(x, T_ADDRESS, "/10.0.0.1"), 0);
	assert_int_equal(xds_subscribe(x, T_ADDRESS, "/10.0.0.1"), 0);
	flush();
	expect(sent, "address +/10.0.0.1\n");
	assert_int_equal(xds_subscribe(x, T_ADDRESS, "/10.0.0.1"), 0);
	flush();
	expect(sent, "");
	assert_false(xds_answered(x, T_ADDRESS, "/10.0.0.1"));
}

static void an_alias_is_answered_by_its_removal(void **state)
{
	(void)state;
	begin();
	assert_int_equal(xds_subscribe(x, T_ADDRESS, "/10.0.0.1"), 0);
	flush();
	assert_int_equal(ANSWER(ADDRESS, "n1", "uid-1@v1=w1", "-/10.0.0.1"), 0);
	expect(heard, "put uid-1@v1=w1\ngone /10.0.0.1\ndone\n");
	assert_true(xds_answered(x, T_ADDRESS, "/10.0.0.1"));
	assert_int_equal(xds_n_resources(x, T_ADDRESS), 1);
}

static void a_bad_resource_is_refused_and_the_rest_counts(void **state)
{
	(void)state;
	begin();
	sent[0] = 0;
	assert_int_equal(ANSWER(ADDRESS, "n1", "a@1=ok", "b@1=bad", "@1=x"), 0);
	flush();
	expect(sent, "address nack:n1 \"b: it is bad; : a resource without a name, or with one that is too long\"\n");
	assert_int_equal(xds_n_resources(x, T_ADDRESS), 1);
	assert_int_equal(xds_counters(x).refused, 2);
	assert_int_equal(ANSWER(ADDRESS, "n2", "b@2=good"), 0);
	flush();
	expect(sent, "address ack:n2\n");
	assert_int_equal(xds_n_resources(x, T_ADDRESS), 2);
}

static void an_answer_that_is_lost_is_refused_and_sent_again(void **state)
{
	(void)state;
	begin();
	sent[0] = 0;
	lost = true;
	assert_int_equal(ANSWER(ADDRESS, "n1", "a@1=ok"), 0);
	lost = false;
	flush();
	expect(sent, "address nack:n1 \"all of it: Cannot allocate memory\"\n");
	xds_end(x);
	sent[0] = 0;
	begin();
	expect(sent, "node address +* -* have:a=\npolicy +*\n");
}

static void a_new_stream_says_what_is_held_and_wanted(void **state)
{
	(void)state;
	begin();
	assert_int_equal(xds_subscribe(x, T_ADDRESS, "/10.0.0.1"), 0);
	assert_int_equal(xds_subscribe(x, T_ADDRESS, "/10.0.0.2"), 0);
	flush();
	assert_int_equal(ANSWER(ADDRESS, "n1", "u1@v1=x", "u2@v2=x", "-/10.0.0.1", "-/10.0.0.2"), 0);
	assert_int_equal(ANSWER(ADDRESS, "n2", "u2@v3=bad"), 0);	/* so that the server sends it again */
	xds_unsubscribe(x, T_ADDRESS, "/10.0.0.2");
	xds_end(x);
	assert_true(xds_answered(x, T_ADDRESS, "/10.0.0.1"));
	sent[0] = heard[0] = 0;
	begin();
	expect(sent, "node address +* +/10.0.0.1 -* have:u1=v1 have:u2=\npolicy +*\n");	/* and no ack of the old stream */
	assert_int_equal(ANSWER(ADDRESS, "m1", "-u1"), 0);
	expect(heard, "gone u1\ndone\n");
}

static void unsubscribing_waits_for_company(void **state)
{
	(void)state;
	begin();
	assert_int_equal(xds_subscribe(x, T_ADDRESS, "a"), 0);
	assert_int_equal(xds_subscribe(x, T_ADDRESS, "b"), 0);
	flush();
	sent[0] = 0;
	xds_unsubscribe(x, T_ADDRESS, "a");
	flush();
	expect(sent, "");		/* istiod would say that b is gone */
	assert_false(xds_subscribed(x, T_ADDRESS, "a"));
	assert_int_equal(xds_subscribe(x, T_ADDRESS, "c"), 0);
	flush();
	expect(sent, "address +c -a\n");
}

static void asking_again_is_giving_up_and_asking(void **state)
{
	(void)state;
	begin();
	assert_int_equal(xds_subscribe(x, T_ADDRESS, "/10.0.0.1"), 0);
	assert_int_equal(xds_subscribe(x, T_ADDRESS, "b"), 0);
	xds_ask_again(x, T_ADDRESS, "b");		/* it is asked for anyway */
	flush();
	assert_int_equal(ANSWER(ADDRESS, "n1", "-/10.0.0.1"), 0);
	flush();
	sent[0] = heard[0] = 0;
	xds_ask_again(x, T_ADDRESS, "/10.0.0.1");
	xds_ask_again(x, T_ADDRESS, "/10.0.0.1");
	xds_ask_again(x, T_ADDRESS, "unknown");
	flush();
	expect(sent, "address +/0.0.0.0 -/10.0.0.1\naddress +/10.0.0.1 -/0.0.0.0\n");
	assert_int_equal(ANSWER(ADDRESS, "n2", "-/0.0.0.0"), 0);
	assert_int_equal(ANSWER(ADDRESS, "n3", "u1@1=x", "-/10.0.0.1"), 0);
	expect(heard, "done\nput u1@1=x\ngone /10.0.0.1\ndone\n");

	/* Who does not want it any more in between is believed. */
	flush();
	sent[0] = 0;
	xds_ask_again(x, T_ADDRESS, "/10.0.0.1");
	xds_unsubscribe(x, T_ADDRESS, "/10.0.0.1");
	flush();
	expect(sent, "");
	xds_ask_again(x, T_ADDRESS, "b");
	flush();
	expect(sent, "address +/0.0.0.0 -b\naddress +b -/0.0.0.0 -/10.0.0.1\n");
	xds_ask_again(x, T_ADDRESS, "b");
	xds_end(x);
	sent[0] = 0;
	begin();
	expect(sent, "node address +* +b -* have:u1=1\npolicy +*\n");
}

static void a_change_of_mind_is_not_sent(void **state)
{
	(void)state;
	begin();
	sent[0] = 0;
	assert_int_equal(xds_subscribe(x, T_ADDRESS, "a"), 0);
	xds_unsubscribe(x, T_ADDRESS, "a");
	flush();
	expect(sent, "");
	assert_int_equal(xds_subscribe(x, T_ADDRESS, "b"), 0);
	flush();
	assert_int_equal(ANSWER(ADDRESS, "n1", "b@1=x"), 0);
	xds_unsubscribe(x, T_ADDRESS, "b");
	assert_int_equal(xds_subscribe(x, T_ADDRESS, "b"), 0);
	sent[0] = 0;
	flush();
	expect(sent, "address ack:n1\naddress +/0.0.0.0 -b\naddress +b -/0.0.0.0\n");	/* who waits for an answer gets one */
}

/* The answer is on its way: it is the one that the second wish waits for. */
static void a_change_of_mind_before_the_answer_takes_the_answer(void **state)
{
	(void)state;
	begin();
	assert_int_equal(xds_subscribe(x, T_ADDRESS, "a"), 0);
	flush();
	xds_unsubscribe(x, T_ADDRESS, "a");
	assert_int_equal(xds_subscribe(x, T_ADDRESS, "a"), 0);
	sent[0] = 0;
	flush();
	expect(sent, "");
}

static void what_does_not_fit_is_sent_later(void **state)
{
	(void)state;
	begin();
	sent[0] = 0;
	assert_int_equal(xds_subscribe(x, T_ADDRESS, "a"), 0);
	assert_int_equal(ANSWER(ADDRESS, "n1", "u@1=x"), 0);
	assert_int_equal(ANSWER(ADDRESS, "n2", "u@2=bad"), 0);
	full = true;
	flush();
	expect(sent, "");
	full = false;
	flush();
	expect(sent, "address ack:n1\naddress nack:n2 \"u: it is bad\"\naddress +a\n");
}

static void a_server_that_does_not_listen_is_left(void **state)
{
	int r = 0;

	(void)state;
	begin();
	full = true;
	for (int i = 0; i < 1000 && r == 0; i++)
		r = ANSWER(ADDRESS, "n", "u@1=x");
	assert_int_equal(r, -EBADMSG);
}

static void unknown_removals_and_types_are_ignored(void **state)
{
	(void)state;
	begin();
	sent[0] = 0;
	assert_int_equal(ANSWER(ADDRESS, "n1", "-never-heard-of"), 0);
	expect(heard, "done\n");
	assert_int_equal(ANSWER("type.googleapis.com/other", "n2", "x@1=y"), 0);
	flush();
	expect(heard, "");
	expect(sent, "address ack:n1\n");
}

static void garbage_ends_the_stream(void **state)
{
	static const uint8_t garbage[] = { 0x12, 0xff, 0x01 };

	(void)state;
	begin();
	assert_int_equal(xds_receive(x, garbage, sizeof(garbage)), -EBADMSG);
	expect(heard, "");
}

static void a_version_that_is_too_long_is_refused(void **state)
{
	static char word[XDS_VERSION_MAX + 16] = "a@";

	(void)state;
	begin();
	flush();
	sent[0] = 0;
	memset(word + 2, 'v', XDS_VERSION_MAX + 1);
	memcpy(word + 2 + XDS_VERSION_MAX + 1, "=x", 3);
	assert_int_equal(ANSWER(ADDRESS, "n1", word, "b@1=y"), 0);
	flush();
	expect(heard, "put b@1=y\ndone\n");
	expect(sent, "address nack:n1 \"a: a version that is too long\"\n");
	memcpy(word + 2 + XDS_VERSION_MAX, "=x", 3);
	assert_int_equal(ANSWER(ADDRESS, "n2", word), 0);
	flush();
	expect(sent, "address ack:n2\n");
}

/* What is said back to it is not as much as it likes. */
static void a_nonce_that_is_too_long_ends_the_stream(void **state)
{
	static char nonce[XDS_NONCE_MAX + 2];

	(void)state;
	begin();
	memset(nonce, 'n', XDS_NONCE_MAX + 1);
	assert_int_equal(ANSWER(ADDRESS, nonce, "a@1=x"), -EBADMSG);
	expect(heard, "");
	nonce[XDS_NONCE_MAX] = 0;
	assert_int_equal(ANSWER(ADDRESS, nonce, "a@1=x"), 0);
	expect(heard, "put a@1=x\ndone\n");
}

static void odd_names_are_refused(void **state)
{
	static char name[XDS_NAME_MAX + 2];

	(void)state;
	memset(name, 'n', sizeof(name) - 1);
	assert_int_equal(xds_subscribe(x, T_ADDRESS, name), -EINVAL);
	assert_int_equal(xds_subscribe(x, T_ADDRESS, ""), -EINVAL);
	assert_int_equal(xds_subscribe(x, T_ADDRESS, "*"), -EINVAL);
	assert_int_equal(xds_subscribe(x, T_POLICY, "a"), -EINVAL);
	name[XDS_NAME_MAX] = 0;
	assert_int_equal(xds_subscribe(x, T_ADDRESS, name), 0);
}

static void subscriptions_have_a_maximum(void **state)
{
	char name[16];

	(void)state;
	for (int i = 0; i < XDS_NAMES_MAX; i++) {
		snprintf(name, sizeof(name), "%d", i);
		assert_int_equal(xds_subscribe(x, T_ADDRESS, name), 0);
	}
	assert_int_equal(xds_subscribe(x, T_ADDRESS, "more"), -E2BIG);
}

static void a_muted_machine_says_nothing(void **state)
{
	(void)state;
	begin();
	xds_mute(x);
	assert_int_equal(ANSWER(ADDRESS, "n1", "u@1=x"), 0);
	expect(heard, "");
}

#define CONVERSATION(f)	cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		CONVERSATION(a_stream_begins_with_the_node_and_both_types),
		CONVERSATION(names_are_asked_for_once),
		CONVERSATION(an_alias_is_answered_by_its_removal),
		CONVERSATION(a_bad_resource_is_refused_and_the_rest_counts),
		CONVERSATION(an_answer_that_is_lost_is_refused_and_sent_again),
		CONVERSATION(a_new_stream_says_what_is_held_and_wanted),
		CONVERSATION(unsubscribing_waits_for_company),
		CONVERSATION(asking_again_is_giving_up_and_asking),
		CONVERSATION(a_change_of_mind_is_not_sent),
		CONVERSATION(a_change_of_mind_before_the_answer_takes_the_answer),
		CONVERSATION(what_does_not_fit_is_sent_later),
		CONVERSATION(a_server_that_does_not_listen_is_left),
		CONVERSATION(unknown_removals_and_types_are_ignored),
		CONVERSATION(garbage_ends_the_stream),
		CONVERSATION(a_version_that_is_too_long_is_refused),
		CONVERSATION(a_nonce_that_is_too_long_ends_the_stream),
		CONVERSATION(odd_names_are_refused),
		CONVERSATION(subscriptions_have_a_maximum),
		CONVERSATION(a_muted_machine_says_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
