/*
 * Objects of the Kubernetes API to what the mesh needs of them.
 */
#include "control/kube_objects.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { TYPE_DEPLOYMENT, TYPE_CRONJOB, TYPE_POD, TYPE_JOB };	/* of istio/workload.proto */

/* --- JSON --- */

static const json_t *at(const json_t *object, const char *a, const char *b)
{
	return json_object_get(json_object_get(object, a), b);
}

static const char *text_of(const json_t *value)
{
	const char *text = json_string_value(value);

	return text ? text : "";
}

/* Lower-case letters, digits, '-' and '.': the API lets no other name in, and ours are made of it. */
static bool is_name(const char *text, bool may_be_empty)
{
	size_t len = strlen(text);

	return (len || may_be_empty) && len <= KUBE_NAME_MAX && strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789-.") == len;
}

static int read_names(const json_t *o, char **ret_namespace, char **ret_name)
{
	const char *ns = text_of(at(o, "metadata", "namespace")), *name = text_of(at(o, "metadata", "name"));

	if (!is_name(ns, false) || !is_name(name, false))
		return -EINVAL;
	*ret_namespace = strdup(ns);
	*ret_name = strdup(name);
	return *ret_namespace && *ret_name ? 0 : -ENOMEM;
}

int kube_object_key(const json_t *o, char key[static KUBE_KEY_LEN])
{
	const char *ns = text_of(at(o, "metadata", "namespace")), *name = text_of(at(o, "metadata", "name"));

	if (!is_name(ns, true) || !is_name(name, false))
		return -EINVAL;
	snprintf(key, KUBE_KEY_LEN, "%s%s%s", ns, *ns ? "/" : "", name);
	return 0;
}

static bool is_port(const json_t *n)
{
	return json_integer_value(n) > 0 && json_integer_value(n) < 65536;
}

/* One that a peer could dial; others are passed over. */
static void add_ip(const char *text, struct ip ips[static KUBE_IPS_MAX], size_t *n)
{
	struct ip ip;

	if (*n == KUBE_IPS_MAX || ip_parse(text, &ip) < 0 || ip_is_none(&ip) || ip_is_multicast(&ip) || ip_is_link_local(&ip))
		return;
	for (size_t i = 0; i < *n; i++)
		if (ip_equal(&ips[i], &ip))
			return;
	ips[(*n)++] = ip;
}

static bool same_ips(const struct ip *a, size_t n_a, const struct ip *b, size_t n_b)
{
	for (size_t i = 0; n_a == n_b && i < n_a; i++)
		if (!ip_equal(&a[i], &b[i]))
			return false;
	return n_a == n_b;
}

/* --- pods --- */

struct kube_pod *kube_pod_free(struct kube_pod *p)
{
	if (!p)
		return NULL;
	for (size_t i = 0; i < p->labels.n; i++) {
		free(p->labels.v[i].key);
		free(p->labels.v[i].value);
	}
	free(p->labels.v);
	free(p->namespace);
	free(p->name);
	free(p->account);
	free(p->node);
	free(p->workload);
	free(p);
	return NULL;
}

#define LABEL_CHARS	"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."

/* What the API lets in. Names for people are made of labels: one that a proxy refuses would cost it the pod. */
static bool is_label(const char *key, const json_t *value)
{
	const char *text = text_of(value);

	return strlen(key) <= KUBE_NAME_MAX + 64 && strspn(key, LABEL_CHARS "/") == strlen(key) && json_is_string(value) && strlen(text) <= 63 &&
	       strspn(text, LABEL_CHARS) == strlen(text);
}

static int read_labels(const json_t *labels, struct conf_labels *out)
{
	size_t n = MIN(json_object_size(labels), (size_t)KUBE_LABELS_MAX);
	const char *key;
	const json_t *value;

	if (!n)
		return 0;
	out->v = calloc(n, sizeof(*out->v));
	if (!out->v)
		return -ENOMEM;
	json_object_foreach((json_t *)(uintptr_t)labels, key, value) {
		if (out->n == n)
			break;
		if (!is_label(key, value))
			continue;
		out->v[out->n].key = strdup(key);
		out->v[out->n].value = strdup(json_string_value(value));
		out->n++;		/* also half of one: it is freed with the rest */
		if (!out->v[out->n - 1].key || !out->v[out->n - 1].value)
			return -ENOMEM;
	}
	return 0;
}

