/*
 * The command line of `outrigger envoy`.
 */
#include "ctl/envoy_options.h"

#include <stdio.h>
#include <string.h>

#include "base/opt.h"
#include "ctl/command.h"
#include "ctl/envoy_process.h"

static int take_address(void *target, const char *value, struct diag *d)
{
	struct envoy_config *c = &((struct envoy_options *)target)->config;

	if (c->n_addresses == ENVOY_ADDRESSES_MAX)
		return diag_set(d, "more than %d", ENVOY_ADDRESSES_MAX);
	if (ip_parse(value, &c->addresses[c->n_addresses]) < 0)
		return diag_set(d, "'%s' is no address", value);
	c->n_addresses++;
	return 0;
}

static int take_server_name(void *target, const char *value, struct diag *d)
{
	struct envoy_config *c = &((struct envoy_options *)target)->config;

	if (c->n_server_names == ENVOY_NAMES_MAX)
		return diag_set(d, "more than %d", ENVOY_NAMES_MAX);
	c->server_names[c->n_server_names++] = value;
	return 0;
}

static int take_inbound(void *target, const char *value, struct diag *d)
{
	struct envoy_config *c = &((struct envoy_options *)target)->config;
	unsigned port;
	int r = opt_uint(value, 1, 65535, &port, d);

	if (r < 0)
		return r;
	if (c->n_inbound == ENVOY_PORTS_MAX)
		return diag_set(d, "more than %d", ENVOY_PORTS_MAX);
	c->inbound[c->n_inbound++] = (uint16_t)port;
	return 0;
}

/* The "/http" behind an outbound port, if there is one. Cuts @text before it. */
static int take_protocol(char *text, struct envoy_outbound *o, struct diag *d)
{
	char *slash = strchr(text, '/');

	if (!slash)
		return 0;
	*slash = 0;
	o->http = !strcmp(slash + 1, "http");
	return o->http || !strcmp(slash + 1, "tcp") ? 0 : diag_set(d, "'%s' is neither tcp nor http", slash + 1);
}

/* ADDRESS:PORT=SERVICE-HOST:PORT[/http] */
static int take_outbound(void *target, const char *value, struct diag *d)
{
	struct envoy_config *c = &((struct envoy_options *)target)->config;
	struct envoy_outbound o = {};
	char listen[IP_PORT_TEXT_LEN], port_text[16];
	const char *equals = strchr(value, '=');
	const char *colon = equals ? strrchr(equals, ':') : NULL;
	unsigned port;
	int r;

	if (c->n_outbound == ENVOY_PORTS_MAX)
		return diag_set(d, "more than %d", ENVOY_PORTS_MAX);
	if (!colon || (size_t)(equals - value) >= sizeof(listen) || (size_t)(colon - equals) > sizeof(o.host) || colon == equals + 1)
		return diag_set(d, "wants ADDRESS:PORT=SERVICE:PORT, not '%s'", value);
	snprintf(port_text, sizeof(port_text), "%s", colon + 1);
	memcpy(listen, value, (size_t)(equals - value));
	listen[equals - value] = 0;
	memcpy(o.host, equals + 1, (size_t)(colon - equals - 1));
	r = take_protocol(port_text, &o, d);
	if (r == 0)
		r = opt_uint(port_text, 1, 65535, &port, d);
	if (r < 0)
		return r;
	if (ip_port_parse(listen, &o.listen) < 0 || !o.listen.port)
		return diag_set(d, "'%s' is no address with a port", listen);
	o.port = (uint16_t)port;
	c->outbound[c->n_outbound++] = o;
	return 0;
}

static int take_admin_port(void *target, const char *value, struct diag *d)
{
	unsigned port;
	int r = opt_uint(value, 0, 65535, &port, d);

	if (r == 0)
		((struct envoy_options *)target)->config.admin_port = (uint16_t)port;
	return r;
}

