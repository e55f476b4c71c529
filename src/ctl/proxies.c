/*
 * outrigger proxies: the service proxies of the VMs.
 */
#include "ctl/commands.h"
#include "ctl/show.h"

static int run(int argc, char **argv)
{
	static const struct show_spec spec = {
		.usage = "outrigger proxies [OPTION]...",
		.summary = "Lists the service proxies: one a VM, many in one process.",
	};
	static const struct table_column columns[] = {
		{ "GUEST", "guest" }, { "PROCESS", "process" }, { "PID", "pid" }, { "STATE", "state" }, { "IDENTITY", "identity" },
		{ "SERVICES", "services" }, { "CONNECTIONS", "connections" }, { "SENT", "bytes_sent", table_bytes },
		{ "RECEIVED", "bytes_received", table_bytes }, { "DETAIL", "detail" }, {},
	};

	return show_table(&spec, argc, argv, "/v1/proxies", "proxies", columns);
}

const struct command command_proxies = { "proxies", "the service proxies of the VMs", run };
