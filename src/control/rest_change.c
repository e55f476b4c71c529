/*
 * REST: what changes something.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/secret.h"
#include "control/join_token.h"
#include "control/rest.h"
#include "mesh/identity.h"

enum { MAX_TTL_S = 30 * 86400 };

static void reply_store_error(struct httpd_request *req, int r)
{
	const struct server *s = req->data;

	httpd_reply_error(req, r == -ENOSPC ? 507 : 503, "the store cannot be written: %s", store_error(s->store));
}

/* A whole number of seconds in range, or @dflt. Replies and returns false when it is something else. */
static bool take_ttl(struct httpd_request *req, const json_t *body, int64_t dflt, int64_t *ret_ttl_s)
{
	const json_t *ttl = json_object_get(body, "ttl_s");

	*ret_ttl_s = dflt;
	if (!ttl)
		return true;
	*ret_ttl_s = json_is_integer(ttl) ? json_integer_value(ttl) : 0;
	if (*ret_ttl_s >= 1 && *ret_ttl_s <= MAX_TTL_S)
		return true;
	httpd_reply_error(req, 400, "ttl_s: a whole number of seconds from 1 to %d is wanted", MAX_TTL_S);
	return false;
}

static const char *text_of(const json_t *body, const char *key)
{
	const char *text = json_string_value(json_object_get(body, key));

	return text ? text : "";
}

static void create_workload_token(struct httpd_request *req, const json_t *body)
{
	struct server *s = req->data;
	const char *workload = text_of(body, "workload");
	const char *slash = strchr(workload, '/');
	char ns[IDENTITY_NAME_MAX + 1], id_text[IDENTITY_TEXT_LEN];
	CLEANUP_SECRET char *token = NULL;
	int64_t ttl_s, expires_at;
	struct identity id;
	int r;

	snprintf(ns, sizeof(ns), "%.*s", slash ? (int)MIN(slash - workload, IDENTITY_NAME_MAX) : 0, workload);
	if (!slash || identity_workload(s->config->trust_domain, ns, slash + 1, &id) < 0) {
		httpd_reply_error(req, 400, "workload: 'namespace/service-account' is wanted, not '%.200s'", workload);
		return;
	}
	if (!take_ttl(req, body, s->config->tokens.container_ttl_ms / 1000, &ttl_s))
		return;
	r = issuer_sign(s->issuer, &(struct issuer_subject){ .namespace = ns, .service_account = slash + 1, .audience = text_of(body, "audience"),
							     .ttl_s = ttl_s }, &token, &expires_at);
	if (r < 0) {
		httpd_reply_error(req, 500, "the token cannot be signed: %s", strerror(-r));
		return;
	}
	log_info("workload token made", log_str("identity", identity_format(&id, id_text)), log_int("ttl_s", ttl_s));
	httpd_reply_json(req, 201, json_pack("{s:s, s:s, s:I}", "token", token, "identity", id_text, "expires_at", (json_int_t)expires_at));
}

static void create_join_token(struct httpd_request *req, const json_t *body)
{
	struct server *s = req->data;
	const char *nic = text_of(body, "nic");
	char token[JOIN_TOKEN_LEN];
	struct store_token row;
	int64_t ttl_s;
	int r;

	if (*nic && !identity_name_valid(nic)) {
		httpd_reply_error(req, 400, "nic: letters, digits, '.', '-' and '_' are wanted");
		return;
	}
	if (!take_ttl(req, body, s->config->tokens.join_ttl_ms / 1000, &ttl_s))
		return;
	r = join_token_create(s->store, nic, text_of(body, "note"), ttl_s, token, &row);
	if (r < 0) {
		reply_store_error(req, r);
		return;		/* no token was written */
	}
	log_info("join token made", log_str("token", row.id), log_str("nic", nic), log_int("ttl_s", ttl_s));
	httpd_reply_json(req, 201, json_pack("{s:s, s:s, s:s, s:I}", "id", row.id, "token", token, "nic", nic, "expires_at",
					     (json_int_t)row.expires_at));
	explicit_bzero(token, sizeof(token));	/* the stack is no place to leave it in either */
}

void rest_create_token(struct httpd_request *req)
{
	json_t *body = httpd_body_json(req);

	if (!body)
		return;
	if (json_object_get(body, "workload"))
		create_workload_token(req, body);
	else
		create_join_token(req, body);
	json_decref(body);
}

static const char *state_of(const struct store_token *t)
{
	if (t->revoked_at)
		return "revoked";
	if (t->used_at)
		return "used";
	return t->expires_at <= clock_wall_s() ? "expired" : "valid";
}