static const struct opt options[] = {
	{ .name = "controller", .type = OPT_STR, .offset = offsetof(struct envoy_options, config.controller), .value = "HOST:PORT",
	  .help = "mesh controller (ADS and certificates), usually port 15012" },
	{ .name = "server-name", .type = OPT_CALL, .call = take_server_name, .value = "NAME",
	  .help = "name or address in the controller's certificate; default: that of --controller, or outrigger-controller" },
	{ .name = "roots", .type = OPT_STR, .offset = offsetof(struct envoy_options, roots_file), .value = "FILE", .help = "trust roots of the mesh (PEM)" },
	{ .name = "token", .type = OPT_STR, .offset = offsetof(struct envoy_options, token_file), .value = "FILE", .help = "the workload's token" },
	{ .name = "token-env", .type = OPT_STR, .offset = offsetof(struct envoy_options, token_env), .value = "NAME",
	  .help = "environment variable that holds the token" },
	{ .name = "trust-domain", .type = OPT_STR, .offset = offsetof(struct envoy_options, config.trust_domain), .value = "NAME",
	  .help = "default: that of --roots, or cluster.local" },
	{ .name = "namespace", .type = OPT_STR, .offset = offsetof(struct envoy_options, config.ns), .value = "NAME", .help = "the workload's namespace" },
	{ .name = "service-account", .type = OPT_STR, .offset = offsetof(struct envoy_options, config.service_account), .value = "NAME",
	  .help = "the workload's identity in its namespace" },
	{ .name = "name", .type = OPT_STR, .offset = offsetof(struct envoy_options, config.name), .value = "NAME",
	  .help = "the workload's name; default: the host's" },
	{ .name = "address", .type = OPT_CALL, .call = take_address, .value = "ADDRESS",
	  .help = "the workload's address, may be repeated; default: that from which the controller is reached" },
	{ .name = "inbound", .type = OPT_CALL, .call = take_inbound, .value = "PORT",
	  .help = "port of the application, on 127.0.0.1, that peers may reach; may be repeated" },
	{ .name = "outbound", .type = OPT_CALL, .call = take_outbound, .value = "ADDRESS:PORT=SERVICE:PORT[/http]",
	  .help = "listener that leads to a service of the mesh; with /http request by request, retried on other endpoints; may be repeated" },
	{ .name = "capture", .type = OPT_FLAG, .offset = offsetof(struct envoy_options, config.capture),
	  .help = "listen on 15001 for connections that a REDIRECT rule sends there" },
	{ .name = "admin-port", .type = OPT_CALL, .call = take_admin_port, .value = "PORT",
	  .help = "Envoy's admin interface on 127.0.0.1; default 15000, 0: none" },
	{ .name = "dir", .type = OPT_STR, .offset = offsetof(struct envoy_options, dir_path), .value = "FOLDER",
	  .help = "where the bootstrap is written; default ./outrigger-envoy. Secrets go to memory (tmpfs) where there is any." },
	{ .name = "envoy", .type = OPT_STR, .offset = offsetof(struct envoy_options, program), .value = "FILE", .help = "the program; default: envoy in PATH" },
	{ .name = "bootstrap", .type = OPT_FLAG, .offset = offsetof(struct envoy_options, bootstrap_only),
	  .help = "only print the bootstrap; the certificate is put into --dir and not renewed" },
};

static const struct opt_spec spec = {
	.usage = "outrigger envoy [OPTION]... [-- ENVOY-OPTION...]",
	.summary = "Runs an unmodified Envoy as a container's sidecar in the mesh.",
	.details = "Its key is made here, its certificate comes from the mesh controller and is renewed at half its life.\n"
		   "Peers reach the application by HBONE (port 15008); what the application sends to a listener of --outbound\n"
		   "goes to the service's endpoints by HBONE, and with --capture what a rule like this one sends to port 15001:\n"
		   "  nft add rule ip nat output meta skuid != ENVOY-USER ip daddr != 127.0.0.0/8 tcp dport 1-65535 redirect to :15001\n"
		   "The access log is on standard output, a JSON object a line.",
	.opts = options,
	.n_opts = ELEMENTS(options),
	.max_args = ENVOY_ARGS_MAX,
};

static const char *missing(const struct envoy_options *o)
{
	if (!o->config.controller)
		return "--controller";
	if (!o->roots_file)
		return "--roots";
	if (!o->config.ns)
		return "--namespace";
	if (!o->config.service_account)
		return "--service-account";
	return !o->token_file == !o->token_env ? "--token or --token-env (one of them)" : NULL;
}

int envoy_options_parse(int argc, char **argv, struct envoy_options *ret_options)
{
	struct envoy_options o = { .program = "envoy", .config.admin_port = 15000, .args = argv + 1 };
	int r = command_options(&spec, argc, argv, &o, &o.n_args);

	if (r >= 0)
		return r;
	if (missing(&o)) {
		fprintf(stderr, "outrigger envoy: %s is missing\n", missing(&o));
		return COMMAND_USAGE;
	}
	if (o.bootstrap_only && o.config.capture) {
		fprintf(stderr, "outrigger envoy: --capture follows the mesh for as long as Envoy runs: not with --bootstrap\n");
		return COMMAND_USAGE;
	}
	*ret_options = o;
	return r;
}
