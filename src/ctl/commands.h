#pragma once
#include "ctl/command.h"

/*
 * The rows of the table in main.c, each defined in the file of its name.
 */
extern const struct command command_version;
