/*
 * outrigger services: what the VMs offer, and what was decided about it.
 */
#include "ctl/commands.h"
#include "ctl/show.h"

static int run(int argc, char **argv)
{
	static const struct show_spec spec = {
		.usage = "outrigger services [OPTION]...",
		.summary = "Lists the services that were seen, the verdict on each and how fast it joined the mesh.",
		.details = "KIND: vm, container or unknown (the verdict), and by the controller also what it knows from Kubernetes: pod, service.\n"
			   "FOUND, READY and IN MESH count from the first registration packet. FOR S: so many seconds its health is what it is.",
	};
	static const struct table_column columns[] = {
		{ "SERVICE", "service" }, { "KIND", "kind" }, { "INSTANCE", "instance" }, { "ADDRESS", "address" }, { "PORT", "port" }, { "SOURCE", "source" },
		{ "HEALTH", "health" }, { "FOR S", "health_since_s" }, { "VERDICT", "verdict" }, { "ADMITTED", "admitted", table_yes_no }, { "PROXY", "proxy" },
		{ "FOUND", "found_ms", table_ms }, { "READY", "ready_ms", table_ms }, { "IN MESH", "in_mesh_ms", table_ms },
		{ "WHY UNHEALTHY", "health_reason" },
		{},
	};

	return show_table(&spec, argc, argv, "/v1/services", "services", columns);
}

const struct command command_services = { "services", "what the VMs offer, and the verdict on it", run };
