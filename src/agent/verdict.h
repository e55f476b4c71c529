#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "agent/catalog.h"
#include "agent/containers.h"
#include "agent/guest.h"
#include "agent/nodes.h"
#include "base/defs.h"

/*
 * Is the service that was found a VM's or a container's? Four findings, each
 * with its evidence for people, and one rule that combines them.
 *
 *   port        the address belongs to the guest behind a VM port (ARP, ND, DHCP, configuration),
 *               or to something that the guest itself hides (a pod inside of the VM)
 *   containers  the controller's list of container-registered addresses, and what
 *               orchestrators write into their registrations
 *   registry    the service's entry in its registry, looked up by us
 *   probe       a SYN to the service: by which port, VLAN and MAC the answer came
 *
 * The rule, first row that fits; '.' is any finding:
 *
 *   port  containers  registry  probe      verdict
 *    .    container       .       .        container
 * container    .          .       .        container
 *    .         .      container   .        container
 *    .         .          .    container   container
 *   vm        vm          .       .        vm          both are known at once: nobody waits for an answer
 *   vm         .         vm       .        vm
 *    .        vm         vm      vm        vm          (and each of its relatives below)
 *   vm         .          .      vm        vm
 *    .        vm          .      vm        vm
 *    .         .         vm      vm        vm
 *   anything else                          unknown
 *
 * In words: any good sign of a container wins; without one, two methods must
 * agree that it is a VM, of which one has seen the address at the guest's port,
 * by its packets or by its answer. What the registry says alone proves nothing:
 * the guest wrote it there.
 */
enum verdict { VERDICT_UNKNOWN, VERDICT_VM, VERDICT_CONTAINER, _VERDICT_N };

enum verdict_method { VERDICT_BY_PORT, VERDICT_BY_CONTAINERS, VERDICT_BY_REGISTRY, VERDICT_BY_PROBE, _VERDICT_METHOD_N };

enum { VERDICT_DETAIL_LEN = 224 };

struct verdict_evidence {
	enum verdict finding;
	bool given;			/* the method has spoken, if only to say that it does not know */
	char detail[VERDICT_DETAIL_LEN];	/* a sentence for people */
	int64_t at_wall_ms;
};

struct verdict_case {
	enum verdict verdict;
	struct verdict_evidence evidence[_VERDICT_METHOD_N];
	uint32_t n_news;		/* findings that were another one than before, or said otherwise */
};

/* The rule above. */
enum verdict verdict_combine(const enum verdict findings[_VERDICT_METHOD_N]);

/* Enters a finding and judges anew. True: the verdict is another one now. */
bool verdict_note(struct verdict_case *v, enum verdict_method method, enum verdict finding, int64_t wall_ms,
		  const char *fmt, ...) PRINTF_LIKE(5, 6);

/*
 * The two methods that need nobody's answer. @containers NULL: the controller has
 * not told yet. @node: of the cluster, that the guest is; NULL: none. True: another
 * verdict.
 */
bool verdict_of_claim(struct verdict_case *v, const struct claim *c, const struct containers *containers, const struct node *node, int64_t wall_ms);
/* The guest itself, as a client. */
bool verdict_of_guest(struct verdict_case *v, const struct guest *g, const struct containers *containers, int64_t wall_ms);

/* Is there a sign of an orchestrator in this registration? NULL, or what it says. */
const char *verdict_sign(const struct claim *c);

const char *verdict_name(enum verdict verdict);
const char *verdict_method_name(enum verdict_method method);
