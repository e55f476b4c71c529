/*
 * Names of what observations are made of.
 */
#include "discover/observation.h"

#include "base/defs.h"

const char *observation_kind_name(enum observation_kind kind)
{
	static const char *const names[] = {
		[OBS_REGISTER] = "register",
		[OBS_RENEW] = "renew",
		[OBS_DEREGISTER] = "deregister",
		[OBS_DISCOVER] = "discover",
		[OBS_ANSWER] = "answer",
	};
	_Static_assert(ELEMENTS(names) == _OBS_KIND_N, "every kind has a name");

	return names[kind];
}

const char *observation_health_name(enum observation_health health)
{
	static const char *const names[] = {
		[OBS_HEALTH_UNKNOWN] = NULL,
		[OBS_HEALTH_PASSING] = "passing",
		[OBS_HEALTH_WARNING] = "warning",
		[OBS_HEALTH_CRITICAL] = "critical",
	};
	_Static_assert(ELEMENTS(names) == _OBS_HEALTH_N, "every health has a name");

	return names[health];
}
