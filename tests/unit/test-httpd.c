#include "lib/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "mesh/httpd.h"

struct fixture {
	struct loop *loop;
	struct httpd *httpd;
	char dir[32];
	char path[64];
	struct httpd_request *held;
	int gone;
};

static struct fixture *fx;

static void get_thing(struct httpd_request *req)
{
	char *q = httpd_query(req, "q");

	httpd_reply_json(req, 200, json_pack("{s:s, s:s, s:i}", "id", httpd_param(req, "id"), "q", q ? q : "-", "uid", (int)req->peer.uid));
	free(q);
}

static void get_rest(struct httpd_request *req)
{
	const char *rest = httpd_param(req, "path");

	httpd_reply(req, 200, "text/plain", rest, strlen(rest));
}

static void post_thing(struct httpd_request *req)
{
	json_t *body = httpd_body_json(req);

	if (body)
		httpd_reply_json(req, 201, body);
}

static void on_gone(struct httpd_request *req, void *data)
{
	(void)req;
	((struct fixture *)data)->gone++;
}

static void get_slow(struct httpd_request *req)
{
	fx->held = req;
	httpd_hold(req, on_gone, fx);
}

static void get_big(struct httpd_request *req)
{
	char *big = calloc(1, 3 << 20);

	assert_non_null(big);
	memset(big, 'x', 3 << 20);
	httpd_reply(req, 200, "text/plain", big, 3 << 20);
	free(big);
}

static int admit(const struct httpd_request *req)
{
	return !strcmp(req->path, "/secret") ? 403 : !strcmp(req->authorization, "Bearer bad") ? 401 : 0;
}

static const struct httpd_route routes[] = {
	{ "GET", "/things/{id}", get_thing, "One." },
	{ "POST", "/things", post_thing, "Makes one." },
	{ "GET", "/files/{path*}", get_rest, "All." },
	{ "GET", "/slow", get_slow, "Late." },
	{ "GET", "/big", get_big, "Much." },
	{ "GET", "/secret", get_big, "No." },
};

static int setup(void **state)
{
	const struct httpd_options options = { .routes = routes, .n_routes = ELEMENTS(routes), .admit = admit, .max_body = 100 };
	struct diag d;

	fx = calloc(1, sizeof(*fx));
	assert_non_null(fx);
	strcpy(fx->dir, "/tmp/httpd-XXXXXX");
	assert_non_null(mkdtemp(fx->dir));
	snprintf(fx->path, sizeof(fx->path), "%s/s", fx->dir);
	assert_int_equal(loop_new(&fx->loop), 0);
	assert_int_equal(httpd_new(fx->loop, &options, &fx->httpd), 0);
	assert_int_equal(httpd_listen_unix(fx->httpd, fx->path, 0600, &d), 0);
	*state = fx;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	httpd_free(fx->httpd);
	loop_free(fx->loop);
	assert_int_equal(rmdir(fx->dir), 0);	/* the socket is gone */
	free(fx);
	return 0;
}

static int dial(void)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);

	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", fx->path);
	assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	return fd;
}

