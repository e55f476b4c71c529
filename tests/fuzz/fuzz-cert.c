/*
 * Signing requests, certificates and chains as strangers send them, in PEM; a
 * first byte of 0 means that the rest is a request in DER.
 */
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mesh/cert.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void take_request(const char *pem, size_t len)
{
	struct identity id;
	struct cert_csr csr;

	if (cert_csr_parse(pem, len, &csr, NULL) < 0)
		return;
	if (!csr.key || (csr.id[0] && identity_parse(csr.id, &id) < 0))
		abort();
	cert_csr_deinit(&csr);
}

/* libFuzzer gets nowhere through base64: let it change the DER. */
static void take_der(const uint8_t *data, size_t size)
{
	size_t room = size / 3 * 4 + 128;
	char *pem = size < CERT_CSR_MAX ? malloc(room) : NULL;
	int at;

	if (!pem)
		return;
	at = snprintf(pem, room, "-----BEGIN CERTIFICATE REQUEST-----\n");
	/* One long line: PEM readers of libcrypto take up to 64 KiB. */
	at += EVP_EncodeBlock((uint8_t *)pem + at, data, (int)size);
	at += snprintf(pem + at, room - (size_t)at, "\n-----END CERTIFICATE REQUEST-----\n");
	take_request(pem, (size_t)at);
	free(pem);
}

/* As of a NIC that shows its expired certificate: it may lead to a root that came with it, and is not of a key that we made. */
static void take_chain(const char *text)
{
	static EVP_PKEY *ours;
	uint8_t fingerprint[CERT_FINGERPRINT_LEN];
	struct cert_list list = {};
	struct cert_info info;
	struct diag d = {};
	bool is_one = cert_info(text, &info) == 0;

	if (!ours && cert_key_new(&ours) < 0)
		abort();
	if (is_one && strlen(info.id) > IDENTITY_MAX)
		abort();
	if ((cert_fingerprint(text, fingerprint) == 0) != is_one || cert_has_key(text, ours) == 0)
		abort();
	if (cert_list_add(&list, text) == 0) {
		if (!list.n || !is_one)
			abort();
		if (cert_list_verify_at(&list, text, info.not_after - 1, &d) < 0 && !d.msg[0])
			abort();
	}
	cert_list_deinit(&list);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text;

	if (size && !data[0]) {
		take_der(data + 1, size - 1);
		return 0;
	}
	text = strndup((const char *)data, size);
	if (!text)
		return 0;
	take_request((const char *)data, size);
	take_chain(text);
	free(text);
	return 0;
}
