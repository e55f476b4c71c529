/*
 * One look into a cluster: lists what there is, prints the plan, ends.
 */
#include "control/kube_look.h"

#include <errno.h>

#include "control/kube_groups.h"
#include "control/kube_manage.h"

enum { POLL_MS = 20 };

struct look {
	struct loop *loop;
	struct kube_client *client;
	struct kube_manage *manage;
	struct kube_groups *groups;
	struct timer poll;
	struct diag *diag;
};

static bool has_failed(const struct kube_watch_info *w, struct diag *d)
{
	if (w->error != KUBE_OK)
		diag_set(d, "%s", w->text);
	return w->error != KUBE_OK;
}

/* A list that fails is an answer, too: nobody waits here for better times. */
static int on_poll(struct timer *t)
{
	struct look *k = container_of(t, struct look, poll);
	struct kube_watch_info accounts = kube_manage_accounts(k->manage), groups = kube_groups_info(k->groups);

	if (kube_manage_is_synced(k->manage)) {
		loop_stop(k->loop);
		return 0;
	}
	if (has_failed(&accounts, k->diag) || has_failed(&groups, k->diag))
		return -EINVAL;
	return timer_arm(k->loop, t, POLL_MS, on_poll);
}

static void on_changed(void *data)
{
	(void)data;
}

static int look(struct look *k, const struct config *c)
{
	const struct config_kubernetes *kc = &c->kubernetes;
	const struct kube_options kube = { .kubeconfig = kc->kubeconfig, .context = kc->context, .timeout_ms = kc->timeout_ms };
	struct config managing = *c;
	struct kube_manage_options manage = { .config = &managing, .only_look = true };
	struct kube_groups_options groups = { .changed = on_changed, .also = kube_manage_group_ops };
	int r = kube_client_new(k->loop, &kube, &k->client, k->diag);

	managing.kubernetes.manage = true;	/* what it would do */
	manage.client = groups.client = k->client;
	if (r == 0)
		r = kube_manage_new(k->loop, &manage, &k->manage);
	groups.also_data = k->manage;
	if (r == 0)
		r = kube_groups_new(k->loop, &groups, &k->groups);
	if (r == 0)
		r = timer_arm(k->loop, &k->poll, POLL_MS, on_poll);
	return r < 0 ? r : loop_run(k->loop);
}

int kube_look_print(const struct config *c, FILE *out, struct diag *d)
{
	struct look k = { .diag = d };
	int r;

	if (!config_has_kubernetes(c))
		return diag_set(d, "no cluster is configured under 'kubernetes'");
	r = loop_new(&k.loop);
	if (r < 0)
		return r;
	r = look(&k, c);
	if (r == 0)
		r = kube_manage_print(k.manage, out);
	timer_cancel(&k.poll);
	kube_groups_free(k.groups);
	kube_manage_free(k.manage);
	kube_client_free(k.client);
	loop_free(k.loop);
	return r;
}
