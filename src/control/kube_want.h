#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include "base/defs.h"
#include "control/config.h"

/*
 * The objects that the onboarding policies name in a cluster with Istio:
 * ServiceAccounts, and WorkloadGroups with labels and probe. Pure.
 *
 * Namespaces are not among them: who makes one decides about more than VMs.
 */
enum kube_wanted_kind { KUBE_ACCOUNT, KUBE_GROUP, _KUBE_WANTED_N };

struct kube_kind_info {
	const char *kind;		/* "WorkloadGroup" */
	const char *version;		/* "networking.istio.io/v1" */
	const char *group;		/* "networking.istio.io"; "" of Kubernetes itself */
	const char *base;		/* "/apis/networking.istio.io/v1" */
	const char *plural;		/* "workloadgroups" */
};

extern const struct kube_kind_info kube_kinds[_KUBE_WANTED_N];

/* Whose it is: its value is kubernetes.manage_as. */
#define KUBE_OWNER_LABEL	"outrigger.dev/managed-by"
/* What was applied last, as a hash: so that what is not wanted any more is seen, too. */
#define KUBE_APPLIED_ANNOTATION	"outrigger.dev/applied"

enum { KUBE_KEY_LEN = 600, KUBE_CONFLICT_LEN = 400 };

struct kube_want {
	enum kube_wanted_kind kind;
	const char *namespace;		/* of @object */
	const char *name;
	json_t *object;			/* as it is applied */
	json_t *demand;			/* what one of somebody else's must have to do as well: a part of @object */
	char key[KUBE_KEY_LEN];		/* "WorkloadGroup shop/orders" */
	char conflict[KUBE_CONFLICT_LEN];	/* why policies do not agree about it, or "" */
};

struct kube_wants {
	struct kube_want *v;		/* accounts before the groups that name them */
	size_t n;
};

/* @owned: with label and annotation of an owner. -ENOMEM. To be freed with kube_wants_deinit(), also after an error. */
MUST_CHECK int kube_wants_init(struct kube_wants *w, const struct config *c, bool owned);
void kube_wants_deinit(struct kube_wants *w);

void kube_key(enum kube_wanted_kind kind, const char *namespace, const char *name, char ret_key[static KUBE_KEY_LEN]);
