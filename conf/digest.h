/* A short name for what a config means. */
#pragma once

#include "conf/config.h"

/* Writes the digest of CONFIG as 16 hex digits. Two configs that mean the same have the same one:
 * comments, blank lines, descriptions, what is disabled and the order of the VMs do not count.
 * Returns 0 or -ENOMEM. */
int config_digest(const struct config *config, char ret_digest[CONFIG_DIGEST_SIZE]) _must_check_;
