/*
 * Privileges given up, by tables.
 */
#include "base/sandbox.h"

#include <cap-ng.h>
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <seccomp.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "base/sandbox_calls.h"

/* --- user and capabilities --- */

static int has_some_capability(void)
{
	return capng_get_caps_process() == 0 && capng_have_capabilities(CAPNG_SELECT_CAPS) > CAPNG_NONE;
}

static int select_capabilities(const struct sandbox_user *user)
{
	capng_clear(CAPNG_SELECT_BOTH);
	for (size_t i = 0; i < user->n_keep_caps; i++)
		if (capng_update(CAPNG_ADD, CAPNG_EFFECTIVE | CAPNG_PERMITTED | CAPNG_BOUNDING_SET, (unsigned)user->keep_caps[i]) < 0)
			return -EINVAL;
	return 0;
}

static int drop_capabilities(const struct sandbox_user *user, struct diag *d)
{
	int r = select_capabilities(user);

	if (r < 0)
		return r;
	if (user->uid == (uid_t)-1)
		r = capng_apply(CAPNG_SELECT_BOTH);
	else
		r = capng_change_id((int)user->uid, (int)user->gid, CAPNG_DROP_SUPP_GRP | CAPNG_CLEAR_BOUNDING);
	if (r < 0) {
		diag_set(d, "giving up capabilities failed (libcap-ng says %d)", r);
		return -EPERM;
	}
	return 0;
}

int sandbox_harden(void)
{
	static const struct rlimit none;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 || setrlimit(RLIMIT_CORE, &none) < 0)
		return -errno;
	return 0;
}

int sandbox_drop(const struct sandbox_user *user, struct diag *reterr_diag)
{
	bool privileged = has_some_capability();
	int r;

	if (!privileged && user->uid != (uid_t)-1 && (user->uid != geteuid() || user->gid != getegid())) {
		diag_set(reterr_diag, "becoming user %u takes privileges that are not there", user->uid);
		return -EPERM;
	}
	if (privileged) {
		r = drop_capabilities(user, reterr_diag);
		if (r < 0)
			return r;
	}
	r = sandbox_harden();
	if (r < 0)
		diag_set(reterr_diag, "no_new_privs and no core dumps: %s", strerror(-r));
	return r;
}

static int parse_id(const char *text, unsigned *ret_id)
{
	char *end;
	unsigned long v = strtoul(text, &end, 10);

	if (!*text || *end || v >= 0xffffffff)
		return -EINVAL;
	*ret_id = (unsigned)v;
	return 0;
}

int sandbox_user_parse(const char *text, struct sandbox_user *user, struct diag *reterr_diag)
{
	char name[64];
	const char *colon = strchr(text, ':');
	size_t n = colon ? (size_t)(colon - text) : strlen(text);
	unsigned uid, gid;

	if (!n || n >= sizeof(name))
		return diag_set(reterr_diag, "\"%.64s\" is not a user", text);
	memcpy(name, text, n);
	name[n] = '\0';

	const struct passwd *pw = getpwnam(name);
	if (!pw && parse_id(name, &uid) < 0)
		return diag_set(reterr_diag, "there is no user \"%s\"", name);
	if (pw)
		uid = pw->pw_uid;
	gid = pw ? pw->pw_gid : uid;

	const struct group *gr = colon ? getgrnam(colon + 1) : NULL;
	if (colon && !gr && parse_id(colon + 1, &gid) < 0)
		return diag_set(reterr_diag, "there is no group \"%.64s\"", colon + 1);
	if (gr)
		gid = gr->gr_gid;
	user->uid = uid;
	user->gid = gid;
	return 0;
}

/* --- the filter --- */

static bool no_such_call(int r)
{
	return r == -EDOM || r == -EFAULT || r == -EEXIST;	/* not on this architecture; or said already */
}

static int add_calls(scmp_filter_ctx f, unsigned groups)
{
	for (size_t i = 0; i < sandbox_n_calls; i++) {
		if (!(sandbox_calls[i].groups & groups))
			continue;
		int r = seccomp_rule_add(f, SCMP_ACT_ALLOW, sandbox_calls[i].nr, 0);
		if (r < 0 && !no_such_call(r))
			return r;
	}
	for (size_t i = 0; i < sandbox_n_conditions; i++) {
		if (!(sandbox_conditions[i].groups & groups))
			continue;
		int r = seccomp_rule_add_array(f, SCMP_ACT_ALLOW, sandbox_conditions[i].nr, 1, &sandbox_conditions[i].arg);
		if (r < 0 && !no_such_call(r))
			return r;
	}
	for (size_t i = 0; !(groups & SANDBOX_SOCKD) && i < sandbox_n_attacks; i++) {
		if (sandbox_attacks[i].groups & groups)
			continue;
		int r = seccomp_rule_add(f, SCMP_ACT_KILL_PROCESS, sandbox_attacks[i].nr, 0);
		if (r < 0 && !no_such_call(r))
			return r;
	}
	if (groups & (SANDBOX_SPAWN | SANDBOX_SOCKD))
		return 0;
	/* So that abort() and assert() end the process with its own signal. */
	return seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1, SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid()));
}

static int confine(unsigned groups)
{
	bool strict = groups & SANDBOX_SOCKD;
	scmp_filter_ctx f = seccomp_init(strict ? SCMP_ACT_KILL_PROCESS : SCMP_ACT_ERRNO(ENOSYS));
	int r = f ? 0 : -ENOMEM;

	if (r == 0)
		r = seccomp_attr_set(f, SCMP_FLTATR_CTL_TSYNC, 1);
	if (r == 0)
		r = seccomp_attr_set(f, SCMP_FLTATR_CTL_OPTIMIZE, 2);	/* a tree: the cost of a call does not grow with the list */
	if (r == 0)
		r = add_calls(f, strict ? groups : groups | SANDBOX_CORE);
	if (r == 0)
		r = seccomp_load(f);
	seccomp_release(f);
	return r;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

int sandbox_confine(unsigned groups, struct diag *reterr_diag)
{
	int r = SANITIZED ? 0 : confine(groups);

	if (r < 0)
		diag_set(reterr_diag, "the seccomp filter: %s", strerror(-r));
	return r;
}
