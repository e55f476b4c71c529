/*
 * A connection that is kept up. Each attempt is a `struct line`; the newest
 * takes calls, older ones run out.
 */
#include "mesh/channel.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/backoff.h"
#include "base/clock.h"

enum {
	CONNECT_TIMEOUT_MS = 5000,
	BACKOFF_MIN_MS = 100,
	BACKOFF_MAX_MS = 10000,
	LEAVING_MS = 60000,		/* after the server's GOAWAY */
	SERVER_NAMES_MAX = 8,
};

struct line {
	struct list link;
	struct channel *channel;
	struct grpc_client *client;
	struct timer leaving;
	uint64_t opened_ms;		/* 0: not yet */
};

struct settings {
	char *target;
	struct tls_ctx *tls;
	char *server_names[SERVER_NAMES_MAX];
	size_t n_server_names;
	uint32_t connect_timeout_ms;
};

struct channel {
	struct loop *loop;
	struct settings settings;
	size_t at_server_name;		/* the one to expect: the next one after a refusal */
	struct backoff backoff;
	struct timer retry;
	struct list lines;
	struct line *current;
	struct list users;
	char error[320];
	unsigned entered;
	bool zombie;
};

/* --- settings --- */

static void settings_deinit(struct settings *s)
{
	tls_ctx_unref(s->tls);
	for (size_t i = 0; i < s->n_server_names; i++)
		free(s->server_names[i]);
	free(s->target);
	*s = (struct settings){};
}

static int settings_init(struct settings *s, const struct channel_options *o)
{
	*s = (struct settings){ .connect_timeout_ms = o->connect_timeout_ms ?: CONNECT_TIMEOUT_MS };
	s->target = strdup(o->target);
	if (!s->target)
		return -ENOMEM;
	for (size_t i = 0; o->server_names && o->server_names[i]; i++) {
		if (i == SERVER_NAMES_MAX)
			return -EINVAL;
		s->server_names[i] = strdup(o->server_names[i]);
		if (!s->server_names[i])
			return -ENOMEM;
		s->n_server_names++;
	}
	s->tls = o->tls ? tls_ctx_ref(o->tls) : NULL;
	return 0;
}

/* --- life --- */

static void line_free(struct line *line)
{
	struct channel *c = line->channel;

	if (c->current == line)
		c->current = NULL;
	timer_cancel(&line->leaving);
	list_unlink(&line->link);
	grpc_client_free(line->client);
	free(line);
}

static void enter(struct channel *c)
{
	c->entered++;
}

static void leave(struct channel *c)
{
	if (--c->entered || !c->zombie)
		return;
	settings_deinit(&c->settings);
	free(c);
}

struct channel *channel_free(struct channel *c)
{
	if (!c)
		return NULL;
	enter(c);
	c->zombie = true;
	timer_cancel(&c->retry);
	list_for_each_safe(l, &c->users)
		channel_detach(list_entry(l, struct channel_user, link));
	while (!list_empty(&c->lines))		/* whose calls hear of it, and whose on_closed() frees them */
		grpc_client_shut(list_first(&c->lines, struct line, link)->client, "the channel is closed");
	leave(c);
	return NULL;
}

/* --- users --- */

/* Calls @tell for every user, who may detach itself or others, or free the channel. */
static void tell_users(struct channel *c, void (*tell)(struct channel *c, struct channel_user *u, int r), int r)
{
	struct list left;
	struct channel_user *u;

	list_init(&left);
	list_for_each_safe(l, &c->users) {
		list_unlink(l);
		list_append(&left, l);
	}
	while ((u = list_first(&left, struct channel_user, link))) {
		list_unlink(&u->link);
		list_append(&c->users, &u->link);
		if (!c->zombie)
			tell(c, u, r);
		else
			channel_detach(u);
	}
}

static void tell_up(struct channel *c, struct channel_user *u, int r)
{
	(void)r;
	if (channel_client(c))
		u->up(u, channel_client(c));
}

static void tell_down(struct channel *c, struct channel_user *u, int r)
{
	if (u->down)
		u->down(u, r, c->error);
}

static int on_greet(struct defer *d)
{
	struct channel_user *u = container_of(d, struct channel_user, greet);
	struct channel *c = u->channel;

	enter(c);
	tell_up(c, u, 0);
	leave(c);
	return 0;
}

void channel_attach(struct channel *c, struct channel_user *u)
{
	u->channel = c;
	list_append(&c->users, &u->link);
	if (channel_client(c))
		loop_defer(c->loop, &u->greet, on_greet);
}

void channel_detach(struct channel_user *u)
{
	if (!u->channel)
		return;
	list_unlink(&u->link);
	defer_cancel(&u->greet);
	u->channel = NULL;
}

/* --- lines --- */

static int on_retry(struct timer *t);

static void retry_later(struct channel *c)
{
	/* Without memory for a timer nothing will be tried: but then a later user of the channel comes to nothing either. */
	if (!c->zombie && timer_arm(c->loop, &c->retry, backoff_next(&c->backoff), on_retry) < 0)
		snprintf(c->error, sizeof(c->error), "out of memory");
}

