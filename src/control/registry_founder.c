/*
 * Which NIC's VMs made which services: a policy may let its guests register any
 * name, and services and virtual addresses are the mesh's.
 */
#include <errno.h>
#include <string.h>

#include "control/registry.h"

enum { SHARE_PART = 10, SHARE_LEAST = 16 };

size_t reg_founder_share(const struct registry *reg)
{
	size_t all = MIN((size_t)REG_MAX_SERVICES, (size_t)vips_size(&reg->vips));

	return reg->config->limits.services_per_nic ? reg->config->limits.services_per_nic : MAX(all / SHARE_PART, (size_t)SHARE_LEAST);
}

static struct reg_founder *find(const struct registry *reg, const char *nic)
{
	struct map_link *l = map_find_str(&reg->founders, nic);

	return l ? container_of(l, struct reg_founder, link) : NULL;
}

bool reg_founder_may(const struct registry *reg, const char *nic)
{
	const struct reg_founder *f = find(reg, nic);

	return !f || f->n_services < reg_founder_share(reg);
}

int reg_founder_add(struct registry *reg, struct reg_service *s, const char *nic)
{
	struct reg_founder *f = find(reg, nic);
	size_t size = strlen(nic) + 1;

	if (!f) {
		f = calloc(1, sizeof(*f) + size);
		if (!f)
			return -ENOMEM;
		memcpy(f->id, nic, size);
		if (map_add(&reg->founders, &f->link, f->id, size - 1) < 0) {
			free(f);
			return -ENOMEM;
		}
	}
	f->n_services++;
	s->founder = f;
	return 0;
}

void reg_founder_drop(struct registry *reg, struct reg_service *s)
{
	struct reg_founder *f = s->founder;
	struct reg_nic *nic;

	if (!f)
		return;
	s->founder = NULL;
	nic = registry_nic(reg, f->id);
	if (nic)
		list_for_each(l, &nic->guests) {
			struct reg_guest *g = list_entry(l, struct reg_guest, in_nic);

			if (g->over_share)
				reg_guest_mark(reg, g);
		}
	if (--f->n_services)
		return;
	map_remove(&reg->founders, &f->link);
	free(f);
}
