#pragma once
#include <jansson.h>
#include <stdbool.h>
#include "base/defs.h"
#include "base/diag.h"

/*
 * Asks an agent or a controller: HTTP and JSON over a unix socket or TCP.
 */
struct client_target {
	const char *agent;		/* path of the agent's admin socket */
	const char *controller;		/* "unix:PATH", "http://...", "https://..." */
	const char *token;		/* bearer token for a controller over TCP, or NULL */
	const char *ca_file;		/* roots of an https controller, or NULL */
	bool json;			/* --json: print what came, untouched */
};

enum { CLIENT_MAX_ANSWER = 64 * 1024 * 1024, CLIENT_TIMEOUT_MS = 10000 };

/* Where they are asked for unless an option says otherwise: the environment's OUTRIGGER_AGENT and OUTRIGGER_CONTROLLER, or the usual sockets. */
const char *client_agent(void);
const char *client_controller(void);

/*
 * @to is a socket's path, "unix:PATH" or a URL without a path; @body may be
 * NULL. Returns the HTTP status with the answer in @ret_json (the caller's), or
 * -EINVAL with what went wrong in @reterr_diag: no such socket, refused, no
 * JSON. An answer {"error": "..."} with a status over 399 is such a failure too.
 */
MUST_CHECK int client_call(const struct client_target *t, const char *to, const char *method, const char *path, json_t *body,
			   json_t **ret_json, struct diag *reterr_diag);