static void note_lasted(const struct line *line)
{
	if (line->opened_ms)
		backoff_ended(&line->channel->backoff, clock_mono_ms() - line->opened_ms);
}

static void on_opened(struct grpc_client *client, void *data)
{
	struct line *line = data;
	struct channel *c = line->channel;

	(void)client;
	enter(c);
	line->opened_ms = clock_mono_ms();
	c->error[0] = 0;
	tell_users(c, tell_up, 0);
	leave(c);
}

static int on_leaving_over(struct timer *t)
{
	grpc_client_shut(container_of(t, struct line, leaving)->client, "the connection is replaced");
	return 0;
}

/* No new calls on it; those that run have @ms. */
static void retire(struct line *line, uint32_t ms)
{
	struct channel *c = line->channel;

	if (c->current == line)
		c->current = NULL;
	if (!ms || !grpc_client_n_calls(line->client) || timer_arm(c->loop, &line->leaving, ms, on_leaving_over) < 0)
		grpc_client_shut(line->client, "the connection is replaced");
}

static void on_going_away(struct grpc_client *client, void *data)
{
	struct line *line = data;
	struct channel *c = line->channel;

	(void)client;
	if (c->current != line)
		return;
	retire(line, LEAVING_MS);
	note_lasted(line);
	retry_later(c);
}

static void on_closed(struct grpc_client *client, void *data, int r, const char *text)
{
	struct line *line = data;
	struct channel *c = line->channel;
	bool current = c->current == line;

	(void)client;
	enter(c);
	if (current)
		note_lasted(line);
	line_free(line);
	if (current && !c->zombie) {
		snprintf(c->error, sizeof(c->error), "%s: %s", c->settings.target, text);
		if (r == TLS_E_VERIFY)
			c->at_server_name++;
		retry_later(c);
		tell_users(c, tell_down, r);
	}
	leave(c);
}

static const struct grpc_client_ops client_ops = { on_opened, on_going_away, on_closed };

static int connect_line(struct channel *c)
{
	const struct settings *s = &c->settings;
	struct tls_expect expect = {
		.server_name = s->n_server_names ? s->server_names[c->at_server_name % s->n_server_names] : NULL,
	};
	struct grpc_client_options options = {
		.target = s->target, .tls = s->tls, .expect = &expect, .connect_timeout_ms = s->connect_timeout_ms,
	};
	struct line *line = calloc(1, sizeof(*line));
	int r;

	if (!line)
		return -ENOMEM;
	line->channel = c;
	r = grpc_client_new(c->loop, &options, &client_ops, line, &line->client);
	if (r < 0) {
		free(line);
		return r;
	}
	list_append(&c->lines, &line->link);
	c->current = line;
	return 0;
}

static int on_retry(struct timer *t)
{
	struct channel *c = container_of(t, struct channel, retry);

	if (c->current)
		return 0;
	int r = connect_line(c);
	if (r < 0) {
		snprintf(c->error, sizeof(c->error), "%s: %s", c->settings.target, strerror(-r));
		retry_later(c);
	}
	return 0;
}

int channel_new(struct loop *loop, const struct channel_options *o, struct channel **ret_channel)
{
	struct channel *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return -ENOMEM;
	c->loop = loop;
	c->backoff = (struct backoff){ .min_ms = o->backoff_min_ms ?: BACKOFF_MIN_MS, .max_ms = o->backoff_max_ms ?: BACKOFF_MAX_MS };
	list_init(&c->lines);
	list_init(&c->users);
	r = settings_init(&c->settings, o);
	if (r == 0)
		r = connect_line(c);
	if (r < 0) {
		channel_free(c);
		return r;
	}
	*ret_channel = c;
	return 0;
}

int channel_like(struct loop *loop, const struct channel *from, struct tls_ctx *tls, struct channel **ret_channel)
{
	const char *names[SERVER_NAMES_MAX + 1] = {};
	const struct channel_options options = {
		.target = from->settings.target, .tls = tls, .server_names = names, .connect_timeout_ms = from->settings.connect_timeout_ms,
	};

	/* First the one that was right. */
	for (size_t i = 0; i < from->settings.n_server_names; i++)
		names[i] = from->settings.server_names[(from->at_server_name + i) % from->settings.n_server_names];
	return channel_new(loop, &options, ret_channel);
}

int channel_change(struct channel *c, const struct channel_options *o, uint32_t grace_ms)
{
	struct settings settings;
	int r = settings_init(&settings, o);

	if (r < 0) {
		settings_deinit(&settings);
		return r;
	}
	settings_deinit(&c->settings);
	c->settings = settings;
	c->at_server_name = 0;
	backoff_reset(&c->backoff);
	timer_cancel(&c->retry);
	if (c->current)
		retire(c->current, grace_ms);
	r = connect_line(c);
	if (r < 0)
		retry_later(c);
	return r;
}

struct grpc_client *channel_client(const struct channel *c)
{
	return c->current && c->current->opened_ms ? c->current->client : NULL;
}

const char *channel_error(const struct channel *c)
{
	return c->error;
}
