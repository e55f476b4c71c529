/*
 * Loading, attaching, pinning. One skeleton for all programs.
 */
#include "agent/steer_bpf.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "agent/bpf_skel.h"
#include "api/divert.h"
#include "api/ports.h"
#include "base/clock.h"

enum {
	/* linux/bpf.h of Linux 6.6; Debian 12's headers are older */
	ATTACH_TCX_INGRESS = 46,
	ATTACH_TCX_EGRESS = 47,

	CLSACT_HANDLE = 0x6f75,		/* "ou": one filter of ours at each hook */
	CLSACT_PRIORITY = 1,

	PIN_PATH_LEN = 192,
	LOOPBACK_IFINDEX = 1,
};

static const struct {
	const char *name;
	bool ingress;
} hooks[_STEER_HOOK_N] = {
	[STEER_HOOK_PORT_INGRESS]  = { "port-ingress", true },
	[STEER_HOOK_PORT_EGRESS]   = { "port-egress", false },
	[STEER_HOOK_DIVERT_EGRESS] = { "divert-egress", false },
	[STEER_HOOK_LO_INGRESS]    = { "lo-ingress", true },
};

static int program_of(const struct steer_bpf *b, enum steer_hook hook)
{
	const struct steer_skel *s = b->skel;
	const struct bpf_program *programs[_STEER_HOOK_N] = {
		[STEER_HOOK_PORT_INGRESS]  = s->progs.port_ingress,
		[STEER_HOOK_PORT_EGRESS]   = s->progs.port_egress,
		[STEER_HOOK_DIVERT_EGRESS] = s->progs.divert_egress,
		[STEER_HOOK_LO_INGRESS]    = s->progs.lo_ingress,
	};

	return bpf_program__fd(programs[hook]);
}

/* --- loading --- */

static void configure(struct steer_skel *s, const struct steer_conf *conf, const struct steer_link *divert)
{
	s->rodata->settings.divert_ifindex = divert->ifindex;
	s->rodata->settings.mark_base = conf->mark_base;
	s->rodata->settings.max_flows_per_vm = conf->max_flows_per_vm;
	s->rodata->settings.unverified_per_s = conf->unverified_per_s;
	s->rodata->settings.sniff_bytes_per_s = conf->sniff_bytes_per_s;
	memcpy(s->rodata->settings.divert_mac, divert->mac, sizeof(divert->mac));
}

static int set_sizes(struct steer_skel *s, const struct steer_conf *conf)
{
	int r = bpf_map__set_max_entries(s->maps.vms, conf->max_vms);
	if (r < 0)
		return r;
	r = bpf_map__set_max_entries(s->maps.sniff_budgets, conf->max_vms);
	if (r < 0)
		return r;
	r = bpf_map__set_max_entries(s->maps.stranger_budgets, conf->max_vms);
	if (r < 0)
		return r;
	r = bpf_map__set_max_entries(s->maps.counters, conf->max_vms);
	if (r < 0)
		return r;
	r = bpf_map__set_max_entries(s->maps.listeners, conf->max_vms * 2);
	if (r < 0)
		return r;
	r = bpf_map__set_max_entries(s->maps.dns_sockets, conf->max_vms);
	if (r < 0)
		return r;
	r = bpf_map__set_max_entries(s->maps.dns_vms, conf->max_vms);
	if (r < 0)
		return r;
	r = bpf_map__set_max_entries(s->maps.flows, conf->max_flows);
	if (r < 0)
		return r;
	return bpf_map__set_max_entries(s->maps.ring, conf->ring_bytes);
}

static void map_pin_path(const struct steer_bpf *b, const struct bpf_map *m, char path[static PIN_PATH_LEN])
{
	snprintf(path, PIN_PATH_LEN, "%s/map-%s", b->conf->pin_dir, bpf_map__name(m));
}

static bool is_shared_map(const struct bpf_map *m)
{
	return !bpf_map__is_internal(m);
}

