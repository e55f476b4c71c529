/*
 * Queries of a VM over TCP.
 *
 * Messages are prefixed by their length (RFC 1035, section 4.2.2). A connection
 * carries many, and answers come in any order (RFC 7766, section 6.2.1.1), so
 * those of the mesh are put between the server's.
 */
#include "proxy/dns_conn.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "proto/dns.h"
#include "proxy/sock.h"

enum {
	PREFIX_LEN = 2,
	MESSAGE_MAX = 65535,
	READ_SIZE = 16384,
};

struct side {
	struct sock sock;
	struct bytes in;		/* read, and not a whole message yet */
};

struct dns_conn {
	struct list link;
	struct dns_conns *owner;
	struct dns_way way;
	struct ip_port dst;
	struct side client;
	struct side server;		/* without a socket until something has to go on */
	struct timer silence;
	struct defer free_defer;
	uint64_t active_ms;
	bool spoken;			/* the client has sent a message */
	bool raw;			/* it is no DNS */
	bool server_lost;		/* it does not take anything any more */
	bool server_gone;		/* likewise, and all that it has said has been seen to */
	bool broken;
	bool dead;
};

static void work(struct dns_conn *c);

/* --- the end --- */

static void conn_free(struct dns_conn *c)
{
	timer_cancel(&c->silence);
	defer_cancel(&c->free_defer);
	dns_broker_drop(c->owner->broker, c);
	list_unlink(&c->link);
	c->owner->n--;
	sock_close(&c->client.sock, c->broken);
	sock_close(&c->server.sock, c->broken);
	bytes_deinit(&c->client.in);
	bytes_deinit(&c->server.in);
	free(c);
}

static int on_free(struct defer *d)
{
	conn_free(container_of(d, struct dns_conn, free_defer));
	return 0;
}

static void end(struct dns_conn *c, bool broken)
{
	if (c->dead)
		return;
	c->dead = true;
	c->broken = broken;
	sock_unwatch(&c->client.sock);
	sock_unwatch(&c->server.sock);
	timer_cancel(&c->silence);
	loop_defer(c->owner->loop, &c->free_defer, on_free);
}

/* The server is not there, or not any more: of DNS some may be answered without it. */
static void failed(struct dns_conn *c, struct side *s)
{
	if (s == &c->client || c->raw) {
		end(c, true);
		return;
	}
	sock_unwatch(&s->sock);
	s->sock.eof = c->server_lost = true;
}

/* --- sending --- */

static void send_to(struct dns_conn *c, struct side *to, const struct iovec *iov, size_t n_iov)
{
	size_t sent;

	if (c->dead || to->sock.fd < 0 || to->sock.end_wanted || (to == &c->server && c->server_lost))
		return;
	if (sock_write(&to->sock, iov, n_iov, &sent) < 0)
		failed(c, to);
}

static void send_message(struct dns_conn *c, struct side *to, const void *message, size_t len)
{
	uint8_t prefix[PREFIX_LEN] = { (uint8_t)(len >> 8), (uint8_t)len };
	struct iovec iov[2] = { { prefix, sizeof(prefix) }, { (void *)(uintptr_t)message, len } };

	if (len <= MESSAGE_MAX)
		send_to(c, to, iov, 2);
}

static int on_server(struct watch *w, uint32_t events);

/* false: it is not to be had, and the client sees the end of its connection. */
static bool has_server(struct dns_conn *c)
{
	int fd;

	if (c->dead || c->server_gone)
		return false;
	if (c->server.sock.fd >= 0)
		return true;
	fd = c->owner->ops->dial(c->owner->data, &c->way.client, &c->dst);
	if (fd >= 0 && sock_add(&c->server.sock, c->owner->loop, fd, false, on_server) == 0) {
		sock_read(&c->server.sock, true);
		return true;
	}
	end(c, true);
	return false;
}

void dns_conn_to_vm(struct dns_conn *c, const void *message, size_t len)
{
	send_message(c, &c->client, message, len);
}

void dns_conn_to_server(struct dns_conn *c, const void *message, size_t len)
{
	if (has_server(c))
		send_message(c, &c->server, message, len);
}

/* --- what comes --- */