static const json_t *controller_of(const json_t *o)
{
	const json_t *owner;
	size_t i;

	json_array_foreach(at(o, "metadata", "ownerReferences"), i, owner)
		if (json_is_true(json_object_get(owner, "controller")))
			return owner;
	return NULL;
}

/* The length of "name" in "name-28391730": a Job of a CronJob has the minute of its time. 0: it is none. */
static size_t cron_prefix(const char *name)
{
	const char *dash = strrchr(name, '-');
	size_t digits = dash ? strspn(dash + 1, "0123456789") : 0;

	return digits >= 8 && digits <= 10 && !dash[1 + digits] ? (size_t)(dash - name) : 0;
}

/* As Istio names the workload behind a pod: the Deployment, not its ReplicaSet of this week. */
static int read_workload(const json_t *o, struct kube_pod *p)
{
	const json_t *owner = controller_of(o);
	const char *kind = text_of(json_object_get(owner, "kind")), *name = text_of(json_object_get(owner, "name"));
	const char *suffix = text_of(json_object_get(at(o, "metadata", "labels"), "pod-template-hash"));
	size_t len = strlen(name), n_suffix = strlen(suffix);

	p->type = TYPE_POD;
	if (!is_name(name, false)) {
		name = p->name;
		len = strlen(name);
	} else if (!strcmp(kind, "ReplicaSet") && n_suffix && len > n_suffix + 1 && !strcmp(name + len - n_suffix, suffix) && name[len - n_suffix - 1] == '-') {
		len -= n_suffix + 1;
		p->type = TYPE_DEPLOYMENT;
	} else if (!strcmp(kind, "Job")) {
		p->type = cron_prefix(name) ? TYPE_CRONJOB : TYPE_JOB;
		len = cron_prefix(name) ? cron_prefix(name) : len;
	}
	p->workload = strndup(name, len);
	return p->workload ? 0 : -ENOMEM;
}

static enum tunnel read_tunnel(const json_t *o)
{
	const json_t *annotations = at(o, "metadata", "annotations"), *labels = at(o, "metadata", "labels");
	const char *ours = text_of(json_object_get(annotations, KUBE_TUNNEL));

	if (!*ours)
		ours = text_of(json_object_get(labels, KUBE_TUNNEL));
	if (*ours)
		return strcmp(ours, "hbone") ? TUNNEL_NONE : TUNNEL_HBONE;
	return strcmp(text_of(json_object_get(annotations, KUBE_ISTIO_REDIRECTION)), "enabled") ? TUNNEL_NONE : TUNNEL_HBONE;
}

static int fill_pod(const json_t *o, struct kube_pod *p)
{
	const char *phase = text_of(at(o, "status", "phase")), *account = text_of(at(o, "spec", "serviceAccountName"));
	const char *node = text_of(at(o, "spec", "nodeName"));
	const json_t *ip;
	size_t i;
	int r = read_names(o, &p->namespace, &p->name);

	if (r < 0)
		return r;
	if (!strcmp(phase, "Succeeded") || !strcmp(phase, "Failed"))
		return -ESRCH;
	json_array_foreach(at(o, "status", "podIPs"), i, ip)
		add_ip(text_of(json_object_get(ip, "ip")), p->ips, &p->n_ips);
	add_ip(text_of(at(o, "status", "podIP")), p->ips, &p->n_ips);
	if (!p->n_ips)
		return -ESRCH;
	p->host_network = json_is_true(at(o, "spec", "hostNetwork"));
	p->tunnel = p->host_network ? TUNNEL_NONE : read_tunnel(o);	/* nobody takes a node's own traffic */
	p->account = strdup(is_name(account, false) ? account : "default");
	p->node = strdup(is_name(node, false) ? node : "");
	r = p->account && p->node ? read_workload(o, p) : -ENOMEM;
	return r < 0 ? r : read_labels(at(o, "metadata", "labels"), &p->labels);
}

int kube_pod_read(const json_t *o, struct kube_pod **ret_pod)
{
	struct kube_pod *p = calloc(1, sizeof(*p));
	int r = p ? fill_pod(o, p) : -ENOMEM;

	if (r < 0)
		kube_pod_free(p);
	else
		*ret_pod = p;
	return r;
}

