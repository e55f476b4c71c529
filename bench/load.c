/*
 * Load for the benchmarks: what wrk cannot do.
 *
 *	load rate ADDR CONNECTIONS RATE SECONDS		open loop: requests leave on time, latency counts from when they were due
 *	load conn ADDR PARALLEL SECONDS			connect, one request, close
 *	load hold ADDR CONNECTIONS			opens them, one request each, prints "held", closes them when stdin ends
 *	load rounds ADDR CONNECTIONS ROUNDS		a request on each, all answers, the next round: the same work in every run
 *	load dials ADDR COUNT				connect, one request, close, one after the other: likewise
 *	load windows ADDR CONNECTIONS RATE SECONDS	as rate, with as many to each address: once for each line of stdin, to the address whose index the line is
 *
 * ADDR is IPv4:port of an HTTP server (or a proxy before one), or several with
 * commas between: connections go to them in turn. Prints one JSON object, or one for each line. Every answer must be complete and begin with "HTTP/1.1 200"; what is
 * not is counted as an error. The body's length is learnt from the first answer
 * and must not differ.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER = 65536, MAX_EVENTS = 256, MAX_HEAD = 4096, MAX_ADDRS = 256 };

static const char request[] = "GET / HTTP/1.1\r\nHost: bench\r\n\r\n";

struct conn {
	int fd;
	bool busy;
	uint64_t due_ns;	/* when the request at hand should have left */
	size_t head;		/* bytes of the head that came */
	size_t left;		/* bytes of the body to come */
	bool in_body;
	char text[MAX_HEAD];
};

static struct {
	struct sockaddr_in addrs[MAX_ADDRS];
	size_t n_addrs, next_addr;
	int epoll_fd;
	char buffer[BUFFER];
	size_t body_len;
	bool body_known;
	uint64_t done, errors;
	uint32_t *latency_us;
	size_t n_latency, max_latency;
} load;

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void die(const char *what)
{
	fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void record(uint64_t ns)
{
	if (load.n_latency < load.max_latency)
		load.latency_us[load.n_latency++] = (uint32_t)(ns / 1000);
}

static void conn_open(struct conn *c)
{
	struct sockaddr_in *to = &load.addrs[load.next_addr++ % load.n_addrs];
	int one = 1;

	*c = (struct conn){ .fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0) };
	if (c->fd < 0)
		die("socket");
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (connect(c->fd, (struct sockaddr *)to, sizeof(*to)) < 0 && errno != EINPROGRESS)
		die("connect");

	struct epoll_event e = { .events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c };
	if (epoll_ctl(load.epoll_fd, EPOLL_CTL_ADD, c->fd, &e) < 0)
		die("epoll_ctl");
}

static void conn_send(struct conn *c, uint64_t due_ns)
{
	c->busy = true;
	c->due_ns = due_ns;
	c->head = c->left = 0;
	c->in_body = false;
	if (send(c->fd, request, sizeof(request) - 1, MSG_NOSIGNAL) != sizeof(request) - 1)
		load.errors++;
}

/* The head is whole: learns how long the body is. */
static bool begin_body(struct conn *c, const char *end)
{
	const char *field = strcasestr(c->text, "\r\ncontent-length:");

	if (strncmp(c->text, "HTTP/1.1 200", 12) || !field || field > end)
		return false;
	c->left = strtoul(field + 17, NULL, 10);
	if (!load.body_known) {
		load.body_len = c->left;
		load.body_known = true;
	}
	c->in_body = true;
	return c->left == load.body_len;
}

/* 1: an answer is complete; 0: more is to come; -1: broken. */
static int take(struct conn *c, const char *data, size_t n)
{
	if (!c->in_body) {
		size_t room = sizeof(c->text) - 1 - c->head;
		size_t part = n < room ? n : room;

		memcpy(c->text + c->head, data, part);
		c->text[c->head + part] = '\0';

		char *end = strstr(c->text, "\r\n\r\n");
		if (!end) {
			c->head += part;
			return part < n ? -1 : 0;
		}
		size_t of_head = (size_t)(end + 4 - c->text) - c->head;
		if (!begin_body(c, end))
			return -1;
		data += of_head;
		n -= of_head;
	}
	if (n > c->left)
		return -1;
	c->left -= n;
	return c->left == 0;
}

