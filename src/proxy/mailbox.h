#pragma once
#include <stdbool.h>
#include "base/loop.h"

/*
 * Messages from any thread to one: a stack that writers push onto without a
 * lock and that the reader takes whole. Messages are embedded in the sender's
 * allocation and become the receiver's.
 */
struct mail {
	struct mail *next;
	void (*fn)(struct mail *m, void *receiver);	/* runs on the receiver's thread and owns @m */
};

struct mailbox {
	struct mail *head;		/* atomic; newest first */
	struct loop *loop;		/* of the receiver: woken when the box was empty */
};

void mailbox_init(struct mailbox *b, struct loop *loop);
void mailbox_post(struct mailbox *b, struct mail *m);		/* any thread */
/* As mailbox_post(), for a whole list linked by @next, first message first. */
void mailbox_post_list(struct mailbox *b, struct mail *first);
/* Calls all messages in the order in which they were posted. Receiver's thread. Returns whether there were any. */
bool mailbox_deliver(struct mailbox *b, void *receiver);
