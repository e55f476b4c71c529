/*
 * Names on demand.
 */
#include "proxy/dns_names.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/backoff.h"

struct want {
	struct map_link link;		/* by @key */
	struct list told;		/* in n->told: the mesh has spoken of it just now */
	bool answered;
	uint64_t used_ms;
	uint64_t asked_ms;		/* the last time */
	struct backoff again;
	uint32_t wait_ms;		/* from then to the next time, if it is used after it */
	char key[];
};

static char kubernetes_domain[] = "svc.cluster.local", own_domain[] = NAMES_SUFFIX;
static char *const usual_domains[] = { kubernetes_domain, own_domain };

/* --- which names --- */

/* Lower case; only what a host name may have. */
static bool host_text(const struct dns_name *name, char text[static NAMES_HOST_LEN])
{
	struct dns_name lower = *name;
	char long_text[DNS_NAME_TEXT_LEN];
	size_t len;

	dns_name_lower(&lower);
	len = strlen(dns_name_text(&lower, long_text));
	if (len >= NAMES_HOST_LEN || strspn(long_text, "abcdefghijklmnopqrstuvwxyz0123456789-_.") != len)
		return false;
	memcpy(text, long_text, len + 1);
	return true;
}

static bool ends_with(const char *text, const char *tail)
{
	size_t n = strlen(text), t = strlen(tail);

	return n >= t && !strcmp(text + n - t, tail);
}

static unsigned count_dots(const char *text, size_t len)
{
	unsigned n = 0;

	for (size_t i = 0; i < len; i++)
		n += text[i] == '.';
	return n;
}

/* "namespace/host" where the namespace is the last label of the @len bytes in front of the domain. */
static bool put_key(const char *host, size_t len, char key[static DNS_NAMES_KEY_LEN])
{
	size_t at = len;

	while (at && host[at - 1] != '.')
		at--;
	if (at < 2 || at == len)
		return false;
	return (size_t)snprintf(key, DNS_NAMES_KEY_LEN, "%.*s/%s", (int)(len - at), host + at, host) < DNS_NAMES_KEY_LEN;
}

static bool is_kubernetes(const char *domain)
{
	return !strncmp(domain, "svc.", 4);
}

static bool key_in(const char *host, const char *said, const char *namespace, char key[static DNS_NAMES_KEY_LEN])
{
	const char *slash = strchr(said, '/');
	const char *domain = slash ? slash + 1 : said;
	size_t n = strlen(host), d = strlen(domain);
	bool is_domain = !strcmp(host, domain);

	if (!is_domain && !(n > d + 1 && ends_with(host, domain) && host[n - d - 1] == '.'))
		return false;
	if (slash)
		return (size_t)snprintf(key, DNS_NAMES_KEY_LEN, "%.*s/%s", (int)(slash - said), said, host) < DNS_NAMES_KEY_LEN;
	if (is_kubernetes(domain))
		return !is_domain && count_dots(host, n - d - 1) == 1 && put_key(host, n - d - 1, key);
	if (!strcmp(domain, NAMES_SUFFIX))
		return !is_domain && put_key(host, n - d - 1, key);
	return (size_t)snprintf(key, DNS_NAMES_KEY_LEN, "%s/%s", namespace, host) < DNS_NAMES_KEY_LEN;
}

/* "web", "web.demo": what a Pod's list of search domains makes of them. */
static bool key_of_short(const char *host, const char *namespace, char *const *domains, size_t n_domains, char key[static DNS_NAMES_KEY_LEN])
{
	unsigned dots = count_dots(host, strlen(host));
	char full[2 * NAMES_HOST_LEN];
	const char *domain = kubernetes_domain;

	for (size_t i = n_domains; i-- > 0;)
		if (is_kubernetes(domains[i]) || !strcmp(domains[i], NAMES_SUFFIX))
			domain = domains[i];
	if (dots > 1)
		return false;
	snprintf(full, sizeof(full), "%s%s%s.%s", host, dots ? "" : ".", dots ? "" : namespace, domain);
	return strlen(full) < NAMES_HOST_LEN && key_in(full, domain, namespace, key);
}

