#pragma once
#include "base/defs.h"
#include "base/loop.h"
#include "control/kube_watch.h"
#include "outrigger/health.pb-c.h"

/*
 * Istio's WorkloadGroups: how their VMs' health is to be looked at (spec.probe).
 *
 * A probe that cannot be made from outside the guest (exec, HTTPS) is none, and
 * is told by kube_groups_problem().
 */
struct kube_groups;

#define KUBE_TLS_MODE_LABEL "security.istio.io/tlsMode"

struct kube_groups_options {
	struct kube_client *client;	/* borrowed for its life */
	void (*changed)(void *data);	/* a probe is another, or kube_groups_ready() has become true */
	void *data;
	struct kube_watch_ops also;	/* gets the objects, too; none: zeroed */
	void *also_data;
};

MUST_CHECK int kube_groups_new(struct loop *loop, const struct kube_groups_options *o, struct kube_groups **ret_groups);
struct kube_groups *kube_groups_free(struct kube_groups *g);

/* Of a group: NULL where there is none, or without a probe. Valid until the next turn of the loop. */
const Outrigger__Health__Check *kube_groups_check(const struct kube_groups *g, const char *namespace, const char *name);
/*
 * Does the group's label have Envoys that Istio drives speak HBONE to its VMs?
 * Else they speak Istio's mutual TLS of old, unless istiod has
 * PILOT_PREFER_SENDING_HBONE. True where there is no such group.
 */
bool kube_groups_by_hbone(const struct kube_groups *g, const char *namespace, const char *name);
/*
 * The groups were listed, or the API server says for good that we do not get
 * them. Until then nobody is told anything: a probe that is not known yet must
 * not look like one that was taken away.
 */
bool kube_groups_ready(const struct kube_groups *g);
struct kube_watch_info kube_groups_info(const struct kube_groups *g);
/* The i-th group whose probe is not made: its "namespace/name" and why. False behind the end. */
bool kube_groups_problem(const struct kube_groups *g, size_t i, const char **ret_group, const char **ret_why);

/* @probe of a WorkloadGroup into @ret_check, to be freed with pb_free(). -EINVAL with @reterr_diag, -ENOMEM. */
MUST_CHECK int kube_groups_read_probe(const json_t *probe, Outrigger__Health__Check **ret_check, struct diag *reterr_diag);
