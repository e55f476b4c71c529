#pragma once
#include "ctl/command.h"

/*
 * The rows of the table in main.c, each defined in the file of its name.
 */
extern const struct command command_check;
extern const struct command command_decode;
extern const struct command command_demo;
extern const struct command command_envoy;
extern const struct command command_explain;
extern const struct command command_guests;
extern const struct command command_proxies;
extern const struct command command_roots;
extern const struct command command_services;
extern const struct command command_status;
extern const struct command command_token;
extern const struct command command_version;