/* Reads all there is. 1: the answer is complete, 0: not yet, -1: broken or closed. */
static int conn_read(struct conn *c)
{
	for (;;) {
		ssize_t n = recv(c->fd, load.buffer, sizeof(load.buffer), 0);

		if (n < 0 && errno == EAGAIN)
			return 0;
		if (n <= 0)
			return -1;
		int r = take(c, load.buffer, (size_t)n);
		if (r)
			return r;
	}
}

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static uint32_t percentile(double p)
{
	return load.n_latency ? load.latency_us[(size_t)((double)(load.n_latency - 1) * p)] : 0;
}

static void report(double seconds)
{
	qsort(load.latency_us, load.n_latency, sizeof(*load.latency_us), compare);
	printf("{\"requests\": %llu, \"errors\": %llu, \"seconds\": %.3f, \"rate\": %.1f, \"body\": %zu, \"p50_us\": %u, \"p90_us\": %u, \"p99_us\": %u, "
	       "\"p999_us\": %u, \"max_us\": %u}\n", (unsigned long long)load.done, (unsigned long long)load.errors, seconds,
	       (double)load.done / seconds, load.body_len, percentile(0.5), percentile(0.9), percentile(0.99), percentile(0.999), percentile(1));
}

static void wait_connected(struct conn *conns, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct pollfd p = { .fd = conns[i].fd, .events = POLLOUT };

		if (poll(&p, 1, 10000) != 1 || p.revents & (POLLERR | POLLHUP)) {
			errno = ETIMEDOUT;
			die("connection");
		}
	}
}

/* Connections without a request, longest idle first: all get their share. */
struct idle {
	size_t *index;
	size_t first, n, max;
};

static void idle_put(struct idle *q, size_t index)
{
	q->index[(q->first + q->n++) % q->max] = index;
}

static size_t idle_get(struct idle *q)
{
	size_t index = q->index[q->first];

	q->first = (q->first + 1) % q->max;
	q->n--;
	return index;
}

static void handle(struct conn *c, struct idle *idle, size_t index)
{
	int r = c->busy ? conn_read(c) : 0;

	if (!r)
		return;
	if (r < 0) {
		load.errors++;
		close(c->fd);
		conn_open(c);
	} else {
		record(now_ns() - c->due_ns);
		load.done++;
	}
	c->busy = false;
	idle_put(idle, index);
}

/* A load at a fixed rate on connections of its own. */
struct steady {
	struct conn *conns;
	struct idle idle;
	uint64_t period_ns;
};

static void steady_open(struct steady *s, size_t n_conns, double rate)
{
	*s = (struct steady){ .conns = calloc(n_conns, sizeof(*s->conns)), .idle = { .index = calloc(n_conns, sizeof(size_t)), .max = n_conns },
			      .period_ns = (uint64_t)(1e9 / rate) };
	if (!s->conns || !s->idle.index)
		die("memory");
	for (size_t i = 0; i < n_conns; i++) {
		conn_open(&s->conns[i]);
		idle_put(&s->idle, i);
	}
	wait_connected(s->conns, n_conns);
}

/* Answers of @s that come within @wait_ns. What another one hears meanwhile, whose window is over, is not for now. */
static void steady_take(struct steady *s, uint64_t wait_ns)
{
	struct timespec ts = { .tv_nsec = (long)(wait_ns > 100000000 ? 100000000 : wait_ns) };
	struct epoll_event events[MAX_EVENTS];
	int n = epoll_pwait2(load.epoll_fd, events, MAX_EVENTS, &ts, NULL);

	for (int i = 0; i < n; i++) {
		struct conn *c = events[i].data.ptr;
		size_t index = ((uintptr_t)c - (uintptr_t)s->conns) / sizeof(*c);

		if (index < s->idle.max)
			handle(c, &s->idle, index);
	}
}

