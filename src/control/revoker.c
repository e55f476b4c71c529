/*
 * The list of revocations: on disk, in memory, as a resource.
 */
#include "control/revoker.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "mesh/pb.h"
#include "outrigger/revocation.pb-c.h"

enum { CHECK_MS = 3600000 };

struct entry {
	struct revocation_origin origin;
	int64_t until;
};

struct revoker {
	struct loop *loop;
	struct store *store;
	struct resources *resources;
	struct timer check;
	struct entry *v;
	size_t n;
	bool stale;		/* the resource could not be made */
};

static struct entry *find(const struct revoker *r, const struct revocation_origin *origin)
{
	for (size_t i = 0; i < r->n; i++)
		if (!memcmp(r->v[i].origin.b, origin->b, sizeof(origin->b)))
			return &r->v[i];
	return NULL;
}

static int remember(struct revoker *r, const struct revocation_origin *origin, int64_t until)
{
	struct entry *e = find(r, origin);

	if (e) {
		e->until = MAX(e->until, until);
		return 0;
	}
	e = r->n < REVOCATION_MAX ? reallocarray(r->v, r->n + 1, sizeof(*r->v)) : NULL;
	if (!e)
		return -ENOMEM;
	r->v = e;
	r->v[r->n++] = (struct entry){ *origin, until };
	return 0;
}

/* --- the resource --- */

static int put(struct revoker *r, Outrigger__V1__Revocation *rows, Outrigger__V1__Revocation **list)
{
	Outrigger__V1__Revocations m = OUTRIGGER__V1__REVOCATIONS__INIT;
	CLEANUP_FREE uint8_t *bytes = NULL;
	size_t len;

	for (size_t i = 0; i < r->n; i++) {
		outrigger__v1__revocation__init(&rows[i]);
		rows[i].origin = (ProtobufCBinaryData){ sizeof(r->v[i].origin.b), r->v[i].origin.b };
		rows[i].until = r->v[i].until;
		list[i] = &rows[i];
	}
	m.revoked = list;
	m.n_revoked = r->n;
	if (pb_pack(&m.base, &bytes, &len) < 0)
		return -ENOMEM;
	return resources_put(r->resources, RESOURCE_REVOCATIONS, "revocations", &(struct resource_content){ .bytes = bytes, .len = len });
}

static void publish(struct revoker *r)
{
	CLEANUP_FREE Outrigger__V1__Revocation *rows = calloc(r->n + 1, sizeof(*rows));
	CLEANUP_FREE Outrigger__V1__Revocation **list = calloc(r->n + 1, sizeof(*list));

	if (!r->n)
		resources_remove(r->resources, RESOURCE_REVOCATIONS, "revocations");
	r->stale = r->n && (!rows || !list || put(r, rows, list) < 0);
	if (r->stale)
		log_error("out of memory: the proxies are not told of a revocation yet");
}

static int on_check(struct timer *t)
{
	struct revoker *r = container_of(t, struct revoker, check);
	int64_t now = clock_wall_s();
	size_t n = 0;

	for (size_t i = 0; i < r->n; i++)
		if (r->v[i].until > now)
			r->v[n++] = r->v[i];
	if (n != r->n || r->stale) {
		r->n = n;
		publish(r);
	}
	return timer_arm(r->loop, t, r->stale ? 1000 : CHECK_MS, on_check);
}

/* --- interface --- */

int revoker_add(struct revoker *r, const struct revocation_origin *origin, int64_t until)
{
	int e = remember(r, origin, until);

	if (e < 0)
		return e;
	publish(r);
	if (r->stale && timer_arm(r->loop, &r->check, 1000, on_check) < 0)
		return -ENOMEM;
	return r->store ? store_revoked_add(r->store, origin->b, until) : 0;
}

bool revoker_has(const struct revoker *r, const struct revocation_origin *origin)
{
	return find(r, origin) != NULL;
}

size_t revoker_n(const struct revoker *r)
{
	return r->n;
}

struct loading {
	struct revoker *r;
	int error;
};

static void on_row(const uint8_t origin[static STORE_ORIGIN_LEN], int64_t until, void *data)
{
	struct loading *l = data;
	struct revocation_origin o;

	memcpy(o.b, origin, sizeof(o.b));
	if (l->error == 0 && until > clock_wall_s())
		l->error = remember(l->r, &o, until);
}

int revoker_new(struct loop *loop, struct store *store, struct resources *resources, struct revoker **ret_revoker)
{
	struct revoker *r = calloc(1, sizeof(*r));
	struct loading loading = { .r = r };
	int e;

	if (!r)
		return -ENOMEM;
	r->loop = loop;
	r->store = store;
	r->resources = resources;
	e = store ? store_revoked_each(store, on_row, &loading) : 0;
	if (e == 0)
		e = loading.error;
	if (e == 0)
		e = timer_arm(loop, &r->check, CHECK_MS, on_check);
	if (e < 0) {
		revoker_free(r);
		return e;
	}
	publish(r);
	*ret_revoker = r;
	return 0;
}

struct revoker *revoker_free(struct revoker *r)
{
	if (!r)
		return NULL;
	timer_cancel(&r->check);
	free(r->v);
	free(r);
	return NULL;
}