/* libbpf takes a pinned map over when its shape is the same, and pins a new one. */
static int set_pin_paths(struct steer_bpf *b, struct steer_skel *s)
{
	char path[PIN_PATH_LEN];
	struct bpf_map *m;

	if (mkdir(b->conf->pin_dir, 0700) < 0 && errno != EEXIST)
		return -errno;
	bpf_object__for_each_map(m, s->obj) {
		if (!is_shared_map(m))
			continue;
		map_pin_path(b, m, path);
		if (m == s->maps.flows)
			b->adopted = access(path, F_OK) == 0;

		int r = bpf_map__set_pin_path(m, path);
		if (r < 0)
			return r;
	}
	b->pinned = true;
	return 0;
}

static void unpin_maps(const struct steer_bpf *b, struct steer_skel *s)
{
	char path[PIN_PATH_LEN];
	struct bpf_map *m;

	bpf_object__for_each_map(m, s->obj) {
		map_pin_path(b, m, path);
		(void)!unlink(path);
	}
}

static int try_load(struct steer_bpf *b, const struct steer_link *divert)
{
	struct steer_skel *s = steer_skel__open();
	int r;

	if (!s)
		return -errno;
	configure(s, b->conf, divert);
	r = set_sizes(s, b->conf);
	if (r == 0 && b->conf->pin_dir[0])
		r = set_pin_paths(b, s);
	if (r == 0)
		r = bpf_object__load_skeleton(s->skeleton);
	if (r < 0) {
		if (b->pinned)
			unpin_maps(b, s);	/* of another shape: of no use to anybody now */
		steer_skel__destroy(s);
		return r;
	}
	b->skel = s;
	return 0;
}

static int take_maps(struct steer_bpf *b)
{
	const struct steer_skel *s = b->skel;

	b->ports = bpf_map__fd(s->maps.ports);
	b->guests = bpf_map__fd(s->maps.guests);
	b->vms = bpf_map__fd(s->maps.vms);
	b->counters = bpf_map__fd(s->maps.counters);
	b->port_flags = bpf_map__fd(s->maps.port_flags);
	b->diverts = bpf_map__fd(s->maps.diverts);
	b->listeners = bpf_map__fd(s->maps.listeners);
	b->dns_sockets = bpf_map__fd(s->maps.dns_sockets);
	b->dns_vms = bpf_map__fd(s->maps.dns_vms);
	b->flows = bpf_map__fd(s->maps.flows);
	b->probes = bpf_map__fd(s->maps.probes);
	b->ring = bpf_map__fd(s->maps.ring);

	void *flags = mmap(NULL, sizeof(struct steer_port_flags), PROT_READ | PROT_WRITE, MAP_SHARED, b->port_flags, 0);
	if (flags == MAP_FAILED)
		return -errno;
	b->flags_of_port = flags;
	return 0;
}

static int quiet(enum libbpf_print_level level, const char *format, va_list args)
{
	(void)level, (void)format, (void)args;	/* errors come back as errno; "Exclusivity flag on" is none */
	return 0;
}

int steer_bpf_load(struct steer_bpf *b, const struct steer_conf *conf, const struct steer_link *divert)
{
	*b = (struct steer_bpf){ .conf = conf };
	if (!getenv("OUTRIGGER_LIBBPF_LOG"))
		libbpf_set_print(quiet);

	int r = try_load(b, divert);
	if (r < 0 && b->adopted)
		r = try_load(b, divert);	/* a predecessor of another version: start afresh */
	if (r < 0)
		return r;
	b->attachments = calloc(STEER_MAX_ATTACHMENTS, sizeof(*b->attachments));
	if (!b->attachments) {
		steer_bpf_unload(b);
		return -ENOMEM;
	}
	b->tcx = !conf->force_clsact;
	r = take_maps(b);
	if (r == 0)
		r = steer_bpf_attach(b, divert->ifindex, STEER_HOOK_DIVERT_EGRESS);
	if (r == 0)
		r = steer_bpf_attach(b, LOOPBACK_IFINDEX, STEER_HOOK_LO_INGRESS);
	if (r < 0)
		steer_bpf_unload(b);
	return r;
}

