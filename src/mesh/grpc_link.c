/*
 * TLS or a plain socket under one name.
 */
#include "mesh/grpc_link.h"

#include <errno.h>
#include <stdlib.h>

struct grpc_link {
	struct tls_conn *tls;		/* one of the two */
	struct plain_conn *plain;
	const struct grpc_link_ops *ops;
	void *data;
};

static void tls_opened(struct tls_conn *c, void *data)
{
	struct grpc_link *l = data;

	(void)c;
	l->ops->opened(l->data);
}

static void tls_received(struct tls_conn *c, void *data, const uint8_t *bytes, size_t len)
{
	struct grpc_link *l = data;

	(void)c;
	l->ops->received(l->data, bytes, len);
}

static void tls_drained(struct tls_conn *c, void *data)
{
	struct grpc_link *l = data;

	(void)c;
	l->ops->drained(l->data);
}

static void tls_closed(struct tls_conn *c, void *data, int r, const char *text)
{
	struct grpc_link *l = data;

	(void)c;
	l->ops->closed(l->data, r, text);
}

static const struct tls_conn_ops tls_ops = { tls_opened, tls_received, tls_drained, tls_closed };

static void plain_opened(struct plain_conn *c, void *data)
{
	struct grpc_link *l = data;

	(void)c;
	l->ops->opened(l->data);
}

static void plain_received(struct plain_conn *c, void *data, const uint8_t *bytes, size_t len)
{
	struct grpc_link *l = data;

	(void)c;
	l->ops->received(l->data, bytes, len);
}

static void plain_drained(struct plain_conn *c, void *data)
{
	struct grpc_link *l = data;

	(void)c;
	l->ops->drained(l->data);
}

static void plain_closed(struct plain_conn *c, void *data, int r, const char *text)
{
	struct grpc_link *l = data;

	(void)c;
	l->ops->closed(l->data, r, text);
}

static const struct plain_conn_ops plain_ops = { plain_opened, plain_received, plain_drained, plain_closed };

static struct grpc_link *link_new(const struct grpc_link_ops *ops, void *data)
{
	struct grpc_link *l = calloc(1, sizeof(*l));

	if (l) {
		l->ops = ops;
		l->data = data;
	}
	return l;
}

/* @r: of what makes its connection. Without one there is no link. */
static int link_begun(struct grpc_link *l, int r, struct grpc_link **ret_link)
{
	if (r < 0) {
		free(l);
		return r;
	}
	*ret_link = l;
	return 0;
}

int grpc_link_dial(struct loop *loop, const struct ip_port *addr, struct tls_ctx *tls, const struct tls_expect *expect,
		   uint32_t open_timeout_ms, const struct grpc_link_ops *ops, void *data, struct grpc_link **ret_link)
{
	struct tls_conn_options options = { .open_timeout_ms = open_timeout_ms };
	struct grpc_link *l = link_new(ops, data);
	int r;

	if (!l)
		return -ENOMEM;
	if (tls)
		r = tls_conn_dial(loop, addr, tls, expect, &options, &tls_ops, l, &l->tls);
	else
		r = plain_conn_dial(loop, addr, open_timeout_ms, &plain_ops, l, &l->plain);
	return link_begun(l, r, ret_link);
}

int grpc_link_connecting(struct loop *loop, int fd, uint32_t open_timeout_ms, const struct grpc_link_ops *ops, void *data,
			 struct grpc_link **ret_link)
{
	struct grpc_link *l = link_new(ops, data);
	int r;

	if (!l) {
		close_fd(fd);
		return -ENOMEM;
	}
	r = plain_conn_new(loop, fd, true, open_timeout_ms, &plain_ops, l, &l->plain);
	return link_begun(l, r, ret_link);
}

int grpc_link_accept(struct loop *loop, int fd, struct tls_ctx *tls, const struct tls_expect *expect, uint32_t open_timeout_ms,
		     const struct grpc_link_ops *ops, void *data, struct grpc_link **ret_link)
{
	struct tls_conn_options options = { .open_timeout_ms = open_timeout_ms };
	struct grpc_link *l = link_new(ops, data);
	int r;

	if (!l) {
		close_fd(fd);
		return -ENOMEM;
	}
	if (tls)
		r = tls_conn_new(loop, fd, tls, expect, &options, &tls_ops, l, &l->tls);
	else
		r = plain_conn_new(loop, fd, false, open_timeout_ms, &plain_ops, l, &l->plain);
	return link_begun(l, r, ret_link);
}

struct grpc_link *grpc_link_free(struct grpc_link *l)
{
	if (!l)
		return NULL;
	tls_conn_free(l->tls);
	plain_conn_free(l->plain);
	free(l);
	return NULL;
}

int grpc_link_write(struct grpc_link *l, const void *bytes, size_t len)
{
	return l->tls ? tls_conn_write(l->tls, bytes, len) : plain_conn_write(l->plain, bytes, len);
}

void grpc_link_shutdown(struct grpc_link *l)
{
	if (l->tls)
		tls_conn_shutdown(l->tls);
	else
		plain_conn_shutdown(l->plain);
}

size_t grpc_link_queued(const struct grpc_link *l)
{
	return l->tls ? tls_conn_queued(l->tls) : plain_conn_queued(l->plain);
}

const struct tls_session *grpc_link_session(const struct grpc_link *l)
{
	return l->tls ? tls_conn_session(l->tls) : NULL;
}

struct ip_port grpc_link_peer(const struct grpc_link *l)
{
	return l->tls ? tls_conn_peer(l->tls) : plain_conn_peer(l->plain);
}