static bool next_message(const struct bytes *in, const uint8_t **ret_message, size_t *ret_len)
{
	size_t len = in->len >= PREFIX_LEN ? (size_t)in->data[0] << 8 | in->data[1] : 0;

	if (in->len < PREFIX_LEN + len || in->len < PREFIX_LEN)
		return false;
	*ret_message = in->data + PREFIX_LEN;
	*ret_len = len;
	return true;
}

/* The first bytes of a connection: can this be a client of DNS? Known once its header is there. */
static bool is_other_protocol(const struct bytes *in)
{
	struct dns_message m;

	if (in->len < PREFIX_LEN)
		return false;
	if ((in->data[0] << 8 | in->data[1]) < DNS_HEADER_LEN)
		return true;
	if (in->len < PREFIX_LEN + DNS_HEADER_LEN)
		return false;
	return !dns_open(&m, in->data + PREFIX_LEN, DNS_HEADER_LEN) || m.header.response || m.header.counts[DNS_QUESTION] != 1 ||
	       (m.header.opcode != DNS_OPCODE_QUERY && m.header.opcode != DNS_OPCODE_NOTIFY && m.header.opcode != DNS_OPCODE_UPDATE);
}

static bool is_full(const struct dns_conn *c)
{
	return sock_waiting(&c->client.sock) > DNS_CONN_HIGH || (!c->server_lost && sock_waiting(&c->server.sock) > DNS_CONN_HIGH);
}

static void pass_on(struct dns_conn *c, struct side *from, struct side *to)
{
	struct iovec iov = { from->in.data, from->in.len };

	if (!iov.iov_len || is_full(c))
		return;
	send_to(c, to, &iov, 1);
	bytes_clear(&from->in);
}

static void take_queries(struct dns_conn *c)
{
	const uint8_t *message;
	size_t len;

	while (!c->dead && !c->raw && !is_full(c)) {
		c->raw = !c->spoken && is_other_protocol(&c->client.in);
		if (c->raw || !next_message(&c->client.in, &message, &len))
			break;
		c->spoken = true;
		timer_cancel(&c->silence);
		dns_broker_query(c->owner->broker, &c->way, message, len);
		bytes_consume(&c->client.in, PREFIX_LEN + len);
	}
	if (c->raw && has_server(c))
		pass_on(c, &c->client, &c->server);
}

static void take_responses(struct dns_conn *c)
{
	const uint8_t *message;
	size_t len;

	c->raw |= !c->spoken && c->server.in.len;
	while (!c->dead && !c->raw && !is_full(c) && next_message(&c->server.in, &message, &len)) {
		dns_broker_response(c->owner->broker, &c->way, message, len);
		bytes_consume(&c->server.in, PREFIX_LEN + len);
	}
	if (c->raw)
		pass_on(c, &c->server, &c->client);
}

/* --- ends of directions --- */

static void end_raw(struct dns_conn *c)
{
	if (c->client.sock.eof && !c->client.in.len && c->server.sock.fd >= 0)
		sock_end(&c->server.sock);
	if (c->server.sock.eof && !c->server.in.len)
		sock_end(&c->client.sock);
	if (c->client.sock.eof && c->server.sock.eof && c->client.sock.ended && c->server.sock.ended)
		end(c, false);
}

/* What waits is seen to before an end is passed on. */
static void end_dns(struct dns_conn *c)
{
	const uint8_t *message;
	size_t len;

	if (c->server.sock.eof && !c->server_gone && !next_message(&c->server.in, &message, &len)) {
		c->server_gone = true;
		dns_broker_server_gone(c->owner->broker, c);
	}
	if (c->dead || dns_broker_waits(c->owner->broker, c))
		return;
	if (c->server_gone || (c->client.sock.eof && c->server.sock.fd < 0 && !next_message(&c->client.in, &message, &len)))
		sock_end(&c->client.sock);
	else if (c->client.sock.eof && c->server.sock.fd >= 0 && !next_message(&c->client.in, &message, &len))
		sock_end(&c->server.sock);
	if (c->client.sock.ended)
		end(c, false);
}

