#pragma once

/*
 * Signs of an orchestrator in what a registration says of itself: Consul on
 * Kubernetes, Nomad, Registrator, pods that register themselves.
 */

/* What this pair of metadata says, as a sentence, or NULL. */
const char *sign_of_meta(const char *key, const char *value);
/* Likewise an instance's id, and the name of its node. */
const char *sign_of_instance(const char *id);
const char *sign_of_node(const char *node);
