#pragma once
#include "base/defs.h"
#include "base/diag.h"

/*
 * Where the Kubernetes API is and who we are there: from a kubeconfig, or, in a
 * pod, from the files that the kubelet puts there.
 *
 * Everything is read into memory; files that rotate (a token, a certificate)
 * are read again by loading it all again, which kube_client does.
 */
struct kube_config {
	char *server;		/* "https://10.0.0.1:6443", without a slash at the end */
	char *ca_pem;		/* NULL: the system's roots */
	char *token;		/* NULL: none */
	char *cert_pem;		/* NULL: none */
	char *key_pem;
	char *namespace;	/* of the context, or "default" */
};

enum { KUBE_CONFIG_FILE_MAX = 1 << 20 };

/*
 * @path NULL: in the cluster. @context NULL: the current one. Paths in the file
 * are relative to it. -EINVAL with file, line and reason; a kubeconfig that
 * wants a program to be run for credentials, or the server not to be verified,
 * is refused. -ENOMEM.
 */
MUST_CHECK int kube_config_load(const char *path, const char *context, struct kube_config *ret_config, struct diag *reterr_diag);
void kube_config_deinit(struct kube_config *c);
