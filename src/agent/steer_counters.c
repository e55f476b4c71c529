/*
 * The names of the BPF programs' counters, for metrics and people.
 */
#include "agent/monitor_client.h"
#include "api/counters.h"

static const char *const names[] = {
	[STEER_C_DIVERT_NEW] = "divert_new",
	[STEER_C_DIVERT_COOKIE] = "divert_cookie",
	[STEER_C_DIVERT_PACKETS] = "divert_packets",
	[STEER_C_ANSWER_PACKETS] = "answer_packets",
	[STEER_C_SNIFFED] = "sniffed",
	[STEER_C_LEARNED] = "learned",
	[STEER_C_RING_FULL] = "ring_full",
	[STEER_C_RATE_LIMITED] = "rate_limited",
	[STEER_C_SPOOFED] = "spoofed",
	[STEER_C_NO_LISTENER_PASS] = "no_listener_pass",
	[STEER_C_NO_LISTENER_DROP] = "no_listener_drop",
	[STEER_C_FLOW_LIMIT] = "flow_limit",
	[STEER_C_FLOW_ERROR] = "flow_error",
	[STEER_C_ASSIGN_ERROR] = "assign_error",
	[STEER_C_FRAGMENT] = "fragment",
	[STEER_C_MALFORMED] = "malformed",
	[STEER_C_PULL_ERROR] = "pull_error",
	[STEER_C_REWRITE_ERROR] = "rewrite_error",
	[STEER_C_ANSWER_UNKNOWN] = "answer_unknown",
	[STEER_C_ANSWER_REFUSED] = "answer_refused",
	[STEER_C_PROBE_ANSWERS] = "probe_answers",
	[STEER_C_SNIFF_BUDGET] = "sniff_budget",
	[STEER_C_STRANGER_BUDGET] = "stranger_budget",
	[STEER_C_DNS_QUERIES] = "dns_queries",
	[STEER_C_DNS_ANSWERS] = "dns_answers",
	[STEER_C_DNS_STUCK] = "dns_stuck",
	[STEER_C_DNS_BUDGET] = "dns_budget",
};
_Static_assert(ELEMENTS(names) == _STEER_C_N, "every counter has a name");

const char *steer_counter_name(unsigned i)
{
	return i < _STEER_C_N ? names[i] : NULL;
}