static void say(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

static void turn(void)
{
	for (int i = 0; i < 5; i++)
		assert_int_equal(loop_turn(fx->loop, 0), 0);
}

/* All that comes until nothing does; "" at the end of the stream. */
static size_t hear(int fd, char *buf, size_t size)
{
	size_t n = 0;

	for (int i = 0; i < 2000 && n < size - 1; i++) {
		assert_int_equal(loop_turn(fx->loop, 0), 0);
		ssize_t r = recv(fd, buf + n, size - 1 - n, 0);
		if (r == 0)
			break;
		n += r > 0 ? (size_t)r : 0;
	}
	buf[n] = 0;
	return n;
}

static void one(const char *request, const char *status, const char *part)
{
	char buf[4096];
	int fd = dial();

	say(fd, request);
	hear(fd, buf, sizeof(buf));
	if (!strstr(buf, status) || !strstr(buf, part))
		fail_msg("%s -> %s", request, buf);
	close(fd);
	turn();
}

static void requests_reach_their_handlers(void **state)
{
	(void)state;
	one("GET /things/a%20b?q=1%2B+x HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK", "\"id\": \"a b\"");
	one("GET /things/a?q=1%2B+x&z HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK", "\"q\": \"1+ x\"");
	one("GET /files/a/b/c HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK", "\r\n\r\na/b/c");
	one("POST /things HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n{\"a\": 1}", "HTTP/1.1 201 Created", "\"a\": 1");
	one("POST /things HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{\"a\"\r\n4\r\n: 1}\r\n0\r\n\r\n", "201", "\"a\": 1");
	one("HEAD /things/a HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK", "Content-Length: ");
}

static void bad_requests_are_refused_in_words(void **state)
{
	(void)state;
	one("GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", "404", "there is nothing at /nothing");
	one("DELETE /things HTTP/1.1\r\nHost: x\r\n\r\n", "405", "DELETE is not possible here");
	one("GET /things/ HTTP/1.1\r\nHost: x\r\n\r\n", "404", "nothing at");
	one("GET /things/%00 HTTP/1.1\r\nHost: x\r\n\r\n", "404", "nothing at");
	one("GET /things/a%2Fb HTTP/1.1\r\nHost: x\r\n\r\n", "404", "nothing at");
	one("GET /things/a%2 HTTP/1.1\r\nHost: x\r\n\r\n", "404", "nothing at");
	one("GET /secret HTTP/1.1\r\nHost: x\r\n\r\n", "403", "not allowed");
	one("GET /big HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer bad\r\n\r\n", "401", "bearer token");
	one("POST /things HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n[]", "400", "not a JSON object");
	one("POST /things HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{x", "400", "not JSON");
	one("POST /things HTTP/1.1\r\nHost: x\r\nContent-Length: 101\r\n\r\n", "413", "too large");
	one("POST /secret HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n", "403", "not allowed");	/* its body is not waited for */
	one("POST /secret HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", "403", "not allowed");
	one("GET /things/a HTTP/1.1\r\nHost: x\r\nOrigin: http://evil\r\n\r\n", "403", "not allowed");
	one("\x16\x03\x01 nonsense\r\n\r\n", "400", "not HTTP/1.1");
	one("POST /things HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", "400", "");
}

static void requests_may_come_in_pieces_and_in_a_row(void **state)
{
	static const char text[] = "POST /things HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n{\"a\": 1}"
				   "GET /things/b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
	char buf[4096];
	int fd = dial();

	(void)state;
	for (size_t i = 0; i + 1 < sizeof(text); i++) {
		assert_int_equal(send(fd, text + i, 1, 0), 1);
		turn();
	}
	hear(fd, buf, sizeof(buf));
	assert_non_null(strstr(buf, "\"a\": 1"));
	assert_non_null(strstr(buf, "\"id\": \"b\""));
	assert_non_null(strstr(buf, "Connection: close"));
	close(fd);
	turn();

	fd = dial();
	say(fd, text);
	hear(fd, buf, sizeof(buf));
	assert_non_null(strstr(buf, "\"a\": 1"));
	assert_non_null(strstr(buf, "\"id\": \"b\""));
	close(fd);
	turn();
}

static void a_late_reply_is_sent_and_the_next_request_waits_for_it(void **state)
{
	char buf[4096];
	int fd = dial();

	(void)state;
	say(fd, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\nGET /things/b HTTP/1.1\r\nHost: x\r\n\r\n");
	hear(fd, buf, sizeof(buf));
	assert_string_equal(buf, "");
	assert_non_null(fx->held);
	httpd_reply(fx->held, 200, "text/plain", "now", 3);
	hear(fd, buf, sizeof(buf));
	assert_non_null(strstr(buf, "\r\n\r\nnow"));
	assert_non_null(strstr(buf, "\"id\": \"b\""));
	close(fd);
	turn();
	assert_int_equal(fx->gone, 0);
}

static void a_client_that_leaves_ends_the_wait(void **state)
{
	int fd = dial();

	(void)state;
	say(fd, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n");
	turn();
	close(fd);
	turn();
	assert_int_equal(fx->gone, 1);
}

static void a_big_reply_comes_whole(void **state)
{
	size_t size = (3 << 20) + 1000;
	char *buf = malloc(size);
	int fd = dial();

	(void)state;
	assert_non_null(buf);
	say(fd, "GET /big HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
	size_t n = hear(fd, buf, size);
	assert_true(n > 3 << 20);
	assert_int_equal(buf[n - 1], 'x');
	free(buf);
	close(fd);
	turn();
}

/* A server of its own, with few connections, in place of the fixture's. */
static void restart(size_t max_connections, uint32_t idle_timeout_ms)
{
	const struct httpd_options options = {
		.routes = routes, .n_routes = ELEMENTS(routes), .max_connections = max_connections, .idle_timeout_ms = idle_timeout_ms,
	};
	struct diag d;

	httpd_free(fx->httpd);
	assert_int_equal(httpd_new(fx->loop, &options, &fx->httpd), 0);
	assert_int_equal(httpd_listen_unix(fx->httpd, fx->path, 0600, &d), 0);
}

static bool has_ended(int fd)
{
	char c;

	return recv(fd, &c, 1, MSG_PEEK) == 0;
}

static void who_is_silent_makes_room(void **state)
{
	int first, second, busy;

	(void)state;
	restart(3, 0);
	busy = dial();
	say(busy, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n");
	first = dial();
	turn();
	second = dial();
	say(second, "GET /thin");		/* half a request is none */
	turn();
	one("GET /things/a HTTP/1.1\r\nHost: x\r\n\r\n", "200 OK", "\"id\": \"a\"");
	assert_true(has_ended(first));
	assert_false(has_ended(second));
	first = (close(first), dial());
	turn();
	one("GET /things/b HTTP/1.1\r\nHost: x\r\n\r\n", "200 OK", "\"id\": \"b\"");
	assert_true(has_ended(second));
	assert_false(has_ended(first));
	assert_int_equal(fx->gone, 0);		/* who is owed an answer gets it */
	close(first);
	close(second);
	close(busy);
	turn();
	assert_int_equal(fx->gone, 1);
}

static void a_full_listener_keeps_nobody_from_another(void **state)
{
	char buf[4096];
	struct ip_port addr;
	struct diag d;
	struct sockaddr_storage sa;
	int busy, fd;

	(void)state;
	restart(1, 0);
	busy = dial();
	say(busy, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n");
	turn();
	assert_int_equal(ip_port_parse("127.0.0.1:0", &addr), 0);
	assert_int_equal(httpd_listen_tcp(fx->httpd, &addr, NULL, &d), 0);
	addr = httpd_address(fx->httpd, 0);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&sa, ip_port_to_sockaddr(&addr, 0, &sa)), 0);
	assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
	say(fd, "GET /things/a HTTP/1.1\r\nHost: localhost\r\n\r\n");
	hear(fd, buf, sizeof(buf));
	assert_non_null(strstr(buf, "200 OK"));
	close(fd);
	close(busy);
	turn();
}

static void a_request_that_trickles_in_ends(void **state)
{
	static const char head[] = "GET /things/a HTTP/1.1\r\nHost: x\r\nX: ";
	enum { TURNS = 200000 };		/* of a millisecond, or less: far more than its time */
	int fd, i;

	(void)state;
	restart(0, 100);
	fd = dial();
	say(fd, head);
	for (i = 0; i < TURNS && !has_ended(fd); i++) {
		(void)!send(fd, "y", 1, MSG_NOSIGNAL);
		assert_int_equal(loop_turn(fx->loop, 1), 0);
	}
	assert_true(i < TURNS);
	close(fd);
	turn();
}

static void a_socket_in_use_is_left_alone_a_stale_one_is_not(void **state)
{
	const struct httpd_options options = { .routes = routes, .n_routes = 1 };
	struct httpd *other;
	struct diag d;
	struct stat st;

	(void)state;
	assert_int_equal(httpd_new(fx->loop, &options, &other), 0);
	assert_int_equal(httpd_listen_unix(other, fx->path, 0600, &d), -EADDRINUSE);
	assert_non_null(strstr(d.msg, "in use"));
	httpd_free(other);
	assert_int_equal(stat(fx->path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);

	char stale[80];
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	snprintf(stale, sizeof(stale), "%s2", fx->path);
	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", stale);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	close(fd);
	assert_int_equal(httpd_new(fx->loop, &options, &other), 0);
	assert_int_equal(httpd_listen_unix(other, stale, 0600, &d), 0);
	httpd_free(other);
}

static void a_tcp_port_in_use_is_named_and_browsers_are_refused(void **state)
{
	struct ip_port addr;
	struct diag d;
	char text[IP_PORT_TEXT_LEN], buf[4096];
	struct sockaddr_storage sa;

	(void)state;
	assert_int_equal(ip_port_parse("127.0.0.1:0", &addr), 0);
	assert_int_equal(httpd_listen_tcp(fx->httpd, &addr, NULL, &d), 0);
	addr = httpd_address(fx->httpd, 0);
	assert_int_not_equal(addr.port, 0);
	assert_int_equal(httpd_listen_tcp(fx->httpd, &addr, NULL, &d), -EADDRINUSE);
	assert_non_null(strstr(d.msg, ip_port_format(&addr, text)));

	int fd = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&sa, ip_port_to_sockaddr(&addr, 0, &sa)), 0);
	assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
	say(fd, "GET /things/a HTTP/1.1\r\nHost: rebound.example\r\n\r\n");
	hear(fd, buf, sizeof(buf));
	assert_non_null(strstr(buf, "421"));
	say(fd, "GET /things/a HTTP/1.1\r\nHost: localhost:80\r\n\r\n");
	hear(fd, buf, sizeof(buf));
	assert_non_null(strstr(buf, "200 OK"));
	close(fd);
	turn();
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(requests_reach_their_handlers, setup, teardown),
		cmocka_unit_test_setup_teardown(bad_requests_are_refused_in_words, setup, teardown),
		cmocka_unit_test_setup_teardown(requests_may_come_in_pieces_and_in_a_row, setup, teardown),
		cmocka_unit_test_setup_teardown(a_late_reply_is_sent_and_the_next_request_waits_for_it, setup, teardown),
		cmocka_unit_test_setup_teardown(a_client_that_leaves_ends_the_wait, setup, teardown),
		cmocka_unit_test_setup_teardown(a_big_reply_comes_whole, setup, teardown),
		cmocka_unit_test_setup_teardown(who_is_silent_makes_room, setup, teardown),
		cmocka_unit_test_setup_teardown(a_full_listener_keeps_nobody_from_another, setup, teardown),
		cmocka_unit_test_setup_teardown(a_request_that_trickles_in_ends, setup, teardown),
		cmocka_unit_test_setup_teardown(a_socket_in_use_is_left_alone_a_stale_one_is_not, setup, teardown),
		cmocka_unit_test_setup_teardown(a_tcp_port_in_use_is_named_and_browsers_are_refused, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
