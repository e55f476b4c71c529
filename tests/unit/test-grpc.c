/*
 * gRPC over a loopback socket: our client and our server on one loop.
 * What other implementations think of the two is in tests/interop.
 */
#include "mesh/grpc_client.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "google/struct.pb-c.h"
#include "lib/pki.h"
#include "lib/unit.h"
#include "mesh/grpc_server.h"
#include "mesh/pb.h"

enum { TURNS_MAX = 20000 };

struct event {
	int n;
	struct grpc_status status;
};

static struct {
	struct loop *loop;
	struct grpc_server *server;
	struct grpc_client *client;
	struct ip_port addr;

	/* seen by the server */
	struct grpc_call *call;		/* the stream */
	struct grpc_call *waiting;	/* the unary call that is not answered */
	size_t n_messages;
	size_t n_bytes;
	char last[64];
	char authorization[64];
	char peer_id[128];
	bool echo;
	struct event server_closed;

	/* seen by the client */
	size_t n_answers;
	size_t n_answer_bytes;
	int n_opened, n_going_away, n_writable;
	struct event closed;		/* the stream */
	struct event done;		/* the unary call */
	char reply[64];
	int n_lost;
	int lost_r;
	bool free_on_message;
} t;

static void turn_until(bool (*reached)(void))
{
	for (int i = 0; i < TURNS_MAX && !reached(); i++)
		assert_int_equal(loop_turn(t.loop, 100), 0);
	assert_true(reached());
}

/* --- the server's methods --- */

static void stream_message(struct grpc_call *call, void *data, const uint8_t *bytes, size_t len)
{
	(void)data;
	t.n_messages++;
	t.n_bytes += len;
	snprintf(t.last, sizeof(t.last), "%.*s", (int)MIN(len, sizeof(t.last) - 1), (const char *)bytes);
	if (t.echo)
		assert_int_equal(grpc_call_send(call, bytes, len), 0);
}

static void stream_closed(struct grpc_call *call, void *data, const struct grpc_status *status)
{
	(void)call;
	(void)data;
	t.server_closed.n++;
	t.server_closed.status = *status;
	t.call = NULL;
}

static void stream_writable(struct grpc_call *call, void *data)
{
	(void)call;
	(void)data;
	t.n_writable++;
}

static const struct grpc_call_ops stream_ops = {
	.message = stream_message, .writable = stream_writable, .closed = stream_closed,
};

static void open_stream(struct grpc_call *call, void *data)
{
	assert_ptr_equal(data, &t);
	t.call = call;
	snprintf(t.authorization, sizeof(t.authorization), "%s", grpc_call_metadata(call, "authorization") ?: "");
	snprintf(t.peer_id, sizeof(t.peer_id), "%s", grpc_call_peer_id(call) ?: "");
	grpc_call_set_ops(call, &stream_ops, &t);
}

static void open_refused(struct grpc_call *call, void *data)
{
	(void)data;
	grpc_call_finish(call, GRPC_PERMISSION_DENIED, "no: 100 %%, \n\xc3\xa4 %s", grpc_call_path(call));
}

static void unary_upper(struct grpc_call *call, void *data, const uint8_t *bytes, size_t len)
{
	ProtobufCMessage *m;

	(void)data;
	if (pb_unpack(&google__protobuf__value__descriptor, bytes, len, 0, &m) < 0) {
		grpc_call_finish(call, GRPC_INVALID_ARGUMENT, "not a Value");
		return;
	}
	Google__Protobuf__Value *v = (void *)m;
	for (char *p = v->string_value; *p; p++)
		*p = (char)(*p >= 'a' && *p <= 'z' ? *p - 32 : *p);
	grpc_call_reply_pb(call, m);
	pb_free(m);
}

static void unary_never(struct grpc_call *call, void *data, const uint8_t *bytes, size_t len)
{
	(void)data;
	(void)bytes;
	(void)len;
	t.waiting = call;
	grpc_call_set_ops(call, &stream_ops, NULL);
}

