#pragma once
#include "base/list.h"
#include "discover/protocol.h"
#include "proto/dns.h"

/*
 * Dynamic updates of DNS (RFC 2136): what a guest writes into a zone, with
 * nsupdate, a DHCP server, a domain member, DNS-SD's register. An update counts
 * when its response says NOERROR. dns_update.c has the rules.
 */
enum {
	MAX_UPDATES = 32,		/* waiting, or answered not long ago; each guest */
	MAX_UPDATE_BYTES = 64 * 1024,	/* of those that wait, together */
	MAX_UPDATE_RECORDS = 256,	/* read of one update */
	MAX_WRITTEN = 256,		/* records of the guest's that are remembered */
};

struct dns_updates {
	struct list updates;		/* oldest first */
	struct list written;
	size_t n_updates, n_bytes, n_written;
};

void dns_updates_init(struct dns_updates *u);
void dns_updates_deinit(struct dns_updates *u);

/* A message with opcode UPDATE whose records were checked. */
void dns_take_update(struct dns_updates *u, const struct dns_message *m, const struct ip_port *client,
		     const struct ip_port *server);
/* Its response. */
void dns_take_update_response(struct dns_updates *u, const struct dns_message *m, const struct ip_port *client,
			      const struct ip_port *server, const struct discover_ctx *ctx);
