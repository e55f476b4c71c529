/*
 * Wild cards, without recursion: only the last '*' needs to be gone back to.
 */
#include "base/glob.h"

#include <stddef.h>
#include <string.h>

bool glob_match(const char *pattern, const char *text)
{
	const char *star = NULL;	/* behind the last '*' */
	const char *resume = NULL;	/* where the text goes on when that one takes a character more */

	while (*text) {
		if (*pattern == '*') {
			star = ++pattern;
			resume = text;
		} else if (*pattern == '?' || *pattern == *text) {
			pattern++;
			text++;
		} else if (star) {
			pattern = star;
			text = ++resume;
		} else {
			return false;
		}
	}
	while (*pattern == '*')
		pattern++;
	return !*pattern;
}

bool glob_is_pattern(const char *pattern)
{
	return strpbrk(pattern, "*?") != NULL;
}
