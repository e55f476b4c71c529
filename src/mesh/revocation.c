/*
 * Origins of certificates, and the list of those that are revoked.
 */
#include "mesh/revocation.h"

#include <errno.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mesh/pb.h"
#include "outrigger/revocation.pb-c.h"

struct revoked {
	struct revocation_origin origin;
	int64_t until;
};

struct revocations {
	unsigned n_refs;		/* atomic */
	size_t n;
	struct revoked v[];		/* sorted by origin */
};

/* --- origins --- */

/* Never zero, never negative; the first two bits tell a NIC's (01) from others (001). */
enum { FIRST_OF_NIC = 0x40, FIRST_OF_OTHERS = 0x20 };

static void mark(uint8_t *first, uint8_t kind)
{
	*first = (uint8_t)((*first & (kind - 1)) | kind);
}

struct revocation_origin revocation_origin_of_nic(const char *nic, int64_t enrolled_at)
{
	uint8_t hash[SHA256_DIGEST_LENGTH];
	struct revocation_origin o;
	char text[512];
	int n = snprintf(text, sizeof(text), "outrigger origin\n%.400s\n%lld", nic, (long long)enrolled_at);

	SHA256((const uint8_t *)text, (size_t)n, hash);
	memcpy(o.b, hash, sizeof(o.b));
	mark(&o.b[0], FIRST_OF_NIC);
	return o;
}

int revocation_serial(const struct revocation_origin *origin, uint8_t ret_serial[static REVOCATION_SERIAL_LEN])
{
	uint8_t serial[REVOCATION_SERIAL_LEN];

	if (RAND_bytes(serial, sizeof(serial)) != 1)
		return -EIO;
	mark(&serial[0], FIRST_OF_OTHERS);
	if (origin)
		memcpy(serial, origin->b, sizeof(origin->b));
	memcpy(ret_serial, serial, sizeof(serial));
	return 0;
}

bool revocation_origin_of_serial(const uint8_t *serial, size_t len, struct revocation_origin *ret_origin)
{
	if (len != REVOCATION_SERIAL_LEN || (serial[0] & 0xc0) != FIRST_OF_NIC)
		return false;
	memcpy(ret_origin->b, serial, sizeof(ret_origin->b));
	return true;
}

/* --- the list --- */

static int compare(const void *a, const void *b)
{
	const struct revoked *x = a, *y = b;

	return memcmp(x->origin.b, y->origin.b, sizeof(x->origin.b));	/* no secret: peers show it */
}

static const struct revoked *find(const struct revocations *list, const struct revocation_origin *origin)
{
	const struct revoked key = { .origin = *origin };

	return list ? bsearch(&key, list->v, list->n, sizeof(*list->v), compare) : NULL;
}

static int take(struct revocations *list, const Outrigger__V1__Revocations *m, struct diag *d)
{
	for (size_t i = 0; i < m->n_revoked; i++) {
		const Outrigger__V1__Revocation *r = m->revoked[i];

		if (r->origin.len != REVOCATION_ORIGIN_LEN) {
			diag_set(d, "an origin of %zu bytes, %d are wanted", r->origin.len, REVOCATION_ORIGIN_LEN);
			return -EBADMSG;
		}
		memcpy(list->v[list->n].origin.b, r->origin.data, REVOCATION_ORIGIN_LEN);
		list->v[list->n++].until = r->until;
	}
	return 0;
}

/* One entry an origin, the longest; none that is over. */
static void tidy(struct revocations *list, int64_t now)
{
	size_t n = 0;

	qsort(list->v, list->n, sizeof(*list->v), compare);
	for (size_t i = 0; i < list->n; i++) {
		if (list->v[i].until <= now)
			continue;
		if (n && !compare(&list->v[n - 1], &list->v[i]))
			list->v[n - 1].until = MAX(list->v[n - 1].until, list->v[i].until);
		else
			list->v[n++] = list->v[i];
	}
	list->n = n;
}

static bool same(const struct revocations *a, const struct revocations *b)
{
	return a && a->n == b->n && (!a->n || !memcmp(a->v, b->v, a->n * sizeof(*a->v)));
}

static int merge(struct revocations *old, const Outrigger__V1__Revocations *m, int64_t now, struct revocations **ret_list, struct diag *d)
{
	size_t n_old = revocations_n(old);
	struct revocations *list;
	int r;

	if (m->n_revoked > REVOCATION_MAX || n_old + m->n_revoked > REVOCATION_MAX * 2)
		return -E2BIG;
	list = calloc(1, sizeof(*list) + (n_old + m->n_revoked) * sizeof(*list->v));
	if (!list)
		return -ENOMEM;
	list->n_refs = 1;
	if (n_old)
		memcpy(list->v, old->v, n_old * sizeof(*old->v));
	list->n = n_old;
	r = take(list, m, d);
	if (r < 0) {
		free(list);
		return r;
	}
	tidy(list, now);
	if (same(old, list)) {
		free(list);
		list = revocations_ref(old);
	}
	*ret_list = list;
	return 0;
}

int revocations_merge(struct revocations *old, const void *bytes, size_t len, int64_t now, struct revocations **ret_list,
		      struct diag *reterr_diag)
{
	ProtobufCMessage *message;
	int r = pb_unpack(&outrigger__v1__revocations__descriptor, bytes, len, 0, &message);

	if (r < 0) {
		diag_set(reterr_diag, "not a message of revocations");
		return r;
	}
	r = merge(old, (const Outrigger__V1__Revocations *)(const void *)message, now, ret_list, reterr_diag);
	pb_free(message);
	return r;
}

struct revocations *revocations_ref(struct revocations *list)
{
	if (list)
		__atomic_add_fetch(&list->n_refs, 1, __ATOMIC_RELAXED);
	return list;
}

struct revocations *revocations_unref(struct revocations *list)
{
	if (list && __atomic_sub_fetch(&list->n_refs, 1, __ATOMIC_ACQ_REL) == 0)
		free(list);
	return NULL;
}

size_t revocations_n(const struct revocations *list)
{
	return list ? list->n : 0;
}

bool revocations_has(const struct revocations *list, const uint8_t *serial, size_t len)
{
	struct revocation_origin origin;

	return revocations_n(list) && revocation_origin_of_serial(serial, len, &origin) && find(list, &origin);
}
