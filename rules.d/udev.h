/* udev's devices as subjects of rules. */
#pragma once

#include <libudev.h>

#include "rules.d/evaluate.h"

/* Fills S with what sysfs and udev's database say about DEVICE, which must live as long as S.
 * Returns 1; 0 when it is of no kind that rules are for; -ENOMEM. S is to be finished in any case.
 */
int subject_from_udev(struct udev_device *device, struct subject *s) _must_check_;