bool dns_names_key(const struct dns_name *name, const char *namespace, char *const *domains, size_t n_domains,
		   char ret_key[static DNS_NAMES_KEY_LEN])
{
	char host[NAMES_HOST_LEN], full[2 * NAMES_HOST_LEN];
	char *const *all = n_domains ? domains : usual_domains;
	size_t n = n_domains ? n_domains : ELEMENTS(usual_domains);

	if (!host_text(name, host))
		return false;
	for (size_t i = 0; i < n; i++) {
		if (!strcmp(all[i], ".") ? key_of_short(host, namespace, all, n, ret_key) : key_in(host, all[i], namespace, ret_key))
			return true;
		if (!is_kubernetes(all[i]) || !ends_with(host, ".svc"))
			continue;
		/* a resolver with the search domain "cluster.local" asks for it so, too */
		snprintf(full, sizeof(full), "%s%s", host, all[i] + strlen("svc"));
		if (strlen(full) < NAMES_HOST_LEN && key_in(full, all[i], namespace, ret_key))
			return true;
	}
	return false;
}

/* --- what the mesh says --- */

void dns_names_init(struct dns_names *n, const struct dns_names_ops *ops, void *data)
{
	*n = (struct dns_names){ .ops = ops, .data = data };
	map_init(&n->wants);
	list_init(&n->told);
}

void dns_names_deinit(struct dns_names *n)
{
	map_for_each(l, &n->wants) {
		map_remove(&n->wants, l);
		free(container_of(l, struct want, link));
	}
	map_deinit(&n->wants);
}

static struct want *find(const struct dns_names *n, const char *key)
{
	struct map_link *l = map_find_str(&n->wants, key);

	return l ? container_of(l, struct want, link) : NULL;
}

static int want_new(struct dns_names *n, const char *key, uint64_t now_ms)
{
	size_t len = strlen(key);
	struct want *w;
	int r;

	if (n->wants.n >= DNS_NAMES_MAX) {
		n->refused++;
		return -E2BIG;
	}
	w = calloc(1, sizeof(*w) + len + 1);
	if (!w)
		return -ENOMEM;
	memcpy(w->key, key, len + 1);
	list_init(&w->told);
	w->used_ms = w->asked_ms = now_ms;
	w->again = (struct backoff){ .min_ms = DNS_NAMES_AGAIN_MIN_MS, .max_ms = DNS_NAMES_AGAIN_MAX_MS };
	w->wait_ms = backoff_next(&w->again);
	r = map_add(&n->wants, &w->link, w->key, len);
	if (r == 0) {
		r = n->ops->subscribe(n->data, key);
		if (r < 0)
			map_remove(&n->wants, &w->link);
	}
	if (r < 0)
		free(w);
	return r;
}

static void ask_again(struct dns_names *n, struct want *w, uint64_t now_ms)
{
	if (now_ms - w->asked_ms < w->wait_ms)
		return;
	w->asked_ms = now_ms;
	w->wait_ms = backoff_next(&w->again);
	n->ops->ask_again(n->data, w->key);
}

enum dns_found dns_names_find(struct dns_names *n, const char *key, uint64_t now_ms, const struct snap_service **ret_service)
{
	const struct snap_service *s = n->ops->service(n->data, key);
	struct want *w = find(n, key);
	int r = 0;

	if (w)
		w->used_ms = now_ms;
	else
		r = want_new(n, key, now_ms);	/* also of what another VM has asked for: it stays when that one goes */
	if (s) {
		*ret_service = s;
		return DNS_FOUND;
	}
	if (r < 0)
		return DNS_FOUND_NOTHING;
	if (!w || !w->answered)
		return DNS_FOUND_LATER;
	ask_again(n, w, now_ms);
	return DNS_FOUND_NOTHING;
}

void dns_names_told(struct dns_names *n, const char *key)
{
	struct want *w = find(n, key);

	if (w && list_empty(&w->told))
		list_append(&n->told, &w->told);
}

const char *dns_names_next_told(struct dns_names *n)
{
	struct want *w = list_first(&n->told, struct want, told);

	if (!w)
		return NULL;
	list_unlink(&w->told);
	w->answered = true;
	if (n->ops->service(n->data, w->key)) {	/* when it goes, another may come soon */
		backoff_reset(&w->again);
		w->wait_ms = backoff_next(&w->again);
	}
	return w->key;
}

void dns_names_sweep(struct dns_names *n, uint64_t now_ms, uint64_t idle_ms)
{
	map_for_each(l, &n->wants) {
		struct want *w = container_of(l, struct want, link);

		if (!w->answered || now_ms - w->used_ms < idle_ms || n->ops->service(n->data, w->key))
			continue;
		n->ops->unsubscribe(n->data, w->key);
		list_unlink(&w->told);
		map_remove(&n->wants, l);
		free(w);
	}
}
