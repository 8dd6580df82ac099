/* The commands of vhotplugctl that change something. Each returns the exit status. */
#pragma once

#include "helper/ctl.h"

int ctl_attach(const struct ctl_options *options);
int ctl_detach(const struct ctl_options *options);
int ctl_choose(const struct ctl_options *options);
int ctl_suspend(const struct ctl_options *options);
int ctl_resume(const struct ctl_options *options);
int ctl_reload(const struct ctl_options *options);
int ctl_vmm_args(const struct ctl_options *options);
