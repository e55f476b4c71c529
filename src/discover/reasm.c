/*
 * Sequence-window reassembly. See the header for what is promised.
 */
#include "discover/reasm.h"

#include <stdlib.h>
#include <string.h>
#include "base/defs.h"

/* Bytes that wait for their turn; @lost ones are known to be missing in the capture. */
struct piece {
	struct list link;
	uint32_t seq;
	uint32_t ack;
	bool has_ack;
	bool lost;
	size_t len;
	uint8_t data[];
};

/* Sequence numbers wrap: @a is before @b if it is less than half the space away. */
static int32_t diff(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b);
}

static struct piece *first_piece(const struct reasm_side *s)
{
	return list_first(&s->pieces, struct piece, link);
}

static bool budget_take(struct reasm_budget *b, size_t size)
{
	for (const struct reasm_budget *i = b; i; i = i->parent)
		if (i->max - i->used < size)
			return false;
	for (struct reasm_budget *i = b; i; i = i->parent)
		i->used += size;
	return true;
}

static void budget_give(struct reasm_budget *b, size_t size)
{
	for (struct reasm_budget *i = b; i; i = i->parent)
		i->used -= size;
}

static size_t piece_size(const struct piece *p)
{
	return sizeof(*p) + (p->lost ? 0 : p->len);
}

static void drop_piece(struct reasm *r, struct reasm_side *s, struct piece *p)
{
	list_unlink(&p->link);
	s->n_pieces--;
	s->bytes -= piece_size(p);
	budget_give(r->budget, piece_size(p));
	free(p);
}

static void drop_pieces(struct reasm *r, struct reasm_side *s)
{
	for (struct piece *p = first_piece(s); p; p = first_piece(s))
		drop_piece(r, s, p);
}

void reasm_init(struct reasm *r, size_t max_bytes, struct reasm_budget *budget, struct reasm_counts *counts)
{
	*r = (struct reasm){ .max_bytes = max_bytes, .budget = budget, .counts = counts };
	for (unsigned i = 0; i < 2; i++)
		list_init(&r->sides[i].pieces);
}

void reasm_deinit(struct reasm *r)
{
	for (unsigned i = 0; i < 2; i++)
		drop_pieces(r, &r->sides[i]);
}

bool reasm_ended(const struct reasm *r)
{
	return r->sides[0].ended && r->sides[1].ended;
}

bool reasm_is_new_connection(const struct reasm *r, const struct reasm_segment *seg)
{
	const struct reasm_side *s = &r->sides[seg->dir];

	if (!(seg->flags & REASM_SYN) || !s->started)
		return false;
	if (s->has_isn)
		return s->isn != seg->seq;
	/* Joined in the middle: a SYN from just before is a late one. */
	return diff(s->next, seg->seq) <= 0 || diff(s->next, seg->seq) > 1 << 16;
}

static void give_gap(struct reasm *r, unsigned dir, uint32_t to, const struct reasm_sink *sink)
{
	struct reasm_side *s = &r->sides[dir];
	size_t len = to - s->next;

	s->next = to;
	r->counts->gaps++;
	r->counts->gap_bytes += len;
	sink->gap(sink->arg, dir, len);
}

/* Had the sender of these bytes seen something of the other side that was not delivered yet? */
static bool is_early(const struct reasm *r, unsigned dir, bool has_ack, uint32_t ack)
{
	const struct reasm_side *other = &r->sides[!dir];

	return has_ack && other->started && diff(ack, other->next) > 0;
}

/* The first piece, of which there must be one. */
static void deliver(struct reasm *r, unsigned dir, const struct reasm_sink *sink)
{
	struct reasm_side *s = &r->sides[dir];
	struct piece *p = list_entry(s->pieces.next, struct piece, link);
	size_t skip = s->next - p->seq;

	if (skip < p->len && p->lost) {
		give_gap(r, dir, p->seq + (uint32_t)p->len, sink);
	} else if (skip < p->len) {
		s->next = p->seq + (uint32_t)p->len;
		sink->data(sink->arg, dir, p->data + skip, p->len - skip);
	}
	drop_piece(r, s, p);
}

/* The FIN takes a number in the sequence too; nothing comes after it. */
static bool deliver_end(struct reasm *r, unsigned dir, const struct reasm_sink *sink)
{
	struct reasm_side *s = &r->sides[dir];

	if (!s->has_fin || s->ended || diff(s->next, s->fin) < 0)
		return false;
	s->next = s->fin + 1;
	s->ended = true;
	drop_pieces(r, s);
	sink->end(sink->arg, dir);
	return true;
}

