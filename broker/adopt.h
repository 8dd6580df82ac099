/* A step of the machine: a VM that has had a device since its start keeps it, and by our book it is
 * attached. Called by reconcile_pass; see handover.h for the other steps. */
#pragma once

#include "broker/registry.h"

void adopt_cold(struct registry *registry, struct device *device, struct vm *vm);
