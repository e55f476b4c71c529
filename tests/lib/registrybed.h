#pragma once
#include "control/registry.h"

/*
 * A controller's registry with one NIC, as far as unit tests need it: of a
 * configuration. Whatever goes wrong fails the test.
 */
struct registry_bed {
	struct store *store;		/* of the test, from before registry_bed_init(); NULL: none */
	struct loop *loop;
	struct config *config;		/* a test may put another one here, which is freed with the bed */
	struct resources resources;
	struct registry *reg;
	struct reg_nic *nic;
};

void registry_bed_init(struct registry_bed *bed, const char *yaml);
void registry_bed_deinit(struct registry_bed *bed);
struct config *registry_bed_config(const char *yaml);
/* As it comes off the wire: packed and unpacked. */
int registry_bed_report(struct reg_nic *nic, const Outrigger__V1__Report *report, struct diag *d);