/* Delivers whatever has its turn; true: there was something. */
static bool pump(struct reasm *r, const struct reasm_sink *sink)
{
	bool any = false, again;

	do {
		again = false;
		for (unsigned dir = 0; dir < 2; dir++) {
			struct reasm_side *s = &r->sides[dir];
			struct piece *p;

			while ((p = first_piece(s)) && diff(p->seq, s->next) <= 0 && !is_early(r, dir, p->has_ack, p->ack)) {
				deliver(r, dir, sink);
				again = true;
			}
			again |= deliver_end(r, dir, sink);
		}
		any |= again;
	} while (again);
	return any;
}

/* Bytes are missing that the peer has got: they will not be sent again. */
static bool has_acked_hole(const struct reasm_side *s)
{
	const struct piece *p = first_piece(s);

	return s->started && !s->ended && s->has_acked && diff(s->acked, s->next) > 0 && (!p || diff(p->seq, s->next) > 0);
}

static bool is_stuck(const struct reasm *r)
{
	for (unsigned dir = 0; dir < 2; dir++)
		if (first_piece(&r->sides[dir]) || has_acked_hole(&r->sides[dir]))
			return true;
	return false;
}

/* Gives up the one hole that holds up the rest. Only when stuck, after pump(). */
static void give_up(struct reasm *r, const struct reasm_sink *sink)
{
	for (unsigned dir = 0; dir < 2; dir++) {
		struct reasm_side *s = &r->sides[dir];
		const struct piece *p = first_piece(s);

		if (has_acked_hole(s)) {
			give_gap(r, dir, p && diff(p->seq, s->acked) < 0 ? p->seq : s->acked, sink);
			return;
		}
	}
	for (unsigned dir = 0; dir < 2; dir++) {
		struct reasm_side *s = &r->sides[dir];
		const struct piece *p = first_piece(s);

		if (p && diff(p->seq, s->next) > 0) {
			give_gap(r, dir, p->seq, sink);
			return;
		}
	}
	/* Each waits for the other: acknowledgements that cannot be true. */
	deliver(r, first_piece(&r->sides[0]) ? 0 : 1, sink);
}

void reasm_flush(struct reasm *r, const struct reasm_sink *sink)
{
	pump(r, sink);
	while (is_stuck(r)) {
		give_up(r, sink);
		pump(r, sink);
	}
	r->stuck_since_ns = 0;
}

void reasm_expire(struct reasm *r, uint64_t now_ns, const struct reasm_sink *sink)
{
	while (is_stuck(r)) {
		bool acked = has_acked_hole(&r->sides[0]) || has_acked_hole(&r->sides[1]);
		uint64_t limit_ms = acked ? REASM_GRACE_MS : REASM_PATIENCE_MS;

		if (now_ns < r->stuck_since_ns + limit_ms * 1000000)
			return;
		give_up(r, sink);
		pump(r, sink);
	}
	r->stuck_since_ns = 0;
}

/* Makes room by giving up holes, the oldest first. */
static bool make_room(struct reasm *r, struct reasm_side *s, size_t size, const struct reasm_sink *sink)
{
	if (size > r->max_bytes)
		return false;
	while (s->bytes + size > r->max_bytes || s->n_pieces == REASM_MAX_PIECES || !budget_take(r->budget, size)) {
		if (!first_piece(&r->sides[0]) && !first_piece(&r->sides[1]))
			return false;	/* it is others who fill the budget */
		give_up(r, sink);
		pump(r, sink);
	}
	s->bytes += size;
	return true;
}

/* Adds bytes that no other piece covers. @data NULL: lost. */
static void add_piece(struct reasm *r, const struct reasm_segment *seg, uint32_t seq, const uint8_t *data, size_t len,
		      const struct reasm_sink *sink)
{
	struct reasm_side *s = &r->sides[seg->dir];
	size_t size = sizeof(struct piece) + (data ? len : 0);
	struct list *before;
	struct piece *p;

	if (!make_room(r, s, size, sink)) {
		r->counts->no_memory++;
		return;
	}
	p = s->ended ? NULL : malloc(size);	/* making room may have brought it to its end */
	if (!p) {
		s->bytes -= size;
		budget_give(r->budget, size);
		r->counts->no_memory++;
		return;
	}
	*p = (struct piece){ .seq = seq, .ack = seg->ack, .has_ack = seg->flags & REASM_ACK, .lost = !data, .len = len };
	if (data)
		memcpy(p->data, data, len);
	for (before = s->pieces.next; before != &s->pieces; before = before->next)
		if (diff(list_entry(before, struct piece, link)->seq, seq) > 0)
			break;
	list_append(before, &p->link);	/* in front of @before */
	s->n_pieces++;
}

/* From @seq on: where the bytes end that no piece covers (@seq itself if one does), and where those behind that piece begin. */
static void find_gap(const struct reasm_side *s, uint32_t seq, uint32_t end, uint32_t *ret_stop, uint32_t *ret_resume)
{
	*ret_stop = *ret_resume = end;
	list_for_each(l, &s->pieces) {
		const struct piece *p = list_entry(l, struct piece, link);
		uint32_t p_end = p->seq + (uint32_t)p->len;

		if (diff(p_end, seq) <= 0)
			continue;
		if (diff(p->seq, end) < 0) {
			*ret_stop = diff(p->seq, seq) > 0 ? p->seq : seq;
			*ret_resume = p_end;
		}
		return;
	}
}