static const struct grpc_method methods[] = {
	{ "/test.Service/Stream", .open = open_stream },
	{ "/test.Service/Refused", .open = open_refused },
	{ "/test.Service/Upper", .unary = unary_upper },
	{ "/test.Service/Never", .unary = unary_never },
};

/* --- the client's side --- */

static void opened(struct grpc_client *client, void *data)
{
	(void)client;
	(void)data;
	t.n_opened++;
}

static void going_away(struct grpc_client *client, void *data)
{
	(void)client;
	(void)data;
	t.n_going_away++;
}

static void lost(struct grpc_client *client, void *data, int r, const char *text)
{
	(void)client;
	(void)data;
	assert_non_null(text);
	t.n_lost++;
	t.lost_r = r;
}

static const struct grpc_client_ops client_ops = { opened, going_away, lost };

static void answer(struct grpc_call *call, void *data, const uint8_t *bytes, size_t len)
{
	(void)call;
	(void)data;
	(void)bytes;
	t.n_answers++;
	t.n_answer_bytes += len;
	if (t.free_on_message)
		t.client = grpc_client_free(t.client);
}

static void closed(struct grpc_call *call, void *data, const struct grpc_status *status)
{
	(void)call;
	(void)data;
	t.closed.n++;
	t.closed.status = *status;
}

static void client_writable(struct grpc_call *call, void *data)
{
	(void)call;
	(void)data;
	t.n_writable++;
}

static const struct grpc_call_ops call_ops = { .message = answer, .writable = client_writable, .closed = closed };

static void done(struct grpc_call *call, void *data, const struct grpc_status *status, const uint8_t *bytes, size_t len)
{
	ProtobufCMessage *m;

	(void)call;
	(void)data;
	t.done.n++;
	t.done.status = *status;
	assert_true(!bytes == (status->code != GRPC_OK));
	if (!bytes)
		return;
	assert_int_equal(pb_unpack(&google__protobuf__value__descriptor, bytes, len, 0, &m), 0);
	snprintf(t.reply, sizeof(t.reply), "%s", ((Google__Protobuf__Value *)(void *)m)->string_value);
	pb_free(m);
}

static void connect_client(struct tls_ctx *tls, const char *id)
{
	char target[IP_PORT_TEXT_LEN];
	struct tls_expect expect = { .ids = &id, .n_ids = id ? 1 : 0 };
	struct grpc_client_options options = { .target = target, .tls = tls, .expect = &expect, .any_server_name = true };

	ip_port_format(&t.addr, target);
	assert_int_equal(grpc_client_new(t.loop, &options, &client_ops, NULL, &t.client), 0);
}

static void start_server(const struct grpc_server_options *base)
{
	struct grpc_server_options options = *base;
	struct ip_port any = { .port = 0 };

	options.methods = methods;
	options.n_methods = ELEMENTS(methods);
	options.data = &t;
	assert_int_equal(ip_parse("127.0.0.1", &any.ip), 0);
	assert_int_equal(loop_new(&t.loop), 0);
	assert_int_equal(grpc_server_new(t.loop, &options, &t.server), 0);
	assert_int_equal(grpc_server_listen(t.server, &any, &t.addr, NULL), 0);
}

static int setup(void **state)
{
	(void)state;
	memset(&t, 0, sizeof(t));
	start_server(&(struct grpc_server_options){});
	connect_client(NULL, NULL);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	grpc_client_free(t.client);
	grpc_server_free(t.server);
	assert_int_equal(loop_turn(t.loop, 0), 0);	/* TLS connections go on a turn of their own */
	loop_free(t.loop);
	return 0;
}

static struct grpc_call *start_stream(const char *path)
{
	struct grpc_metadata metadata[] = { { "authorization", "Bearer abc" }, { "clusterid", "c1" } };
	struct grpc_call_options options = { .path = path, .metadata = metadata, .n_metadata = 2 };
	struct grpc_call *call;

	assert_int_equal(grpc_client_stream(t.client, &options, &call_ops, NULL, &call), 0);
	return call;
}

