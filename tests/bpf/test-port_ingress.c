/*
 * Decisions of the programs, packet by packet, by BPF_PROG_TEST_RUN in a
 * network namespace of our own. Needs root. With the argument "cost" it prints
 * nanoseconds per packet of the usual cases instead.
 */
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>

#include "lib/unit.h"

#include "agent/steer_bpf.h"
#include "agent/steer_sockets.h"
#include "agent/steer_table.h"
#include "api/counters.h"
#include "api/divert.h"

enum { LO = 1, VM = 3, FRAME_MAX = 2048, SNIFF_BYTES = 65536 };

struct bed {
	struct steer_conf conf;
	struct netlink nl;
	struct steer_link divert;
	struct steer_bpf bpf;
	struct steer_table table;
};

static struct bed bed;
static const uint8_t vm_mac[6] = { 2, 0, 0, 0, 0, 1 };

struct frame {
	uint8_t data[FRAME_MAX];
	uint32_t len;
};

static void put(struct frame *f, const void *data, size_t len)
{
	memcpy(f->data + f->len, data, len);
	f->len += (uint32_t)len;
}

/* An IPv4 TCP segment from 10.0.0.1:4000 to 10.9.9.9:@port. */
static struct frame tcp4(uint16_t port, uint8_t flags, size_t payload)
{
	static const uint8_t zeros[1500];
	uint8_t ip[20] = { 0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 9, 9, 9 };
	uint8_t tcp[20] = { 4000 >> 8, 4000 & 255, (uint8_t)(port >> 8), (uint8_t)port, [12] = 0x50, [13] = flags };
	struct frame f = { .data = { 2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 0x08, 0x00 }, .len = 14 };
	size_t total = sizeof(ip) + sizeof(tcp) + payload;

	ip[2] = (uint8_t)(total >> 8);
	ip[3] = (uint8_t)total;
	put(&f, ip, sizeof(ip));
	put(&f, tcp, sizeof(tcp));
	put(&f, zeros, payload);
	return f;
}

/* IPv6 from fd00::1 to fd00::9, the segment behind @n_options destination option headers. */
static struct frame tcp6(uint16_t port, uint8_t flags, size_t n_options)
{
	uint8_t ip[40] = { 0x60, [6] = n_options ? 60 : 6, [7] = 64, [8] = 0xfd, [23] = 1, [24] = 0xfd, [39] = 9 };
	uint8_t tcp[20] = { 4000 >> 8, 4000 & 255, (uint8_t)(port >> 8), (uint8_t)port, [12] = 0x50, [13] = flags };
	struct frame f = { .data = { 2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 0x86, 0xdd }, .len = 14 };

	ip[5] = (uint8_t)(sizeof(tcp) + 8 * n_options);
	put(&f, ip, sizeof(ip));
	for (size_t i = 0; i < n_options; i++)
		put(&f, (const uint8_t[8]){ i + 1 < n_options ? 60 : 6, 0, 1, 4 }, 8);
	put(&f, tcp, sizeof(tcp));
	return f;
}

static void ip4_length(struct frame *f, uint8_t len)
{
	f->data[14 + 3] = len;
}

/* The first fragment, or the one at 8 * @offset. */
static void ip4_fragment(struct frame *f, uint8_t offset)
{
	f->data[14 + 6] = 0x20;
	f->data[14 + 7] = offset;
}

/*
 * IPv6 from fd00::1 to fd00::9: a fragment header (none with @offset < 0), and
 * behind it destination options, of which @n_options bytes are in this fragment.
 * What follows looks like a segment to port 9999.
 */
static struct frame fragment6(int offset, uint8_t n_options)
{
	uint8_t ip[40] = { 0x60, [5] = (uint8_t)(8 + n_options), [6] = 44, [7] = 64, [8] = 0xfd, [23] = 1, [24] = 0xfd, [39] = 9 };
	uint8_t fragment[8] = { n_options ? 60 : 6, 0, 0, (uint8_t)(offset << 3 | 1), 0, 0, 0, 1 };
	uint8_t options[16] = { 6, n_options > 8, 1, 4 };
	uint8_t tcp[20] = { 4000 >> 8, 4000 & 255, 9999 >> 8, 9999 & 255, [12] = 0x50, [13] = 16 };
	struct frame f = { .data = { 2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 0x86, 0xdd }, .len = 14 };

