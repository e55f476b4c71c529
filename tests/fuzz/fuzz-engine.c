/*
 * Whole capture files through every protocol: what is emitted must be fit to
 * be shown, whatever the frames say.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "discover/engine.h"
#include "proto/pcapfile.h"
#include "base/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_text(const char *s)
{
	if (s && (strlen(s) > OBS_MAX_STR || !utf8_is_clean(s, strlen(s))))
		abort();
}

static void on_observation(const struct observation *o, void *data)
{
	(void)data;
	if (!o->protocol || o->kind >= _OBS_KIND_N || !o->frame)
		abort();
	check_text(o->service);
	check_text(o->instance);
	check_text(o->app_protocol);
	if (o->n_metadata > OBS_MAX_METADATA)
		abort();
	for (size_t i = 0; i < o->n_metadata; i++) {
		check_text(o->metadata[i].key);
		check_text(o->metadata[i].value);
	}
}

static void learn(struct pcapfile p, struct engine *e)
{
	struct pcapfile_frame f;

	while (pcapfile_next(&p, &f) == 0) {
		struct engine_frame ef = { f.data, f.len, f.wire_len, f.link, f.number, f.time_ns };

		engine_learn(e, &ef);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct engine_limits limits = {
		.max_guests = 4, .max_flows_per_guest = 4, .max_flow_bytes = 16384, .max_guest_bytes = 20000, .max_total_bytes = 30000,
		.max_guest_held = 1000, .max_total_held = 1500,
	};
	struct pcapfile p;
	struct engine *e;
	struct pcapfile_frame f;

	if (pcapfile_open(&p, data, size) || engine_new(&limits, on_observation, NULL, &e))
		return 0;
	if (size % 2) {			/* as outrigger decode has it; else as the agent */
		engine_allow_missing_requests(e);
		learn(p, e);
	}
	while (pcapfile_next(&p, &f) == 0) {
		struct engine_frame ef = { f.data, f.len, f.wire_len, f.link, f.number, f.time_ns };

		(void)!engine_frame(e, &ef);
	}
	engine_flush(e);
	if (engine_stats(e)->buffered_bytes)
		abort();
	engine_free(e);
	return 0;
}
