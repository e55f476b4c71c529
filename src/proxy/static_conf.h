#pragma once
#include "base/defs.h"
#include "base/diag.h"
#include "proxy/proxy.h"

/*
 * The static mode: a YAML file says what agent and mesh controller would.
 * For benchmarks, for tests with foreign peers, and for looking at a proxy
 * alone. Listeners are ordinary sockets, so a VM's outbound listener must be
 * bound to the service's address itself, or to 0.0.0.0 on its port.
 *
 *	trust_domain: example.org
 *	roots: roots.pem
 *	admin: /run/x.sock
 *	access_log: stderr
 *	controller: {address: 127.0.0.1:15012, server_names: [localhost]}	# optional
 *	vms:
 *	  - id: a
 *	    uid: vm/a				# of its workload below
 *	    namespace: shop
 *	    service_account: web
 *	    addresses: [127.0.0.2]
 *	    mode: strict			# or permissive
 *	    cert: a.pem				# with key; or token: with a controller
 *	    key: a.key
 *	    outbound: 127.1.0.1:9000
 *	    inbound: 127.0.0.2:15008
 *	    limits: {connections: 12000, connection_rate: 2000, buffered_bytes: 67108864, idle_timeout_s: 600}	# optional
 *	workloads:
 *	  - {uid: vm/b, name: b, namespace: shop, service_account: api, addresses: [127.0.0.3], hbone: true,
 *	     services: {shop/api: {9000: 8080}}}
 *	services:
 *	  - {name: api, namespace: shop, hostname: api, addresses: [127.1.0.1], ports: {9000: 8080}, sans: []}
 *	policies:
 *	  - {name: p, namespace: shop, action: deny, principals: [example.org/ns/x/sa/y], namespaces: [z], not_principals_present: true}
 *
 * Files are named from the folder of the static file. SIGHUP reads workloads,
 * services, policies and certificates again; what stands before a mistake in the
 * file is then in force, and what stands behind it is not.
 */
MUST_CHECK int static_conf_load(struct proxy *p, const char *path, struct diag *reterr_diag);
MUST_CHECK int static_conf_reload(struct proxy *p, const char *path, struct diag *reterr_diag);
