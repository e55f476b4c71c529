/*
 * List and watch of one kind of objects.
 *
 * Source: https://kubernetes.io/docs/reference/using-api/api-concepts/, "Efficient
 * detection of changes" and "Retrieving large results sets in chunks".
 */
#include "control/kube_watch.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/backoff.h"

enum {
	PAGE = 100,			/* in memory a page of JSON is fifteen times what came */
	WATCH_S = 290,
	BACKOFF_MIN_MS = 200,
	BACKOFF_MAX_MS = 15000,
	AGAIN_MS = 50,			/* a watch that ended in order: at most 20 a second, if it ends at once */
	STUCK = 3,			/* watches from one version that came to nothing: it is listed anew */
	RETRY_AFTER_MAX_S = 60,
	VERSION_LEN = 64,
	TOKEN_LEN = 2048,
};

struct kube_watch {
	struct loop *loop;
	struct kube_client *client;
	struct kube_watch_ops ops;
	void *data;
	char *path;
	char *what;
	char *selector;
	uint32_t page, watch_s;

	struct kube_call *call;
	struct timer retry;
	struct backoff backoff;
	struct backoff relist;		/* versions that expire at once must not have us list all the time */
	unsigned n_stuck;		/* watches in a row that the server ended badly, without news */
	char version[VERSION_LEN];	/* to watch from; "": list first */
	char next_page[TOKEN_LEN];	/* of a list under way */
	bool stale;			/* an ERROR event said 410 */
	struct kube_watch_info info;
	char text[KUBE_WATCH_TEXT_LEN];
};

static int on_retry(struct timer *t);

/* A server that has too much to do says for how long it wants to be left alone. */
static void fail(struct kube_watch *w, enum kube_error error, const char *text, uint32_t retry_after_s)
{
	uint64_t asked_ms = MIN(retry_after_s, (uint32_t)RETRY_AFTER_MAX_S) * UINT64_C(1000), delay_ms = backoff_next(&w->backoff);

	w->info.watching = false;
	w->info.error = error;
	w->info.n_failures++;
	snprintf(w->text, sizeof(w->text), "%s", text);
	w->next_page[0] = 0;
	/* Without memory for the timer it is never tried again: the heap has room, since this one was in it before. */
	(void)!timer_arm(w->loop, &w->retry, MAX(asked_ms, delay_ms), on_retry);
}

static void well(struct kube_watch *w)
{
	w->info.error = KUBE_OK;
	w->text[0] = 0;
	backoff_reset(&w->backoff);
}

/* Whole or not at all. */
static bool copy(char *to, size_t size, const json_t *text)
{
	const char *s = json_string_value(text);
	size_t len = s ? strlen(s) : size;

	if (len >= size)
		return false;
	memcpy(to, s, len + 1);
	return true;
}

static const json_t *metadata(const json_t *object)
{
	return json_object_get(object, "metadata");
}

/* --- watch --- */

static int on_event(struct kube_watch *w, const char *type, const json_t *object)
{
	if (!copy(w->version, sizeof(w->version), json_object_get(metadata(object), "resourceVersion")))
		return -EBADMSG;
	w->n_stuck = 0;
	backoff_reset(&w->relist);
	if (!strcmp(type, "BOOKMARK"))
		return 0;
	w->info.n_events++;
	if (!strcmp(type, "DELETED"))
		w->ops.gone(w->data, object);
	else
		w->ops.put(w->data, object);
	return 0;
}

static int on_line(struct kube_call *call, void *data, json_t *line)
{
	struct kube_watch *w = data;
	const char *type = json_string_value(json_object_get(line, "type"));
	const json_t *object = json_object_get(line, "object");

	(void)call;
	if (!type || !object)
		return -EBADMSG;
	if (strcmp(type, "ERROR") != 0)
		return on_event(w, type, object);
	w->stale = true;		/* 410; what else the server cannot go on with is listed anew as well */
	return -ESTALE;
}

static void on_opened(struct kube_call *call, void *data)
{
	struct kube_watch *w = data;

	(void)call;
	well(w);
	w->info.watching = true;
	w->info.n_watches++;
}

static void on_watch_end(struct kube_call *call, void *data, const struct kube_answer *a)
{
	struct kube_watch *w = data;

	(void)call;
	w->call = NULL;
	if (w->stale || a->error == KUBE_GONE) {
		w->stale = false;
		w->n_stuck = 0;
		w->version[0] = 0;
		(void)!timer_arm(w->loop, &w->retry, backoff_next(&w->relist), on_retry);
		return;
	}
	/*
	 * An answer that is no news, again and again: the version may be one that the
	 * server never had (its etcd was restored), or what follows it is more than
	 * we take.
	 */
	if (a->error != KUBE_OK && a->status && ++w->n_stuck == STUCK) {
		w->n_stuck = 0;
		w->version[0] = 0;
	}
	if (a->error != KUBE_OK)
		fail(w, a->error, a->text, a->retry_after_s);
	else
		(void)!timer_arm(w->loop, &w->retry, AGAIN_MS, on_retry);
}

