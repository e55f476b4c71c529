/*
 * The configuration file is watched, by its directory: editors and
 * configuration managers put a new file in the place of the old one, and
 * Kubernetes turns a symbolic link.
 */
#include <errno.h>
#include <libgen.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>

#include "base/log.h"
#include "control/server.h"

enum { SETTLE_MS = 50 };

static int on_settled(struct timer *t)
{
	server_reload(container_of(t, struct server, config_watch.settle));
	return 0;
}

/* Which name it was about is not looked at: reloading the same content changes nothing. */
static int on_event(struct watch *w, uint32_t events)
{
	struct server *s = container_of(w, struct server, config_watch.watch);
	char buf[4096];

	(void)events;
	while (read(w->fd, buf, sizeof(buf)) > 0)
		;
	return timer_arm(s->loop, &s->config_watch.settle, SETTLE_MS, on_settled);
}

int config_watch_start(struct server *s)
{
	struct config_watch *w = &s->config_watch;
	CLEANUP_FREE char *copy = strdup(s->config_path);

	if (!copy)
		return -ENOMEM;
	w->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (w->fd < 0)
		return -errno;
	if (inotify_add_watch(w->fd, dirname(copy), IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_ATTRIB) < 0)
		return -errno;
	return watch_add(s->loop, &w->watch, w->fd, EPOLLIN, false, on_event);
}

void config_watch_stop(struct server *s)
{
	timer_cancel(&s->config_watch.settle);
	watch_remove(&s->config_watch.watch);
	s->config_watch.fd = close_fd(s->config_watch.fd);
}
