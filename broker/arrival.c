/* New devices: see arrival.h. Called by the manager's edges, and by the look at an IOMMU group. */
#include "broker/arrival.h"

#include "broker/choice.h"
#include "broker/control_host.h"
#include "broker/log.h"
#include "broker/record.h"
#include "helper/root.h"

struct device *arrival_new(struct registry *registry, const char *devpath, uint64_t inode,
			   property_fn property, void *from, const struct device *leader,
			   enum device_cause cause)
{
	struct device *d = calloc(1, sizeof(*d));
	const struct family *family;

	if (!d || strlen(devpath) >= DEVICE_PATH_SIZE) {
		log_error("%s is ignored: %s", devpath,
			  d ? "its path is too long" : "out of memory");
		free(d);
		return NULL;
	}
	device_init(d);
	kept_set(&d->id.devpath, devpath);
	d->id.inode = inode;
	d->wish.present = true;
	properties_read_identity(d, property, from);
	properties_read_wish(d, property, from);
	if (leader)
		registry_follow(d, leader);
	else
		choice_recall(registry, d);
	family = registry_join_family(registry, d);
	if (family)
		log_info("%s (%s): stays in %s with its family %s", d->id.kernel_name, d->id.name,
			 family->vm, family->name);
	device_set_cause(d, cause);
	registry_add(registry, d);
	record_set(registry, d, DEVICE_WAITING, "the broker has just seen it");
	return d;
}

static const char *follower_property(void *from, const char *key)
{
	(void) from;
	return streq(key, "SUBSYSTEM") ? "pci" : NULL;
}

/* FOLLOWER, which is there already, is to do what LEADER does now. */
static void follow_again(struct device *follower, const struct device *leader)
{
	registry_follow(follower, leader);
	device_set_cause(follower, leader->attempt.cause);
	device_renew_return(follower);
	device_retry(follower);
}

bool arrival_lead(struct registry *registry, const struct device *leader, const char *address)
{
	char path[PATH_MAX];
	struct device *follower = registry_find_pci(registry, address);

	if (follower) {
		follow_again(follower, leader);
		record_save(registry, follower);
	} else if (root_resolve(path, "/sys/bus/pci/devices/%s", address) == 0 &&
		   startswith(path, "/sys/devices/")) {
		follower = arrival_new(registry, path + strlen("/sys"),
				       sysfs_inode(path + strlen("/sys")), follower_property, NULL,
				       leader, leader->attempt.cause);
		if (follower)
			host_describe_device(follower);
	}
	if (follower)
		log_info("%s (%s): goes with %s, whose IOMMU group it shares", address,
			 follower->id.name, leader->id.kernel_name);
	return follower != NULL;
}

void arrival_lead_followers(struct registry *registry, const struct device *leader)
{
	bool wanted = leader->wish.present && leader->wish.options & OPTION_IOMMU_ADD_ALL;

	for (struct device *d = registry->devices; d && leader->id.kind == DEVICE_PCI;
	     d = d->next) {
		if (!streq(d->wish.leader, leader->id.devpath))
			continue;
		follow_again(d, leader);
		if (!wanted)
			kept_drop(&d->wish.rule);
		record_save(registry, d);
	}
}
