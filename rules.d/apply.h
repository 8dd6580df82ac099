/* Putting rules in force that are already in their file. */
#pragma once

#include "conf/config.h"

/* Makes udevd read its rules, those made of CONFIG among them, and evaluate them again for every
 * device whose answer they may change, and waits until that is done. What fails is said on standard
 * error. Returns 0 or -errno. */
int rules_apply(const struct config *config) _must_check_;