/* Whatever has happened: what can be done now is. */
static void work(struct dns_conn *c)
{
	take_queries(c);
	take_responses(c);
	if (!c->dead && c->raw)
		end_raw(c);
	else if (!c->dead)
		end_dns(c);
	if (c->dead)
		return;
	sock_read(&c->client.sock, !is_full(c));
	if (c->server.sock.fd >= 0 && !c->server_lost)
		sock_read(&c->server.sock, !is_full(c));
}

static void read_some(struct dns_conn *c, struct side *s)
{
	uint8_t *to = bytes_reserve(&s->in, READ_SIZE);
	ssize_t n = to ? recv(s->sock.fd, to, READ_SIZE, MSG_DONTWAIT) : -1;

	if (!to || (n < 0 && errno != EAGAIN && errno != EINTR)) {
		failed(c, s);
		return;
	}
	if (n > 0)
		bytes_commit(&s->in, (size_t)n);
	s->sock.eof |= n == 0;
	c->active_ms = loop_now_ms(c->owner->loop);
}

static void on_side(struct dns_conn *c, struct side *s, uint32_t events)
{
	size_t sent;

	if (c->dead)
		return;
	if (events & EPOLLOUT && sock_flush(&s->sock, &sent) < 0)
		failed(c, s);
	else if (s->sock.reading && events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		read_some(c, s);
	else if (events & EPOLLERR)
		failed(c, s);
	else if (events & EPOLLHUP)
		sock_unwatch(&s->sock);
	work(c);
}

static int on_client(struct watch *w, uint32_t events)
{
	struct dns_conn *c = container_of(container_of(w, struct sock, watch), struct dns_conn, client.sock);

	on_side(c, &c->client, events);
	return 0;
}

static int on_server(struct watch *w, uint32_t events)
{
	struct dns_conn *c = container_of(container_of(w, struct sock, watch), struct dns_conn, server.sock);

	on_side(c, &c->server, events);
	return 0;
}

/* --- life --- */

static int on_silence(struct timer *t)
{
	struct dns_conn *c = container_of(t, struct dns_conn, silence);

	c->raw = true;
	work(c);
	return 0;
}

void dns_conns_init(struct dns_conns *cs, struct loop *loop, struct dns_broker *broker, const struct dns_conns_ops *ops, void *data)
{
	*cs = (struct dns_conns){ .loop = loop, .broker = broker, .ops = ops, .data = data };
	list_init(&cs->list);
}

void dns_conns_deinit(struct dns_conns *cs)
{
	list_for_each_safe(l, &cs->list)
		conn_free(list_entry(l, struct dns_conn, link));
}

static void side_init(struct side *s)
{
	sock_init(&s->sock);
	bytes_init(&s->in, PREFIX_LEN + MESSAGE_MAX + READ_SIZE);
}

int dns_conns_take(struct dns_conns *cs, int fd, const struct ip_port *src, const struct ip_port *dst)
{
	struct dns_conn *c;
	int r;

	if (cs->n >= DNS_CONN_MAX)
		return -EBUSY;
	c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	c->owner = cs;
	c->way = (struct dns_way){ .client = *src, .server = dst->ip, .conn = c };
	c->dst = *dst;
	c->active_ms = loop_now_ms(cs->loop);
	side_init(&c->client);
	side_init(&c->server);
	list_init(&c->free_defer.link);
	r = timer_arm(cs->loop, &c->silence, DNS_CONN_SILENCE_MS, on_silence);
	if (r == 0)
		r = sock_add(&c->client.sock, cs->loop, fd, false, on_client);
	if (r < 0) {
		timer_cancel(&c->silence);
		free(c);
		return r;
	}
	list_append(&cs->list, &c->link);
	cs->n++;
	cs->broker->count.connections++;
	sock_read(&c->client.sock, true);
	return 0;
}

void dns_conns_tick(struct dns_conns *cs)
{
	uint64_t now_ms = loop_now_ms(cs->loop);

	list_for_each_safe(l, &cs->list) {
		struct dns_conn *c = list_entry(l, struct dns_conn, link);

		if (c->server.sock.fd < 0 && now_ms - c->active_ms > DNS_CONN_IDLE_MS && !dns_broker_waits(cs->broker, c))
			end(c, false);
	}
}