	put(&f, ip, sizeof(ip));
	put(&f, fragment, sizeof(fragment));
	put(&f, options, n_options);
	put(&f, tcp, sizeof(tcp));
	return f;
}

/* The same with @n tags of no VLAN in front: a test run has none beside the packet. */
static struct frame tagged(const struct frame *in, size_t n)
{
	struct frame f = { .len = 12 };

	memcpy(f.data, in->data, f.len);
	for (size_t i = 0; i < n; i++)
		put(&f, (const uint8_t[4]){ 0x81 }, 4);
	put(&f, in->data + 12, in->len - 12);
	return f;
}

/* A UDP datagram from 10.0.0.1:4000 to 10.9.9.9:@port. */
static struct frame udp4(uint16_t port, size_t payload)
{
	static const uint8_t zeros[1500];
	uint8_t ip[20] = { 0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 9, 9, 9 };
	uint8_t udp[8] = { 4000 >> 8, 4000 & 255, (uint8_t)(port >> 8), (uint8_t)port, 0, (uint8_t)(8 + payload) };
	struct frame f = { .data = { 2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 0x08, 0x00 }, .len = 14 };

	ip[3] = (uint8_t)(sizeof(ip) + sizeof(udp) + payload);
	put(&f, ip, sizeof(ip));
	put(&f, udp, sizeof(udp));
	put(&f, zeros, payload);
	return f;
}

static int program(const char *name)
{
	uint32_t id = 0;

	while (bpf_prog_get_next_id(id, &id) == 0) {
		struct bpf_prog_info info = {};
		uint32_t len = sizeof(info);
		int fd = bpf_prog_get_fd_by_id(id);

		if (fd < 0)
			continue;
		if (bpf_obj_get_info_by_fd(fd, &info, &len) == 0 && !strcmp(info.name, name) && info.nr_map_ids) {
			uint32_t ids[64], n = info.nr_map_ids;
			struct bpf_map_info ports = {};

			info = (struct bpf_prog_info){ .map_ids = (uintptr_t)ids, .nr_map_ids = MIN(n, 64U) };
			len = sizeof(ports);
			bpf_obj_get_info_by_fd(bed.bpf.counters, &ports, &len);
			len = sizeof(info);
			bpf_obj_get_info_by_fd(fd, &info, &len);
			for (uint32_t i = 0; i < info.nr_map_ids; i++)	/* ours, and not an agent's on this machine */
				if (ids[i] == ports.id)
					return fd;
		}
		close(fd);
	}
	return -ENOENT;
}

static int run(const struct frame *in, struct frame *out, unsigned repeat, uint32_t *ret_ns)
{
	static int fd = -1;
	struct __sk_buff ctx = { .ifindex = LO };
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = in->data, .data_size_in = in->len, .ctx_in = &ctx, .ctx_size_in = sizeof(ctx),
		    .data_out = out->data, .data_size_out = sizeof(out->data), .repeat = (int)repeat);

	if (fd < 0)
		fd = program("port_ingress");
	assert_true(fd >= 0);
	assert_int_equal(bpf_prog_test_run_opts(fd, &opts), 0);
	out->len = opts.data_size_out;
	if (ret_ns)
		*ret_ns = opts.duration;
	return (int)opts.retval;
}

static int verdict(const struct frame *in)
{
	struct frame out;
	int r = run(in, &out, 1, NULL);

	if (r == TC_ACT_UNSPEC) {	/* passed means: unchanged */
		assert_int_equal(out.len, in->len);
		assert_memory_equal(out.data, in->data, in->len);
	}
	return r;
}

static uint64_t counter(uint32_t vm, enum steer_counter c)
{
	struct monitor_counters v;

	assert_int_equal(steer_table_counters(&bed.table, vm, &v), 0);
	return v.v[c];
}

