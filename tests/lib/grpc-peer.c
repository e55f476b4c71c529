/*
 * Our gRPC at the end of a command line, for tests against other
 * implementations.
 *
 *	grpc-peer serve ADDR [CERT KEY ROOTS]	prints "listening ADDR"; until SIGTERM, which drains
 *	grpc-peer unary|stream|fail TARGET COUNT SIZE [ROOTS [CERT KEY]]
 *						prints one line: STATUS MESSAGES BYTES TEXT
 *
 * The service is /peer.Echo/{Unary,Stream,Fail,Metadata}, messages are bytes.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "google/any.pb-c.h"
#include "mesh/grpc_client.h"
#include "mesh/grpc_server.h"

static struct loop *loop;

static char *read_file(const char *path)
{
	static char buffer[1 << 20];
	FILE *f = path ? fopen(path, "re") : NULL;

	if (!f)
		return NULL;
	buffer[fread(buffer, 1, sizeof(buffer) - 1, f)] = 0;
	fclose(f);
	return strdup(buffer);
}

static struct tls_ctx *make_tls(enum tls_role role, const char *roots, const char *cert, const char *key)
{
	static const char *const alpn[] = { "h2", NULL };
	struct tls_config config = {
		.role = role, .verify = role == TLS_SERVER ? TLS_VERIFY_REQUEST : TLS_VERIFY_REQUIRE, .roots_pem = read_file(roots),
		.cert_pem = read_file(cert), .key_pem = read_file(key), .alpn = alpn, .allow_tls12 = true,
	};
	struct diag diag = {};
	struct tls_ctx *ctx;

	if (tls_ctx_new(&config, &ctx, &diag) < 0) {
		fprintf(stderr, "grpc-peer: %s\n", diag.msg);
		exit(1);
	}
	return ctx;
}

/* --- server --- */

static void unary(struct grpc_call *call, void *data, const uint8_t *bytes, size_t len)
{
	(void)data;
	if (grpc_call_send(call, bytes, len) < 0)
		grpc_call_finish(call, GRPC_INTERNAL, "cannot answer");
	else
		grpc_call_finish(call, GRPC_OK, NULL);
}

static void metadata(struct grpc_call *call, void *data, const uint8_t *bytes, size_t len)
{
	const char *value = grpc_call_metadata(call, "authorization") ?: "none";
	const char *id = grpc_call_peer_id(call) ?: "nobody";
	char text[512];

	(void)data;
	(void)bytes;
	(void)len;
	int n = snprintf(text, sizeof(text), "%s %s", value, id);
	if (grpc_call_send(call, text, (size_t)n) < 0)
		grpc_call_finish(call, GRPC_INTERNAL, "cannot answer");
	else
		grpc_call_finish(call, GRPC_OK, NULL);
}

static void fail(struct grpc_call *call, void *data)
{
	(void)data;
	grpc_call_finish(call, GRPC_PERMISSION_DENIED, "100%% no,\n\xc3\xa4h");
}

static void echo_message(struct grpc_call *call, void *data, const uint8_t *bytes, size_t len)
{
	(void)data;
	if (grpc_call_send(call, bytes, len) < 0)
		grpc_call_finish(call, GRPC_RESOURCE_EXHAUSTED, "the reader is behind");
	else if (grpc_call_queued(call) > 1 << 20)
		grpc_call_pause(call, true);
}

/* A crude valve: what is queued shrinks with the turns. */
static struct grpc_call *echoing;
static struct timer valve;

static int on_valve(struct timer *t)
{
	if (echoing && grpc_call_queued(echoing) < 1 << 19)
		grpc_call_pause(echoing, false);
	return timer_arm(loop, t, 5, on_valve);
}

static void echo_gone(struct grpc_call *call, void *data, const struct grpc_status *status)
{
	(void)data;
	if (echoing == call)
		echoing = NULL;
	fprintf(stderr, "stream: %s %s\n", grpc_code_name(status->code), status->message);
}

static void open_stream(struct grpc_call *call, void *data)
{
	static const struct grpc_call_ops ops = { .message = echo_message, .closed = echo_gone };

	(void)data;
	echoing = call;
	grpc_call_set_ops(call, &ops, NULL);
}

static const struct grpc_method methods[] = {
	{ "/peer.Echo/Unary", .unary = unary }, { "/peer.Echo/Metadata", .unary = metadata }, { "/peer.Echo/Fail", .open = fail },
	{ "/peer.Echo/Stream", .open = open_stream },
};

static struct grpc_server *server;

static int on_drained(struct timer *t)
{
	if (!grpc_server_n_connections(server))
		loop_stop(loop);
	return timer_arm(loop, t, 10, on_drained);
}

static void on_signal(int signo, void *data)
{
	static struct timer wait;

	(void)signo;
	(void)data;
	grpc_server_drain(server);
	if (timer_arm(loop, &wait, 10, on_drained) < 0)
		loop_stop(loop);
}