static void steady_run(struct steady *s, double seconds)
{
	uint64_t start = now_ns(), due = start + s->period_ns, end = start + (uint64_t)(seconds * 1e9);

	while (now_ns() < end) {
		uint64_t now = now_ns();

		for (; due <= now && s->idle.n; due += s->period_ns)	/* with none idle it waits, and the wait counts as latency */
			conn_send(&s->conns[idle_get(&s->idle)], due);
		steady_take(s, !s->idle.n ? UINT64_MAX : due > now ? due - now : 0);
	}
}

static void run_rate(size_t n_conns, double rate, double seconds)
{
	struct steady s;
	uint64_t start;

	steady_open(&s, n_conns, rate);
	start = now_ns();
	steady_run(&s, seconds);
	report((double)(now_ns() - start) / 1e9);
}

/* What is still on its way at the end of a window belongs to it. */
static void run_window(struct steady *s, double seconds)
{
	uint64_t start = now_ns();

	load.done = load.errors = 0;
	load.n_latency = 0;
	steady_run(s, seconds);
	while (s->idle.n < s->idle.max && now_ns() - start < 30000000000u)
		steady_take(s, UINT64_MAX);
	load.errors += s->idle.max - s->idle.n;
	report((double)(now_ns() - start) / 1e9);
	fflush(stdout);
}

static void run_windows(size_t n_conns, double rate, double seconds)
{
	struct steady s[MAX_ADDRS];
	size_t n = load.n_addrs, i;
	char line[32];

	for (i = 0; i < n; i++) {
		load.addrs[0] = load.addrs[i];
		load.n_addrs = 1;
		steady_open(&s[i], n_conns, rate);
	}
	while (fgets(line, sizeof(line), stdin)) {
		i = strtoul(line, NULL, 10);
		if (i < n)
			run_window(&s[i], seconds);
	}
}

static void run_conn(size_t parallel, double seconds)
{
	struct conn *conns = calloc(parallel, sizeof(*conns));
	struct epoll_event events[MAX_EVENTS];

	if (!conns)
		die("memory");
	uint64_t start = now_ns(), end = start + (uint64_t)(seconds * 1e9);
	for (size_t i = 0; i < parallel; i++) {
		conn_open(&conns[i]);
		conns[i].due_ns = start;
	}
	while (now_ns() < end) {
		int n = epoll_wait(load.epoll_fd, events, MAX_EVENTS, 100);

		for (int i = 0; i < n; i++) {
			struct conn *c = events[i].data.ptr;
			int r = 0;

			if (!c->busy && events[i].events & EPOLLOUT)
				conn_send(c, c->due_ns);
			if (c->busy && events[i].events & EPOLLIN)
				r = conn_read(c);
			if (!r && !(events[i].events & (EPOLLERR | EPOLLHUP)))
				continue;
			if (r == 1) {
				record(now_ns() - c->due_ns);
				load.done++;
			} else {
				load.errors++;
			}
			close(c->fd);
			conn_open(c);
			c->due_ns = now_ns();
		}
	}
	report((double)(now_ns() - start) / 1e9);
}

static void run_hold(size_t n_conns)
{
	struct conn *conns = calloc(n_conns, sizeof(*conns));
	struct epoll_event events[MAX_EVENTS];
	size_t opened = 0, answered = 0;
	char c;

	if (!conns)
		die("memory");
	while (answered < n_conns) {
		while (opened < n_conns && opened - answered < 64) {	/* gently: the listeners' queues are not what is measured */
			conn_open(&conns[opened]);
			opened++;
		}
		int n = epoll_wait(load.epoll_fd, events, MAX_EVENTS, 10000);
		if (n <= 0) {
			errno = ETIMEDOUT;
			die("answer");
		}
		for (int i = 0; i < n; i++) {
			struct conn *k = events[i].data.ptr;

			if (!k->busy && events[i].events & EPOLLOUT && !k->in_body)
				conn_send(k, 0);
			int r = k->busy ? conn_read(k) : 0;
			if (r < 0) {
				errno = ECONNRESET;
				die("answer");
			}
			if (r == 1) {
				k->busy = false;
				answered++;
			}
		}
	}
	printf("held %zu\n", n_conns);
	fflush(stdout);
	while (read(STDIN_FILENO, &c, 1) > 0)
		;
}