/* --- attaching --- */

static void link_pin_path(const struct steer_bpf *b, const struct steer_attachment *a, char path[static PIN_PATH_LEN])
{
	snprintf(path, PIN_PATH_LEN, "%s/link-%u-%s", b->conf->pin_dir, a->ifindex, hooks[a->hook].name);
}

static long sys_bpf(int cmd, void *attr, unsigned size)
{
	return syscall(SYS_bpf, cmd, attr, size);
}

/* libbpf 1.1 does not know TCX yet; the call is the one of every link. */
static int tcx_create(int program, uint32_t ifindex, bool ingress)
{
	struct {
		uint32_t prog_fd, ifindex, attach_type, flags;
		uint8_t rest[64];
	} attr = {
		.prog_fd = (uint32_t)program, .ifindex = ifindex,
		.attach_type = ingress ? ATTACH_TCX_INGRESS : ATTACH_TCX_EGRESS,
	};
	long fd = sys_bpf(BPF_LINK_CREATE, &attr, sizeof(attr));

	return fd < 0 ? -errno : (int)fd;
}

/* The predecessor's link, with our program on it: no packet goes without one in between. */
static int tcx_adopt(const char *path, int program)
{
	int fd = bpf_obj_get(path);

	if (fd < 0)
		return -errno;
	if (bpf_link_update(fd, program, NULL) < 0) {	/* of a device that is gone */
		int r = -errno;

		close(fd);
		(void)!unlink(path);
		return r;
	}
	return fd;
}

static int attach_tcx(struct steer_bpf *b, struct steer_attachment *a)
{
	int program = program_of(b, a->hook);
	char path[PIN_PATH_LEN];

	link_pin_path(b, a, path);
	if (b->pinned) {
		a->link_fd = tcx_adopt(path, program);
		if (a->link_fd >= 0)
			return 0;
	}
	a->link_fd = tcx_create(program, a->ifindex, hooks[a->hook].ingress);
	if (a->link_fd < 0)
		return a->link_fd;
	if (b->pinned && bpf_obj_pin(a->link_fd, path) < 0) {
		int r = -errno;

		a->link_fd = close_fd(a->link_fd);
		return r;
	}
	return 0;
}

static void clsact_hook(const struct steer_attachment *a, struct bpf_tc_hook *ret_hook)
{
	*ret_hook = (struct bpf_tc_hook){
		.sz = sizeof(*ret_hook), .ifindex = (int)a->ifindex,
		.attach_point = hooks[a->hook].ingress ? BPF_TC_INGRESS : BPF_TC_EGRESS,
	};
}

static int attach_clsact(struct steer_bpf *b, struct steer_attachment *a)
{
	LIBBPF_OPTS(bpf_tc_opts, opts, .handle = CLSACT_HANDLE, .priority = CLSACT_PRIORITY,
		    .prog_fd = program_of(b, a->hook), .flags = BPF_TC_F_REPLACE);
	struct bpf_tc_hook hook;

	clsact_hook(a, &hook);
	int r = bpf_tc_hook_create(&hook);
	if (r < 0 && r != -EEXIST)
		return r;
	a->made_qdisc = r == 0;
	return bpf_tc_attach(&hook, &opts);
}

static void detach_clsact(const struct steer_attachment *a)
{
	LIBBPF_OPTS(bpf_tc_opts, opts, .handle = CLSACT_HANDLE, .priority = CLSACT_PRIORITY);
	struct bpf_tc_hook hook;

	clsact_hook(a, &hook);
	(void)!bpf_tc_detach(&hook, &opts);	/* the device may be gone */
	if (a->made_qdisc) {
		hook.attach_point = BPF_TC_INGRESS | BPF_TC_EGRESS;
		(void)!bpf_tc_hook_destroy(&hook);
	}
}

