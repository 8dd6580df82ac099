/* vhotplugctl explain, and rule: why a device is where it is, and what a config would say of it.
 * Each returns the exit status. */
#pragma once

#include "helper/ctl.h"

int ctl_explain(const struct ctl_options *options);
int ctl_rule(const struct ctl_options *options);

/* The rule for DEVICE, ready to paste, into a group of VM. For ctl_ports as well. */
void ctl_print_rule(const json_t *device, const char *vm);