/* Until @n of the connections have their answers. */
static void await_answers(size_t n)
{
	struct epoll_event events[MAX_EVENTS];

	while (n) {
		int got = epoll_wait(load.epoll_fd, events, MAX_EVENTS, 10000);

		if (got <= 0) {
			errno = ETIMEDOUT;
			die("answer");
		}
		for (int i = 0; i < got; i++) {
			struct conn *c = events[i].data.ptr;
			int r = c->busy ? conn_read(c) : 0;

			if (r < 0) {
				errno = ECONNRESET;
				die("answer");
			}
			if (r == 1) {
				c->busy = false;
				record(now_ns() - c->due_ns);
				load.done++;
				n--;
			}
		}
	}
}

static void run_rounds(size_t n_conns, size_t rounds)
{
	struct conn *conns = calloc(n_conns, sizeof(*conns));
	uint64_t start = now_ns();

	if (!conns)
		die("memory");
	for (size_t i = 0; i < n_conns; i++)
		conn_open(&conns[i]);
	wait_connected(conns, n_conns);
	for (size_t r = 0; r < rounds; r++) {
		for (size_t i = 0; i < n_conns; i++)
			conn_send(&conns[i], now_ns());
		await_answers(n_conns);
	}
	report((double)(now_ns() - start) / 1e9);
}

static void run_dials(size_t n)
{
	uint64_t start = now_ns();
	struct conn c;

	for (size_t i = 0; i < n; i++) {
		conn_open(&c);
		wait_connected(&c, 1);
		conn_send(&c, now_ns());
		await_answers(1);
		close(c.fd);
	}
	report((double)(now_ns() - start) / 1e9);
}

static void parse_address(char *text)
{
	struct sockaddr_in *to = &load.addrs[load.n_addrs];
	char *colon = strrchr(text, ':');

	if (colon)
		*colon = '\0';
	if (!colon || load.n_addrs == MAX_ADDRS || inet_pton(AF_INET, text, &to->sin_addr) != 1) {
		fprintf(stderr, "load: %s is not ADDRESS:PORT, or one too many\n", text);
		exit(2);
	}
	to->sin_family = AF_INET;
	to->sin_port = htons((uint16_t)strtoul(colon + 1, NULL, 10));
	load.n_addrs++;
}

int main(int argc, char **argv)
{
	if (argc < 4) {
		fprintf(stderr, "usage: load rate ADDR CONNECTIONS RATE SECONDS | conn ADDR PARALLEL SECONDS | hold ADDR CONNECTIONS | "
			"rounds ADDR CONNECTIONS ROUNDS | dials ADDR COUNT | windows ADDR CONNECTIONS RATE SECONDS\n");
		return 2;
	}
	struct rlimit files;

	if (!getrlimit(RLIMIT_NOFILE, &files)) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	for (char *rest = argv[2], *one; (one = strsep(&rest, ",")); )
		parse_address(one);
	load.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	load.max_latency = 4000000;
	load.latency_us = malloc(load.max_latency * sizeof(*load.latency_us));
	if (load.epoll_fd < 0 || !load.latency_us)
		die("set-up");

	size_t n = strtoul(argv[3], NULL, 10);
	if (!strcmp(argv[1], "rate") && argc == 6)
		run_rate(n, strtod(argv[4], NULL), strtod(argv[5], NULL));
	else if (!strcmp(argv[1], "windows") && argc == 6)
		run_windows(n, strtod(argv[4], NULL), strtod(argv[5], NULL));
	else if (!strcmp(argv[1], "conn") && argc == 5)
		run_conn(n, strtod(argv[4], NULL));
	else if (!strcmp(argv[1], "hold") && argc == 4)
		run_hold(n);
	else if (!strcmp(argv[1], "rounds") && argc == 5)
		run_rounds(n, strtoul(argv[4], NULL, 10));
	else if (!strcmp(argv[1], "dials") && argc == 4)
		run_dials(n);
	else
		return 2;
	return 0;
}
