/* A device of the broker, as the control sockets see it. */
#pragma once

#include "broker/control_verbs.h"
#include "broker/registry.h"

/* Fills VIEW from DEVICE, whose strings it borrows. */
void control_fill(struct control_device *view, const struct registry *registry,
		  const struct device *device);
/* The name of the instance. */
void control_device_id(const struct device *device, char *ret, size_t size);