static struct grpc_call *start_unary(const char *path, const char *text, uint32_t deadline_ms)
{
	struct grpc_call_options options = { .path = path, .deadline_ms = deadline_ms };
	Google__Protobuf__Value v = GOOGLE__PROTOBUF__VALUE__INIT;
	struct grpc_call *call;

	v.kind_case = GOOGLE__PROTOBUF__VALUE__KIND_STRING_VALUE;
	v.string_value = (char *)(uintptr_t)text;
	assert_int_equal(grpc_client_unary(t.client, &options, &v.base, done, NULL, &call), 0);
	return call;
}

static bool is_done(void) { return t.done.n > 0; }
static bool is_closed(void) { return t.closed.n > 0; }
static bool is_server_closed(void) { return t.server_closed.n > 0; }
static bool is_lost(void) { return t.n_lost > 0; }
static bool has_stream(void) { return t.call; }
static bool is_waiting(void) { return t.waiting; }
static bool has_answer(void) { return t.n_answers > 0; }
static bool has_message(void) { return t.n_messages > 0; }
static bool is_gone_away(void) { return t.n_going_away > 0; }
static bool has_writable(void) { return t.n_writable > 0; }
static bool has_two_answers(void) { return t.n_answers == 2; }
static bool client_is_freed(void) { return !t.client; }
static bool no_connection(void) { return grpc_server_n_connections(t.server) == 0; }

/* --- tests --- */

static void a_unary_call_is_answered(void **state)
{
	(void)state;
	start_unary("/test.Service/Upper", "hello", 0);
	turn_until(is_done);
	assert_int_equal(t.done.status.code, GRPC_OK);
	assert_string_equal(t.reply, "HELLO");
	assert_int_equal(t.n_opened, 1);
	assert_int_equal(grpc_client_n_calls(t.client), 0);
}

static void a_handler_can_refuse_its_message(void **state)
{
	struct grpc_call_options options = { .path = "/test.Service/Upper" };
	Google__Protobuf__Struct s = GOOGLE__PROTOBUF__STRUCT__INIT;
	Google__Protobuf__Struct__FieldsEntry e = GOOGLE__PROTOBUF__STRUCT__FIELDS_ENTRY__INIT;
	Google__Protobuf__Struct__FieldsEntry *fields[] = { &e };
	struct grpc_call *call;

	(void)state;
	e.key = (char *)(uintptr_t)"not a double";	/* field 1, but of bytes: a Value has a varint there */
	s.n_fields = 1;
	s.fields = fields;
	assert_int_equal(grpc_client_unary(t.client, &options, &s.base, done, NULL, &call), 0);
	turn_until(is_done);
	assert_int_equal(t.done.status.code, GRPC_INVALID_ARGUMENT);
	assert_string_equal(t.done.status.message, "not a Value");
}

static void an_unknown_method_is_unimplemented(void **state)
{
	(void)state;
	start_unary("/test.Service/Nothing", "x", 0);
	turn_until(is_done);
	assert_int_equal(t.done.status.code, GRPC_UNIMPLEMENTED);
	assert_string_equal(t.done.status.message, "unknown method /test.Service/Nothing");
}

static void a_stream_carries_messages_both_ways(void **state)
{
	struct grpc_call *call = start_stream("/test.Service/Stream");

	(void)state;
	t.echo = true;
	assert_int_equal(grpc_call_send(call, "one", 3), 0);
	assert_int_equal(grpc_call_send(call, "", 0), 0);
	turn_until(has_two_answers);
	assert_int_equal(t.n_messages, 2);
	assert_int_equal(t.n_answer_bytes, 3);
	assert_string_equal(t.authorization, "Bearer abc");
	assert_string_equal(t.peer_id, "");
	grpc_call_half_close(call);
	assert_int_equal(grpc_call_send(call, "x", 1), -EPIPE);
	turn_until(is_closed);
	assert_int_equal(t.closed.status.code, GRPC_OK);
	assert_int_equal(t.server_closed.n, 1);
	assert_int_equal(t.server_closed.status.code, GRPC_OK);
}

