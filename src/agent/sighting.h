#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "agent/guest.h"
#include "base/defs.h"

/*
 * From a frame to what it says about who has which address: ARP (RFC 826,
 * 5227), neighbour discovery (RFC 4861), DHCP (RFC 2131). A pure decoder.
 */
enum {
	_SIGHTING_E_SUCCESS,

	SIGHTING_E_NOTHING,	/* says nothing of that kind, or says it badly */
};

/*
 * @ret_sighting: MAC, address, source, lifetime; port and VLAN are the
 * caller's to fill in. From the VM: what the sender says of itself. To the VM:
 * a DHCP server's acknowledgement; a broadcast one goes to every port, so
 * whoever takes it has to know the MAC as a guest of the port already.
 */
MUST_CHECK int sighting_decode(const uint8_t *frame, size_t len, bool from_vm, struct guest_sighting *ret_sighting);
