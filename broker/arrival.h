/* A device that nobody knew of becomes one of ours. */
#pragma once

#include "broker/properties.h"
#include "broker/registry.h"

/* Takes the instance INODE at DEVPATH into the registry, on record, as PROPERTY describes it, or
 * with LEADER (or NULL) for its IOMMU group's sake. Returns NULL when that can't be; the log says
 * why. */
struct device *arrival_new(struct registry *registry, const char *devpath, uint64_t inode,
			   property_fn property, void *from, const struct device *leader,
			   enum device_cause cause);

/* Lets the PCI function at ADDRESS, which no rule claims and no VM has, go wherever LEADER goes.
 * Returns false when there is no such function. */
bool arrival_lead(struct registry *registry, const struct device *leader, const char *address);

/* What LEADER is to do, those that share its IOMMU group and go with it are to do, too. */
void arrival_lead_followers(struct registry *registry, const struct device *leader);
