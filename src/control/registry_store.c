/*
 * The registry's memory over a restart: the last reports about each guest, as
 * they came. After a restart the VMs stay in the mesh while their NICs come
 * back; without that every restart of the controller would empty the mesh.
 *
 * Writes are collected and made as one, behind the events. When the store
 * fails (full disk) it is said once, everything goes on, and it is tried again.
 *
 * A guest's bytes are frames: length (4), in_mesh_ms (4, all ones: none), a Report.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/log.h"
#include "base/wire.h"
#include "control/registry.h"
#include "mesh/pb.h"

enum { WRITE_DELAY_MS = 100, RETRY_MS = 5000, MAX_GUEST_BYTES = 1 << 20, NO_TIME = 0xffffffff };

struct reg_dropped {
	struct list link;
	char id[];
};

static int on_write(struct timer *t);

static void arm(struct registry *reg, uint32_t delay_ms)
{
	if (reg->store && !reg->write.loop && timer_arm(reg->loop, &reg->write, delay_ms, on_write) < 0)
		log_error("out of memory: guests are not stored");
}

void reg_store_mark(struct registry *reg, struct reg_guest *g)
{
	g->store_dirty = true;
	arm(reg, WRITE_DELAY_MS);
}

/* Who has no row needs none removed: what waits while the store fails are no more than there are rows. */
void reg_store_drop(struct registry *reg, const struct reg_guest *g)
{
	size_t size = strlen(g->pb->guest_id) + 1;
	struct reg_dropped *d;

	if (!g->stored)
		return;
	d = malloc(sizeof(*d) + size);
	if (!d) {
		log_error("out of memory: a guest stays in the store", log_str("guest", g->pb->guest_id));
		return;
	}
	memcpy(d->id, g->pb->guest_id, size);
	list_append(&reg->dropped, &d->link);
	arm(reg, WRITE_DELAY_MS);
}

/* --- writing --- */

static int add_frame(struct bytes *out, Outrigger__V1__Report *report, int64_t in_mesh_ms)
{
	CLEANUP_FREE uint8_t *data = NULL;
	uint32_t time = in_mesh_ms < 0 || in_mesh_ms >= NO_TIME ? NO_TIME : (uint32_t)in_mesh_ms;
	size_t len;
	int r = pb_pack(&report->base, &data, &len);

	if (r < 0)
		return r;
	const uint8_t head[8] = { (uint8_t)(len >> 24), (uint8_t)(len >> 16), (uint8_t)(len >> 8), (uint8_t)len,
				  (uint8_t)(time >> 24), (uint8_t)(time >> 16), (uint8_t)(time >> 8), (uint8_t)time };
	r = bytes_append(out, head, sizeof(head));
	return r < 0 ? r : bytes_append(out, data, len);
}

static int encode_guest(const struct reg_guest *g, struct bytes *out)
{
	Outrigger__V1__Report report = OUTRIGGER__V1__REPORT__INIT;
	int r;

	report.msg_case = OUTRIGGER__V1__REPORT__MSG_GUEST;
	report.guest = g->pb;
	r = add_frame(out, &report, -1);
	list_for_each(l, &g->claims) {
		const struct reg_claim *c = list_entry(l, struct reg_claim, link);

		report.msg_case = OUTRIGGER__V1__REPORT__MSG_CLAIM;
		report.claim = c->pb;
		r = r < 0 ? r : add_frame(out, &report, c->in_mesh_ms);
	}
	list_for_each(l, &g->verdicts) {
		report.msg_case = OUTRIGGER__V1__REPORT__MSG_VERDICT;
		report.verdict = list_entry(l, struct reg_verdict, link)->pb;
		r = r < 0 ? r : add_frame(out, &report, -1);
	}
	if (g->proxy) {
		report.msg_case = OUTRIGGER__V1__REPORT__MSG_PROXY;
		report.proxy = g->proxy;
		r = r < 0 ? r : add_frame(out, &report, -1);
	}
	return r;
}

static int write_guest(struct registry *reg, const struct reg_guest *g)
{
	struct bytes out;
	int r;

	bytes_init(&out, MAX_GUEST_BYTES);
	r = encode_guest(g, &out);
	if (r == 0)
		r = store_guest_put(reg->store, g->pb->guest_id, g->nic->id, out.data, out.len);
	else if (r == -ENOBUFS)
		r = 0;		/* so large a guest is not kept */
	bytes_deinit(&out);
	return r;
}

static int remove_dropped(struct registry *reg)
{
	int r = 0;

	list_for_each(l, &reg->dropped)
		r = r < 0 ? r : store_guest_remove(reg->store, list_entry(l, struct reg_dropped, link)->id);
	return r;
}

static int write_guests(struct registry *reg)
{
	map_for_each(l, &reg->guests) {
		struct reg_guest *g = container_of(l, struct reg_guest, link);
		int r = g->store_dirty ? write_guest(reg, g) : 0;

		if (r < 0)
			return r;
		g->store_put = g->store_dirty;
	}
	return 0;
}

static void forget_dropped(struct registry *reg)
{
	list_for_each_safe(l, &reg->dropped) {
		list_unlink(l);
		free(list_entry(l, struct reg_dropped, link));
	}
}

