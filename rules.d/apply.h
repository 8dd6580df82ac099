/* Putting rules in force that udevd has read already. */
#pragma once

#include "conf/config.h"

/* Makes udevd evaluate its rules, those made of CONFIG among them, again for every device whose
 * answer they may change, and waits until that is done. What fails is said on standard error.
 * Returns 0, or -errno when that is not so for every device; it may be for most. */
int rules_apply(const struct config *config) _must_check_;
