/*
 * Protobuf of peers, behind the guard of mesh/pb.h. The first byte chooses the
 * message. What is taken can be written, and read again.
 */
#include "mesh/pb.h"

#include <stdlib.h>

#include "envoy/discovery.pb-c.h"
#include "istio/authorization.pb-c.h"
#include "istio/ca.pb-c.h"
#include "istio/workload.pb-c.h"
#include "outrigger/ipc.pb-c.h"
#include "outrigger/provisioner.pb-c.h"
#include "outrigger/revocation.pb-c.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const ProtobufCMessageDescriptor *const types[] = {
		&envoy__service__discovery__v3__delta_discovery_request__descriptor,
		&envoy__service__discovery__v3__delta_discovery_response__descriptor,
		&envoy__service__discovery__v3__discovery_request__descriptor,
		&istio__workload__address__descriptor,
		&istio__security__authorization__descriptor,
		&istio__v1__auth__istio_certificate_request__descriptor,
		&istio__v1__auth__istio_certificate_response__descriptor,
		&outrigger__ipc__to_proxy__descriptor,
		&outrigger__ipc__to_agent__descriptor,
		&outrigger__v1__report__descriptor,
		&outrigger__v1__directive__descriptor,
		&outrigger__v1__revocations__descriptor,
	};
	ProtobufCMessage *m, *again;
	uint8_t *bytes;
	size_t len;

	if (!size || data[0] >= sizeof(types) / sizeof(types[0]) || pb_unpack(types[data[0]], data + 1, size - 1, 1 << 20, &m) < 0)
		return 0;
	if (pb_pack(m, &bytes, &len) == 0) {
		int r = pb_unpack(types[data[0]], bytes, len, 4 << 20, &again);

		if (r < 0)
			abort();
		pb_free(again);
		free(bytes);
	}
	pb_free(m);
	return 0;
}
