#pragma once
#include "discover/protocol.h"

/*
 * The observer of DNS, UDP and TCP: a row of protocols.c.
 */
extern const struct discover_protocol discover_dns;
