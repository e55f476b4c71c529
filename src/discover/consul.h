#pragma once
#include "discover/protocol.h"

/*
 * Consul's HTTP API (TCP 8500) as a row of the protocol table.
 */
extern const struct discover_protocol discover_consul;