static void set_port(uint32_t flags)
{
	struct monitor_port p = { .ifindex = LO, .vm = VM, .role = MONITOR_ROLE_VM, .topology = MONITOR_BRIDGE,
				  .out_ifindex = LO, .flags = flags };

	assert_int_equal(steer_table_port_add(&bed.table, &p), 0);
}

static struct monitor_divert outbound(uint16_t port, uint16_t flags)
{
	return (struct monitor_divert){ .vm = VM, .direction = MONITOR_OUTBOUND, .port = port, .flags = flags };
}

static void divert(uint16_t port, uint16_t flags)
{
	struct monitor_divert d = outbound(port, flags);
	uint32_t old;

	assert_true(steer_table_divert_add(&bed.table, &d, &old) >= 0);
}

/* --- tests --- */

static void a_port_that_is_not_ours_passes_uncounted(void **state)
{
	struct frame f = tcp4(80, 2, 0);

	(void)state;
	(void)!steer_table_port_remove(&bed.table, LO, 0);
	divert(80, MONITOR_DIVERT_FAIL_CLOSED);
	assert_int_equal(verdict(&f), TC_ACT_UNSPEC);
	assert_int_equal(counter(0, STEER_C_NO_LISTENER_DROP), 0);
	set_port(0);
}

static void without_a_listener_fail_open_passes_and_fail_closed_drops(void **state)
{
	struct frame f = tcp4(80, 2, 0), g = tcp4(81, 2, 0);

	(void)state;
	divert(80, 0);
	divert(81, MONITOR_DIVERT_FAIL_CLOSED);
	assert_int_equal(verdict(&f), TC_ACT_UNSPEC);
	assert_int_equal(counter(VM, STEER_C_NO_LISTENER_PASS), 1);
	assert_int_equal(verdict(&g), TC_ACT_SHOT);
	assert_int_equal(counter(VM, STEER_C_NO_LISTENER_DROP), 1);
	g = tcp4(81, 16, 100);		/* of a connection that was there before */
	assert_int_equal(verdict(&g), TC_ACT_UNSPEC);
}

static void a_tcp_segment_behind_extension_headers_is_not_overlooked(void **state)
{
	(void)state;
	divert(82, MONITOR_DIVERT_FAIL_CLOSED);
	for (size_t n = 0; n <= 4; n++) {
		struct frame f = tcp6(82, 2, n);

		assert_int_equal(verdict(&f), TC_ACT_SHOT);
	}
}

static void every_truncation_passes_and_is_counted(void **state)
{
	struct frame whole[] = { tcp4(80, 2, 0), tcp6(80, 2, 2) };

	(void)state;
	for (size_t i = 0; i < ELEMENTS(whole); i++) {
		uint64_t before = counter(VM, STEER_C_MALFORMED);
		uint32_t least = i == 0 ? 34 : 54;	/* a test run does not take less than an IP header */

		for (uint32_t len = least; len < whole[i].len; len++) {
			struct frame f = whole[i];

			f.len = len;
			assert_int_equal(verdict(&f), TC_ACT_UNSPEC);
		}
		assert_int_equal(counter(VM, STEER_C_MALFORMED) - before, whole[i].len - least);
	}
}

static void wrong_lengths_pass(void **state)
{
	struct frame f = tcp4(81, 2, 0);

	(void)state;
	f.data[14] = 0x44;		/* header of 16 bytes */
	assert_int_equal(verdict(&f), TC_ACT_UNSPEC);
	f = tcp4(81, 2, 0);
	f.data[14] = 0x4f;		/* of 60: more than there is */
	assert_int_equal(verdict(&f), TC_ACT_UNSPEC);
	f = tcp4(81, 2, 0);
	f.data[46] = 0x40;		/* TCP header of 16 bytes */
	assert_int_equal(verdict(&f), TC_ACT_UNSPEC);
	f = tcp4(81, 2, 0);
	f.data[46] = 0xf0;		/* of 60 */
	assert_int_equal(verdict(&f), TC_ACT_UNSPEC);
}

