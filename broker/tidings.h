/* What VMs tell of themselves becomes facts about devices: the edges of manager.h that VMs make.
 */
#pragma once

#include "broker/registry.h"

/* For vm_new, with the registry as its data. */
extern const struct vm_handler tidings_handler;