static void a_refusal_carries_its_words(void **state)
{
	(void)state;
	start_stream("/test.Service/Refused");
	turn_until(is_closed);
	assert_int_equal(t.closed.status.code, GRPC_PERMISSION_DENIED);
	assert_string_equal(t.closed.status.message, "no: 100 %, \n\xc3\xa4 /test.Service/Refused");
	assert_int_equal(t.n_lost, 0);
}

static void the_server_can_finish_while_the_client_sends(void **state)
{
	struct grpc_call *call = start_stream("/test.Service/Stream");

	(void)state;
	assert_int_equal(grpc_call_send(call, "one", 3), 0);
	turn_until(has_message);
	grpc_call_finish(t.call, GRPC_ABORTED, "enough");
	turn_until(is_closed);
	assert_int_equal(t.closed.status.code, GRPC_ABORTED);
	assert_string_equal(t.closed.status.message, "enough");
	turn_until(is_server_closed);
	assert_int_equal(t.server_closed.status.code, GRPC_ABORTED);
	start_unary("/test.Service/Upper", "still there", 0);
	turn_until(is_done);
	assert_string_equal(t.reply, "STILL THERE");
}

static void a_cancelled_call_is_silent_here_and_told_there(void **state)
{
	struct grpc_call *call = start_stream("/test.Service/Stream");

	(void)state;
	turn_until(has_stream);
	grpc_call_cancel(call);
	turn_until(is_server_closed);
	assert_int_equal(t.server_closed.status.code, GRPC_CANCELLED);
	assert_int_equal(t.closed.n, 0);
	assert_int_equal(grpc_client_n_calls(t.client), 0);
}

static void a_call_cancelled_before_it_left_never_arrives(void **state)
{
	(void)state;
	grpc_call_cancel(start_stream("/test.Service/Stream"));
	start_unary("/test.Service/Upper", "x", 0);
	turn_until(is_done);
	assert_null(t.call);
	assert_int_equal(t.closed.n, 0);
}

static void a_deadline_ends_the_call_on_both_sides(void **state)
{
	(void)state;
	start_unary("/test.Service/Never", "x", 50);
	turn_until(is_done);
	assert_int_equal(t.done.status.code, GRPC_DEADLINE_EXCEEDED);
	turn_until(is_server_closed);
}

static void a_client_that_leaves_cancels_its_calls(void **state)
{
	(void)state;
	start_unary("/test.Service/Never", "x", 0);
	turn_until(is_waiting);
	t.client = grpc_client_free(t.client);
	turn_until(is_server_closed);
	assert_int_equal(t.server_closed.status.code, GRPC_CANCELLED);
	assert_int_equal(t.done.n, 0);
	turn_until(no_connection);
}

static void a_server_that_dies_is_unavailable(void **state)
{
	(void)state;
	start_stream("/test.Service/Stream");
	turn_until(has_stream);
	t.server = grpc_server_free(t.server);
	turn_until(is_lost);
	assert_int_equal(t.closed.n, 1);
	assert_int_equal(t.closed.status.code, GRPC_UNAVAILABLE);
	assert_false(grpc_client_usable(t.client));
	assert_int_equal(grpc_client_stream(t.client, &(struct grpc_call_options){ .path = "/x" }, &call_ops, NULL, &(struct grpc_call *){ 0 }),
			 -ECONNRESET);
}

static void freeing_the_client_inside_a_message_is_allowed(void **state)
{
	struct grpc_call *call = start_stream("/test.Service/Stream");

	(void)state;
	t.echo = t.free_on_message = true;
	assert_int_equal(grpc_call_send(call, "one", 3), 0);
	assert_int_equal(grpc_call_send(call, "two", 3), 0);
	turn_until(client_is_freed);
	turn_until(is_server_closed);
	assert_int_equal(t.n_answers, 1);
	assert_int_equal(t.closed.n, 0);
}

