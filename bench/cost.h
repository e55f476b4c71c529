#pragma once
#include <stdbool.h>
#include <stddef.h>

/*
 * What a benchmark in process measures, and how it gives up.
 */
double cost_cpu_s(void);		/* of this process */
size_t cost_bytes(void);		/* that are allocated */
void cost_must(bool ok, const char *what);	/* else it ends the program, and says what */
