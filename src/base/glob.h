#pragma once
#include <stdbool.h>

/*
 * Names with wild cards: '*' is any run of characters (none included), '?' is
 * any one. Everything else stands for itself, in the same case. Time is at most
 * the product of the lengths, whatever the pattern.
 */
bool glob_match(const char *pattern, const char *text);
/* Has a wild card: matches more than one name. */
bool glob_is_pattern(const char *pattern);