static void fragments_are_left_alone_and_counted(void **state)
{
	struct frame f = tcp4(81, 2, 0);

	(void)state;
	f.data[20] = 0x20;		/* more fragments */
	assert_int_equal(verdict(&f), TC_ACT_UNSPEC);
	assert_int_equal(counter(VM, STEER_C_FRAGMENT), 1);
}

/* One that may be of a connection of ours is not: its bytes would be without their order. */
static void what_is_copied_is_copied_whatever_else_is_done_with_it(void **state)
{
	struct frame plain = tcp4(2181, 16, 100), candidate = tcp4(2181, 20, 100);	/* ACK; RST and ACK: perhaps for a probe */
	struct { struct frame *f; bool fragment; unsigned copies; } table[] = {
		{ &plain, false, 1 }, { &candidate, false, 1 }, { &plain, true, 1 }, { &candidate, true, 0 },
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTS(table); i++) {
		uint64_t copied = counter(VM, STEER_C_SNIFFED);

		table[i].f->data[20] = table[i].fragment ? 0x20 : 0;
		assert_int_equal(verdict(table[i].f), TC_ACT_UNSPEC);
		assert_int_equal(counter(VM, STEER_C_SNIFFED) - copied, table[i].copies);
	}
}

static void a_foreign_source_is_counted_and_dropped_when_asked(void **state)
{
	struct frame f = tcp4(81, 2, 0);
	uint64_t before = counter(VM, STEER_C_SPOOFED);

	(void)state;
	f.data[14 + 15] = 77;		/* 10.0.0.77 */
	assert_int_equal(verdict(&f), TC_ACT_UNSPEC);
	assert_int_equal(counter(VM, STEER_C_SPOOFED), before + 1);
	set_port(MONITOR_PORT_DROP_SPOOFED);
	assert_int_equal(verdict(&f), TC_ACT_SHOT);
	f = tcp4(9999, 16, 10);
	assert_int_equal(verdict(&f), TC_ACT_UNSPEC);
	set_port(0);
}

static void what_is_behind_the_vm_is_neither_foreign_nor_the_vm(void **state)
{
	struct monitor_divert behind = {
		.vm = VM, .direction = MONITOR_BEHIND, .dst = { ip_from_v4((const uint8_t[]){ 10, 0, 0, 76 }), 96 + 30 },
	};
	struct monitor_divert outbound = { .vm = VM, .direction = MONITOR_OUTBOUND, .dst.len = 0, .flags = MONITOR_DIVERT_FAIL_CLOSED };
	uint64_t before = counter(VM, STEER_C_SPOOFED), refused = counter(VM, STEER_C_NO_LISTENER_DROP);
	struct frame pods = tcp4(443, 2, 0), own = pods, other = pods;
	uint32_t flags;

	(void)state;
	pods.data[14 + 15] = 77;	/* 10.0.0.77 */
	other.data[14 + 15] = 80;
	set_port(MONITOR_PORT_DROP_SPOOFED);
	assert_int_equal(verdict(&pods), TC_ACT_SHOT);
	assert_int_equal(steer_table_divert_add(&bed.table, &behind, &flags), 0);
	assert_int_equal(steer_table_divert_add(&bed.table, &outbound, &flags), 0);
	assert_int_equal(verdict(&pods), TC_ACT_UNSPEC);
	assert_int_equal(counter(VM, STEER_C_SPOOFED), before + 1);
	assert_int_equal(counter(VM, STEER_C_NO_LISTENER_DROP), refused);
	assert_int_equal(verdict(&own), TC_ACT_SHOT);		/* diverted, and nobody listens */
	assert_int_equal(counter(VM, STEER_C_NO_LISTENER_DROP), refused + 1);
	assert_int_equal(verdict(&other), TC_ACT_SHOT);
	assert_int_equal(counter(VM, STEER_C_SPOOFED), before + 2);
	assert_int_equal(steer_table_divert_remove(&bed.table, &outbound, &flags), 0);
	assert_int_equal(steer_table_divert_remove(&bed.table, &behind, &flags), 0);
	assert_int_equal(verdict(&pods), TC_ACT_SHOT);
	set_port(0);
}

