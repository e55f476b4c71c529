/*
 * A gRPC connection whose peer says anything behind the preface of HTTP/2: a
 * server of ours with a stranger for a client, or the other way round. The
 * first byte says which, and in how large pieces the bytes come. What the
 * owners of calls do, from within their callbacks, is in the messages. Each call
 * has one end, nothing is heard of it afterwards, and when the peer has left
 * nothing is left.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "loopback.h"
#include "base/log.h"
#include "mesh/grpc_client.h"
#include "mesh/grpc_server.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_TURNS = 2000, MAX_CALLS = 32, MAX_MESSAGE = 2000, INPUT_MAX = 16 * 1024, N_OWN = 3 };

static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
static struct loop *loop;
static struct grpc_server *server;
static struct grpc_client *client;
static struct ip_port address;
static unsigned n_client_closed;

/* Those that are not over. */
static struct owner {
	struct grpc_call *call;
	unsigned n_messages;
} owners[MAX_CALLS];

static struct owner *owner_new(struct grpc_call *call)
{
	for (size_t i = 0; i < MAX_CALLS; i++) {
		if (owners[i].call)
			continue;
		owners[i] = (struct owner){ .call = call };
		return &owners[i];
	}
	return NULL;
}

static void owner_cancel(struct owner *o)
{
	struct grpc_call *call = o->call;

	o->call = NULL;
	grpc_call_cancel(call);
}

static struct grpc_call *any_call(unsigned n)
{
	return owners[n % MAX_CALLS].call;
}

/* To this call or to another one, as the message says. */
static void do_something(struct owner *o, uint8_t what, bool serves)
{
	static const uint8_t much[MAX_MESSAGE];
	struct owner *other = &owners[what >> 4];

	switch (what & 15) {
	case 1:
		owner_cancel(o);
		break;
	case 2:
		if (other->call)
			owner_cancel(other);
		break;
	case 3:
		grpc_call_pause(o->call, true);
		break;
	case 4:
		if (any_call(what >> 4))
			grpc_call_pause(any_call(what >> 4), false);
		break;
	case 5:
		for (int i = 0; i < 8 && grpc_call_send(o->call, much, sizeof(much)) == 0; i++)
			;
		break;
	case 6:
		if (serves)
			grpc_call_finish(o->call, (enum grpc_code)(what >> 4), "%s", "\n\xff%");
		else
			grpc_call_half_close(o->call);
		break;
	case 7:
		if (serves)
			grpc_call_retry_after(o->call, 1000);
		break;
	case 8:
		if (!serves)
			grpc_client_shut(client, "enough");
		break;
	case 9:
		if (serves)
			grpc_call_finish(o->call, GRPC_OK, NULL);
		(void)!grpc_call_send(o->call, much, 1);
		break;
	default:
		(void)!grpc_call_send(o->call, &what, 1);
	}
}

static void on_message(struct grpc_call *call, void *data, const uint8_t *bytes, size_t len)
{
	struct owner *o = data;

	if (o->call != call || len > MAX_MESSAGE)
		abort();
	o->n_messages++;
	if (len)
		do_something(o, bytes[len - 1], !client);
}

static void on_half_closed(struct grpc_call *call, void *data)
{
	struct owner *o = data;

	if (o->call != call)
		abort();
	if (o->n_messages % 2)
		grpc_call_finish(call, GRPC_ABORTED, "odd");
	else
		grpc_call_finish(call, GRPC_OK, NULL);
}

static void on_writable(struct grpc_call *call, void *data)
{
	const struct owner *o = data;

	if (o->call != call)
		abort();
	(void)!grpc_call_send(call, "w", 1);
}

static void on_closed(struct grpc_call *call, void *data, const struct grpc_status *status)
{
	struct owner *o = data;

	if (o->call != call || status->code >= _GRPC_CODE_N || strlen(status->message) >= sizeof(status->message))
		abort();
	o->call = NULL;
}

static const struct grpc_call_ops ops = { .message = on_message, .half_closed = on_half_closed, .writable = on_writable, .closed = on_closed };
static const struct grpc_call_ops patient_ops = { .message = on_message, .closed = on_closed };

/* --- the server's methods --- */

static void open_stream(struct grpc_call *call, void *data)
{
	const char *how = grpc_call_metadata(call, "how");
	struct owner *o = owner_new(call);

	(void)data;
	if (!o) {
		grpc_call_finish(call, GRPC_RESOURCE_EXHAUSTED, "no more");
		return;
	}
	grpc_call_set_ops(call, &ops, o);
	if (how && *how)
		do_something(o, (uint8_t)*how, true);
}

static void unary_echo(struct grpc_call *call, void *data, const uint8_t *bytes, size_t len)
{
	struct owner *o = owner_new(call);

	(void)data;
	if (len > MAX_MESSAGE)
		abort();
	if (o)
		grpc_call_set_ops(call, &patient_ops, o);
	if (!o || grpc_call_send(call, bytes, len) < 0)
		grpc_call_finish(call, GRPC_INTERNAL, "full");
	else
		grpc_call_finish(call, GRPC_OK, NULL);
}

