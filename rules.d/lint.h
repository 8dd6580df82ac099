/* --lint: what is no mistake in a config, but hardly meant. */
#pragma once

#include <stdio.h>

#include "conf/config.h"

/* Prints "PATH:LINE: …" on OUT for each rule that can never match or never win, for ids that two
 * VMs claim, for a deny that denies nothing, and for groups and VMs that nothing uses. What it says
 * is certain, but it doesn't find everything: patterns are compared by their text. Returns how many
 * lines it printed. */
unsigned config_lint(const struct config *config, const char *path, FILE *out) _must_check_;
