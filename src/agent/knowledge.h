#pragma once
#include <stdbool.h>
#include "base/defs.h"
#include "outrigger/provisioner.pb-c.h"

/*
 * What the controller has told, kept in memory and on disk: so that an agent
 * that starts while the controller is away decides by what was last in force.
 * Each piece is taken whole or refused whole.
 */
struct worker;

/* @save: it is news, and goes to disk. */
void knowledge_take_welcome(struct worker *w, const Outrigger__V1__Welcome *m, bool save);
void knowledge_take_policies(struct worker *w, const Outrigger__V1__PolicySet *m, bool save);
void knowledge_take_containers(struct worker *w, const Outrigger__V1__ContainerSet *m, bool save);
void knowledge_take_nodes(struct worker *w, const Outrigger__V1__NodeSet *m, bool save);

/* The proxies are to know of the ports as they are now. */
void knowledge_repeat_welcome(struct worker *w);

/* What is on disk. A file that cannot be used is named in the log and left out. -ENOMEM. */
MUST_CHECK int knowledge_load(struct worker *w);
/* What could not be written to disk. */
void knowledge_save_again(struct worker *w);