static void unary_late(struct grpc_call *call, void *data, const uint8_t *bytes, size_t len)
{
	struct owner *o = owner_new(call);

	(void)data;
	(void)bytes;
	(void)len;
	if (o)
		grpc_call_set_ops(call, &patient_ops, o);
	else
		grpc_call_finish(call, GRPC_UNAVAILABLE, NULL);
}

static const struct grpc_method methods[] = {
	{ "/a.S/Stream", .open = open_stream },
	{ "/a.S/Echo", .unary = unary_echo },
	{ "/a.S/Late", .unary = unary_late },
};

/* --- the client's calls --- */

static void on_done(struct grpc_call *call, void *data, const struct grpc_status *status, const uint8_t *bytes, size_t len)
{
	struct owner *o = data;

	(void)call;
	if (!o->call || !bytes != (status->code != GRPC_OK) || len > MAX_MESSAGE)
		abort();
	o->call = NULL;
}

static void on_client_closed(struct grpc_client *c, void *data, int r, const char *text)
{
	(void)data;
	(void)r;
	if (!text || grpc_client_n_calls(c) || n_client_closed++)
		abort();
}

static void start_calls(void)
{
	struct grpc_call_options options = { .path = "/a.S/Stream" };
	static const ProtobufCMessageDescriptor empty_type = { .magic = PROTOBUF_C__MESSAGE_DESCRIPTOR_MAGIC, .sizeof_message = sizeof(ProtobufCMessage) };
	const ProtobufCMessage empty = { .descriptor = &empty_type };

	for (size_t i = 0; i < N_OWN; i++) {
		if (i < N_OWN - 1 && (grpc_client_stream(client, &options, &patient_ops, &owners[i], &owners[i].call) < 0 ||
				      grpc_call_send(owners[i].call, "hello", 5) < 0))
			abort();
		if (i == N_OWN - 1 && grpc_client_unary(client, &options, &empty, on_done, &owners[i], &owners[i].call) < 0)
			abort();
	}
}

static int be_served(void)
{
	static const struct grpc_client_ops client_ops = { .closed = on_client_closed };
	struct grpc_client_options options = { .target = "127.0.0.1:1", .max_message = MAX_MESSAGE, .max_queued = 4 * MAX_MESSAGE, .window = 70000 };
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0)
		abort();
	options.socket = &pair[0];
	if (grpc_client_new(loop, &options, &client_ops, NULL, &client) < 0)
		abort();
	start_calls();
	return pair[1];
}

static int be_client(void)
{
	int fd = loopback_connect(&address);

	if (send(fd, preface, sizeof(preface) - 1, MSG_NOSIGNAL) < 0)
		abort();
	return fd;
}

/* --- */

static void turn(void)
{
	if (loop_turn(loop, 0) < 0)
		abort();
}

/* False: it has hung up. */
static bool drain(int fd)
{
	static char buf[65536];
	ssize_t n;

	while ((n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT)) > 0)
		;
	return n < 0 && errno == EAGAIN;
}

static void say(int fd, const uint8_t *data, size_t size, size_t piece)
{
	for (size_t at = 0; at < size;) {
		ssize_t n = send(fd, data + at, MIN(piece, size - at), MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno != EAGAIN)
			return;
		at += n < 0 ? 0 : (size_t)n;
		turn();
		if (!drain(fd))
			return;
	}
	for (int i = 0; i < 4; i++) {		/* what was put off, and the answers to it */
		turn();
		drain(fd);
	}
}

static void stop(void)
{
	grpc_server_free(server);
	loop_free(loop);
}

static void start(void)
{
	const struct grpc_server_options options = {
		.methods = methods, .n_methods = ELEMENTS(methods), .max_streams = 20, .max_header_list = 1000, .max_message = MAX_MESSAGE,
		.max_queued = 4 * MAX_MESSAGE, .window = 70000,
	};
	struct diag d;

	log_change(LOG_L_ERROR, false);
	address.ip = ip_from_v4("\x7f\0\0\1");
	if (loop_new(&loop) < 0 || grpc_server_new(loop, &options, &server) < 0 || grpc_server_listen(server, &address, &address, &d) < 0)
		abort();
	atexit(stop);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const size_t pieces[] = { 7, 100, 1000, INPUT_MAX };
	int fd;

	if (!loop)
		start();
	if (!size || size > INPUT_MAX)
		return 0;
	memset(owners, 0, sizeof(owners));
	n_client_closed = 0;
	fd = data[0] & 1 ? be_client() : be_served();
	turn();
	turn();
	say(fd, data + 1, size - 1, pieces[data[0] >> 1 & 3]);
	close(fd);
	for (int i = 0; client ? !n_client_closed : grpc_server_n_connections(server) > 0; i++)
		if (i == MAX_TURNS || loop_turn(loop, 10) < 0)
			abort();
	for (size_t i = 0; i < MAX_CALLS; i++)
		if (owners[i].call)
			abort();
	client = grpc_client_free(client);
	turn();
	return 0;
}
