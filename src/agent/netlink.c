/*
 * A request to rtnetlink and its answer.
 */
#include "agent/netlink.h"

#include <errno.h>
#include <string.h>

int netlink_open(struct netlink *nl)
{
	*nl = (struct netlink){ .seq = 1 };
	nl->sock = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
	if (!nl->sock)
		return -errno;
	if (mnl_socket_bind(nl->sock, 0, MNL_SOCKET_AUTOPID) < 0) {
		int r = -errno;

		netlink_close(nl);
		return r;
	}
	return 0;
}

void netlink_close(struct netlink *nl)
{
	if (nl->sock)
		mnl_socket_close(nl->sock);
	nl->sock = NULL;
}

struct nlmsghdr *netlink_start(struct netlink *nl, void *buf, uint16_t type, uint16_t flags)
{
	struct nlmsghdr *h = mnl_nlmsg_put_header(buf);

	h->nlmsg_type = type;
	h->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags);
	h->nlmsg_seq = nl->seq++;
	return h;
}

int netlink_talk(struct netlink *nl, struct nlmsghdr *h, mnl_cb_t cb, void *data)
{
	_Alignas(struct nlmsghdr) char buf[NETLINK_BUF];
	uint32_t seq = h->nlmsg_seq;

	/* a dump ends by itself; the flags of other requests share its bits */
	if ((h->nlmsg_flags & NLM_F_DUMP) != NLM_F_DUMP)
		h->nlmsg_flags |= NLM_F_ACK;
	if (mnl_socket_sendto(nl->sock, h, h->nlmsg_len) < 0)
		return -errno;
	for (;;) {
		ssize_t n = mnl_socket_recvfrom(nl->sock, buf, sizeof(buf));
		if (n < 0)
			return -errno;

		int r = mnl_cb_run(buf, (size_t)n, seq, mnl_socket_get_portid(nl->sock), cb, data);
		if (r < 0)
			return -errno;
		if (r == MNL_CB_STOP)
			return 0;
	}
}
