/*
 * The NIC's key and certificate.
 */
#include "agent/nic_cert.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/state.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/secret.h"
#include "mesh/cert.h"

enum {
	STATE_VERSION = 1,
};

/* One file, the key first: two could be of different ages after a crash. */
static const char file[] = "nic.pem";
static const char first_certificate[] = "-----BEGIN CERTIFICATE-----";

void nic_cert_init(struct nic_cert *c, const char *nic, const char *state_dir)
{
	*c = (struct nic_cert){ .nic = nic, .state_dir = state_dir };
}

void nic_cert_deinit(struct nic_cert *c)
{
	secret_free(c->key_pem);
	secret_free(c->new_key_pem);
	free(c->chain_pem);
}

/* Takes both texts over when it succeeds. */
static int set(struct nic_cert *c, char *key_pem, char *chain_pem)
{
	CLEANUP_KEY EVP_PKEY *key = NULL;
	struct cert_info info;
	struct identity id;
	int r = cert_info(chain_pem, &info);

	if (r < 0)
		return r;
	if (identity_parse(info.id, &id) < 0 || id.kind != IDENTITY_NIC || strcmp(id.nic, c->nic))
		return -EKEYREJECTED;
	r = cert_key_from_pem(key_pem, &key);
	if (r == 0)
		r = cert_has_key(chain_pem, key);
	if (r < 0)
		return r;
	snprintf(c->trust_domain, sizeof(c->trust_domain), "%s", id.trust_domain);
	c->not_after = info.not_after;
	c->renew_at = info.not_before + (info.not_after - info.not_before) / 2;
	secret_free(c->key_pem);
	free(c->chain_pem);
	c->key_pem = key_pem;
	c->chain_pem = chain_pem;
	return 0;
}

void nic_cert_load(struct nic_cert *c)
{
	void *text = NULL;
	char *chain = NULL, *at;
	size_t len;
	int r = state_load(c->state_dir, file, STATE_VERSION, &text, &len);

	if (r == -ENOENT)
		return;
	if (r == 0) {
		at = strstr(text, first_certificate);
		chain = at ? strdup(at) : NULL;
		r = at ? (chain ? 0 : -ENOMEM) : -EBADMSG;
		if (at)
			explicit_bzero(at, strlen(at));	/* what is left is the key */
	}
	if (r == 0)
		r = set(c, text, chain);
	if (r == 0)
		return;
	log_warn("the NIC's certificate cannot be used: a join token is needed", log_str("dir", c->state_dir), log_errno(r));
	secret_free(text);
	free(chain);
}

bool nic_cert_usable(const struct nic_cert *c)
{
	return c->key_pem && c->not_after > clock_wall_s();
}

bool nic_cert_expired(const struct nic_cert *c)
{
	return c->key_pem && !nic_cert_usable(c);
}

static int name_self(const struct nic_cert *c, const char *trust_domain, char text[static IDENTITY_TEXT_LEN])
{
	struct identity id;
	int r = identity_nic(trust_domain, c->nic, &id);

	if (r == 0)
		identity_format(&id, text);
	return r;
}

int nic_cert_request(struct nic_cert *c, const char *trust_domain, char **ret_csr)
{
	CLEANUP_KEY EVP_PKEY *key = NULL;
	char text[IDENTITY_TEXT_LEN] = "";
	int r = trust_domain[0] ? name_self(c, trust_domain, text) : 0;

	if (r == 0)
		r = cert_key_new(&key);
	if (r < 0)
		return r;
	c->new_key_pem = secret_free(c->new_key_pem);
	r = cert_key_to_pem(key, &c->new_key_pem);
	if (r < 0)
		return r;
	return cert_csr_new(key, text[0] ? text : NULL, ret_csr);
}

int nic_cert_request_again(struct nic_cert *c, char **ret_csr)
{
	CLEANUP_KEY EVP_PKEY *key = NULL;
	CLEANUP_SECRET char *copy = NULL;
	char text[IDENTITY_TEXT_LEN];
	int r = c->key_pem ? name_self(c, c->trust_domain, text) : -ENOENT;

	if (r == 0)
		r = cert_key_from_pem(c->key_pem, &key);
	if (r < 0)
		return r;
	copy = strdup(c->key_pem);
	if (!copy)
		return -ENOMEM;
	r = cert_csr_new(key, text, ret_csr);
	if (r < 0)
		return r;
	secret_free(c->new_key_pem);
	c->new_key_pem = steal_ptr(&copy);
	return 0;
}

static int join_chain(const Outrigger__V1__EnrollResponse *m, char **ret_chain)
{
	struct cert_list list = {};
	int r = 0;

	for (size_t i = 0; r == 0 && i < m->n_cert_chain; i++)
		r = cert_list_add(&list, m->cert_chain[i]);
	if (r == 0)
		r = list.n ? cert_list_join(&list, 0, list.n, ret_chain) : -EBADMSG;
	cert_list_deinit(&list);
	return r;
}

static void save(struct nic_cert *c)
{
	char *text;
	int r = asprintf(&text, "%s%s", c->key_pem, c->chain_pem) < 0 ? -ENOMEM : 0;

	if (r == 0) {
		r = state_save(c->state_dir, file, STATE_VERSION, text, strlen(text), 0600);
		secret_free(text);
	}
	state_note(&c->unsaved, file, "the NIC needs a join token when the certificate that it had has expired", r);
}

void nic_cert_save_again(struct nic_cert *c)
{
	if (c->unsaved)
		save(c);
}

int nic_cert_take(struct nic_cert *c, const Outrigger__V1__EnrollResponse *m)
{
	char *chain = NULL;
	int r = c->new_key_pem ? join_chain(m, &chain) : -EBADMSG;

	if (r == 0)
		r = set(c, c->new_key_pem, chain);
	if (r < 0) {
		free(chain);
		return r;
	}
	c->new_key_pem = NULL;
	save(c);
	return 0;
}