static int serve(char **argv)
{
	static const int signals[] = { SIGTERM };
	struct grpc_server_options options = { .methods = methods, .n_methods = ELEMENTS(methods), .max_message = 8 << 20 };
	char text[IP_PORT_TEXT_LEN];
	struct ip_port addr;
	struct diag diag = {};

	if (argv[1])
		options.tls = make_tls(TLS_SERVER, argv[3], argv[1], argv[2]);
	if (ip_port_parse(argv[0], &addr) < 0 || loop_on_signal(loop, signals, 1, on_signal, NULL) < 0 ||
	    grpc_server_new(loop, &options, &server) < 0 || grpc_server_listen(server, &addr, &addr, &diag) < 0 ||
	    timer_arm(loop, &valve, 5, on_valve) < 0) {
		fprintf(stderr, "grpc-peer: cannot serve: %s\n", diag.msg);
		return 1;
	}
	printf("listening %s\n", ip_port_format(&addr, text));
	fflush(stdout);
	return loop_run(loop) < 0;
}

/* --- client --- */

static struct {
	struct grpc_call *call;
	size_t n_left, size;
	size_t n_messages, n_bytes;
	uint8_t *message;
} c;

static void report(const struct grpc_status *status)
{
	printf("%s %zu %zu %s\n", grpc_code_name(status->code), c.n_messages, c.n_bytes, status->message);
	loop_stop(loop);
}

static void send_more(struct grpc_call *call)
{
	while (c.n_left) {
		int r = grpc_call_send(call, c.message, c.size);

		if (r == -ENOBUFS)
			return;		/* writable() comes */
		if (r < 0)
			break;
		c.n_left--;
	}
	grpc_call_half_close(call);
}

static void on_message(struct grpc_call *call, void *data, const uint8_t *bytes, size_t len)
{
	(void)call;
	(void)data;
	if (len != c.size || memcmp(bytes, c.message, len) != 0)
		fprintf(stderr, "grpc-peer: the echo is not what was said\n");
	c.n_messages++;
	c.n_bytes += len;
}

static void on_writable(struct grpc_call *call, void *data)
{
	(void)data;
	send_more(call);
}

static void on_closed(struct grpc_call *call, void *data, const struct grpc_status *status)
{
	(void)call;
	(void)data;
	report(status);
}

static void on_done(struct grpc_call *call, void *data, const struct grpc_status *status, const uint8_t *bytes, size_t len)
{
	struct grpc_client *client = data;

	(void)call;
	c.n_messages += bytes != NULL;
	c.n_bytes += len;
	if (status->code != GRPC_OK || !--c.n_left) {
		report(status);
		return;
	}
	Google__Protobuf__Any any = GOOGLE__PROTOBUF__ANY__INIT;
	any.value = (ProtobufCBinaryData){ c.size, c.message };
	struct grpc_call_options options = { .path = "/peer.Echo/Unary", .deadline_ms = 20000 };
	if (grpc_client_unary(client, &options, &any.base, on_done, client, &c.call) < 0)
		loop_stop(loop);
}

static void client_closed(struct grpc_client *client, void *data, int r, const char *text)
{
	(void)client;
	(void)data;
	fprintf(stderr, "grpc-peer: connection: %d %s\n", r, text);
}

static int call_it(const char *mode, char **argv)
{
	static const struct grpc_client_ops ops = { .closed = client_closed };
	static const struct grpc_call_ops call_ops = { on_message, NULL, on_writable, on_closed };
	struct grpc_metadata m = { "authorization", "Bearer abc" };
	struct grpc_client_options options = { .target = argv[0], .max_message = 8 << 20 };
	struct grpc_call_options o = { .path = !strcmp(mode, "fail") ? "/peer.Echo/Fail" : "/peer.Echo/Stream", .metadata = &m, .n_metadata = 1 };
	struct grpc_client *client;

	c.n_left = strtoul(argv[1], NULL, 10);
	c.size = strtoul(argv[2], NULL, 10);
	c.message = malloc(c.size + 1);
	for (size_t i = 0; i < c.size; i++)
		c.message[i] = (uint8_t)(i * 7);
	if (argv[3])
		options.tls = make_tls(TLS_CLIENT, argv[3], argv[4], argv[4] ? argv[5] : NULL);
	if (grpc_client_new(loop, &options, &ops, NULL, &client) < 0)
		return 1;
	if (!strcmp(mode, "unary")) {
		Google__Protobuf__Any any = GOOGLE__PROTOBUF__ANY__INIT;

		any.value = (ProtobufCBinaryData){ c.size, c.message };
		o.path = "/peer.Echo/Unary";
		if (grpc_client_unary(client, &o, &any.base, on_done, client, &c.call) < 0)
			return 1;
	} else {
		if (grpc_client_stream(client, &o, &call_ops, NULL, &c.call) < 0)
			return 1;
		send_more(c.call);
	}
	return loop_run(loop) < 0;
}

int main(int argc, char **argv)
{
	if (argc < 3 || loop_new(&loop) < 0)
		return 2;
	if (!strcmp(argv[1], "serve"))
		return serve(argv + 2);
	return argc < 5 ? 2 : call_it(argv[1], argv + 2);
}
