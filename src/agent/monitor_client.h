#pragma once
#include <net/if.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "base/defs.h"
#include "base/ip.h"

/*
 * The worker's side of the root monitor: one function a request.
 *
 * Calls are synchronous and short (a monitor answers in well under a
 * millisecond; -ETIMEDOUT after MONITOR_TIMEOUT_MS means that it is stuck and
 * the agent should stop). They return 0 or the negative errno of what the
 * monitor tried; -EPIPE: the monitor is gone. Notifications that arrive in the
 * middle of a call are queued and delivered by monitor_client_dispatch().
 *
 * Not thread-safe: one client, one thread.
 */
struct monitor_client;

enum {
	MONITOR_TIMEOUT_MS = 10000,
	MONITOR_MAX_SNIFF = 64,
	MONITOR_GROUP_LEN = 64,	/* with its zero */
	MONITOR_MAX_WORKERS = 64,
	MONITOR_MAX_FDS = 32,
};

/* Takes @sock over, also when it fails. */
MUST_CHECK int monitor_client_new(int sock, struct monitor_client **ret_client);
struct monitor_client *monitor_client_free(struct monitor_client *c);

/* --- notifications --- */

struct monitor_exit {
	uint32_t proxy;		/* as returned by monitor_proxy_spawn() */
	pid_t pid;
	int status;		/* as from waitpid() */
};

/* Watch it for EPOLLIN and call monitor_client_dispatch(); -EPIPE from there: the monitor is gone. */
int monitor_client_fd(const struct monitor_client *c);
void monitor_client_on_exit(struct monitor_client *c, void (*fn)(const struct monitor_exit *e, void *data), void *data);
MUST_CHECK int monitor_client_dispatch(struct monitor_client *c);

/* --- set-up --- */

struct monitor_loaded {
	bool adopted;		/* maps and links of a predecessor were found pinned and taken over */
	bool tcx;		/* false: clsact */
	int ring_fd;		/* the capture ring (agent/capture.h); the caller's */
	uint32_t ring_bytes;
};

/* Makes the divert device, rules, routes and sysctls; loads the programs. The first call to make. */
MUST_CHECK int monitor_load(struct monitor_client *c, struct monitor_loaded *ret_loaded);

/* --- ports --- */

enum monitor_role {
	MONITOR_ROLE_VM,
	MONITOR_ROLE_UPLINK,
};

enum monitor_topology {
	MONITOR_ROUTED,		/* the NIC routes between VM port and uplink */
	MONITOR_BRIDGE,		/* a Linux bridge; out_ifindex is the bridge device */
	MONITOR_OVS,		/* Open vSwitch or the like; out_ifindex is the uplink's port */
};

enum {
	MONITOR_PORT_DROP_SPOOFED = 1,	/* drop what a VM sends from an address that is not its own; else count and pass */
	/*
	 * Sniff also what comes from addresses not (yet) allowed, at a limited
	 * rate; such records carry CAPTURE_UNVERIFIED, and the worker decides.
	 * Nothing unverified is ever diverted.
	 */
	MONITOR_PORT_LEARN = 2,
};

/* A VM's place: one device may carry several, told apart by VLAN. */
struct monitor_port {
	uint32_t ifindex;
	uint16_t vlan;			/* 0: untagged */
	uint16_t out_vlan;		/* tag that frames in the VM's name get on out_ifindex; 0: none */
	enum monitor_role role;
	enum monitor_topology topology;
	uint32_t vm;			/* slot, 1 .. max_vms - 1; 0 for an uplink */
	uint32_t out_ifindex;		/* where frames that a proxy sends in the VM's name leave; 0 when routed */
	uint32_t flags;			/* MONITOR_PORT_* */
};

/* Attaches the programs (once a device) and enters the port; an entry that is there is replaced. */
MUST_CHECK int monitor_port_add(struct monitor_client *c, const struct monitor_port *p);
/* Detaches with the device's last port. A device that is already gone is no error. */
MUST_CHECK int monitor_port_remove(struct monitor_client *c, uint32_t ifindex, uint16_t vlan);

/*
 * An address that the VM in slot @vm may speak for. One address has one owner:
 * -EEXIST when another slot has it. @mac is where frames for it go; required.
 * A repeated call updates the MAC.
 */