/* To where everything has to come by the proxy nothing gets that the proxy cannot have. */
static void what_cannot_be_judged_does_not_reach_a_strict_port(void **state)
{
	struct monitor_divert d = {
		.vm = VM, .direction = MONITOR_INBOUND, .port = 443, .dst.len = 128, .dst.ip = ip_from_v4((const uint8_t[]){ 10, 9, 9, 9 }),
	};
	struct ip far_v6 = ip_from_v6((const uint8_t[16]){ [0] = 0xfd, [15] = 9 });
	struct frame spoofed = tcp4(443, 2, 0), older = tcp4(443, 16, 10), fragment = spoofed, tiny = spoofed, deep = tcp6(443, 2, 5);
	uint32_t old;

	(void)state;
	spoofed.data[14 + 15] = older.data[14 + 15] = 77;	/* 10.0.0.77 */
	fragment.data[20] = tiny.data[20] = 0x20;
	tiny.len = 14 + 20 + 8;
	tiny.data[17] = 28;
	for (int strict = 0; strict < 2; strict++) {
		int want = strict ? TC_ACT_SHOT : TC_ACT_UNSPEC;

		d.flags = strict ? MONITOR_DIVERT_FAIL_CLOSED : 0;
		assert_true(steer_table_divert_add(&bed.table, &d, &old) >= 0);
		assert_int_equal(verdict(&spoofed), want);
		assert_int_equal(verdict(&older), TC_ACT_UNSPEC);
		assert_int_equal(verdict(&fragment), want);
		assert_int_equal(verdict(&tiny), want);
	}
	assert_int_equal(steer_table_divert_remove(&bed.table, &d, &old), 0);
	assert_int_equal(verdict(&deep), TC_ACT_UNSPEC);
	assert_int_equal(steer_table_address_add(&bed.table, VM, &far_v6, vm_mac), 0);
	assert_int_equal(verdict(&deep), TC_ACT_SHOT);
	assert_int_equal(steer_table_address_remove(&bed.table, VM, &far_v6), 0);
}

/*
 * What packet filters are known to be evaded by: the VM puts together, or makes
 * of it, a SYN that no single packet shows.
 */
