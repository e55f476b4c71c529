#pragma once
#include <stdint.h>
#include "agent/steer_conf.h"
#include "base/defs.h"
#include "base/ip.h"

/*
 * Sockets that take privileges to make.
 */

/* A transparent dual-stack listener whose answers leave by the divert device. The descriptor, or negative errno. */
MUST_CHECK int steer_socket_listen(const struct steer_conf *conf, uint16_t port);

/*
 * A transparent dual-stack UDP socket, bound to a free port, that tells where
 * what it gets was sent to. @mark: STEER_MARK_DNS_ANSWER or .._QUERY.
 */
MUST_CHECK int steer_socket_dns(const struct steer_conf *conf, enum steer_mark mark);

/*
 * A TCP socket whose connect() to @target is under way. @source none: the
 * NIC's own address by its own routes.
 */
MUST_CHECK int steer_socket_probe(const struct steer_conf *conf, const struct ip_port *target, const struct ip *source,
				  struct ip_port *ret_local);
