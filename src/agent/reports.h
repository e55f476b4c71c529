#pragma once
#include "agent/catalog.h"
#include "agent/member.h"
#include "agent/supervisor.h"

/*
 * What the controller is told: from the agent's state to its reports. Each
 * puts the present state into the session's mirror, which drops what is no news.
 */
void report_guest(struct member *m);
void report_guest_gone(struct member *m, const char *reason);
void report_claim(struct member *m, struct claim *c);
void report_claim_gone(struct member *m, struct claim *c, const char *reason);
void report_verdict(struct member *m, struct claim *c);		/* @c NULL: the guest as a client */
void report_proxy(struct member *m, const struct proxy_vm *vm);	/* @vm NULL: there is none (any more) */
void report_load(struct worker *w);
void report_policy_ack(struct worker *w, uint64_t version, const char *refused);