static void nobody_listening_is_told(void **state)
{
	(void)state;
	t.client = grpc_client_free(t.client);
	t.server = grpc_server_free(t.server);
	connect_client(NULL, NULL);
	start_unary("/test.Service/Upper", "x", 0);
	turn_until(is_lost);
	assert_int_equal(t.lost_r, -ECONNREFUSED);
	assert_int_equal(t.done.status.code, GRPC_UNAVAILABLE);
	assert_int_equal(t.n_opened, 0);
}

static void a_name_is_resolved(void **state)
{
	char target[32];
	struct grpc_client_options options = { .target = target };

	(void)state;
	t.client = grpc_client_free(t.client);
	snprintf(target, sizeof(target), "localhost:%u", t.addr.port);
	assert_int_equal(grpc_client_new(t.loop, &options, &client_ops, NULL, &t.client), 0);
	start_unary("/test.Service/Upper", "x", 0);
	turn_until(is_done);
	assert_string_equal(t.reply, "X");
}

static void bad_targets_are_refused(void **state)
{
	static const char *const bad[] = { "", "host", ":80", "[::1", "[::1]" };
	struct grpc_client *client;

	(void)state;
	for (size_t i = 0; i < ELEMENTS(bad); i++)
		assert_int_equal(grpc_client_new(t.loop, &(struct grpc_client_options){ .target = bad[i] }, &client_ops, NULL, &client), -EINVAL);
	assert_int_equal(grpc_client_new(t.loop, &(struct grpc_client_options){ .target = "host:port" }, &client_ops, NULL, &client), 0);
	turn_until(is_lost);
	assert_int_equal(t.lost_r, -EINVAL);
	grpc_client_free(client);
}

static void bad_metadata_is_refused(void **state)
{
	static const struct grpc_metadata bad[] = { { "Upper", "x" }, { ":path", "x" }, { "grpc-x", "x" }, { "a", "x\ny" }, { "", "x" } };
	struct grpc_call *call;

	(void)state;
	for (size_t i = 0; i < ELEMENTS(bad); i++)
		assert_int_equal(grpc_client_stream(t.client, &(struct grpc_call_options){ "/x", &bad[i], 1, 0 }, &call_ops, NULL, &call), -EINVAL);
}

static void a_paused_reader_stops_the_sender(void **state)
{
	static uint8_t block[64 * 1024];
	struct grpc_call *call = start_stream("/test.Service/Stream");
	size_t sent = 0;
	int r = 0;

	(void)state;
	turn_until(has_stream);
	grpc_call_pause(t.call, true);
	for (int i = 0; i < 2000 && r == 0; i++) {
		r = grpc_call_send(call, block, sizeof(block));
		sent += r == 0 ? sizeof(block) : 0;
		assert_int_equal(loop_turn(t.loop, 0), 0);
	}
	assert_int_equal(r, -ENOBUFS);
	assert_int_equal(t.n_bytes, 0);
	assert_true(grpc_call_queued(call) > 3 << 20);
	assert_true(sent - grpc_call_queued(call) <= 256 << 10);	/* a window, no more */

	start_unary("/test.Service/Upper", "others go on", 0);
	turn_until(is_done);
	assert_string_equal(t.reply, "OTHERS GO ON");

	grpc_call_pause(t.call, false);
	turn_until(has_writable);
	grpc_call_half_close(call);
	turn_until(is_closed);
	assert_int_equal(t.n_bytes, sent);
}

static void messages_have_a_maximum(void **state)
{
	static uint8_t big[5 << 20];
	struct grpc_call *call = start_stream("/test.Service/Stream");

	(void)state;
	assert_int_equal(grpc_call_send(call, big, ((size_t)16 << 20) + 1), -EMSGSIZE);
	assert_int_equal(grpc_call_send(call, big, sizeof(big)), 0);	/* more than the server takes */
	turn_until(is_closed);
	assert_int_equal(t.closed.status.code, GRPC_RESOURCE_EXHAUSTED);
	assert_int_equal(t.n_messages, 0);
}

