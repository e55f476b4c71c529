#pragma once
/*
 * The generated skeleton of bpf/, which does not know our warnings.
 */
#include "api/settings.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wcast-qual"
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wnull-dereference"
#include "steer.skel.h"
#pragma GCC diagnostic pop
