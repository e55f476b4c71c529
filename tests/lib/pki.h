#pragma once
#include <stdint.h>

/*
 * A throw-away certificate authority for unit tests. Every text is PEM and
 * lives until pki_free(). All of it asserts: a test that cannot make its
 * certificates has failed.
 */
struct pki;

struct pki_leaf {
	char *cert_pem;		/* the leaf, with what is between it and the root */
	char *key_pem;
};

struct pki_want {
	const char *san;	/* OpenSSL's syntax: "URI:spiffe://td/ns/a/sa/b,DNS:x"; NULL: none */
	const char *eku;	/* "serverAuth", "clientAuth"; NULL: none */
	long from_s;		/* from now; not before */
	long until_s;		/* from now; 0: an hour */
	int is_ca;
};

struct pki *pki_new(void);
/* An intermediate authority: its leaves come with its own certificate, its root is @parent's. */
struct pki *pki_under(struct pki *parent);
void pki_free(struct pki *p);
const char *pki_root_pem(const struct pki *p);
const struct pki_leaf *pki_issue(struct pki *p, const struct pki_want *want);
/* With no more than a name. */
const struct pki_leaf *pki_issue_san(struct pki *p, const char *san);

/*
 * Has libcrypto use this program's malloc(), so that its allocations are among
 * those that lib/alloc.h lets fail. Before anything else of it; 1, or 0 when it is too late.
 */
int pki_take_malloc(void);
