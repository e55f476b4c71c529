#pragma once
#include "agent/places.h"
#include "base/defs.h"

/*
 * What an agent remembers over its own restart: guests, their claims and what
 * they asked for. Registrations are often said once; without this a new agent
 * would take services out of the mesh until their guests repeat them.
 *
 * What is remembered is believed for a short while only: a packet, an answer to
 * a probe or a connection confirms it.
 */
struct worker;

/* Something of it has changed: it is saved within a second. */
void memory_touch(struct worker *w);
/* Saves it when it has changed. What goes wrong is in the log. */
void memory_save(struct worker *w);

/* Reads the file, once; nothing is done with it yet. -ENOMEM; a file that cannot be used is named in the log. */
MUST_CHECK int memory_load(struct worker *w);
/* The guests that were at @p, and what they claim. */
void memory_recall(struct worker *w, const struct place *p);
void memory_forget(struct worker *w);
