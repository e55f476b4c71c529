#include "lib/registrybed.h"

#include <stdlib.h>
#include <string.h>

#include "lib/unit.h"
#include "mesh/pb.h"

struct config *registry_bed_config(const char *yaml)
{
	struct config *c;
	struct diag d = {};

	if (config_parse("c.yaml", yaml, strlen(yaml), &c, &d) < 0)
		fail_msg("line %u: %s", d.line, d.msg);
	return c;
}

void registry_bed_init(struct registry_bed *bed, const char *yaml)
{
	assert_int_equal(loop_new(&bed->loop), 0);
	bed->config = registry_bed_config(yaml);
	resources_init(&bed->resources);
	assert_int_equal(registry_new(bed->loop, &bed->resources, bed->store, bed->config, &bed->reg), 0);
	assert_int_equal(registry_nic_connect(bed->reg, "nic-a", &bed->nic), 0);
}

void registry_bed_deinit(struct registry_bed *bed)
{
	registry_free(bed->reg);
	resources_deinit(&bed->resources);
	config_free(bed->config);
	loop_free(bed->loop);
}

int registry_bed_report(struct reg_nic *nic, const Outrigger__V1__Report *report, struct diag *d)
{
	ProtobufCMessage *copy;
	uint8_t *data;
	size_t len;
	int r;

	assert_int_equal(pb_pack(&report->base, &data, &len), 0);
	assert_int_equal(pb_unpack(&outrigger__v1__report__descriptor, data, len, 0, &copy), 0);
	free(data);
	r = registry_report(nic, (Outrigger__V1__Report *)copy, d);
	pb_free(copy);
	return r;
}
