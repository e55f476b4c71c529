/*
 * The controller's certificate authority.
 */
#include "control/authority.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/log.h"

enum {
	INTERMEDIATE_DAYS = 365,
	DAY_S = 86400,
	CHECK_MS = 3600000,
	WRITE_DELAY_MS = 100,
	MAX_RECORDS = 10000,		/* waiting to be put on record */
	MAX_ROOTS_FILE = 1 << 20,
};

struct record {
	struct list link;
	struct store_cert cert;
};

struct authority {
	struct loop *loop;
	struct store *store;
	struct cert_ca *root;		/* NULL: the files were given, an intermediate cannot be made */
	struct cert_ca *ca;
	char *dir;
	char *roots_pem;
	char *extra_roots_pem;
	struct timer check, write;
	struct list records;
	size_t n_records;
	uint64_t n_issued;
	bool store_failed;
};

/* --- the roots that peers trust --- */

static int append_file(const char *path, struct bytes *out, struct diag *d)
{
	CLEANUP_FREE char *text = NULL;
	size_t size = 0;
	FILE *f = fopen(path, "re");
	struct cert_list list = {};
	int r;

	if (!f)
		return diag_at(d, path, 0, "%m");
	ssize_t n = getdelim(&text, &size, 0, f);
	fclose(f);
	if (n <= 0 || n > MAX_ROOTS_FILE || cert_list_add(&list, text) < 0)
		r = diag_at(d, path, 0, "contains no certificate");
	else
		r = bytes_appendf(out, "%s\n", text);
	cert_list_deinit(&list);
	return r;
}

static int load_extra_roots(struct authority *a, const struct config *config, struct diag *d)
{
	struct bytes out;
	int r = 0;

	bytes_init(&out, MAX_ROOTS_FILE);
	for (size_t i = 0; r == 0 && i < config->ca.extra_roots.n; i++)
		r = append_file(config->ca.extra_roots.v[i], &out, d);
	if (r == 0)
		r = bytes_append(&out, "", 1);
	if (r == 0) {
		a->extra_roots_pem = strdup((const char *)out.data);
		r = a->extra_roots_pem ? 0 : -ENOMEM;
	}
	bytes_deinit(&out);
	return r;
}

static int join_roots(struct authority *a)
{
	char *text;

	if (asprintf(&text, "%s%s", cert_ca_roots_pem(a->ca), a->extra_roots_pem) < 0)
		return -ENOMEM;
	free(a->roots_pem);
	a->roots_pem = text;
	return 0;
}

/* --- making and loading --- */

static int make_intermediate(struct authority *a, struct diag *d)
{
	struct cert_ca *ca;
	int r = cert_ca_new_intermediate(a->root, INTERMEDIATE_DAYS, &ca);

	if (r < 0)
		return r;
	r = cert_ca_store(ca, a->dir, d);
	if (r < 0) {
		cert_ca_free(ca);
		return r;
	}
	cert_ca_free(a->ca);
	a->ca = ca;
	return 0;
}

static int make_dir(const char *path, struct diag *d)
{
	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return diag_at(d, path, 0, "%m");
	return 0;
}

static int load_root(struct authority *a, const char *root_dir, struct diag *d)
{
	int r = cert_ca_load(root_dir, &a->root, d);

	return r == -ENOENT ? 0 : r;
}

static int make_all(struct authority *a, const struct config *config, const char *root_dir, struct diag *d)
{
	int r = 0;

	if (!a->root) {
		r = make_dir(root_dir, d);
		if (r == 0)
			r = cert_ca_new_root(config->trust_domain, config->ca.root_days, &a->root);
		if (r == 0)
			r = cert_ca_store(a->root, root_dir, d);
		if (r == 0)
			log_info("a new root certificate was made", log_str("dir", root_dir));
	}
	return r < 0 ? r : make_intermediate(a, d);
}

