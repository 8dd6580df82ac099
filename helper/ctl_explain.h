/* vhotplugctl explain, and rule: why a device is where it is, and what a config would say of it.
 * Each returns the exit status. */
#pragma once

#include "helper/ctl.h"

int ctl_explain(const struct ctl_options *options);
int ctl_rule(const struct ctl_options *options);

/* The rule for DEVICE, ready to paste, into a group of VM. For ctl_ports as well. */
void ctl_print_rule(const json_t *device, const char *vm);
/* A VM to put into a rule: the one asked for, else the first that there is. It lives as long as
 * *RET_STATUS. */
const char *ctl_some_vm(const struct ctl_options *options, json_t **ret_status);
