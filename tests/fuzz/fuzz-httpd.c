/*
 * The HTTP server of admin sockets and REST, by its socket: requests of
 * strangers, whole or cut. Whatever comes, the connection comes to an end, and
 * what is said before that is HTTP.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "mesh/httpd.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { INPUT_MAX = 64 * 1024, MAX_TURNS = 100000 };

static struct loop *loop;
static struct httpd *httpd;
static char dir[] = "/tmp/fuzz-httpd-XXXXXX";
static struct sockaddr_un address = { .sun_family = AF_UNIX };

static void get_thing(struct httpd_request *req)
{
	const char *id = httpd_param(req, "id");
	char *q = httpd_query(req, "q");

	if (!id || strchr(id, '/'))
		abort();
	httpd_reply_json(req, 200, json_pack("{s:s%}", "id", id, strlen(id)));
	free(q);
}

static void get_file(struct httpd_request *req)
{
	const char *path = httpd_param(req, "path");

	httpd_reply(req, 200, "text/plain", path, strlen(path));
}

static void post_thing(struct httpd_request *req)
{
	json_t *body = httpd_body_json(req);

	if (req->n_body > 1000 || req->body[req->n_body])
		abort();
	if (body)
		httpd_reply_json(req, 201, body);
}

static const struct httpd_route routes[] = {
	{ "GET", "/things/{id}", get_thing, "One." },
	{ "POST", "/things", post_thing, "Makes one." },
	{ "GET", "/files/{path*}", get_file, "All." },
};

static void stop(void)
{
	httpd_free(httpd);
	loop_free(loop);
	rmdir(dir);
}

static void start(void)
{
	const struct httpd_options options = { .routes = routes, .n_routes = ELEMENTS(routes), .max_body = 1000 };
	struct diag d;

	if (!mkdtemp(dir))
		abort();
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/s", dir);
	if (loop_new(&loop) < 0 || httpd_new(loop, &options, &httpd) < 0 || httpd_listen_unix(httpd, address.sun_path, 0600, &d) < 0)
		abort();
	atexit(stop);
}

/* To the end of the connection. */
static void read_answers(int fd)
{
	char head[9] = "", buf[65536];
	size_t n_head = 0;

	for (int i = 0; i < MAX_TURNS; i++) {
		ssize_t n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);

		if (n == 0 || (n < 0 && errno == ECONNRESET)) {
			if (n_head && (n_head < sizeof(head) || memcmp(head, "HTTP/1.1 ", sizeof(head)) != 0))
				abort();
			return;
		}
		for (ssize_t k = 0; k < n && n_head < sizeof(head); k++)
			head[n_head++] = buf[k];
		if (loop_turn(loop, 0) < 0)
			abort();
	}
	abort();		/* it hangs */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int fd;

	if (!loop)
		start();
	if (size > INPUT_MAX)
		return 0;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		abort();
	for (size_t at = 0; at < size;) {
		ssize_t n = send(fd, data + at, size - at, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno != EAGAIN)
			break;		/* it has had enough */
		at += n < 0 ? 0 : (size_t)n;
		if (loop_turn(loop, 0) < 0)
			abort();
	}
	shutdown(fd, SHUT_WR);
	read_answers(fd);
	close(fd);
	return 0;
}