MUST_CHECK int monitor_address_add(struct monitor_client *c, uint32_t vm, const struct ip *addr, const uint8_t mac[6]);
MUST_CHECK int monitor_address_remove(struct monitor_client *c, uint32_t vm, const struct ip *addr);
/* Everything of a VM: its ports, addresses, diverts, listeners, counters. */
MUST_CHECK int monitor_vm_clear(struct monitor_client *c, uint32_t vm);

/* --- sniffing --- */

struct monitor_sniff {
	uint16_t port;
	bool udp;		/* else TCP */
};

/* The whole set: what was set before and is not in it is sniffed no more. */
MUST_CHECK int monitor_sniff_set(struct monitor_client *c, const struct monitor_sniff *ports, size_t n_ports);

/* --- diverting --- */

enum monitor_direction {
	MONITOR_OUTBOUND,	/* opened by the VM */
	MONITOR_INBOUND,	/* opened towards the VM, from the uplink, another VM or this NIC */
	MONITOR_DNS,		/* queries for names by UDP; the port must be 53 */
	/*
	 * Diverts nothing: source addresses that packets out of the VM's port may
	 * have besides its own (the pods of a node). They pass the source check and
	 * are answers to connections of ours; what they open is not the VM's. Port 0,
	 * no flags; a guest's address stays the guest's.
	 */
	MONITOR_BEHIND,
	_MONITOR_DIRECTION_N
};

enum {
	MONITOR_DIVERT_FAIL_CLOSED = 1,	/* without a listener: drop; else pass */
	/*
	 * Inbound only: connections that the NIC's own processes open to this
	 * address and port reach the listener too (a proxy's tunnel to a VM on the
	 * same NIC). At most STEER_N_SAME_NIC distinct ports; prefix must be one
	 * address. These connections end with the entry: their route is gone.
	 */
	MONITOR_DIVERT_SAME_NIC = 2,
	MONITOR_DIVERT_DNS_ANSWERS = 4,	/* DNS only: what servers answer, too */
};

struct monitor_divert {
	uint32_t vm;			/* whose listener takes it */
	enum monitor_direction direction;
	struct ip_prefix dst;		/* inbound: an address of the VM; DNS: servers; behind: sources */
	uint16_t port;			/* 0: all */
	uint16_t flags;			/* MONITOR_DIVERT_* */
};

/* Connections that exist when an entry comes or goes are not touched. Adding again replaces the flags. */
MUST_CHECK int monitor_divert_add(struct monitor_client *c, const struct monitor_divert *d);
MUST_CHECK int monitor_divert_remove(struct monitor_client *c, const struct monitor_divert *d);
/* Entries of @vm that were found at the load and have not been added again go. */
MUST_CHECK int monitor_diverts_settle(struct monitor_client *c, uint32_t vm);
/* Of those, the ones for what @vm itself opens go now, unless a proxy still listens for it. */
MUST_CHECK int monitor_diverts_open(struct monitor_client *c, uint32_t vm);

/*
 * Two new transparent listeners of a VM (dual-stack AF_INET6, non-blocking,
 * listening): ret_fds[MONITOR_OUTBOUND] and ret_fds[MONITOR_INBOUND], the
 * caller's. From now on new connections go to these; those of an earlier call
 * keep what is in their queues. Each lives as long as somebody has it open.
 *
 * They are bound to the wildcard address (bound to loopback, IPv4 handshakes by
 * SYN cookie are reset), so somebody may connect to the NIC's address and their
 * port directly: whoever accepts closes a connection whose destination port is
 * the listener's own.
 */
MUST_CHECK int monitor_listeners_make(struct monitor_client *c, uint32_t vm, int ret_fds[2]);

/*
 * Two transparent UDP sockets of a VM, as above. By the first come the queries
 * that its MONITOR_DNS entries divert, with their destination as ancillary data
 * (IP_ORIGDSTADDR, IPV6_ORIGDSTADDR); what it sends, from the address of a
 * server to the VM, leaves from port 53. What the second sends, also from the
 * address of a server to the VM and the port that it has sent from, is turned
 * round, and enters by the VM's port as if the VM had sent it to port 53.
 *
 * Who gets a datagram that was sent to another port than 53 has got it from
 * somebody who found the socket's own port.
 */
