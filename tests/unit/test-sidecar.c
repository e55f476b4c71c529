#include "lib/unit.h"

#include <string.h>

#include "proxy/sidecar.h"

/* The diagram of the states: this table, printed by the code, is what sidecar.h and docs/ describe. */
static const struct {
	enum sidecar_state from;
	enum sidecar_event ev;
	bool has_config, in_sync, serving;
	int to;
} diagram[] = {
	/* without the last configuration: certificate first, or configuration first */
	{ SIDECAR_STARTING, SIDECAR_EV_CERTIFICATE, false, false, false, SIDECAR_CERTIFICATE },
	{ SIDECAR_CERTIFICATE, SIDECAR_EV_CONFIG, true, true, false, SIDECAR_READY },
	{ SIDECAR_STARTING, SIDECAR_EV_CONFIG, true, true, false, SIDECAR_STARTING },
	{ SIDECAR_STARTING, SIDECAR_EV_CERTIFICATE, true, true, false, SIDECAR_READY },
	/* with the last configuration */
	{ SIDECAR_STARTING, SIDECAR_EV_CERTIFICATE, true, false, false, SIDECAR_DEGRADED },
	{ SIDECAR_DEGRADED, SIDECAR_EV_CONFIG, true, true, true, SIDECAR_READY },
	/* life */
	{ SIDECAR_READY, SIDECAR_EV_LOST, true, false, true, SIDECAR_DEGRADED },
	{ SIDECAR_READY, SIDECAR_EV_CERTIFICATE, true, true, true, SIDECAR_READY },
	{ SIDECAR_DEGRADED, SIDECAR_EV_CERTIFICATE, true, false, true, SIDECAR_DEGRADED },
	{ SIDECAR_DEGRADED, SIDECAR_EV_LOST, true, false, true, SIDECAR_DEGRADED },
	{ SIDECAR_READY, SIDECAR_EV_EXPIRED, true, true, true, SIDECAR_FAILED },
	{ SIDECAR_FAILED, SIDECAR_EV_CERTIFICATE, true, true, true, SIDECAR_READY },
	{ SIDECAR_FAILED, SIDECAR_EV_CERTIFICATE, true, false, true, SIDECAR_DEGRADED },
	{ SIDECAR_FAILED, SIDECAR_EV_CONFIG, true, true, true, SIDECAR_FAILED },
	/* the end */
	{ SIDECAR_STARTING, SIDECAR_EV_REMOVE, false, false, false, SIDECAR_STOPPED },
	{ SIDECAR_READY, SIDECAR_EV_REMOVE, true, true, true, SIDECAR_DRAINING },
	{ SIDECAR_DRAINING, SIDECAR_EV_CERTIFICATE, true, true, true, SIDECAR_DRAINING },
	{ SIDECAR_DRAINING, SIDECAR_EV_EXPIRED, true, true, true, SIDECAR_DRAINING },
	{ SIDECAR_DRAINING, SIDECAR_EV_GONE, true, true, true, SIDECAR_STOPPED },
};

static void the_diagram_holds(void **state)
{
	(void)state;
	for (size_t i = 0; i < ELEMENTS(diagram); i++) {
		int to = sidecar_next(diagram[i].from, diagram[i].ev, diagram[i].has_config, diagram[i].in_sync, diagram[i].serving);

		if (to != diagram[i].to)
			fail_msg("row %zu: %s became %s", i, sidecar_state_name(diagram[i].from),
				 to < 0 ? "nothing" : sidecar_state_name((enum sidecar_state)to));
	}
}

static void nothing_leaves_stopped(void **state)
{
	(void)state;
	for (int ev = 0; ev < _SIDECAR_EVENT_N; ev++)
		assert_int_equal(sidecar_next(SIDECAR_STOPPED, (enum sidecar_event)ev, true, true, true), -1);
}

static void a_vm_is_never_ready_without_a_configuration(void **state)
{
	(void)state;
	for (int s = 0; s < _SIDECAR_STATE_N; s++)
		for (int ev = 0; ev < _SIDECAR_EVENT_N; ev++) {
			int to = sidecar_next((enum sidecar_state)s, (enum sidecar_event)ev, false, false, false);

			if (ev != SIDECAR_EV_CONFIG && to == SIDECAR_READY)
				assert_int_equal(s, SIDECAR_READY);
		}
}

static void states_are_those_of_the_protocol(void **state)
{
	(void)state;
	assert_int_equal(SIDECAR_STARTING, OUTRIGGER__IPC__VM_STATE__VM_STARTING);
	assert_int_equal(SIDECAR_CERTIFICATE, OUTRIGGER__IPC__VM_STATE__VM_CERTIFICATE);
	assert_int_equal(SIDECAR_READY, OUTRIGGER__IPC__VM_STATE__VM_READY);
	assert_int_equal(SIDECAR_DEGRADED, OUTRIGGER__IPC__VM_STATE__VM_DEGRADED);
	assert_int_equal(SIDECAR_DRAINING, OUTRIGGER__IPC__VM_STATE__VM_DRAINING);
	assert_int_equal(SIDECAR_STOPPED, OUTRIGGER__IPC__VM_STATE__VM_STOPPED);
	assert_int_equal(SIDECAR_FAILED, OUTRIGGER__IPC__VM_STATE__VM_FAILED);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_diagram_holds),
		cmocka_unit_test(nothing_leaves_stopped),
		cmocka_unit_test(a_vm_is_never_ready_without_a_configuration),
		cmocka_unit_test(states_are_those_of_the_protocol),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