/* Adds the parts of a range that are neither delivered nor waiting already: the first copy wins. */
static void add_range(struct reasm *r, const struct reasm_segment *seg, uint32_t seq, const uint8_t *data, size_t len,
		      const struct reasm_sink *sink)
{
	struct reasm_side *s = &r->sides[seg->dir];
	uint32_t end = seq + (uint32_t)len;

	while (diff(end, seq) > 0) {
		uint32_t stop, resume;

		if (diff(s->next, seq) > 0) {	/* making room moves it */
			uint32_t old = diff(s->next, end) < 0 ? s->next - seq : end - seq;

			seq += old;
			data = data ? data + old : NULL;
			continue;
		}
		find_gap(s, seq, end, &stop, &resume);
		if (diff(stop, seq) > 0)
			add_piece(r, seg, seq, data, stop - seq, sink);
		data = data ? data + (resume - seq) : NULL;
		seq = resume;
	}
}

static void take_ack(struct reasm *r, const struct reasm_segment *seg)
{
	struct reasm_side *other = &r->sides[!seg->dir];

	if (!(seg->flags & REASM_ACK))
		return;
	if (other->started && diff(seg->ack, other->next) > REASM_MAX_AHEAD)
		return;
	if (!other->has_acked || diff(seg->ack, other->acked) > 0) {
		other->has_acked = true;
		other->acked = seg->ack;
	}
}

static void start(struct reasm *r, const struct reasm_segment *seg, const struct reasm_sink *sink)
{
	struct reasm_side *s = &r->sides[seg->dir];
	bool syn = seg->flags & REASM_SYN;

	if (s->started || (!syn && !seg->wire_len && !(seg->flags & REASM_FIN)))
		return;
	s->started = true;
	s->has_isn = syn;
	s->isn = seg->seq;
	s->next = seg->seq + syn;
	if (!syn)
		sink->gap(sink->arg, seg->dir, 0);
}

static void take_data(struct reasm *r, const struct reasm_segment *seg, const struct reasm_sink *sink)
{
	struct reasm_side *s = &r->sides[seg->dir];
	uint32_t seq = seg->seq + !!(seg->flags & REASM_SYN);
	uint32_t end = seq + (uint32_t)seg->wire_len;

	if (seg->flags & REASM_FIN && !s->has_fin) {
		s->has_fin = true;
		s->fin = end;
	}
	if (!seg->wire_len)
		return;
	if (diff(end, s->next) <= 0) {
		r->counts->duplicates++;
		return;
	}
	/* The common case costs no copy. */
	if (seq == s->next && !first_piece(s) && seg->len == seg->wire_len &&
	    !is_early(r, seg->dir, seg->flags & REASM_ACK, seg->ack)) {
		s->next = end;
		sink->data(sink->arg, seg->dir, seg->data, seg->len);
		return;
	}
	if (diff(seq, s->next) > 0)
		r->counts->reordered++;
	if (seg->len)
		add_range(r, seg, seq, seg->data, seg->len, sink);
	if (seg->wire_len > seg->len)
		add_range(r, seg, seq + (uint32_t)seg->len, NULL, seg->wire_len - seg->len, sink);
}

static void reset(struct reasm *r, const struct reasm_sink *sink)
{
	reasm_flush(r, sink);
	for (unsigned dir = 0; dir < 2; dir++)
		if (!r->sides[dir].ended) {
			r->sides[dir].ended = true;
			sink->end(sink->arg, dir);
		}
}

void reasm_segment(struct reasm *r, const struct reasm_segment *seg, const struct reasm_sink *sink)
{
	struct reasm_side *s = &r->sides[seg->dir];

	if (s->ended && !(seg->flags & REASM_RST)) {
		if (seg->wire_len)
			r->counts->duplicates++;
		take_ack(r, seg);
	} else if (s->started && seg->wire_len > REASM_MAX_AHEAD) {
		r->counts->out_of_window++;
		return;
	} else if (s->started && (diff(seg->seq, s->next) > REASM_MAX_AHEAD || diff(seg->seq, s->next) < -REASM_MAX_AHEAD)) {
		r->counts->out_of_window++;
		return;
	} else if (seg->flags & REASM_RST) {
		reset(r, sink);
		return;
	} else {
		take_ack(r, seg);
		start(r, seg, sink);
		if (s->started)
			take_data(r, seg, sink);
	}
	if (pump(r, sink) || !r->stuck_since_ns)
		r->stuck_since_ns = seg->time_ns ? seg->time_ns : 1;
	reasm_expire(r, seg->time_ns, sink);
}
