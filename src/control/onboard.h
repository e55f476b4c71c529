#pragma once
#include "control/config.h"
#include "control/kube_groups.h"
#include "outrigger/provisioner.pb-c.h"

/*
 * Onboarding: which policy counts for a guest. The controller decides this
 * itself, by what a NIC reports of the guest; the NIC's own opinion
 * (Guest.policy) is for people.
 */

/* The first that matches, or NULL: mode shadow, no name. */
const struct config_onboarding *onboard_match(const struct config *c, const char *nic, const Outrigger__V1__Guest *g);
bool onboard_joins(const struct config_onboarding *p);		/* NULL: no */
bool onboard_allows_service(const struct config_onboarding *p, const char *service);

/* The check of a policy as the NICs get it, to be freed with pb_free(); untouched, and 0, where there is none. -ENOMEM. */
MUST_CHECK int onboard_health_new(const struct config_health *h, Outrigger__Health__Check **ret_check);

/*
 * All policies as the message for the NICs. Everything in it but its arrays and
 * checks belongs to @c; free it with onboard_set_free(). @groups: whose probes
 * count where a policy has no check of its own; may be NULL. -ENOMEM.
 */
MUST_CHECK int onboard_set_new(const struct config *c, const struct kube_groups *groups, uint64_t version, Outrigger__V1__PolicySet **ret_set);
void onboard_set_free(Outrigger__V1__PolicySet *set);