static void known_disguises_do_not_reach_a_strict_port(void **state)
{
	struct monitor_divert d4 = {
		.vm = VM, .direction = MONITOR_INBOUND, .port = 443, .dst.len = 128, .dst.ip = ip_from_v4((const uint8_t[]){ 10, 9, 9, 9 }),
	}, d6 = d4;
	struct frame syn = tcp4(443, 2, 0), fin = tcp4(443, 3, 0), cut = tcp4(443, 2, 4), padded = syn, inside = tcp4(443, 16, 0), hop = tcp6(443, 2, 1);
	struct frame v4[] = { fin, cut, padded, inside, tagged(&syn, 1), tagged(&syn, 3), tagged(&syn, 4) };
	struct frame v6[] = { hop, fragment6(0, 8), fragment6(0, 16), fragment6(1, 0) };
	struct frame later = tcp4(443, 16, 40), honest = fragment6(2, 0);
	uint32_t old;

	(void)state;
	ip4_fragment(&v4[1], 0);		/* options of TCP are in the next fragment: RFC 3128 */
	v4[1].data[14 + 20 + 12] = 0x80;
	ip4_fragment(&v4[2], 0);		/* what looks like its flags is padding */
	ip4_length(&v4[2], 20 + 8);
	v4[2].data[14 + 20 + 13] = 16;
	ip4_fragment(&v4[3], 1);		/* over the flags of the first: RFC 1858 */
	ip4_fragment(&later, 3);
	v6[0].data[14 + 4] = v6[0].data[14 + 5] = 0;	/* hop-by-hop options and no length: Linux takes it all */
	v6[0].data[14 + 6] = 0;
	d6.dst.ip = ip_from_v6((const uint8_t[16]){ [0] = 0xfd, [15] = 9 });
	for (int strict = 0; strict < 2; strict++) {
		d4.flags = d6.flags = strict ? MONITOR_DIVERT_FAIL_CLOSED : 0;
		assert_true(steer_table_divert_add(&bed.table, &d4, &old) >= 0);
		assert_true(steer_table_divert_add(&bed.table, &d6, &old) >= 0);
		if (strict) {
			assert_int_equal(steer_table_address_add(&bed.table, VM, &d4.dst.ip, vm_mac), 0);
			assert_int_equal(steer_table_address_add(&bed.table, VM, &d6.dst.ip, vm_mac), 0);
		}
		for (size_t i = 0; i < ELEMENTS(v4); i++) {
			struct frame out;
			int want = strict || i == ELEMENTS(v4) - 1 ? TC_ACT_SHOT : TC_ACT_UNSPEC;	/* so many empty tags are nobody's */

			if (run(&v4[i], &out, 1, NULL) != want)
				fail_msg("strict %d: IPv4 disguise %zu", strict, i);
		}
		for (size_t i = 0; i < ELEMENTS(v6); i++)
			if (verdict(&v6[i]) != (strict ? TC_ACT_SHOT : TC_ACT_UNSPEC))
				fail_msg("strict %d: IPv6 disguise %zu", strict, i);
		assert_int_equal(verdict(&later), TC_ACT_UNSPEC);
		assert_int_equal(verdict(&honest), TC_ACT_UNSPEC);
	}
	assert_int_equal(steer_table_divert_remove(&bed.table, &d4, &old), 0);
	assert_int_equal(steer_table_divert_remove(&bed.table, &d6, &old), 0);
	assert_int_equal(steer_table_address_remove(&bed.table, VM, &d4.dst.ip), 0);
	assert_int_equal(steer_table_address_remove(&bed.table, VM, &d6.dst.ip), 0);
}

