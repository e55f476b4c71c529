#pragma once
#include "outrigger/provisioner.pb-c.h"

/*
 * A VM that moves between NICs, while both ports are there (live migration) or one
 * after the other. The first packet behind the new port makes it a guest there,
 * which the controller knows by MAC, addresses and policy as a machine that is in
 * the mesh or was a moment ago.
 */
struct worker;

/* What it offered elsewhere is taken as if it had registered now: verdict, probe and policy decide as ever. */
void handover_take(struct worker *w, const Outrigger__V1__Handover *m);
/* It is in the mesh behind another NIC: forgotten, and for a moment what still says that it is here. */
void handover_moved(struct worker *w, const Outrigger__V1__Moved *m);