MUST_CHECK int monitor_dns_make(struct monitor_client *c, uint32_t vm, int ret_fds[2]);

/* --- proxy processes --- */

struct monitor_spawn {
	const char *group;		/* its --group, and in the process's title; 1..63 of [a-zA-Z0-9._-] */
	uint32_t workers;		/* threads, 0: one a processor; at most MONITOR_MAX_WORKERS */
	const int *fds;			/* become 3, 4, ... in the process; by convention 3 is its socket to the worker */
	size_t n_fds;
};

/*
 * Starts outrigger-proxy under the uid and gid of its group, which nobody but
 * the monitor chooses (agent/monitor_users.h), with CAP_NET_ADMIN
 * and CAP_NET_RAW that it gives to its socket helper and drops
 * (proxy/sockd.h). @ret_proxy is a handle that is not used again.
 */
MUST_CHECK int monitor_proxy_spawn(struct monitor_client *c, const struct monitor_spawn *s, uint32_t *ret_proxy, pid_t *ret_pid);
/* Whom processes of @group run under. -ENOENT: the monitor and those before it have started none. */
MUST_CHECK int monitor_proxy_user(struct monitor_client *c, const char *group, uid_t *ret_uid);
/* -ESRCH when it has ended. @signo: SIGTERM, SIGKILL, SIGHUP, SIGUSR1, SIGUSR2. */
MUST_CHECK int monitor_proxy_signal(struct monitor_client *c, uint32_t proxy, int signo);

/*
 * The file that is named "access_log" in the configuration that the monitor
 * was started with, open for appending. -EPERM: it is another one.
 */
MUST_CHECK int monitor_access_log(struct monitor_client *c, const char *path, int *ret_fd);

/* --- probes --- */

struct monitor_probe {
	struct ip_port target;
	/*
	 * None: from the NIC's own address by its ordinary routes. Else a spare
	 * address that is not on the VM's link (such as 192.0.0.8 or 100::8), for
	 * targets in monitor_address_add() on a NIC without an address there.
	 */
	struct ip source;
};

/*
 * A non-blocking socket whose connect() is under way: wait for EPOLLOUT, read
 * SO_ERROR. Connected or refused are both answers; then ask where it came from.
 */
MUST_CHECK int monitor_probe_open(struct monitor_client *c, const struct monitor_probe *p, int *ret_fd, struct ip_port *ret_local);

struct monitor_probe_answer {
	uint32_t ifindex;	/* port by which it came in */
	uint32_t vm;		/* slot of that port, 0 for an uplink */
	uint16_t vlan;
	bool refused;		/* RST, else SYN-ACK */
	uint8_t mac[6];		/* source of the frame */
};

/* -ENOENT: no answer came in by any port of ours. Each answer is told once. */
MUST_CHECK int monitor_probe_result(struct monitor_client *c, const struct ip_port *target, const struct ip_port *local,
				    struct monitor_probe_answer *ret_answer);

/* --- what is going on --- */

struct monitor_counters {
	uint64_t v[32];		/* by enum steer_counter (bpf/api/counters.h) */
};

/* @vm 0: all of the NIC. Names: steer_counter_name(). */
MUST_CHECK int monitor_counters_get(struct monitor_client *c, uint32_t vm, struct monitor_counters *ret_counters);
/* NULL when there is no such counter. */
const char *steer_counter_name(unsigned i);

enum { MONITOR_CHECK_TEXT_LEN = 96, MONITOR_MAX_CHECKS = 48 };

struct monitor_check {
	bool ok;
	bool fatal;				/* steering cannot work like that */
	char what[MONITOR_CHECK_TEXT_LEN];	/* "sysctl net.ipv4.conf.all.rp_filter is 0" */
	char found[MONITOR_CHECK_TEXT_LEN];	/* what it is instead, when not ok */
};

/* The host's state against what steering needs: for `outrigger check`. At most MONITOR_MAX_CHECKS. */
MUST_CHECK int monitor_checks(struct monitor_client *c, struct monitor_check *ret_checks, size_t *ret_n);
