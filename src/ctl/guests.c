/*
 * outrigger guests: the VMs behind this NIC.
 */
#include "ctl/commands.h"
#include "ctl/show.h"

static int run(int argc, char **argv)
{
	static const struct show_spec spec = {
		.usage = "outrigger guests [OPTION]...",
		.summary = "Lists the VMs behind this NIC, or of the whole mesh.",
	};
	static const struct table_column columns[] = {
		{ "GUEST", "id" }, { "PORT", "port" }, { "VLAN", "vlan" }, { "ADDRESSES", "addresses" }, { "NAME", "name" },
		{ "POLICY", "policy" }, { "MODE", "mode" }, { "SERVICES", "services" }, { "PROXY", "proxy" }, { "NODE", "kubernetes_node" }, { "PODS", "pods" }, {},
	};

	return show_table(&spec, argc, argv, "/v1/guests", "guests", columns);
}

const struct command command_guests = { "guests", "the VMs behind this NIC", run };