static bool same_labels(const struct conf_labels *a, const struct conf_labels *b)
{
	for (size_t i = 0; a->n == b->n && i < a->n; i++)
		if (strcmp(a->v[i].key, b->v[i].key) != 0 || strcmp(a->v[i].value, b->v[i].value) != 0)
			return false;
	return a->n == b->n;
}

bool kube_pod_equal(const struct kube_pod *a, const struct kube_pod *b)
{
	return !strcmp(a->account, b->account) && !strcmp(a->node, b->node) && !strcmp(a->workload, b->workload) && a->type == b->type &&
	       a->host_network == b->host_network && a->tunnel == b->tunnel && same_ips(a->ips, a->n_ips, b->ips, b->n_ips) &&
	       same_labels(&a->labels, &b->labels);
}

/* --- ports --- */

static enum app_protocol protocol_by_word(const char *word, size_t len)
{
	static const struct { const char *word; enum app_protocol protocol; } words[] = {
		{ "http", APP_HTTP11 }, { "http2", APP_HTTP2 }, { "grpc", APP_GRPC }, { "grpc-web", APP_HTTP11 }, { "tls", APP_TLS }, { "https", APP_TLS },
		{ "tcp", APP_TCP }, { "kubernetes.io/h2c", APP_HTTP2 }, { "kubernetes.io/ws", APP_HTTP11 },
	};

	for (size_t i = 0; i < ELEMENTS(words); i++)
		if (strlen(words[i].word) == len && !strncasecmp(words[i].word, word, len))
			return words[i].protocol;
	return APP_UNKNOWN;
}

/* appProtocol says it, else the port's name up to the first '-'. */
static enum app_protocol read_protocol(const json_t *port)
{
	const char *app = text_of(json_object_get(port, "appProtocol")), *name = text_of(json_object_get(port, "name"));

	return *app ? protocol_by_word(app, strlen(app)) : protocol_by_word(name, strcspn(name, "-"));
}

static bool read_port(const json_t *port, struct kube_port *ret_port)
{
	const char *transport = text_of(json_object_get(port, "protocol")), *name = text_of(json_object_get(port, "name"));
	const json_t *number = json_object_get(port, "port"), *target = json_object_get(port, "targetPort");

	if ((*transport && strcmp(transport, "TCP") != 0) || !is_port(number) || strlen(name) >= sizeof(ret_port->name))
		return false;
	*ret_port = (struct kube_port){ .port = (uint16_t)json_integer_value(number), .protocol = read_protocol(port),
					.target = is_port(target) ? (uint16_t)json_integer_value(target) : 0 };
	memcpy(ret_port->name, name, strlen(name));
	return true;
}

static int read_ports(const json_t *ports, struct kube_port **ret_ports, size_t *ret_n)
{
	size_t n = MIN(json_array_size(ports), (size_t)KUBE_PORTS_MAX), i;
	struct kube_port *list = calloc(n + 1, sizeof(*list));
	const json_t *port;

	if (!list)
		return -ENOMEM;
	*ret_ports = list;
	json_array_foreach(ports, i, port)
		if (*ret_n < n && read_port(port, &list[*ret_n]))
			(*ret_n)++;
	return 0;
}

static bool same_ports(const struct kube_port *a, size_t n_a, const struct kube_port *b, size_t n_b)
{
	for (size_t i = 0; n_a == n_b && i < n_a; i++)
		if (strcmp(a[i].name, b[i].name) != 0 || a[i].port != b[i].port || a[i].target != b[i].target || a[i].protocol != b[i].protocol)
			return false;
	return n_a == n_b;
}

/* --- services --- */

struct kube_service *kube_service_free(struct kube_service *s)
{
	if (s) {
		free(s->namespace);
		free(s->name);
		free(s->ports);
	}
	free(s);
	return NULL;
}

static int fill_service(const json_t *o, struct kube_service *s)
{
	const json_t *ip;
	size_t i;
	int r = read_names(o, &s->namespace, &s->name);

	if (r < 0)
		return r;
	if (!strcmp(text_of(at(o, "spec", "type")), "ExternalName"))
		return -ESRCH;
	s->affinity = !strcmp(text_of(at(o, "spec", "sessionAffinity")), "ClientIP");
	json_array_foreach(at(o, "spec", "clusterIPs"), i, ip)
		add_ip(text_of(ip), s->ips, &s->n_ips);		/* "None" is no address */
	add_ip(text_of(at(o, "spec", "clusterIP")), s->ips, &s->n_ips);
	r = read_ports(at(o, "spec", "ports"), &s->ports, &s->n_ports);
	return r < 0 ? r : s->n_ports ? 0 : -ESRCH;
}