static void metadata_has_a_maximum(void **state)
{
	static char value[20000];
	struct grpc_metadata m = { "x", value };
	struct grpc_call *call;

	(void)state;
	memset(value, 'v', sizeof(value) - 1);
	assert_int_equal(grpc_client_stream(t.client, &(struct grpc_call_options){ "/test.Service/Stream", &m, 1, 0 }, &call_ops, NULL, &call), 0);
	turn_until(is_closed);
	assert_int_equal(t.closed.status.code, GRPC_RESOURCE_EXHAUSTED);
}

static void a_draining_server_lets_calls_finish(void **state)
{
	struct grpc_call *call = start_stream("/test.Service/Stream");

	(void)state;
	turn_until(has_stream);
	grpc_server_drain(t.server);
	turn_until(is_gone_away);
	assert_false(grpc_client_usable(t.client));
	assert_int_equal(t.closed.n, 0);
	t.echo = true;
	assert_int_equal(grpc_call_send(call, "more", 4), 0);
	turn_until(has_answer);
	grpc_call_half_close(call);
	turn_until(is_lost);
	assert_int_equal(t.closed.status.code, GRPC_OK);
	assert_int_equal(t.lost_r, 0);
	turn_until(no_connection);
}

static void many_calls_share_a_connection(void **state)
{
	(void)state;
	for (int i = 0; i < 2500; i++)		/* more than the server's maximum at a time */
		start_unary("/test.Service/Upper", "x", 0);
	for (int i = 0; i < TURNS_MAX && t.done.n < 2500; i++)
		assert_int_equal(loop_turn(t.loop, 100), 0);
	assert_int_equal(t.done.n, 2500);
	assert_int_equal(grpc_server_n_connections(t.server), 1);
}

/* --- below gRPC: raw bytes --- */

static char *raw_exchange(const void *bytes, size_t len)
{
	static char answer_bytes[4096];
	struct sockaddr_storage sa;
	socklen_t sa_len = ip_port_to_sockaddr(&t.addr, 0, &sa);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	ssize_t n = -1;

	assert_int_equal(connect(fd, (struct sockaddr *)&sa, sa_len), 0);
	assert_int_equal(write(fd, bytes, len), len);
	shutdown(fd, SHUT_WR);
	for (int i = 0; i < 200 && n != 0; i++) {
		assert_int_equal(loop_turn(t.loop, 20), 0);
		n = recv(fd, answer_bytes, sizeof(answer_bytes), MSG_DONTWAIT);
	}
	close(fd);
	return answer_bytes;
}

static int dial_raw(void)
{
	struct sockaddr_storage sa;
	socklen_t len = ip_port_to_sockaddr(&t.addr, 0, &sa);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	assert_int_equal(connect(fd, (struct sockaddr *)&sa, len), 0);
	return fd;
}

static int oldest_fd;
static bool oldest_has_ended(void)
{
	uint8_t bytes[1024];
	ssize_t n;

	do
		n = recv(oldest_fd, bytes, sizeof(bytes), MSG_DONTWAIT);
	while (n > 0);
	return n == 0 || (n < 0 && errno == ECONNRESET);
}

static void the_oldest_stranger_makes_room(void **state)
{
	int fds[3];

	(void)state;
	memset(&t, 0, sizeof(t));
	start_server(&(struct grpc_server_options){ .max_connections = 3 });
	connect_client(NULL, NULL);
	start_stream("/test.Service/Stream");
	turn_until(has_stream);			/* who may open a stream is no stranger any more */
	for (size_t i = 0; i < ELEMENTS(fds); i++) {
		fds[i] = dial_raw();
		assert_int_equal(loop_turn(t.loop, 100), 0);
	}
	oldest_fd = fds[0];
	turn_until(oldest_has_ended);
	oldest_fd = fds[2];
	assert_false(oldest_has_ended());
	assert_int_equal(grpc_server_n_connections(t.server), 3);
	assert_int_equal(t.server_closed.n, 0);
	assert_int_equal(t.n_lost, 0);
	for (size_t i = 0; i < ELEMENTS(fds); i++)
		close(fds[i]);
}

