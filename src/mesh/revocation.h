#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/diag.h"

/*
 * Certificates that are taken back before they expire.
 *
 * A serial number of our authority is 20 bytes (the most that RFC 5280, section
 * 4.1.2.2 allows): 8 of its origin, 12 at random. The origin is common to all
 * that one NIC was issued for its VMs under one enrolment, and says nothing
 * else. So whoever has a peer's certificate knows which NIC's loss would be its
 * end, without a list of serial numbers that grows with every renewal, and
 * without a record that a full disk could lose. What was not issued through a
 * NIC has an origin of its own, and another first bit pair.
 *
 * The list of what is revoked goes to the proxies as a discovery resource
 * (proto/outrigger/revocation.proto). It only grows, but by what has expired:
 * an older list that comes late takes nothing back.
 */
enum { REVOCATION_SERIAL_LEN = 20, REVOCATION_ORIGIN_LEN = 8, REVOCATION_MAX = 65536 };

#define REVOCATION_TYPE	"type.googleapis.com/outrigger.v1.Revocations"

struct revocation_origin {
	uint8_t b[REVOCATION_ORIGIN_LEN];
};

/* Of a NIC: it changes with each enrolment. @enrolled_at: seconds since 1970. */
struct revocation_origin revocation_origin_of_nic(const char *nic, int64_t enrolled_at);
/* Fills a serial number. @origin NULL: of no NIC. -EIO without randomness. */
MUST_CHECK int revocation_serial(const struct revocation_origin *origin, uint8_t ret_serial[static REVOCATION_SERIAL_LEN]);
/* A NIC's certificate for one of its VMs? Then its origin. @serial without leading zeros, as in the certificate. */
bool revocation_origin_of_serial(const uint8_t *serial, size_t len, struct revocation_origin *ret_origin);

/* --- the list: immutable, shared by threads through references --- */

struct revocations;

/*
 * @old (NULL: empty; keeps its reference) and what the message @bytes says,
 * without what is over at @now. *ret_list is a new reference, of @old itself
 * where nothing is new. -EBADMSG with the reason, -E2BIG, -ENOMEM.
 */
MUST_CHECK int revocations_merge(struct revocations *old, const void *bytes, size_t len, int64_t now, struct revocations **ret_list,
				 struct diag *reterr_diag);
struct revocations *revocations_ref(struct revocations *list);
struct revocations *revocations_unref(struct revocations *list);	/* NULL is allowed */
size_t revocations_n(const struct revocations *list);			/* NULL: 0 */
/* NULL list: false. */
bool revocations_has(const struct revocations *list, const uint8_t *serial, size_t len);