/* The transaction is over. */
static void settle_rows(struct registry *reg, bool committed)
{
	map_for_each(l, &reg->guests) {
		struct reg_guest *g = container_of(l, struct reg_guest, link);

		if (g->store_put && committed) {
			g->store_dirty = false;
			g->stored = true;
		}
		g->store_put = false;
	}
}

static int write_all(struct registry *reg)
{
	int removed = remove_dropped(reg);
	int r = removed < 0 ? removed : write_guests(reg);
	int committed = store_commit(reg->store);	/* what could be written is */

	if (removed == 0 && committed == 0)
		forget_dropped(reg);
	settle_rows(reg, committed == 0);
	return r < 0 ? r : committed;
}

static void note_result(struct registry *reg, int r)
{
	if (r < 0) {
		reg->n_store_failures++;
		if (reg->last_store_error != r)
			log_error("the store cannot be written, serving continues", log_str("reason", store_error(reg->store)), log_errno(r));
	} else if (reg->last_store_error) {
		log_info("the store can be written again");
	}
	reg->last_store_error = r;
}

void reg_store_flush(struct registry *reg)
{
	int r;

	if (!reg->store)
		return;
	timer_cancel(&reg->write);
	r = store_begin(reg->store);
	if (r == 0)
		r = write_all(reg);
	note_result(reg, r);
	if (r < 0)
		arm(reg, RETRY_MS);
}

static int on_write(struct timer *t)
{
	reg_store_flush(container_of(t, struct registry, write));
	return 0;
}

/* --- reading --- */

static void restore_frame(struct reg_nic *nic, const uint8_t *data, size_t len, uint32_t time)
{
	ProtobufCMessage *message;
	struct diag diag = {};
	char service[REG_MAX_TEXT + 1] = "", instance[REG_MAX_TEXT + 1] = "", guest[256] = "";
	uint32_t port = 0;

	if (pb_unpack(&outrigger__v1__report__descriptor, data, len, 0, &message) < 0)
		return;
	Outrigger__V1__Report *report = (Outrigger__V1__Report *)message;
	if (report->msg_case == OUTRIGGER__V1__REPORT__MSG_CLAIM) {
		snprintf(guest, sizeof(guest), "%s", report->claim->guest_id);
		snprintf(service, sizeof(service), "%s", report->claim->service);
		snprintf(instance, sizeof(instance), "%s", report->claim->instance);
		port = report->claim->port;
	}
	if (registry_report(nic, report, &diag) < 0)
		log_warn("a stored report was not taken", log_str("reason", diag.msg));
	pb_free(message);

	const struct reg_guest *g = guest[0] && time != NO_TIME ? registry_guest(nic->registry, guest) : NULL;
	for (struct list *l = g ? g->claims.next : NULL; l && l != &g->claims; l = l->next) {
		struct reg_claim *c = list_entry(l, struct reg_claim, link);

		if (c->pb->port == port && !strcmp(c->pb->service, service) && !strcmp(c->pb->instance, instance))
			c->in_mesh_ms = time;
	}
}

static void on_stored_guest(const char *id, const char *nic_id, const void *bytes, size_t len, void *data)
{
	struct registry *reg = data;
	struct reg_nic *nic = registry_nic(reg, nic_id);
	struct wire w = wire_init(bytes ? bytes : "", len);

	if (!nic && registry_nic_connect(reg, nic_id, &nic) < 0)
		return;
	while (wire_more(&w)) {
		uint32_t n = wire_u32(&w);
		uint32_t time = wire_u32(&w);
		const uint8_t *frame = wire_take(&w, n);

		if (frame)
			restore_frame(nic, frame, n, time);
	}
	if (w.bad)
		log_warn("a stored guest is damaged", log_str("guest", id));
}

static int on_restart_grace(struct timer *t)
{
	struct reg_nic *nic = container_of(t, struct reg_nic, grace);

	log_warn("NIC did not come back after the restart: its guests leave the mesh", log_str("nic", nic->id),
		 log_int("guests", (int64_t)nic->n_guests));
	list_for_each_safe(l, &nic->guests)
		registry_guest_remove(list_entry(l, struct reg_guest, in_nic));
	return 0;
}

int reg_store_restore(struct registry *reg)
{
	int r;

	if (!reg->store)
		return 0;
	r = store_guest_each(reg->store, on_stored_guest, reg);
	map_for_each(l, &reg->nics) {
		struct reg_nic *nic = container_of(l, struct reg_nic, link);

		nic->connected = false;
		if (r == 0)
			r = timer_arm(reg->loop, &nic->grace, reg->config->restart_grace_ms, on_restart_grace);
	}
	map_for_each(l, &reg->guests) {
		struct reg_guest *g = container_of(l, struct reg_guest, link);

		g->store_dirty = false;
		g->stored = true;
	}
	timer_cancel(&reg->write);
	registry_settle(reg);
	if (reg->guests.n)
		log_info("guests known from before the restart", log_int("guests", (int64_t)reg->guests.n));
	return r;
}

void reg_store_deinit(struct registry *reg)
{
	timer_cancel(&reg->write);
	forget_dropped(reg);
}
