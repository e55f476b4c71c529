#pragma once
#include "discover/protocol.h"

/*
 * ZooKeeper's client protocol (TCP 2181) as a row of the protocol table.
 */
extern const struct discover_protocol discover_zookeeper;
