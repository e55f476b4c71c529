#pragma once
#include "base/defs.h"
#include "base/map.h"
#include "proxy/agent_link.h"
#include "proxy/flow_report.h"

/*
 * Copies of streams on their way to the agent. When the agent is slow, pieces
 * are dropped; the next that gets through says how many bytes are missing
 * before it.
 */
struct tee_relay {
	struct map gaps;		/* connections that lost something, and have not said so */
	uint64_t lost;			/* bytes, in all */
};

enum { TEE_GAPS_MAX = 4096 };

void tee_relay_init(struct tee_relay *t);
void tee_relay_deinit(struct tee_relay *t);
/* @piece stays the caller's. */
void tee_relay_pass(struct tee_relay *t, struct agent_link *link, const struct flow_tee *piece);
