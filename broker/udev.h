/* libudev, behind one file: what udev's database says of devices. The rules have put the decision
 * there; nothing is matched here. */
#pragma once

#include <stdint.h>

#include "broker/loop.h"
#include "helper/macro.h"

/* A property of a device, or NULL; borrowed. */
typedef const char *(*property_fn)(void *device, const char *key);

/* Who asks, and is called in the loop. */
struct udev_listener {
	/* For each device that can be read, perhaps twice; DEVICE is for PROPERTY and only during
	 * the call. What udev knows nothing of (after a synthetic remove) has no UDEV_KNOWN. */
	void (*device)(void *data, const char *devpath, property_fn property, void *device);
	/* At the end, once. R is 0, or -errno where not all could be read. May free the query. */
	void (*done)(void *data, int r);
};

#define UDEV_KNOWN "INITIALIZED"

/* A question to udev's database that is under way. */
struct udev_query;

/* Asks for the devices that have the tag vhotplug (which sticks: VHOTPLUG_RULE tells whether a rule
 * claims one), and for those at the N DEVPATHS. One that does not respond in time is left out, with
 * a warning. Returns 0, or -errno when nothing is asked. */
int udev_ask(struct loop *loop, const char *const *devpaths, size_t n,
	     const struct udev_listener *listener, void *data,
	     struct udev_query **ret_query) _must_check_;
/* An event has told of the device at DEVPATH: what the database said before is not heard any more.
 * QUERY may be NULL. */
void udev_overtaken(struct udev_query *query, const char *devpath);
/* No more calls. NULL is fine. Returns NULL. */
struct udev_query *udev_query_free(struct udev_query *query);
