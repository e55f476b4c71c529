/*
 * The clients of the mesh controller over a channel: certificates and the
 * discovery stream, against a small controller of our own on the same loop.
 */
#include "mesh/ca_client.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "istio/ca.pb-c.h"
#include "lib/unit.h"
#include "mesh/cert_ca.h"
#include "mesh/grpc_server.h"
#include "mesh/pb.h"
#include "mesh/xds_client.h"

enum { TURNS_MAX = 2000 };

static const char ID[] = "spiffe://td/ns/shop/sa/orders";

static struct {
	struct loop *loop;
	struct cert_ca *ca;
	struct grpc_server *server;
	struct ip_port addr;
	struct channel *channel;
	struct ca_client *client;
	struct xds_client *xds;

	/* how the controller behaves */
	const char *sign_as;
	const char *token;		/* the one it takes */
	int64_t ttl_s;
	bool other_key, other_root;
	bool takes_certificates;	/* in place of a token */
	struct grpc_call *stream;
	int n_streams;
	char authorization[32];
	char cluster_id[32];

	/* what was seen */
	int n_by_certificate, n_fell_back;
	bool renewed_itself;
	int n_asked, n_issued, n_failed, n_synced, n_lost, n_put;
	int64_t asked_ttl_s;
	struct grpc_status failure;
	char chain[8192];
	int64_t not_after;
	char request[256];
} t;

static void turn_until(bool (*reached)(void))
{
	for (int i = 0; i < TURNS_MAX && !reached(); i++)
		assert_int_equal(loop_turn(t.loop, 100), 0);
	assert_true(reached());
}

/* --- the controller --- */

static void sign_request(struct grpc_call *call, struct cert_csr *csr)
{
	Istio__V1__Auth__IstioCertificateResponse response = ISTIO__V1__AUTH__ISTIO_CERTIFICATE_RESPONSE__INIT;
	struct cert_ca *other = NULL;
	EVP_PKEY *other_key = NULL;
	struct cert_list chain;

	assert_int_equal(cert_ca_new_root("td", 1, &other), 0);
	assert_int_equal(cert_key_new(&other_key), 0);
	struct cert_leaf leaf = { .key = t.other_key ? other_key : csr->key, .id = t.sign_as, .ttl_s = t.ttl_s };
	assert_int_equal(cert_ca_sign(t.other_root ? other : t.ca, &leaf, &chain), 0);
	response.n_cert_chain = chain.n;
	response.cert_chain = chain.pem;
	grpc_call_reply_pb(call, &response.base);
	cert_list_deinit(&chain);
	EVP_PKEY_free(other_key);
	cert_ca_free(other);
}

static void create_certificate(struct grpc_call *call, void *data, const uint8_t *bytes, size_t len)
{
	const char *authorization = grpc_call_metadata(call, "authorization");
	ProtobufCMessage *m;
	struct cert_csr csr;

	(void)data;
	t.n_asked++;
	if (!authorization && grpc_call_peer_id(call) && t.takes_certificates) {
		assert_string_equal(grpc_call_peer_id(call), ID);
		assert_null(grpc_call_metadata(call, "clusterid"));
		t.n_by_certificate++;
	} else if (t.token && (!authorization || strcmp(authorization, t.token) != 0)) {
		grpc_call_finish(call, GRPC_UNAUTHENTICATED, "request authenticate failure");
		return;
	}
	assert_int_equal(pb_unpack(&istio__v1__auth__istio_certificate_request__descriptor, bytes, len, 0, &m), 0);
	Istio__V1__Auth__IstioCertificateRequest *request = (void *)m;
	t.asked_ttl_s = request->validity_duration;
	assert_int_equal(cert_csr_parse(request->csr, strlen(request->csr), &csr, NULL), 0);
	assert_string_equal(csr.id, ID);
	sign_request(call, &csr);
	cert_csr_deinit(&csr);
	pb_free(m);
}

static void stream_message(struct grpc_call *call, void *data, const uint8_t *bytes, size_t len)
{
	ProtobufCMessage *m;

	(void)call;
	(void)data;
	assert_int_equal(pb_unpack(&envoy__service__discovery__v3__delta_discovery_request__descriptor, bytes, len, 0, &m), 0);
	Envoy__Service__Discovery__V3__DeltaDiscoveryRequest *r = (void *)m;
	snprintf(t.request, sizeof(t.request), "%s/%s/%s/%s/%zu", r->node ? r->node->id : "", r->node && r->node->metadata->n_fields ?
		 r->node->metadata->fields[0]->key : "", r->node && r->node->locality ? r->node->locality->zone : "",
		 r->response_nonce, r->n_initial_resource_versions);
	pb_free(m);
}

