/* vhotplugctl ports: plug something in, and see what a rule can say of its place. Returns the exit
 * status. */
#pragma once

#include "helper/ctl.h"

int ctl_ports(const struct ctl_options *options);
