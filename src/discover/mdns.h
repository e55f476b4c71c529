#pragma once
#include "discover/protocol.h"

/*
 * The observer of multicast DNS: a row of protocols.c.
 */
extern const struct discover_protocol discover_mdns;