static int load(struct authority *a, const struct config *config, struct diag *d)
{
	CLEANUP_FREE char *root_dir = NULL;
	int r = make_dir(a->dir, d);

	if (r < 0)
		return r;
	if (asprintf(&root_dir, "%s/root", a->dir) < 0) {
		root_dir = NULL;
		return -ENOMEM;
	}
	r = load_root(a, root_dir, d);
	if (r < 0)
		return r;
	r = cert_ca_load(a->dir, &a->ca, d);
	if (r == -ENOENT)
		r = make_all(a, config, root_dir, d);
	if (r < 0)
		return r;
	if (*cert_ca_trust_domain(a->ca) && strcmp(cert_ca_trust_domain(a->ca), config->trust_domain) != 0)
		return diag_at(d, a->dir, 0, "this authority is of trust domain '%s', the configuration says '%s'",
			       cert_ca_trust_domain(a->ca), config->trust_domain);
	return 0;
}

/* An intermediate of ours is replaced when a third of its life is left. */
static int on_check(struct timer *t)
{
	struct authority *a = container_of(t, struct authority, check);
	struct diag diag = {};
	int64_t left = cert_ca_not_after(a->ca) - clock_wall_s();

	if (a->root && left < (int64_t)INTERMEDIATE_DAYS * DAY_S / 3 && cert_ca_not_after(a->root) > cert_ca_not_after(a->ca)) {
		if (make_intermediate(a, &diag) < 0)
			log_error("the intermediate certificate cannot be replaced", log_str("reason", diag.msg), log_int("left_s", left));
		else
			log_info("the intermediate certificate was replaced");
	}
	if (a->store && store_cert_prune(a->store, clock_wall_s()) < 0)
		LOG_LIMITED(LOG_L_WARN, "old records cannot be removed from the store", log_str("reason", store_error(a->store)));
	return timer_arm(a->loop, t, CHECK_MS, on_check);
}

int authority_new(struct loop *loop, const struct config *config, struct store *store, struct authority **ret_authority,
		  struct diag *reterr_diag)
{
	struct authority *a = calloc(1, sizeof(*a));
	int r;

	if (!a)
		return -ENOMEM;
	a->loop = loop;
	a->store = store;
	list_init(&a->records);
	if (asprintf(&a->dir, "%s%s", config->ca.dir ? config->ca.dir : config->state_dir, config->ca.dir ? "" : "/ca") < 0) {
		a->dir = NULL;
		authority_free(a);
		return -ENOMEM;
	}
	r = load(a, config, reterr_diag);
	if (r == 0)
		r = load_extra_roots(a, config, reterr_diag);
	if (r == 0)
		r = join_roots(a);
	if (r == 0)
		r = timer_arm(loop, &a->check, 1000, on_check);
	if (r < 0) {
		authority_free(a);
		return r;
	}
	*ret_authority = a;
	return 0;
}

static void drop_records(struct authority *a)
{
	list_for_each_safe(l, &a->records) {
		list_unlink(l);
		free(list_entry(l, struct record, link));
	}
	a->n_records = 0;
}

static int write_records(struct authority *a)
{
	int r = store_begin(a->store);

	if (r < 0)
		return r;
	list_for_each(l, &a->records)
		r = r < 0 ? r : store_cert_add(a->store, &list_entry(l, struct record, link)->cert);
	int committed = store_commit(a->store);
	return r < 0 ? r : committed;
}

static int on_write(struct timer *t)
{
	struct authority *a = container_of(t, struct authority, write);
	int r = write_records(a);

	if (r < 0 && !a->store_failed)
		log_error("issued certificates cannot be put on record, serving continues", log_str("reason", store_error(a->store)));
	a->store_failed = r < 0;
	drop_records(a);
	return 0;
}