static int start(struct kube_watch *w, const struct kube_request *q)
{
	char text[KUBE_WATCH_TEXT_LEN];
	int r = kube_start(w->client, q, &w->call);

	if (r < 0) {
		snprintf(text, sizeof(text), "%s: %s", q->what, strerror(-r));
		fail(w, KUBE_UNREACHABLE, text, 0);
	}
	return r;
}

static void start_watch(struct kube_watch *w)
{
	char path[TOKEN_LEN], what[128];
	uint64_t seconds = backoff_jitter(w->watch_s, 10);
	const struct kube_request q = { .method = "GET", .path = path, .what = what, .done = on_watch_end, .line = on_line,
					.opened = on_opened, .data = w };

	snprintf(what, sizeof(what), "watch %s", w->what);
	snprintf(path, sizeof(path), "%s?watch=1&allowWatchBookmarks=true&timeoutSeconds=%llu&resourceVersion=%s%s%s", w->path,
		 (unsigned long long)seconds, w->version, w->selector ? "&" : "", w->selector ? w->selector : "");
	(void)!start(w, &q);
}

/* --- list --- */

/* Pages of a list are tokens of the server's own; what is no plain character of a query is encoded. */
static void encode(const char *text, char *to, size_t size)
{
	static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";
	size_t n = 0;

	for (; *text && n + 4 < size; text++)
		n += (size_t)snprintf(to + n, size - n, strchr(plain, *text) ? "%c" : "%%%02X", (unsigned char)*text);
	to[n] = 0;
}

static void start_list(struct kube_watch *w);

static void on_page(struct kube_call *call, void *data, const struct kube_answer *a)
{
	struct kube_watch *w = data;
	const json_t *meta = metadata(a->json), *items = json_object_get(a->json, "items"), *object;
	size_t i;

	(void)call;
	w->call = NULL;
	if (a->error != KUBE_OK) {
		fail(w, a->error, a->text, a->retry_after_s);	/* 410 on a later page: from the start */
		return;
	}
	if (!json_is_array(items) && !json_is_null(items)) {
		fail(w, KUBE_SERVER, "a list came without its items", 0);
		return;
	}
	json_array_foreach(items, i, object)
		w->ops.put(w->data, object);
	w->next_page[0] = 0;
	if (json_string_length(json_object_get(meta, "continue"))) {
		if (copy(w->next_page, sizeof(w->next_page), json_object_get(meta, "continue")))
			start_list(w);
		else
			fail(w, KUBE_SERVER, "the token of a list's next page is too long", 0);
		return;
	}
	if (!copy(w->version, sizeof(w->version), json_object_get(meta, "resourceVersion"))) {
		fail(w, KUBE_SERVER, "a list came without its resourceVersion", 0);
		return;
	}
	well(w);
	w->info.synced = true;
	w->info.n_lists++;
	w->ops.synced(w->data);
	start_watch(w);
}

static void start_list(struct kube_watch *w)
{
	char path[2 * TOKEN_LEN], what[128], page[TOKEN_LEN + 512];
	const struct kube_request q = { .method = "GET", .path = path, .what = what, .done = on_page, .data = w };

	if (!w->next_page[0])
		w->ops.begin(w->data);
	encode(w->next_page, page, sizeof(page));
	snprintf(what, sizeof(what), "list %s", w->what);
	snprintf(path, sizeof(path), "%s?limit=%u%s%s%s%s", w->path, w->page, w->selector ? "&" : "", w->selector ? w->selector : "",
		 page[0] ? "&continue=" : "", page);
	(void)!start(w, &q);
}

static int on_retry(struct timer *t)
{
	struct kube_watch *w = container_of(t, struct kube_watch, retry);

	if (w->version[0])
		start_watch(w);
	else
		start_list(w);
	return 0;
}

/* --- life --- */

struct kube_watch_info kube_watch_info(const struct kube_watch *w)
{
	struct kube_watch_info info = w->info;

	info.what = w->what;
	info.text = w->text;
	return info;
}

int kube_watch_new(struct loop *loop, const struct kube_watch_options *o, struct kube_watch **ret_watch)
{
	struct kube_watch *w = calloc(1, sizeof(*w));
	int r;

	if (!w)
		return -ENOMEM;
	w->loop = loop;
	w->client = o->client;
	w->ops = o->ops;
	w->data = o->data;
	w->page = o->page ? o->page : PAGE;
	w->watch_s = o->watch_s ? o->watch_s : WATCH_S;
	w->backoff = (struct backoff){ .min_ms = BACKOFF_MIN_MS, .max_ms = BACKOFF_MAX_MS };
	w->relist = (struct backoff){ .min_ms = AGAIN_MS, .max_ms = BACKOFF_MAX_MS };
	w->path = strdup(o->path);
	w->what = strdup(o->what);
	w->selector = o->selector ? strdup(o->selector) : NULL;
	r = w->path && w->what && !o->selector == !w->selector ? timer_arm(loop, &w->retry, 0, on_retry) : -ENOMEM;
	if (r < 0) {
		kube_watch_free(w);
		return r;
	}
	*ret_watch = w;
	return 0;
}

struct kube_watch *kube_watch_free(struct kube_watch *w)
{
	if (!w)
		return NULL;
	kube_cancel(w->call);
	timer_cancel(&w->retry);
	free(w->path);
	free(w->what);
	free(w->selector);
	free(w);
	return NULL;
}
