/*
 * Thread and query share a job; an eventfd says that it is done, and
 * whoever of the two comes last frees it. A query that is dropped leaves
 * its thread to run out.
 */
#include "mesh/resolve.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

struct job {
	atomic_int refs;
	atomic_bool done;	/* the fields below are the loop's from now on */
	int done_fd;		/* eventfd, the job's */
	char host[256];
	char port[6];
	int error;		/* of getaddrinfo() */
	struct ip_port addrs[RESOLVE_MAX];
	size_t n_addrs;
};

struct resolve {
	struct job *job;
	struct watch watch;
	resolve_fn *fn;
	void *data;
};

static void job_unref(struct job *job)
{
	if (atomic_fetch_sub(&job->refs, 1) > 1)
		return;
	close_fd(job->done_fd);
	free(job);
}

static void take_addresses(struct job *job, const struct addrinfo *list)
{
	for (const struct addrinfo *ai = list; ai && job->n_addrs < RESOLVE_MAX; ai = ai->ai_next) {
		struct sockaddr_storage sa = {};

		if (ai->ai_addrlen > sizeof(sa))
			continue;
		memcpy(&sa, ai->ai_addr, ai->ai_addrlen);
		if (ip_port_from_sockaddr(&sa, &job->addrs[job->n_addrs]) == 0)
			job->n_addrs++;
	}
}

static void *run(void *arg)
{
	struct job *job = arg;
	struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG };
	struct addrinfo *list = NULL;
	uint64_t one = 1;

	job->error = getaddrinfo(job->host, job->port, &hints, &list);
	if (job->error == 0) {
		take_addresses(job, list);
		freeaddrinfo(list);
	}
	atomic_store(&job->done, true);
	while (write(job->done_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;	/* nothing else can go wrong: the counter was zero */
	job_unref(job);
	return NULL;
}

static int on_done(struct watch *w, uint32_t events)
{
	struct resolve *q = container_of(w, struct resolve, watch);
	const struct job *job = q->job;

	(void)events;
	if (!atomic_load(&job->done))
		return 0;
	watch_remove(&q->watch);
	if (job->error)
		q->fn(q, q->data, -EHOSTUNREACH, gai_strerror(job->error), NULL, 0);
	else if (!job->n_addrs)
		q->fn(q, q->data, -EHOSTUNREACH, "name has no address", NULL, 0);
	else
		q->fn(q, q->data, 0, "", job->addrs, job->n_addrs);
	return 0;
}

static int split(const char *target, struct job *job)
{
	const char *colon = strrchr(target, ':');
	size_t len = colon ? (size_t)(colon - target) : 0;
	uint16_t port;

	if (!len || len >= sizeof(job->host) || memchr(target, ':', len))
		return -EINVAL;
	if (ip_parse_port(colon + 1, &port) < 0 || !port)
		return -EINVAL;
	memcpy(job->host, target, len);
	snprintf(job->port, sizeof(job->port), "%u", port);
	return 0;
}

/* Signals belong to the loop's thread. */
static int start_thread(struct job *job)
{
	pthread_attr_t attr;
	pthread_t thread;
	sigset_t all, old;
	int r;

	sigfillset(&all);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&thread, &attr, run, job);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	return -r;
}

int resolve_start(struct loop *loop, const char *target, resolve_fn *fn, void *data, struct resolve **ret_query)
{
	CLEANUP_FREE struct resolve *q = calloc(1, sizeof(*q));
	struct job *job = calloc(1, sizeof(*job));
	int r;

	if (!q || !job) {
		free(job);
		return -ENOMEM;
	}
	atomic_init(&job->refs, 1);
	job->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r = job->done_fd < 0 ? -errno : split(target, job);
	if (r == 0)
		r = watch_add(loop, &q->watch, job->done_fd, EPOLLIN, false, on_done);
	if (r == 0) {
		atomic_fetch_add(&job->refs, 1);
		r = start_thread(job);
		if (r < 0)
			atomic_fetch_sub(&job->refs, 1);
	}
	if (r < 0) {
		watch_remove(&q->watch);
		job_unref(job);
		return r;
	}
	q->job = job;
	q->fn = fn;
	q->data = data;
	*ret_query = steal_ptr(&q);
	return 0;
}

struct resolve *resolve_free(struct resolve *query)
{
	if (!query)
		return NULL;
	watch_remove(&query->watch);
	job_unref(query->job);
	free(query);
	return NULL;
}
