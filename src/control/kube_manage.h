#pragma once
#include <jansson.h>
#include <stdio.h>
#include "base/loop.h"
#include "control/config.h"
#include "control/kube_client.h"
#include "control/kube_plan.h"
#include "control/kube_watch.h"

/*
 * The ServiceAccounts and WorkloadGroups of the onboarding policies, in the
 * cluster: looked at always, made, changed and removed with kubernetes.manage.
 *
 * What fails is tried again with growing delays, and told by
 * kube_manage_problems(). What was made is removed only when nobody wants it and
 * nobody uses it: no WorkloadEntry is of the group, and of an account none, no
 * group and no pod.
 */
struct kube_manage;

struct kube_manage_options {
	struct kube_client *client;	/* borrowed for its life */
	const struct config *config;	/* looked at only now */
	bool only_look;			/* nothing is sent, whatever the configuration says */
};

/* -ENOMEM. */
MUST_CHECK int kube_manage_new(struct loop *loop, const struct kube_manage_options *options, struct kube_manage **ret_manage);
struct kube_manage *kube_manage_free(struct kube_manage *m);
/* Another configuration. NULL is allowed for @m. -ENOMEM: the one before stays in force. */
MUST_CHECK int kube_manage_apply(struct kube_manage *m, const struct config *config);

/* WorkloadGroups are watched by kube_groups, which passes them on: with @m as data. */
extern const struct kube_watch_ops kube_manage_group_ops;
struct kube_watch_info kube_manage_accounts(const struct kube_manage *m);

/* What is not as it should be: [{what, found, hint}], to be freed by the caller. NULL without memory. */
json_t *kube_manage_problems(const struct kube_manage *m);
/* What is or would be done, a line a step. False as long as not everything is known. -ENOMEM, -EIO. */
bool kube_manage_is_synced(const struct kube_manage *m);
MUST_CHECK int kube_manage_print(const struct kube_manage *m, FILE *out);