static void a_stranger_may_leave_little(void **state)
{
	enum { LEN = 5 << 20 };
	char *text = malloc(LEN);

	(void)state;
	assert_non_null(text);
	memset(text, 'x', LEN - 1);
	text[LEN - 1] = 0;
	memset(&t, 0, sizeof(t));
	start_server(&(struct grpc_server_options){ .max_message = 2 * LEN, .max_queued = 2 * LEN });
	connect_client(NULL, NULL);
	start_unary("/test.Service/Upper", text, 0);
	turn_until(is_done);
	assert_int_equal(t.done.status.code, GRPC_RESOURCE_EXHAUSTED);
	t.done.n = 0;
	start_stream("/test.Service/Stream");
	turn_until(has_stream);
	start_unary("/test.Service/Upper", text, 0);
	turn_until(is_done);
	assert_int_equal(t.done.status.code, GRPC_OK);
	free(text);
}

static void http_1_is_turned_away(void **state)
{
	static const char request[] = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

	(void)state;
	t.client = grpc_client_free(t.client);
	raw_exchange(request, sizeof(request) - 1);
	turn_until(no_connection);
}

static void garbage_behind_the_preface_is_survived(void **state)
{
	uint8_t bytes[512] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

	(void)state;
	t.client = grpc_client_free(t.client);
	for (unsigned seed = 0; seed < 200; seed++) {
		for (size_t i = 24; i < sizeof(bytes); i++)
			bytes[i] = (uint8_t)((i * 2654435761u + seed * 40503u) >> (seed % 13));
		raw_exchange(bytes, sizeof(bytes));
	}
	turn_until(no_connection);
}

/* --- TLS --- */

static struct tls_ctx *make_ctx(struct pki *pki, enum tls_role role, const char *san)
{
	static const char *const alpn[] = { "h2", NULL };
	const struct pki_leaf *leaf = san ? pki_issue_san(pki, san) : NULL;
	struct tls_config config = {
		.role = role, .verify = role == TLS_SERVER ? TLS_VERIFY_REQUEST : TLS_VERIFY_REQUIRE, .roots_pem = pki_root_pem(pki),
		.cert_pem = leaf ? leaf->cert_pem : NULL, .key_pem = leaf ? leaf->key_pem : NULL, .alpn = alpn,
	};
	struct tls_ctx *ctx;

	assert_int_equal(tls_ctx_new(&config, &ctx, NULL), 0);
	return ctx;
}

static struct pki *pki;
static struct tls_ctx *client_tls;

static void start_tls(const char *client_san)
{
	struct tls_ctx *server_tls;

	memset(&t, 0, sizeof(t));
	pki = pki_new();
	server_tls = make_ctx(pki, TLS_SERVER, "URI:spiffe://td/ns/a/sa/server");
	client_tls = make_ctx(pki, TLS_CLIENT, client_san);
	start_server(&(struct grpc_server_options){ .tls = server_tls, .trust_domain = "td" });
	tls_ctx_unref(server_tls);
}

static void stop_tls(void)
{
	tls_ctx_unref(client_tls);
	teardown(NULL);
	pki_free(pki);
}

static void tls_carries_calls_and_names_the_peer(void **state)
{
	(void)state;
	start_tls("URI:spiffe://td/ns/a/sa/client");
	connect_client(client_tls, "spiffe://td/ns/a/sa/server");
	t.echo = true;
	struct grpc_call *call = start_stream("/test.Service/Stream");
	assert_int_equal(grpc_call_send(call, "one", 3), 0);
	turn_until(has_answer);
	assert_string_equal(t.peer_id, "spiffe://td/ns/a/sa/client");
	assert_string_equal(grpc_call_peer_id(call), "spiffe://td/ns/a/sa/server");
	grpc_call_half_close(call);
	turn_until(is_closed);
	stop_tls();
}

