#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "agent/mirror.h"
#include "base/defs.h"
#include "base/loop.h"
#include "outrigger/provisioner.pb-c.h"

/*
 * The agent's side of the provisioner: enrolment with the join token, the
 * NIC's certificate and its renewal, also after its end, and the session that carries reports up
 * and directives down.
 *
 * The agent goes on without it: what was last told stays in force, reports are
 * kept by the mirror, and the session comes back by itself.
 */
struct session;

enum session_state {
	SESSION_OFF,			/* no controller is configured, or it has revoked us */
	SESSION_ENROLLING,
	SESSION_CONNECTING,
	SESSION_OPEN,			/* welcomed */
	SESSION_WAITING,		/* for the next attempt */
	_SESSION_STATE_N
};

struct session_conf {			/* borrowed for the session's life */
	const char *nic;
	const char *address;		/* host:port; NULL: no controller */
	const char *server_name;	/* NULL: the host of @address */
	const char *roots_pem;
	char *join_token;		/* NULL or "": none; wiped when it has been used */
	const char *state_dir;
	uint64_t boot_id;
};

struct session_ops {			/* the messages are valid for the call */
	void (*welcome)(const Outrigger__V1__Welcome *m, void *data);
	void (*policies)(const Outrigger__V1__PolicySet *m, void *data);
	void (*containers)(const Outrigger__V1__ContainerSet *m, void *data);
	void (*nodes)(const Outrigger__V1__NodeSet *m, void *data);
	void (*token)(const Outrigger__V1__Token *m, void *data);
	void (*drain)(const Outrigger__V1__Drain *m, void *data);
	void (*revoked)(const char *reason, void *data);
	void (*handover)(const Outrigger__V1__Handover *m, void *data);
	void (*moved)(const Outrigger__V1__Moved *m, void *data);
	/* It is open now, or not any more. */
	void (*changed)(enum session_state state, const char *detail, void *data);
	void *data;
};

MUST_CHECK int session_new(struct loop *l, const struct session_conf *conf, const struct session_ops *ops, struct session **ret_session);
struct session *session_free(struct session *s);

/* State: kept, and said when it is news. @key tells things of one class apart. */
void session_put(struct session *s, enum mirror_class class, const char *key, Outrigger__V1__Report *report);
/* The thing is gone; @gone says so (NULL: nothing is to be said). */
void session_drop(struct session *s, enum mirror_class class, const char *key, Outrigger__V1__Report *gone);
/* What is no state: said now or never. False: it is not open. */
bool session_say(struct session *s, Outrigger__V1__Report *report);

struct session_info {
	enum session_state state;
	char detail[256];		/* why not, or "" */
	uint64_t since_ms;		/* monotonic */
	char trust_domain[256];		/* "" before the first enrolment */
	int64_t cert_not_after;		/* seconds since 1970; 0: none */
	uint64_t n_connects;
};
void session_get_info(const struct session *s, struct session_info *ret_info);
const char *session_state_name(enum session_state state);
