/*
 * Destinations on demand.
 */
#include "proxy/demand.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/backoff.h"

struct want {
	struct map_link link;		/* by @ip */
	struct ip ip;
	bool answered;
	bool absent;			/* answered, and there is nothing */
	uint64_t used_ms;
	uint64_t asked_ms;		/* the last time */
	struct backoff again;
	uint32_t wait_ms;		/* from then to the next time, if it is used after it */
};

void demand_init(struct demand *d, const char *network, const struct demand_ops *ops, void *data)
{
	*d = (struct demand){ .network = network, .ops = ops, .data = data };
	map_init(&d->wants);
}

void demand_deinit(struct demand *d)
{
	map_for_each(l, &d->wants) {
		struct want *w = container_of(l, struct want, link);

		if (w->absent)
			d->ops->absent(d->data, &w->ip, false);
		map_remove(&d->wants, l);
		free(w);
	}
	map_deinit(&d->wants);
}

static struct want *find(const struct demand *d, const struct ip *ip)
{
	struct map_link *l = map_find(&d->wants, ip->b, sizeof(ip->b));

	return l ? container_of(l, struct want, link) : NULL;
}

static const char *name_of(const struct demand *d, const struct ip *ip, char name[static DEMAND_NAME_LEN])
{
	char text[IP_TEXT_LEN];

	snprintf(name, DEMAND_NAME_LEN, "%.63s/%s", d->network, ip_format(ip, text));
	return name;
}

bool demand_parse(const struct demand *d, const char *name, struct ip *ret_ip)
{
	size_t n = strlen(d->network);

	return !strncmp(name, d->network, n) && name[n] == '/' && ip_parse(name + n + 1, ret_ip) == 0;
}

int demand_want(struct demand *d, const struct ip *ip, uint64_t now_ms)
{
	char name[DEMAND_NAME_LEN];
	struct want *w = find(d, ip);
	int r;

	if (w) {
		w->used_ms = now_ms;
		return 0;
	}
	if (d->wants.n >= DEMAND_MAX) {
		d->refused++;
		return -E2BIG;
	}
	w = calloc(1, sizeof(*w));
	if (!w)
		return -ENOMEM;
	w->ip = *ip;
	w->used_ms = w->asked_ms = now_ms;
	w->again = (struct backoff){ .min_ms = DEMAND_AGAIN_MIN_MS, .max_ms = DEMAND_AGAIN_MAX_MS };
	w->wait_ms = backoff_next(&w->again);
	r = map_add(&d->wants, &w->link, w->ip.b, sizeof(w->ip.b));
	if (r == 0) {
		r = d->ops->subscribe(d->data, name_of(d, ip, name));
		if (r < 0)
			map_remove(&d->wants, &w->link);
	}
	if (r < 0)
		free(w);
	return r;
}

bool demand_used(struct demand *d, const struct ip *ip, uint64_t now_ms)
{
	struct want *w = find(d, ip);

	if (w)
		w->used_ms = now_ms;
	return w;
}

void demand_answered(struct demand *d, const char *name)
{
	struct ip ip;
	struct want *w = demand_parse(d, name, &ip) ? find(d, &ip) : NULL;

	if (w)
		w->answered = true;
}

void demand_review(struct demand *d, uint64_t now_ms)
{
	map_for_each(l, &d->wants) {
		struct want *w = container_of(l, struct want, link);
		bool known = d->ops->known(d->data, &w->ip);

		w->answered |= known;
		if (!w->answered || w->absent != known)
			continue;
		w->absent = !known;
		w->used_ms = now_ms;
		if (known) {		/* when it goes, another may come soon */
			backoff_reset(&w->again);
			w->wait_ms = backoff_next(&w->again);
		}
		d->ops->absent(d->data, &w->ip, w->absent);
	}
}

static void ask_again(struct demand *d, struct want *w, uint64_t now_ms)
{
	char name[DEMAND_NAME_LEN];

	if (w->used_ms <= w->asked_ms || now_ms - w->asked_ms < w->wait_ms)
		return;
	w->asked_ms = now_ms;
	w->wait_ms = backoff_next(&w->again);
	d->ops->ask_again(d->data, name_of(d, &w->ip, name));
}

void demand_sweep(struct demand *d, uint64_t now_ms, uint64_t idle_ms)
{
	char name[DEMAND_NAME_LEN];

	map_for_each(l, &d->wants) {
		struct want *w = container_of(l, struct want, link);

		if (!w->absent)
			continue;
		if (now_ms - w->used_ms < idle_ms) {
			ask_again(d, w, now_ms);
			continue;
		}
		d->ops->absent(d->data, &w->ip, false);
		d->ops->unsubscribe(d->data, name_of(d, &w->ip, name));
		map_remove(&d->wants, l);
		free(w);
	}
}
