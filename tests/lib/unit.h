#pragma once
/*
 * cmocka, with the headers that it wants to be there before it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