int kube_service_read(const json_t *o, struct kube_service **ret_service)
{
	struct kube_service *s = calloc(1, sizeof(*s));
	int r = s ? fill_service(o, s) : -ENOMEM;

	if (r < 0)
		kube_service_free(s);
	else
		*ret_service = s;
	return r;
}

bool kube_service_equal(const struct kube_service *a, const struct kube_service *b)
{
	return a->affinity == b->affinity && same_ips(a->ips, a->n_ips, b->ips, b->n_ips) && same_ports(a->ports, a->n_ports, b->ports, b->n_ports);
}

/* --- slices of endpoints --- */

void kube_slice_drop_endpoints(struct kube_slice *s)
{
	for (size_t i = 0; i < s->n_endpoints; i++)
		free(s->endpoints[i].pod);
	free(s->endpoints);
	s->endpoints = NULL;
	s->n_endpoints = 0;
}

struct kube_slice *kube_slice_free(struct kube_slice *s)
{
	if (!s)
		return NULL;
	kube_slice_drop_endpoints(s);
	free(s->ports);
	free(s->service);
	free(s);
	return NULL;
}

/*
 * discovery.k8s.io/v1, EndpointConditions: nothing said is yes. One that is
 * terminating is not ready, though it may still serve; with
 * publishNotReadyAddresses all are.
 */
static bool is_ready(const json_t *endpoint)
{
	return !json_is_false(at(endpoint, "conditions", "ready"));
}

static int add_endpoint(struct kube_slice *s, const json_t *endpoint, const char *ns)
{
	const json_t *ref = json_object_get(endpoint, "targetRef");
	const char *pod = text_of(json_object_get(ref, "name")), *pod_ns = text_of(json_object_get(ref, "namespace"));

	if (strcmp(text_of(json_object_get(ref, "kind")), "Pod") != 0 || !is_name(pod, false) || (*pod_ns && strcmp(pod_ns, ns) != 0))
		return 0;		/* no pod; or another namespace's, which is not this one's to give away */
	if (asprintf(&s->endpoints[s->n_endpoints].pod, "%s/%s", ns, pod) < 0) {
		s->endpoints[s->n_endpoints].pod = NULL;
		return -ENOMEM;
	}
	s->endpoints[s->n_endpoints++].ready = is_ready(endpoint);
	return 0;
}

static int fill_slice(const json_t *o, struct kube_slice *s)
{
	const char *service = text_of(json_object_get(at(o, "metadata", "labels"), "kubernetes.io/service-name"));
	const char *ns = text_of(at(o, "metadata", "namespace"));
	const json_t *endpoints = json_object_get(o, "endpoints"), *endpoint;
	size_t i, n = MIN(json_array_size(endpoints), (size_t)KUBE_ENDPOINTS_MAX);
	int r = 0;

	if (!is_name(ns, false) || !is_name(text_of(at(o, "metadata", "name")), false))
		return -EINVAL;
	if (!is_name(service, false))
		return -ESRCH;
	r = read_ports(json_object_get(o, "ports"), &s->ports, &s->n_ports);
	s->endpoints = r == 0 ? calloc(n + 1, sizeof(*s->endpoints)) : NULL;
	if (!s->endpoints || asprintf(&s->service, "%s/%s", ns, service) < 0) {
		s->service = NULL;
		return -ENOMEM;
	}
	json_array_foreach(endpoints, i, endpoint)
		if (r == 0 && i < n)
			r = add_endpoint(s, endpoint, ns);
	return r;
}

int kube_slice_read(const json_t *o, struct kube_slice **ret_slice)
{
	struct kube_slice *s = calloc(1, sizeof(*s));
	int r = s ? fill_slice(o, s) : -ENOMEM;

	if (r < 0)
		kube_slice_free(s);
	else
		*ret_slice = s;
	return r;
}

bool kube_slice_same_ports(const struct kube_slice *a, const struct kube_slice *b)
{
	return same_ports(a->ports, a->n_ports, b->ports, b->n_ports);
}