static void an_error_after_the_match_passes_unless_fail_closed(void **state)
{
	struct frame f = tcp4(80, 2, 0), g = tcp4(81, 2, 0);
	int fds[2];

	(void)state;
	for (int i = 0; i < 2; i++) {
		fds[i] = steer_socket_listen(&bed.conf, 0);
		assert_true(fds[i] >= 0);
	}
	assert_int_equal(steer_table_listeners_set(&bed.table, VM, fds), 0);
	/* a test run is not at tc ingress: the kernel refuses the assignment */
	assert_int_equal(verdict(&f), TC_ACT_UNSPEC);
	assert_int_equal(verdict(&g), TC_ACT_SHOT);
	assert_int_equal(counter(VM, STEER_C_ASSIGN_ERROR), 2);
	close(fds[0]);
	close(fds[1]);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* A test run cannot assign a socket: a query that would have been given to the proxy is counted as an error. */
static uint64_t given(void)
{
	return counter(VM, STEER_C_ASSIGN_ERROR);
}

static void queries_go_to_a_proxy_that_is_there_and_does_something(void **state)
{
	struct monitor_divert d = { .vm = VM, .direction = MONITOR_DNS, .port = 53 };
	struct frame f = udp4(53, 40), other = udp4(54, 40), part = udp4(53, 40), out;
	uint32_t vm = VM, old;
	struct steer_dns dns;

	(void)state;
	uint64_t before = given();
	int fd = steer_socket_dns(&bed.conf, STEER_MARK_DNS_ANSWER);
	assert_true(fd >= 0);
	assert_int_equal(steer_table_dns_set(&bed.table, VM, fd), 0);
	assert_int_equal(verdict(&f), TC_ACT_UNSPEC);		/* nobody wants them */
	assert_int_equal(given(), before);
	assert_int_equal(steer_table_divert_add(&bed.table, &d, &old), 0);
	assert_int_equal(verdict(&f), TC_ACT_UNSPEC);
	assert_int_equal(given(), before + 1);
	assert_int_equal(verdict(&other), TC_ACT_UNSPEC);
	part.data[20] = 0x20;					/* more fragments */
	assert_int_equal(verdict(&part), TC_ACT_UNSPEC);
	assert_int_equal(given(), before + 1);

	/* one that has done nothing for a second is left alone, but for one query in a while */
	dns = (struct steer_dns){ .since_ns = 1, .tried_ns = now_ns(), .n = 1 };
	assert_int_equal(bpf_map_update_elem(bed.bpf.dns_vms, &vm, &dns, BPF_ANY), 0);
	assert_int_equal(verdict(&f), TC_ACT_UNSPEC);
	assert_int_equal(given(), before + 1);
	assert_int_equal(counter(VM, STEER_C_DNS_STUCK), 1);
	dns.since_ns = now_ns() - 60000000000ULL;
	dns.tried_ns = dns.since_ns;
	assert_int_equal(bpf_map_update_elem(bed.bpf.dns_vms, &vm, &dns, BPF_ANY), 0);
	assert_int_equal(verdict(&f), TC_ACT_UNSPEC);
	assert_int_equal(given(), before + 2);
	assert_int_equal(verdict(&f), TC_ACT_UNSPEC);
	assert_int_equal(given(), before + 2);

	/* its successor is believed in again, and more than so many a second pass */
	assert_int_equal(steer_table_dns_set(&bed.table, VM, fd), 0);
	assert_int_equal(run(&f, &out, 2 * STEER_DNS_PER_S, NULL), TC_ACT_UNSPEC);
	assert_true(given() >= before + 2 + STEER_DNS_PER_S);
	assert_true(counter(VM, STEER_C_DNS_BUDGET) > 0);

	before = given();
	close(fd);						/* and with the proxy its socket is gone */
	assert_int_equal(verdict(&f), TC_ACT_UNSPEC);
	assert_int_equal(given(), before);
	assert_int_equal(steer_table_divert_remove(&bed.table, &d, &old), 0);
	assert_int_equal(bed.bpf.flags_of_port[htons(53)] & STEER_PF_DNS, 0);
}

static void no_more_is_copied_of_a_vm_than_it_may(void **state)
{
	enum { N = 1000, SEGMENT = 1000 };
	struct frame f = tcp4(2181, 16, SEGMENT), out;
	uint64_t before = counter(VM, STEER_C_SNIFFED), copied, refused = counter(VM, STEER_C_SNIFF_BUDGET);

	(void)state;
	assert_int_equal(run(&f, &out, N, NULL), TC_ACT_UNSPEC);	/* and passes all the same */
	copied = counter(VM, STEER_C_SNIFFED) - before;
	refused = counter(VM, STEER_C_SNIFF_BUDGET) - refused;
	assert_int_equal(copied + refused, N);
	assert_true(before + copied >= SNIFF_BYTES / (SEGMENT + STEER_SNIFF_COST));	/* the smaller ones before these took of it, too */
	assert_true(refused > 0);
}

static void flows_without_a_socket_are_swept(void **state)
{
	uint32_t seen, removed;

	(void)state;
	assert_int_equal(steer_bpf_sweep(&bed.bpf, 3600, &seen, &removed), 0);
	assert_int_equal(removed, 0);
	assert_true(seen > 0);
	assert_int_equal(steer_bpf_sweep(&bed.bpf, 0, &seen, &removed), 0);
	assert_int_equal(removed, seen);
	assert_int_equal(steer_bpf_sweep(&bed.bpf, 0, &seen, &removed), 0);
	assert_int_equal(seen, 0);
}

/* --- the bed --- */

static int make_bed(void **state)
{
	struct ip v4 = ip_from_v4((const uint8_t[4]){ 10, 0, 0, 1 });
	struct ip v6 = { .b = { 0xfd, [15] = 1 } };
	struct monitor_sniff sniff = { .port = 2181 };

	(void)state;
	steer_conf_init(&bed.conf);
	bed.conf.pin_dir[0] = 0;
	bed.conf.sniff_bytes_per_s = SNIFF_BYTES;
	if (unshare(CLONE_NEWNET) < 0 || netlink_open(&bed.nl) < 0 ||
	    steer_link_ensure(&bed.nl, &bed.conf, &bed.divert) < 0 || steer_bpf_load(&bed.bpf, &bed.conf, &bed.divert) < 0 ||
	    steer_table_init(&bed.table, &bed.bpf) < 0)
		return -1;
	set_port(0);
	return steer_table_address_add(&bed.table, VM, &v4, vm_mac) < 0 || steer_table_address_add(&bed.table, VM, &v6, vm_mac) < 0 ||
	       steer_table_sniff_set(&bed.table, &sniff, 1) < 0;
}

static int remove_bed(void **state)
{
	(void)state;
	steer_table_deinit(&bed.table);
	steer_bpf_unload(&bed.bpf);
	netlink_close(&bed.nl);
	return 0;
}

static void cost(const char *what, const struct frame *f)
{
	struct frame out;
	uint32_t ns, best = UINT32_MAX;

	for (int i = 0; i < 7; i++) {
		run(f, &out, 300000, &ns);
		best = MIN(best, ns);
	}
	printf("%-64s %4u ns\n", what, best);
}

static int print_costs(void)
{
	struct frame ack = tcp4(9999, 16, 1000), wanted = tcp4(81, 16, 1000), sniffed = tcp4(2181, 16, 1000), v6 = tcp6(9999, 16, 0);
	struct frame arp = { .data = { [12] = 0x88, [13] = 0xb5 }, .len = 64 };
	int fds[2] = { steer_socket_listen(&bed.conf, 0), steer_socket_listen(&bed.conf, 0) };

	(void)!steer_table_port_remove(&bed.table, LO, 0);
	cost("a device that is no port", &ack);
	set_port(0);
	cost("not IP", &arp);
	cost("TCP that matches nothing", &ack);
	cost("TCP over IPv6 that matches nothing", &v6);
	set_port(MONITOR_PORT_DROP_SPOOFED);
	cost("the same, sources checked", &ack);
	set_port(0);
	divert(81, 0);
	cost("TCP to a diverted port, not ours (socket lookup, LPM)", &wanted);
	if (steer_table_listeners_set(&bed.table, VM, fds) < 0)
		return 1;
	cost("TCP that matches nothing, of a VM with a proxy (socket lookup)", &ack);
	cost("1000 bytes to a sniffed port", &sniffed);
	return 0;
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_port_that_is_not_ours_passes_uncounted),
		cmocka_unit_test(without_a_listener_fail_open_passes_and_fail_closed_drops),
		cmocka_unit_test(a_tcp_segment_behind_extension_headers_is_not_overlooked),
		cmocka_unit_test(every_truncation_passes_and_is_counted),
		cmocka_unit_test(wrong_lengths_pass),
		cmocka_unit_test(fragments_are_left_alone_and_counted),
		cmocka_unit_test(what_is_copied_is_copied_whatever_else_is_done_with_it),
		cmocka_unit_test(a_foreign_source_is_counted_and_dropped_when_asked),
		cmocka_unit_test(what_is_behind_the_vm_is_neither_foreign_nor_the_vm),
		cmocka_unit_test(what_cannot_be_judged_does_not_reach_a_strict_port),
		cmocka_unit_test(known_disguises_do_not_reach_a_strict_port),
		cmocka_unit_test(an_error_after_the_match_passes_unless_fail_closed),
		cmocka_unit_test(queries_go_to_a_proxy_that_is_there_and_does_something),
		cmocka_unit_test(no_more_is_copied_of_a_vm_than_it_may),
		cmocka_unit_test(flows_without_a_socket_are_swept),
	};

	if (geteuid() != 0) {
		puts("skipped: BPF programs can only be loaded by root");
		return 77;
	}
	if (argc > 1 && !strcmp(argv[1], "cost"))
		return make_bed(NULL) ? 1 : print_costs();
	return cmocka_run_group_tests(tests, make_bed, remove_bed);
}