static void a_client_without_a_certificate_has_no_name(void **state)
{
	(void)state;
	start_tls(NULL);
	connect_client(client_tls, "spiffe://td/ns/a/sa/server");
	t.echo = true;
	assert_int_equal(grpc_call_send(start_stream("/test.Service/Stream"), "one", 3), 0);
	turn_until(has_answer);
	assert_string_equal(t.peer_id, "");
	stop_tls();
}

static void the_wrong_server_is_refused(void **state)
{
	(void)state;
	start_tls("URI:spiffe://td/ns/a/sa/client");
	connect_client(client_tls, "spiffe://td/ns/a/sa/other");
	start_unary("/test.Service/Upper", "x", 0);
	turn_until(is_lost);
	assert_int_equal(t.lost_r, TLS_E_VERIFY);
	assert_int_equal(t.done.status.code, GRPC_UNAVAILABLE);
	stop_tls();
}

static void a_client_of_another_trust_domain_is_refused(void **state)
{
	(void)state;
	start_tls("URI:spiffe://other/ns/a/sa/client");
	connect_client(client_tls, "spiffe://td/ns/a/sa/server");
	start_unary("/test.Service/Upper", "x", 0);
	turn_until(is_lost);
	assert_int_equal(t.done.status.code, GRPC_UNAVAILABLE);
	turn_until(no_connection);
	stop_tls();
}

static void a_revoked_peer_is_kicked(void **state)
{
	(void)state;
	start_tls("URI:spiffe://td/ns/a/sa/client");
	connect_client(client_tls, "spiffe://td/ns/a/sa/server");
	start_stream("/test.Service/Stream");
	turn_until(has_stream);
	assert_int_equal(grpc_server_kick(t.server, "spiffe://td/ns/a/sa/nobody"), 0);
	assert_int_equal(grpc_server_kick(t.server, "spiffe://td/ns/a/sa/client"), 1);
	turn_until(is_lost);
	assert_int_equal(t.closed.status.code, GRPC_UNAVAILABLE);
	assert_int_equal(t.server_closed.status.code, GRPC_CANCELLED);
	stop_tls();
}

#define LOOPBACK(f)	cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		LOOPBACK(a_unary_call_is_answered),
		LOOPBACK(a_handler_can_refuse_its_message),
		LOOPBACK(an_unknown_method_is_unimplemented),
		LOOPBACK(a_stream_carries_messages_both_ways),
		LOOPBACK(a_refusal_carries_its_words),
		LOOPBACK(the_server_can_finish_while_the_client_sends),
		LOOPBACK(a_cancelled_call_is_silent_here_and_told_there),
		LOOPBACK(a_call_cancelled_before_it_left_never_arrives),
		LOOPBACK(a_deadline_ends_the_call_on_both_sides),
		LOOPBACK(a_client_that_leaves_cancels_its_calls),
		LOOPBACK(a_server_that_dies_is_unavailable),
		LOOPBACK(freeing_the_client_inside_a_message_is_allowed),
		LOOPBACK(nobody_listening_is_told),
		LOOPBACK(a_name_is_resolved),
		LOOPBACK(bad_targets_are_refused),
		LOOPBACK(bad_metadata_is_refused),
		LOOPBACK(a_paused_reader_stops_the_sender),
		LOOPBACK(messages_have_a_maximum),
		LOOPBACK(metadata_has_a_maximum),
		LOOPBACK(a_draining_server_lets_calls_finish),
		LOOPBACK(many_calls_share_a_connection),
		cmocka_unit_test_teardown(the_oldest_stranger_makes_room, teardown),
		cmocka_unit_test_teardown(a_stranger_may_leave_little, teardown),
		LOOPBACK(http_1_is_turned_away),
		LOOPBACK(garbage_behind_the_preface_is_survived),
		cmocka_unit_test(tls_carries_calls_and_names_the_peer),
		cmocka_unit_test(a_client_without_a_certificate_has_no_name),
		cmocka_unit_test(the_wrong_server_is_refused),
		cmocka_unit_test(a_client_of_another_trust_domain_is_refused),
		cmocka_unit_test(a_revoked_peer_is_kicked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
