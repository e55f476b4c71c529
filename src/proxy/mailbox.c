/*
 * A lock-free mailbox with many writers and one reader.
 */
#include "proxy/mailbox.h"

void mailbox_init(struct mailbox *b, struct loop *loop)
{
	*b = (struct mailbox){ .loop = loop };
}

static void push(struct mailbox *b, struct mail *newest, struct mail *oldest)
{
	struct mail *head = __atomic_load_n(&b->head, __ATOMIC_RELAXED);

	do
		oldest->next = head;
	while (!__atomic_compare_exchange_n(&b->head, &head, newest, true, __ATOMIC_RELEASE, __ATOMIC_RELAXED));
	if (!head)
		loop_wake(b->loop);
}

void mailbox_post(struct mailbox *b, struct mail *m)
{
	push(b, m, m);
}

static struct mail *reverse(struct mail *m)
{
	struct mail *list = NULL;

	while (m) {
		struct mail *next = m->next;

		m->next = list;
		list = m;
		m = next;
	}
	return list;
}

void mailbox_post_list(struct mailbox *b, struct mail *first)
{
	if (first)
		push(b, reverse(first), first);
}

bool mailbox_deliver(struct mailbox *b, void *receiver)
{
	struct mail *m = reverse(__atomic_exchange_n(&b->head, NULL, __ATOMIC_ACQUIRE));
	bool any = m;

	while (m) {
		struct mail *next = m->next;

		m->fn(m, receiver);
		m = next;
	}
	return any;
}