static struct steer_attachment *find_attachment(struct steer_bpf *b, uint32_t ifindex, enum steer_hook hook)
{
	for (size_t i = 0; i < b->n_attachments; i++)
		if (b->attachments[i].used && b->attachments[i].ifindex == ifindex && b->attachments[i].hook == hook)
			return &b->attachments[i];
	return NULL;
}

static struct steer_attachment *new_attachment(struct steer_bpf *b)
{
	for (size_t i = 0; i < b->n_attachments; i++)
		if (!b->attachments[i].used)
			return &b->attachments[i];
	return b->n_attachments < STEER_MAX_ATTACHMENTS ? &b->attachments[b->n_attachments++] : NULL;
}

int steer_bpf_attach(struct steer_bpf *b, uint32_t ifindex, enum steer_hook hook)
{
	struct steer_attachment *a;
	int r = -EINVAL;

	if (find_attachment(b, ifindex, hook))
		return 0;
	a = new_attachment(b);
	if (!a)
		return -ENOSPC;
	*a = (struct steer_attachment){ .ifindex = ifindex, .hook = hook, .link_fd = -1 };
	if (b->tcx)
		r = attach_tcx(b, a);
	if (r == -EINVAL) {		/* what a kernel before 6.6 says to an unknown attach type */
		b->tcx = false;
		r = attach_clsact(b, a);
	}
	if (r < 0)
		return r;
	a->used = true;
	return 0;
}

static void detach(struct steer_bpf *b, struct steer_attachment *a)
{
	char path[PIN_PATH_LEN];

	if (a->link_fd >= 0) {
		link_pin_path(b, a, path);
		if (b->pinned)
			(void)!unlink(path);
		a->link_fd = close_fd(a->link_fd);
	} else {
		detach_clsact(a);
	}
	a->used = false;
}

void steer_bpf_detach(struct steer_bpf *b, uint32_t ifindex, enum steer_hook hook)
{
	struct steer_attachment *a = find_attachment(b, ifindex, hook);

	if (a)
		detach(b, a);
}

void steer_bpf_unload(struct steer_bpf *b)
{
	struct steer_skel *s = b->skel;

	for (size_t i = 0; i < b->n_attachments; i++) {
		struct steer_attachment *a = &b->attachments[i];

		if (!a->used)
			continue;
		if (b->pinned)
			a->link_fd = close_fd(a->link_fd);	/* the pin keeps it */
		else
			detach(b, a);
	}
	free(b->attachments);
	if (b->flags_of_port)
		munmap(b->flags_of_port, sizeof(struct steer_port_flags));
	if (s)
		steer_skel__destroy(s);
	*b = (struct steer_bpf){};
}

/* --- sweeping --- */

int steer_bpf_sweep(struct steer_bpf *b, unsigned older_than_s, uint32_t *ret_seen, uint32_t *ret_removed)
{
	const struct steer_skel *s = b->skel;
	uint64_t age_ns = (uint64_t)older_than_s * 1000000000;
	uint64_t now_ns = clock_mono_ns();
	struct {
		uint8_t ethernet[14];
		uint8_t sweep[sizeof(struct steer_sweep)];
		uint8_t rest[34];	/* a test run wants a frame of some length */
	} in = {}, out = {};
	struct steer_sweep sweep = { .older_than_ns = now_ns > age_ns ? now_ns - age_ns : 0 };
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = &in, .data_size_in = sizeof(in),
		    .data_out = &out, .data_size_out = sizeof(out), .repeat = 1);

	memcpy(in.sweep, &sweep, sizeof(sweep));
	int r = bpf_prog_test_run_opts(bpf_program__fd(s->progs.flow_sweep), &opts);
	if (r < 0)
		return r;
	if (opts.retval)
		return -EIO;
	memcpy(&sweep, out.sweep, sizeof(sweep));
	*ret_seen = sweep.n_seen;
	*ret_removed = sweep.n_removed;
	return 0;
}
