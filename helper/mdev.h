/* A device without udevd: what udev would say of it, and where it would say so.
 *
 * vhotplug-mdev computes the properties that rules look at from sysfs, and keeps them, with what
 * the config has decided, where udev keeps them (/run/udev/data, /run/udev/tags). So libudev, the
 * broker and people find a decision in the same place on every system. */
#pragma once

#include <limits.h>

#include "conf/config.h"

struct mdev_device {
	char devpath[PATH_MAX]; /* /devices/… */
	char **properties;      /* NAME=VALUE, NULL-terminated */
	size_t n;
	char subsystem[32];
	char devtype[32];
};

/* Reads the device at DEVPATH. Returns 1; 0 when it is of no kind that rules are for; -errno.
 * Finish it in any case. */
int mdev_read(struct mdev_device *device, const char *devpath) _must_check_;
void mdev_finish(struct mdev_device *device);

/* Has CONFIG decide about DEVICE, and adds what it decides to its properties. A group with a rule
 * that looks at what only udev knows takes nothing. Returns whether the device is taken, or
 * -errno. */
int mdev_decide(struct mdev_device *device, const struct config *config) _must_check_;

/* Keeps its properties; TAKEN: as one that a rule claims. Returns 0 or -errno. */
int mdev_store(const struct mdev_device *device, bool taken) _must_check_;
/* Forgets what is kept of the device that has these, which its last event says: subsystem, the last
 * part of its devpath, and its number, NULL when it has none. */
void mdev_forget(const char *subsystem, const char *name, const char *major, const char *minor);
