#pragma once
#include <stdint.h>

/*
 * Time. Monotonic for intervals, wall clock for certificates and logs.
 */
uint64_t clock_mono_ns(void);
uint64_t clock_mono_ms(void);
int64_t clock_wall_s(void);	/* seconds since 1970 */
int64_t clock_wall_ms(void);