static void add_token(const struct store_token *t, void *data)
{
	json_t *row = json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:s}", "id", t->id, "state", state_of(t), "nic", t->nic, "note", t->note,
				"created_at", (json_int_t)t->created_at, "expires_at", (json_int_t)t->expires_at, "used_by", t->used_by);

	if (row)
		json_array_append_new(data, row);
}

void rest_get_tokens(struct httpd_request *req)
{
	const struct server *s = req->data;
	json_t *list = json_array();
	int r = store_token_each(s->store, add_token, list);

	if (r < 0) {
		json_decref(list);
		reply_store_error(req, r);
		return;
	}
	httpd_reply_json(req, 200, json_pack("{s:o}", "tokens", list));
}

void rest_revoke_token(struct httpd_request *req)
{
	const struct server *s = req->data;
	const char *id = httpd_param(req, "id");
	int r = store_token_revoke(s->store, id, clock_wall_s());

	if (r == -ENOENT) {
		httpd_reply_error(req, 404, "there is no join token '%.64s'", id);
		return;
	}
	if (r < 0) {
		reply_store_error(req, r);
		return;
	}
	log_info("join token revoked", log_str("token", id));
	httpd_reply_json(req, 200, json_pack("{s:s, s:s}", "id", id, "state", "revoked"));
}

/* In force at once, also when the disk is full: then the caller hears that a restart will not know of it. */
static int revoke_nic(struct server *s, struct store_nic *nic)
{
	struct revocation_origin origin = revocation_origin_of_nic(nic->id, nic->enrolled_at);
	int r = revoker_add(s->revoker, &origin, clock_wall_s() + CONFIG_CERT_LIFE_MAX_MS / 1000 + 1);
	int e;

	nic->revoked_at = clock_wall_s();
	e = store_nic_put(s->store, nic);
	provisioner_revoke(s->provisioner, nic->id, nic->revoke_reason);
	ads_revoke(s->ads, &origin);
	log_warn("NIC revoked", log_str("nic", nic->id), log_str("reason", nic->revoke_reason));
	return r < 0 ? r : e;
}

void rest_revoke_nic(struct httpd_request *req)
{
	const struct server *s = req->data;
	const char *id = httpd_param(req, "id"), *reason;
	struct store_nic nic;
	json_t *body = NULL;
	int r = store_nic_get(s->store, id, &nic);

	if (r == -ENOENT) {
		httpd_reply_error(req, 404, "there is no NIC '%.100s'", id);
		return;
	}
	if (r == 0 && req->n_body && !(body = httpd_body_json(req)))
		return;
	reason = text_of(body, "reason");
	if (!*reason)
		reason = "revoked by the administrator";
	snprintf(nic.revoke_reason, sizeof(nic.revoke_reason), "%s", reason);
	json_decref(body);
	if (r == 0)
		r = revoke_nic(req->data, &nic);
	if (r < 0) {
		reply_store_error(req, r);
		return;
	}
	httpd_reply_json(req, 200, json_pack("{s:s, s:s}", "id", nic.id, "state", "revoked"));
}

void rest_drain_guest(struct httpd_request *req)
{
	const struct server *s = req->data;
	const char *id = httpd_param(req, "id");
	const struct reg_guest *g = registry_guest(s->registry, id);
	json_t *body = httpd_body_json(req);
	json_int_t drain_ms = 5000;

	if (!body)
		return;
	if (json_object_get(body, "drain_ms"))
		drain_ms = json_integer_value(json_object_get(body, "drain_ms"));
	if (strcmp(text_of(body, "action"), "drain") != 0 || drain_ms < 0 || drain_ms > 3600000)
		httpd_reply_error(req, 400, "{\"action\": \"drain\", \"drain_ms\": 0 to 3600000} is wanted");
	else if (!g)
		httpd_reply_error(req, 404, "there is no guest '%.200s'", id);
	else if (provisioner_drain(s->provisioner, g->nic->id, id, (uint32_t)drain_ms) < 0)
		httpd_reply_error(req, 503, "NIC '%s' is not connected", g->nic->id);
	else
		httpd_reply_json(req, 202, json_pack("{s:s, s:s}", "id", id, "state", "draining"));
	json_decref(body);
}

void rest_reload(struct httpd_request *req)
{
	struct server *s = req->data;
	char text[DIAG_TEXT_LEN];

	server_reload(s);
	if (s->config_error.msg[0])
		httpd_reply_error(req, 409, "%s", diag_format(&s->config_error, text));
	else if (s->restart_needed[0])
		httpd_reply_error(req, 409, "%s: \"%s\" has changed, which takes a restart; until then nothing of the file is in force", s->config_path, s->restart_needed);
	else
		httpd_reply_json(req, 200, json_pack("{s:s, s:I}", "file", s->config_path, "loaded_at", (json_int_t)s->config_loaded_at));
}
