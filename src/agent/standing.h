#pragma once
#include <stdbool.h>
#include <stdint.h>

struct claim;
struct member;

/*
 * How a service of a guest is, by everybody who may say so: the registry that it
 * is registered with, the NIC's own look whether it is there (judge.h), and the
 * checks that its onboarding policy asks for. The worst that is said counts: a
 * check does not make healthy what the registry calls critical, nor the other
 * way round.
 */
enum standing_state {			/* from best to worst */
	STANDING_UNKNOWN,			/* nobody says anything: it is taken as healthy */
	STANDING_PASSING,
	STANDING_WARNING,			/* of the registry; still healthy, as registries have it */
	STANDING_WAITING,			/* no check has succeeded yet: not healthy */
	STANDING_CRITICAL,
	_STANDING_N
};

enum { STANDING_REASON_LEN = 240 };

struct standing {			/* judge.standing */
	enum standing_state state;
	bool checked;			/* a check has had its say */
	int64_t since_ms;		/* wall clock; 0: nobody has said anything yet */
	char reason[STANDING_REASON_LEN];	/* "" where there is none to give */
};

/* Works it out anew, into its judge; says so in the log when the state is another. */
void standing_review(const struct member *m, struct claim *c);
const char *standing_name(enum standing_state state);	/* NULL: unknown */
