/*
 * The discovery protocols, a row each.
 */
#include "discover/protocol.h"

#include <string.h>
#include "base/defs.h"
#include "discover/consul.h"
#include "discover/dns.h"
#include "discover/mdns.h"
#include "discover/zookeeper.h"

const struct discover_protocol *const discover_protocols[] = {
	&discover_consul,
	&discover_dns,
	&discover_mdns,
	&discover_zookeeper,
};
const size_t n_discover_protocols = ELEMENTS(discover_protocols);

const struct discover_protocol *discover_protocol_by_name(const char *name)
{
	for (size_t i = 0; i < n_discover_protocols; i++)
		if (!strcmp(discover_protocols[i]->name, name))
			return discover_protocols[i];
	return NULL;
}