struct authority *authority_free(struct authority *a)
{
	if (!a)
		return NULL;
	timer_cancel(&a->check);
	timer_cancel(&a->write);
	if (a->store && a->n_records && write_records(a) < 0)
		log_error("issued certificates cannot be put on record", log_str("reason", store_error(a->store)));
	drop_records(a);
	cert_ca_free(a->ca);
	cert_ca_free(a->root);
	free(a->dir);
	free(a->roots_pem);
	free(a->extra_roots_pem);
	free(a);
	return NULL;
}

/* --- signing --- */

static void put_on_record(struct authority *a, const struct cert_info *info, const char *id)
{
	struct record *rec;

	if (!a->store || a->n_records >= MAX_RECORDS)
		return;
	rec = calloc(1, sizeof(*rec));
	if (!rec)
		return;
	snprintf(rec->cert.serial, sizeof(rec->cert.serial), "%s", info->serial);
	snprintf(rec->cert.subject, sizeof(rec->cert.subject), "%s", id);
	rec->cert.issued_at = clock_wall_s();
	rec->cert.not_after = info->not_after;
	list_append(&a->records, &rec->link);
	a->n_records++;
	if (!a->write.loop && timer_arm(a->loop, &a->write, WRITE_DELAY_MS, on_write) < 0)
		drop_records(a);
}

int authority_sign(struct authority *a, const struct authority_leaf *leaf, struct authority_issued *ret_issued)
{
	const struct cert_leaf spec = { .key = leaf->key, .id = leaf->id, .names = leaf->names, .ttl_s = leaf->ttl_s, .origin = leaf->origin };
	struct authority_issued issued = {};
	struct cert_info info;
	int r = cert_ca_sign(a->ca, &spec, &issued.chain);

	if (r == 0 && *a->extra_roots_pem)
		r = cert_list_add(&issued.chain, a->extra_roots_pem);
	if (r == 0)
		r = cert_info(issued.chain.pem[0], &info);
	if (r == 0)
		r = cert_fingerprint(issued.chain.pem[0], issued.fingerprint);
	if (r < 0) {
		cert_list_deinit(&issued.chain);
		return r;
	}
	issued.not_after = info.not_after;
	a->n_issued++;
	put_on_record(a, &info, leaf->id);
	*ret_issued = issued;
	return 0;
}

const char *authority_roots_pem(const struct authority *a)
{
	return a->roots_pem;
}

int64_t authority_not_after(const struct authority *a)
{
	return cert_ca_not_after(a->ca);
}

uint64_t authority_n_issued(const struct authority *a)
{
	return a->n_issued;
}

/* The leaf and what is between it and the roots: those are self-signed. */
static int chain_without_roots(const struct cert_list *chain, char **ret_pem)
{
	size_t end = 1;
	struct cert_info info;

	while (end < chain->n && !cert_info(chain->pem[end], &info) && !info.self_signed)
		end++;
	return cert_list_join(chain, 0, end, ret_pem);
}

int authority_server_tls(struct authority *a, const char *id, const char *const *names, int64_t ttl_s,
			 enum tls_verify verify, const char *const *alpn, struct tls_ctx **ret_ctx, struct diag *reterr_diag)
{
	CLEANUP_KEY EVP_PKEY *key = NULL;
	CLEANUP_FREE char *chain = NULL;
	struct authority_issued issued;
	int r = cert_key_new(&key);

	if (r < 0)
		return r;
	r = authority_sign(a, &(struct authority_leaf){ .key = key, .id = id, .names = names, .ttl_s = ttl_s }, &issued);
	if (r < 0)
		return diag_set(reterr_diag, "cannot sign the server's own certificate: %s", strerror(-r));
	r = chain_without_roots(&issued.chain, &chain);
	cert_list_deinit(&issued.chain);
	if (r < 0)
		return r;
	const struct tls_config config = {
		.role = TLS_SERVER, .verify = verify, .cert_pem = chain, .key = key, .roots_pem = a->roots_pem, .alpn = alpn,
	};
	return tls_ctx_new(&config, ret_ctx, reterr_diag);
}
