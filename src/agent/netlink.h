#pragma once
#include <libmnl/libmnl.h>
#include <stdint.h>
#include "base/defs.h"

/*
 * A request to rtnetlink and its answer, over libmnl.
 */
struct netlink {
	struct mnl_socket *sock;
	uint32_t seq;
};

/* libmnl's loops over attributes, without its implicit conversions. */
#define netlink_attrs(a, h, offset) \
	for ((a) = mnl_nlmsg_get_payload_offset(h, offset); \
	     mnl_attr_ok(a, (int)((char *)mnl_nlmsg_get_payload_tail(h) - (char *)(a))); (a) = mnl_attr_next(a))
#define netlink_nested(a, nest) \
	for ((a) = mnl_attr_get_payload(nest); \
	     mnl_attr_ok(a, (int)((char *)mnl_attr_get_payload(nest) + mnl_attr_get_payload_len(nest) - (char *)(a))); \
	     (a) = mnl_attr_next(a))

enum { NETLINK_BUF = 32768 };

MUST_CHECK int netlink_open(struct netlink *nl);
void netlink_close(struct netlink *nl);

/*
 * Starts a message in @buf (of at least 4 KiB); the caller appends its
 * attributes and hands it to netlink_talk() or netlink_dump().
 */
struct nlmsghdr *netlink_start(struct netlink *nl, void *buf, uint16_t type, uint16_t flags);

/* Sends and waits for the acknowledgement: 0 or the kernel's negative errno. @cb (may be NULL) gets the messages before it. */
MUST_CHECK int netlink_talk(struct netlink *nl, struct nlmsghdr *h, mnl_cb_t cb, void *data);
