/*
 * What the streams of a tunnel bring: requests, answers, data that came in pieces.
 */
#include "proxy/flow.h"
#include "proxy/hbone.h"
#include "proxy/pool.h"

void hbone_rx_flush(struct worker *w)
{
	struct flow *f = w->rx_flow;
	size_t n = w->n_rx;
	bool end = w->rx_end;

	w->rx_flow = NULL;
	w->n_rx = 0;
	w->rx_end = false;
	if (f)
		flow_from_stream(f, w->rx_iov, n, end);
}

void hbone_rx_forget(struct worker *w, const struct flow *f)
{
	if (w->rx_flow != f)
		return;
	for (size_t i = 0; i < w->n_rx && f->tunnel; i++)
		h2_consume(&f->tunnel->h2, NULL, w->rx_iov[i].iov_len);
	w->rx_flow = NULL;
	w->n_rx = 0;
	w->rx_end = false;
}

static void on_data(struct h2 *h, struct h2_stream *s, const uint8_t *data, size_t len, bool end)
{
	struct worker *w = container_of(h, struct hbone, h2)->v->w;
	struct flow *f = flow_of_stream(s);

	if (w->rx_flow != f || w->n_rx == WORKER_RX_PARTS)
		hbone_rx_flush(w);
	w->rx_flow = f;
	if (len)
		w->rx_iov[w->n_rx++] = (struct iovec){ (void *)(uintptr_t)data, len };
	w->rx_end |= end;
}

static void on_request(struct h2 *h, const struct h2_message *m, bool end)
{
	flow_in_request(container_of(h, struct hbone, h2), m, end);
}

static void on_response(struct h2 *h, struct h2_stream *s, const struct h2_message *m, bool end)
{
	struct flow *f = flow_of_stream(s);

	(void)h;
	if (f->state != FLOW_REQUESTED)
		return;
	flow_out_response(f, m->status);
	if (end && f->state == FLOW_OPEN)
		flow_from_stream(f, NULL, 0, true);
}

static void on_reset(struct h2 *h, struct h2_stream *s, uint32_t code)
{
	struct worker *w = container_of(h, struct hbone, h2)->v->w;
	struct flow *f = flow_of_stream(s);

	if (w->rx_flow == f)
		hbone_rx_flush(w);
	flow_stream_gone(f, code, h->losing);
}

static void on_stream_writable(struct h2 *h, struct h2_stream *s)
{
	(void)h;
	flow_resume(flow_of_stream(s));
}

static void on_goaway(struct h2 *h, uint32_t code)
{
	struct hbone *t = container_of(h, struct hbone, h2);

	(void)code;
	t->draining = true;
	if (!h2_n_streams(h))
		hbone_break(t, "the peer closed the tunnel");
	else if (t->pool)
		pool_tunnel_retired(t->pool);
}

static void on_pong(struct h2 *h)
{
	container_of(h, struct hbone, h2)->ping_ms = 0;
}

const struct h2_ops hbone_stream_ops = {
	.room = hbone_room,
	.request = on_request,
	.response = on_response,
	.data = on_data,
	.reset = on_reset,
	.writable = on_stream_writable,
	.goaway = on_goaway,
	.pong = on_pong,
};
