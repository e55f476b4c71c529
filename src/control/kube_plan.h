#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include "base/defs.h"
#include "control/kube_want.h"

/*
 * What is to be done in a cluster so that it is as the policies want it: what is
 * wanted x what is there -> steps. Pure.
 *
 * Only what has our label is changed or deleted. Something of somebody else's
 * that has the name of what is wanted does as well, if it has what is demanded;
 * else it is a clash, and people have to decide.
 */
enum kube_action {
	KUBE_FITS,		/* nothing to do */
	KUBE_CREATE,
	KUBE_CHANGE,
	KUBE_DELETE,		/* ours, and nobody wants it any more: when nobody uses it */
	KUBE_MISSING,		/* and we are not told to make it */
	KUBE_CLASH,		/* it is there, not ours to change, and does not fit */
	_KUBE_ACTION_N
};

enum { KUBE_WHY_LEN = 300 };

struct kube_step {
	enum kube_action action;
	enum kube_wanted_kind kind;
	char key[KUBE_KEY_LEN];
	const struct kube_want *want;	/* NULL with KUBE_DELETE */
	const json_t *existing;		/* NULL with KUBE_CREATE and KUBE_MISSING */
	char why[KUBE_WHY_LEN];		/* "spec.template.serviceAccount is \"a\", not \"b\"", or "" */
};

struct kube_plan {
	struct kube_step *v;		/* in the order in which they are to be done */
	size_t n;
};

/*
 * @existing: objects by key (kube_key()). @owner: the value of our label.
 * @manage: false: we are only to look. The plan borrows from both. -ENOMEM.
 */
MUST_CHECK int kube_plan_init(struct kube_plan *plan, const struct kube_wants *wants, const json_t *existing, const char *owner, bool manage);
void kube_plan_deinit(struct kube_plan *plan);
const char *kube_action_name(enum kube_action action);	/* "create" */
