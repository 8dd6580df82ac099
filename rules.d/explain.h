/* --explain: what the config says about a device that is plugged in, rule by rule. */
#pragma once

#include <stdio.h>

#include "conf/config.h"

/* Explains on OUT every device that DEVICE names: a devpath (with or without /sys), a device node,
 * bus:device, vid:pid, or a PCI address. The rules are evaluated as udev would, from the same
 * compiled form, with what udev's database and sysfs say about the device. Returns 0; -ENODEV when
 * there is no such device (said on standard error); another -errno. */
int rules_explain(const struct config *config, const char *device, FILE *out) _must_check_;
