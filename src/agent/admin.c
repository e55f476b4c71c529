/*
 * Routes of the admin socket.
 */
#include "agent/admin.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/worker.h"
#include "base/log.h"

struct admin {
	struct httpd *local;		/* the unix socket: everything */
	struct httpd *tcp;		/* metrics */
};

static void on_status(struct httpd_request *req)
{
	httpd_reply_json(req, 200, show_status(req->data));
}

static void on_guests(struct httpd_request *req)
{
	httpd_reply_json(req, 200, show_guests(req->data));
}

static void on_services(struct httpd_request *req)
{
	httpd_reply_json(req, 200, show_services(req->data));
}

static void on_proxies(struct httpd_request *req)
{
	httpd_reply_json(req, 200, show_proxies(req->data));
}

static void on_processes(struct httpd_request *req)
{
	httpd_reply_json(req, 200, show_processes(req->data));
}

static const char *upgrade_refusal(int r)
{
	return r == -ESRCH ? "there is no such process that runs" : r == -EALREADY ? "it is being replaced already" :
	       r == -EAGAIN ? "it was just adopted: try again when all its VMs are known" : strerror(-r);
}

static void on_upgrade(struct httpd_request *req)
{
	struct worker *w = req->data;
	const char *group = httpd_param(req, "group");
	int r = supervisor_upgrade(&w->supervisor, group);

	if (r < 0)
		httpd_reply_error(req, r == -ESRCH ? 404 : 409, "process %s: %s", group, upgrade_refusal(r));
	else
		httpd_reply_json(req, 202, json_pack("{s:s, s:s}", "group", group, "upgrade", "running"));
}

static void on_reload(struct httpd_request *req)
{
	struct worker *w = req->data;
	char text[DIAG_TEXT_LEN];
	struct diag d = {};
	json_t *waiting;

	if (reload_config(w, &waiting, &d) < 0)
		httpd_reply_error(req, 409, "%s", diag_format(&d, text));
	else
		httpd_reply_json(req, 200, json_pack("{s:s, s:o}", "file", w->conf_path, "restart_needed_for", waiting));
}

static void on_explain(struct httpd_request *req)
{
	const char *service = httpd_param(req, "service");
	bool unknown = false;
	json_t *json = show_explain(req->data, service, &unknown);

	if (unknown)
		httpd_reply_error(req, 404, "no service \"%s\": nobody has registered, asked for or been told of it on this NIC", service);
	else
		httpd_reply_json(req, 200, json);
}

static void on_check(struct httpd_request *req)
{
	httpd_reply_json(req, 200, show_check(req->data));
}

static void on_metrics(struct httpd_request *req)
{
	metrics_reply(req->data, req);
}

static const struct httpd_route routes[] = {
	{ "GET", "/v1/status", on_status, "How this agent is doing." },
	{ "GET", "/v1/guests", on_guests, "The VMs behind this NIC." },
	{ "GET", "/v1/services", on_services, "What they offer, and the verdict on it." },
	{ "GET", "/v1/proxies", on_proxies, "Their service proxies." },
	{ "GET", "/v1/processes", on_processes, "The processes that host them." },
	{ "POST", "/v1/processes/{group}/upgrade", on_upgrade, "Replaces a process by one of the installed program." },
	{ "POST", "/v1/reload", on_reload, "Reads the configuration file again." },
	{ "GET", "/v1/explain/{service*}", on_explain, "How a service was found, and what was decided why." },
	{ "GET", "/v1/check", on_check, "What is wrong with this installation." },
	{ "GET", "/metrics", on_metrics, "Prometheus metrics of the agent and its proxies." },
};

static const struct httpd_route metrics_routes[] = {
	{ "GET", "/metrics", on_metrics, "Prometheus metrics of the agent and its proxies." },
};

static int listen_local(struct worker *w, struct admin *a)
{
	struct httpd_options options = { .routes = routes, .n_routes = ELEMENTS(routes), .data = w };
	struct diag d = {};
	char path[108];
	int r = httpd_new(w->loop, &options, &a->local);

	if (r < 0)
		return r;
	if ((size_t)snprintf(path, sizeof(path), "%s/agent.sock", w->conf->run_dir) >= sizeof(path))
		return -ENAMETOOLONG;
	r = httpd_listen_unix(a->local, path, 0660, &d);
	if (r < 0)
		log_error("the admin socket could not be opened", log_str("path", path), log_str("why", d.msg), log_errno(r));
	return r;
}

static int listen_metrics(struct worker *w, struct admin *a)
{
	struct httpd_options options = { .routes = metrics_routes, .n_routes = ELEMENTS(metrics_routes), .data = w };
	char address[IP_PORT_TEXT_LEN];
	struct diag d = {};
	int r;

	if (!w->conf->metrics.port)
		return 0;
	r = httpd_new(w->loop, &options, &a->tcp);
	if (r == 0)
		r = httpd_listen_tcp(a->tcp, &w->conf->metrics, NULL, &d);
	if (r < 0)
		log_error("metrics cannot be served", log_str("address", ip_port_format(&w->conf->metrics, address)), log_str("why", d.msg),
			  log_errno(r));
	return r;
}

int admin_new(struct worker *w, struct admin **ret_admin)
{
	struct admin *a = calloc(1, sizeof(*a));
	int r = a ? listen_local(w, a) : -ENOMEM;

	if (r == 0)
		r = listen_metrics(w, a);
	if (r < 0) {
		admin_free(a);
		return r;
	}
	*ret_admin = a;
	return 0;
}

struct admin *admin_free(struct admin *a)
{
	if (!a)
		return NULL;
	httpd_free(a->local);
	httpd_free(a->tcp);
	free(a);
	return NULL;
}
