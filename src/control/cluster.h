#pragma once
#include <jansson.h>
#include "base/loop.h"
#include "control/config.h"
#include "control/entries.h"
#include "control/kube_groups.h"
#include "control/kube_client.h"
#include "control/kube_manage.h"
#include "control/kube_source.h"

/*
 * The Kubernetes cluster of the configuration, and what is watched in it: the
 * addresses of containers, Istio's trust roots, the WorkloadEntries of our VMs,
 * the WorkloadGroups and ServiceAccounts of the policies.
 */
struct cluster;

struct cluster_ops {
	void (*containers)(void *data);				/* the addresses have changed */
	void (*roots)(void *data, const char *roots_pem);	/* Istio's roots are known, or others */
	bool (*wanted)(void *data, const char *nic, const struct ip *address);	/* as in entries.h */
	void (*seen)(void *data, const char *nic, const struct ip *address);
	void (*groups)(void *data);				/* as kube_groups_options.changed */
	const struct kube_reader *reader;			/* of all that is watched; NULL: none */
	void *reader_data;
};

/* @config is looked at here only. -EINVAL with the reason, -ENOMEM. */
MUST_CHECK int cluster_new(struct loop *loop, const struct config *config, const struct cluster_ops *ops, void *data, struct cluster **ret_cluster,
			   struct diag *reterr_diag);
struct cluster *cluster_free(struct cluster *cluster);

struct kube_client *cluster_kube(const struct cluster *cluster);
const struct kube_source *cluster_source(const struct cluster *cluster);
MUST_CHECK int cluster_apply(struct cluster *cluster, const struct config *config);	/* another configuration; NULL is allowed. -ENOMEM */
void cluster_guests_changed(struct cluster *cluster);	/* VMs came or went; NULL is allowed */

/* All that is watched. False behind the end. */
bool cluster_watch(const struct cluster *cluster, size_t i, struct kube_watch_info *ret_info);
/* What the last question to the API came to: KUBE_OK, or @ret_text says what is wrong. */
enum kube_error cluster_api(const struct cluster *cluster, const char **ret_text);
/* NULL: there is no Istio. */
const struct kube_groups *cluster_groups(const struct cluster *cluster);
const struct kube_manage *cluster_manage(const struct cluster *cluster);
const struct entries *cluster_entries(const struct cluster *cluster);
