#pragma once
#include <jansson.h>
#include "base/ip.h"

/*
 * The configuration that makes an unmodified Envoy a sidecar of the mesh: the
 * part of `outrigger envoy` that knows Envoy's words.
 *
 *	inbound		:15008 TLS 1.3, h2, mutual SPIFFE; CONNECT <address>:<port> is
 *			passed on to 127.0.0.1:<port>
 *	outbound	a listener a destination, TCP or HTTP; a cluster whose endpoints
 *			come from the controller (EDS over ADS). Endpoints with a tunnel are the
 *			internal listener "connect_originate", which makes HBONE to
 *			<endpoint>:15008; others are plain.
 *	capture		:15001, for connections that a REDIRECT rule sends there: by
 *			their original destination, else passed through
 *			(envoy_capture.h)
 *
 * Shapes as Istio's for HBONE, without Istio's own filters. A peer must have
 * the identity that the controller told for its endpoint (metadata "outrigger",
 * key "identity"); where it tells none, any of the trust domain.
 */
enum {
	ENVOY_ADDRESSES_MAX = 8,
	ENVOY_PORTS_MAX = 64,
	ENVOY_NAMES_MAX = 8,
};

struct envoy_outbound {
	struct ip_port listen;
	char host[256];			/* of the service: "orders.shop.mesh.internal" */
	uint16_t port;			/* of the service */
	bool http;			/* request by request, with retries on other endpoints; else by connection */
};

struct envoy_config {			/* texts are borrowed */
	const char *controller;		/* "host:port" */
	const char *server_names[ENVOY_NAMES_MAX];	/* the controller's certificate has one of these */
	size_t n_server_names;
	const char *trust_domain;
	const char *ns, *service_account, *name;
	struct ip addresses[ENVOY_ADDRESSES_MAX];	/* of this workload */
	size_t n_addresses;
	uint16_t inbound[ENVOY_PORTS_MAX];
	size_t n_inbound;
	struct envoy_outbound outbound[ENVOY_PORTS_MAX];
	size_t n_outbound;
	bool capture;
	uint16_t admin_port;		/* 0: no admin interface */
	const char *sds_dir;		/* where workload.json and roots.json are */
	const char *xds_dir;		/* where lds.json and cds.json are, with @capture */
};

/* NULL when memory is short. */
json_t *envoy_bootstrap(const struct envoy_config *c);

/* SDS files: the content of workload.json and roots.json. */
json_t *envoy_sds_certificate(const char *chain_pem, const char *key_pem);
json_t *envoy_sds_roots(const char *roots_pem);

/* One of the first @n_outbound listeners of the command line leads to that service: its cluster is in the bootstrap. */
bool envoy_config_has_cluster(const struct envoy_config *c, size_t n_outbound, const char *host, uint16_t port);