static void stream_closed(struct grpc_call *call, void *data, const struct grpc_status *status)
{
	(void)call;
	(void)data;
	(void)status;
	t.stream = NULL;
}

static const struct grpc_call_ops stream_ops = { .message = stream_message, .closed = stream_closed };

static void open_stream(struct grpc_call *call, void *data)
{
	(void)data;
	t.n_streams++;
	t.stream = call;
	snprintf(t.authorization, sizeof(t.authorization), "%s", grpc_call_metadata(call, "authorization") ?: "");
	snprintf(t.cluster_id, sizeof(t.cluster_id), "%s", grpc_call_metadata(call, "clusterid") ?: "");
	grpc_call_set_ops(call, &stream_ops, NULL);
}

static const struct grpc_method methods[] = {
	{ "/istio.v1.auth.IstioCertificateService/CreateCertificate", .unary = create_certificate },
	{ "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources", .open = open_stream },
};

static void start_server(void)
{
	struct grpc_server_options options = { .methods = methods, .n_methods = ELEMENTS(methods) };

	assert_int_equal(grpc_server_new(t.loop, &options, &t.server), 0);
	assert_int_equal(grpc_server_listen(t.server, &t.addr, &t.addr, NULL), 0);
}

/* --- the clients --- */

static void issued(struct ca_client *c, void *data, const struct ca_credential *credential)
{
	(void)c;
	(void)data;
	t.n_issued++;
	snprintf(t.chain, sizeof(t.chain), "%s", credential->chain_pem);
	t.not_after = credential->not_after;
	t.renewed_itself = credential->renewed_itself;
	assert_int_equal(cert_has_key(credential->chain_pem, credential->key), 0);
	assert_string_equal(credential->roots_pem, cert_ca_roots_pem(t.ca));
}

static void failed(struct ca_client *c, void *data, const struct grpc_status *status)
{
	(void)c;
	(void)data;
	t.n_failed++;
	t.failure = *status;
}

static void fell_back(struct ca_client *c, void *data, const struct grpc_status *status)
{
	(void)c;
	(void)data;
	t.n_fell_back++;
	t.failure = *status;
}

static const struct ca_client_ops ops = { issued, failed, fell_back };

static void start_client(const char *token, bool needs_token)
{
	struct ca_client_options options = {
		.channel = t.channel, .id = ID, .token = token, .needs_token = needs_token, .roots_pem = cert_ca_roots_pem(t.ca), .ttl_s = 1234,
	};

	assert_int_equal(ca_client_new(t.loop, &options, &ops, NULL, &t.client), 0);
}

