#pragma once
#include <jansson.h>
#include <stdbool.h>
#include "base/ip.h"

/*
 * Parts of Envoy's configuration that envoy_bootstrap.c and envoy_capture.c
 * have in common. All return NULL when memory is short or a part is NULL.
 */
json_t *envoy_address(const struct ip_port *addr);
/* A named extension; @type without "type.googleapis.com/envoy." before it. @config is stolen. */
json_t *envoy_filter(const char *name, const char *type, json_t *config);
json_t *envoy_tcp_proxy(const char *name, const char *cluster);
json_t *envoy_original_dst_filter(void);
/* "outbound|<port>||<host>": what the controller calls a service's endpoints, and we its cluster; and the filter that leads there. */
json_t *envoy_service_cluster(const char *host, uint16_t port);
json_t *envoy_service_filter(const char *host, uint16_t port, bool http);
