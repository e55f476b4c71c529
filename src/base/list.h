#pragma once
#include <stdbool.h>
#include <stddef.h>

/*
 * Doubly linked list, embedded in its members. A link that is in no list
 * points at itself, so unlinking twice is harmless.
 */
struct list {
	struct list *prev;
	struct list *next;
};

#define LIST_INIT(l)	{ &(l), &(l) }

static inline void list_init(struct list *l)
{
	l->prev = l->next = l;
}

static inline bool list_empty(const struct list *l)
{
	return l->next == l;
}

/* Adds @l at the end of the list @head. */
static inline void list_append(struct list *head, struct list *l)
{
	l->prev = head->prev;
	l->next = head;
	head->prev->next = l;
	head->prev = l;
}

static inline void list_unlink(struct list *l)
{
	l->prev->next = l->next;
	l->next->prev = l->prev;
	list_init(l);
}

/* Moves all of @from to the end of the list @head. */
static inline void list_splice(struct list *head, struct list *from)
{
	if (list_empty(from))
		return;
	from->next->prev = head->prev;
	head->prev->next = from->next;
	from->prev->next = head;
	head->prev = from->prev;
	list_init(from);
}

#define list_entry(l, type, member) \
	((type *)(void *)((char *)(l) - offsetof(type, member)))

#define list_first(head, type, member) \
	(list_empty(head) ? NULL : list_entry((head)->next, type, member))

/* @l must not be unlinked in the body; list_for_each_safe() allows that. */
#define list_for_each(l, head) \
	for (struct list *l = (head)->next; l != (head); l = l->next)

#define list_for_each_safe(l, head) \
	for (struct list *l = (head)->next, *l##_next = l->next; l != (head); l = l##_next, l##_next = l->next)