static int setup(void **state)
{
	char target[IP_PORT_TEXT_LEN];

	(void)state;
	memset(&t, 0, sizeof(t));
	t.sign_as = ID;
	t.ttl_s = 3600;
	assert_int_equal(loop_new(&t.loop), 0);
	assert_int_equal(cert_ca_new_root("td", 1, &t.ca), 0);
	assert_int_equal(ip_parse("127.0.0.1", &t.addr.ip), 0);
	start_server();
	ip_port_format(&t.addr, target);
	struct channel_options options = { .target = target, .backoff_min_ms = 5, .backoff_max_ms = 20 };
	assert_int_equal(channel_new(t.loop, &options, &t.channel), 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	ca_client_free(t.client);
	xds_client_free(t.xds);
	channel_free(t.channel);
	grpc_server_free(t.server);
	cert_ca_free(t.ca);
	assert_int_equal(loop_turn(t.loop, 0), 0);	/* what is freed later */
	loop_free(t.loop);
	return 0;
}

static bool is_issued(void) { return t.n_issued > 0; }
static bool is_issued_twice(void) { return t.n_issued > 1; }
static bool has_failed(void) { return t.n_failed > 0; }
static bool has_failed_twice(void) { return t.n_failed > 1; }
static bool is_connected(void) { return channel_client(t.channel); }
static bool is_disconnected(void) { return !channel_client(t.channel); }

static void a_certificate_is_issued_and_checked(void **state)
{
	struct cert_info info;

	(void)state;
	start_client(NULL, false);
	turn_until(is_issued);
	assert_int_equal(t.asked_ttl_s, 1234);
	assert_int_equal(cert_info(t.chain, &info), 0);
	assert_string_equal(info.id, ID);
	assert_int_equal(ca_client_not_after(t.client), info.not_after);
	assert_int_equal(t.n_failed, 0);
}

static void the_token_is_waited_for(void **state)
{
	(void)state;
	t.token = "Bearer good";
	start_client(NULL, true);
	turn_until(is_connected);
	assert_int_equal(loop_turn(t.loop, 0), 0);
	assert_int_equal(t.n_asked, 0);
	assert_int_equal(ca_client_set_token(t.client, "good"), 0);
	turn_until(is_issued);
}

static void a_refused_token_is_replaced(void **state)
{
	(void)state;
	t.token = "Bearer good";
	start_client("bad", true);
	turn_until(has_failed);
	assert_int_equal(t.failure.code, GRPC_UNAUTHENTICATED);
	assert_string_equal(t.failure.message, "request authenticate failure");
	assert_int_equal(ca_client_set_token(t.client, "good"), 0);
	turn_until(is_issued);
}

static void a_wrong_answer_is_refused(void **state)
{
	(void)state;
	t.sign_as = "spiffe://td/ns/shop/sa/other";
	start_client(NULL, false);
	turn_until(has_failed);
	assert_int_equal(t.failure.code, GRPC_DATA_LOSS);
	assert_string_equal(t.failure.message,
			    "the certificate is for spiffe://td/ns/shop/sa/other, asked for was spiffe://td/ns/shop/sa/orders");
	t.sign_as = ID;
	t.other_key = true;
	t.n_failed = 0;
	turn_until(has_failed);
	assert_string_equal(t.failure.message, "the certificate is not for our key");
	t.other_key = false;
	t.other_root = true;
	t.n_failed = 0;
	turn_until(has_failed_twice);
	assert_non_null(strstr(t.failure.message, "the certificate is not valid"));
	t.other_root = false;
	turn_until(is_issued);		/* it has gone on trying */
}

static void a_certificate_is_renewed_at_half_its_life(void **state)
{
	(void)state;
	t.ttl_s = 4;
	start_client(NULL, false);
	turn_until(is_issued);
	uint64_t first = clock_mono_ms();
	int64_t not_after = t.not_after;
	turn_until(is_issued_twice);
	assert_true(clock_mono_ms() - first >= 900);	/* no storm */
	assert_true(t.not_after > not_after);
}

/* Server and channel anew, by TLS; clients may show a certificate. */
static void secure(void)
{
	static const char *const names[] = { "127.0.0.1", NULL }, *const alpn[] = { "h2", NULL };
	const char *roots = cert_ca_roots_pem(t.ca);
	struct cert_leaf leaf = { .names = names, .ttl_s = 3600 };
	struct grpc_server_options options = { .methods = methods, .n_methods = ELEMENTS(methods) };
	char target[IP_PORT_TEXT_LEN];
	struct tls_ctx *client;
	struct cert_list chain;
	struct diag d = {};

	t.channel = channel_free(t.channel);
	t.server = grpc_server_free(t.server);
	assert_int_equal(cert_key_new(&leaf.key), 0);
	assert_int_equal(cert_ca_sign(t.ca, &leaf, &chain), 0);
	const struct tls_config of_server = { .role = TLS_SERVER, .verify = TLS_VERIFY_REQUEST, .cert_pem = chain.pem[0], .key = leaf.key, .roots_pem = roots, .alpn = alpn };
	const struct tls_config of_client = { .role = TLS_CLIENT, .verify = TLS_VERIFY_REQUIRE, .roots_pem = roots, .alpn = alpn };
	assert_int_equal(tls_ctx_new(&of_server, &options.tls, &d), 0);
	assert_int_equal(tls_ctx_new(&of_client, &client, &d), 0);
	assert_int_equal(grpc_server_new(t.loop, &options, &t.server), 0);
	assert_int_equal(grpc_server_listen(t.server, &t.addr, &t.addr, NULL), 0);
	const struct channel_options to = { .target = ip_port_format(&t.addr, target), .tls = client, .backoff_min_ms = 5, .backoff_max_ms = 20 };
	assert_int_equal(channel_new(t.loop, &to, &t.channel), 0);
	tls_ctx_unref(options.tls);
	tls_ctx_unref(client);
	cert_list_deinit(&chain);
	EVP_PKEY_free(leaf.key);
}

static void start_client_that_renews_itself(void)
{
	struct ca_client_options options = {
		.channel = t.channel, .id = ID, .token = "good", .needs_token = true, .cluster_id = "Kubernetes", .roots_pem = cert_ca_roots_pem(t.ca),
		.renews_itself = true,
	};

	t.ttl_s = 4;
	t.token = "Bearer good";
	assert_int_equal(ca_client_new(t.loop, &options, &ops, NULL, &t.client), 0);
}

static bool has_only_its_channel(void) { return grpc_server_n_connections(t.server) == 1; }
static bool has_renewed_itself(void) { return t.renewed_itself; }
static bool has_fallen_back(void) { return t.n_fell_back > 0; }

static void a_certificate_renews_itself_without_a_token(void **state)
{
	(void)state;
	secure();
	t.takes_certificates = true;
	start_client_that_renews_itself();
	turn_until(is_issued);
	assert_false(t.renewed_itself);		/* there was none yet */
	turn_until(has_renewed_itself);
	assert_int_equal(t.n_by_certificate, 1);
	assert_int_equal(t.n_failed + t.n_fell_back, 0);
	turn_until(has_only_its_channel);
}

static void a_certificate_that_is_refused_leaves_it_to_the_token(void **state)
{
	(void)state;
	secure();
	start_client_that_renews_itself();
	turn_until(is_issued);
	turn_until(has_fallen_back);
	assert_int_equal(t.failure.code, GRPC_UNAUTHENTICATED);
	turn_until(is_issued_twice);
	assert_false(t.renewed_itself);
	assert_int_equal(t.n_failed, 0);
	t.token = "Bearer of another one";	/* both are refused: both are tried again */
	turn_until(has_failed);
	int64_t end = t.not_after;
	t.takes_certificates = true;
	t.token = "Bearer good";
	t.n_issued = 0;
	turn_until(is_issued);
	assert_true(t.renewed_itself || clock_wall_s() >= end);		/* on a machine that stood still it has ended: by token, then */
}

static void a_client_that_goes_while_it_renews_itself_leaves_nothing_behind(void **state)
{
	(void)state;
	secure();
	t.takes_certificates = true;
	start_client_that_renews_itself();
	turn_until(is_issued);
	for (int i = 0; i < TURNS_MAX && grpc_server_n_connections(t.server) < 2; i++)
		assert_int_equal(loop_turn(t.loop, 100), 0);
	assert_int_equal(grpc_server_n_connections(t.server), 2);
	t.client = ca_client_free(t.client);
	turn_until(has_only_its_channel);
}

static void a_controller_that_comes_late_is_found(void **state)
{
	(void)state;
	t.server = grpc_server_free(t.server);
	turn_until(is_disconnected);
	start_client(NULL, false);
	for (int i = 0; i < 20; i++)
		assert_int_equal(loop_turn(t.loop, 10), 0);
	assert_true(channel_error(t.channel)[0]);
	start_server();
	turn_until(is_issued);
	assert_string_equal(channel_error(t.channel), "");
}

/* --- discovery --- */

static const char ADDRESS[] = "type.googleapis.com/istio.workload.Address";

static int put(void *data, const struct xds_resource *resource, struct diag *reterr_diag)
{
	(void)data;
	(void)resource;
	(void)reterr_diag;
	t.n_put++;
	return 0;
}

static void gone(void *data, const char *name)
{
	(void)data;
	(void)name;
}

static const struct xds_type types[] = { { .url = ADDRESS, .on_demand = true, .put = put, .gone = gone } };

static void synced(struct xds_client *c, void *data)
{
	(void)c;
	(void)data;
	t.n_synced++;
}

static void lost(struct xds_client *c, void *data, const struct grpc_status *status)
{
	(void)c;
	(void)data;
	t.n_lost++;
	t.failure = *status;
}

static void start_xds(const char *token)
{
	static const struct xds_client_ops xds_ops = { synced, lost };
	static const struct xds_node_field field = { "NODE_NAME", "nic-1" };
	struct xds_client_options options = {
		.channel = t.channel, .node_id = "node-1", .metadata = &field, .n_metadata = 1, .locality = "r/z/s", .token = token,
		.cluster_id = "Kubernetes", .types = types, .n_types = 1,
	};

	assert_int_equal(xds_client_new(t.loop, &options, &xds_ops, &t.xds), 0);
}

static void send_address(const char *nonce)
{
	Envoy__Service__Discovery__V3__DeltaDiscoveryResponse r = ENVOY__SERVICE__DISCOVERY__V3__DELTA_DISCOVERY_RESPONSE__INIT;
	Envoy__Service__Discovery__V3__Resource resource = ENVOY__SERVICE__DISCOVERY__V3__RESOURCE__INIT, *resources[] = { &resource };
	Google__Protobuf__Any any = GOOGLE__PROTOBUF__ANY__INIT;

	r.type_url = any.type_url = (char *)(uintptr_t)ADDRESS;
	r.nonce = (char *)(uintptr_t)nonce;
	resource.name = resource.version = (char[]){ "u1" };
	resource.resource = &any;
	r.resources = resources;
	r.n_resources = 1;
	assert_int_equal(grpc_call_send_pb(t.stream, &r.base), 0);
}

static bool has_first_request(void) { return !strcmp(t.request, "node-1/NODE_NAME/z//0"); }
static bool is_acked(void) { return !strcmp(t.request, "///n1/0"); }
static bool is_synced(void) { return t.n_synced > 0; }
static bool is_lost(void) { return t.n_lost > 0; }
static bool has_second_stream(void) { return t.n_streams == 2 && !strcmp(t.request, "node-1/NODE_NAME/z//1"); }

static void a_stream_is_opened_answered_and_reopened(void **state)
{
	(void)state;
	start_xds("tok");
	turn_until(has_first_request);
	assert_string_equal(t.authorization, "Bearer tok");
	assert_string_equal(t.cluster_id, "Kubernetes");
	assert_string_equal(grpc_call_metadata(t.stream, "authorization"), "xxxxxxxxxx");	/* the stream need not keep it */
	assert_false(xds_client_synced(t.xds));
	send_address("n1");
	turn_until(is_acked);
	assert_true(is_synced() && xds_client_synced(t.xds));
	assert_int_equal(t.n_put, 1);
	grpc_call_finish(t.stream, GRPC_UNAVAILABLE, "going");
	turn_until(is_lost);
	assert_string_equal(t.failure.message, "going");
	assert_int_equal(xds_n_resources(xds_client_state(t.xds), 0), 1);
	turn_until(has_second_stream);
}

static void a_cluster_is_named_along_with_a_token_only(void **state)
{
	(void)state;
	start_xds(NULL);
	turn_until(has_first_request);
	assert_string_equal(t.authorization, "");
	assert_string_equal(t.cluster_id, "");
}

static void a_replaced_connection_takes_the_stream_along(void **state)
{
	char target[IP_PORT_TEXT_LEN];
	struct channel_options options = { .target = target };

	(void)state;
	start_xds("tok");
	turn_until(has_first_request);
	send_address("n1");
	turn_until(is_acked);
	ip_port_format(&t.addr, target);
	assert_int_equal(channel_change(t.channel, &options, 0), 0);
	turn_until(has_second_stream);
}

static void garbage_ends_the_stream_not_the_client(void **state)
{
	(void)state;
	start_xds("tok");
	turn_until(has_first_request);
	assert_int_equal(grpc_call_send(t.stream, "\x12\xff", 2), 0);
	turn_until(is_lost);
	assert_int_equal(t.failure.code, GRPC_INTERNAL);
	t.request[0] = 0;
	turn_until(has_first_request);
	assert_int_equal(t.n_streams, 2);
}

static void everything_can_be_freed_in_the_middle(void **state)
{
	(void)state;
	start_xds("tok");
	start_client(NULL, false);
	turn_until(has_first_request);
	t.channel = channel_free(t.channel);	/* before its users, which live on in vain */
	assert_int_equal(t.n_lost, 1);
	for (int i = 0; i < 30; i++)
		assert_int_equal(loop_turn(t.loop, 5), 0);
}

#define WITH_CONTROLLER(f)	cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		WITH_CONTROLLER(a_certificate_is_issued_and_checked),
		WITH_CONTROLLER(the_token_is_waited_for),
		WITH_CONTROLLER(a_refused_token_is_replaced),
		WITH_CONTROLLER(a_wrong_answer_is_refused),
		WITH_CONTROLLER(a_certificate_is_renewed_at_half_its_life),
		WITH_CONTROLLER(a_certificate_renews_itself_without_a_token),
		WITH_CONTROLLER(a_certificate_that_is_refused_leaves_it_to_the_token),
		WITH_CONTROLLER(a_client_that_goes_while_it_renews_itself_leaves_nothing_behind),
		WITH_CONTROLLER(a_controller_that_comes_late_is_found),
		WITH_CONTROLLER(a_stream_is_opened_answered_and_reopened),
		WITH_CONTROLLER(a_cluster_is_named_along_with_a_token_only),
		WITH_CONTROLLER(a_replaced_connection_takes_the_stream_along),
		WITH_CONTROLLER(garbage_ends_the_stream_not_the_client),
		WITH_CONTROLLER(everything_can_be_freed_in_the_middle),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
