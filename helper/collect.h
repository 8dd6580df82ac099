/* From udev's environment to one message for the broker. */
#pragma once

#include "helper/wire.h"

/* Longest value that is taken, in bytes. udev itself stores no more than 512. */
#define COLLECT_VALUE_MAX 1024

/* Reads the environment (udev sets nothing but the device's properties there) and fills
 * *RET_MSG. Empty values are left out, and so are those longer than COLLECT_VALUE_MAX and those
 * that no longer fit: a value cut short would be a wrong value. ACTION, DEVPATH and SEQNUM must be
 * there, whole, at any length that fits.
 *
 * A device with a rule (VHOTPLUG_RULE) that comes by another action than add and remove has been
 * claimed by that event: the message says add.
 *
 * Returns 1 and the message; 0 when the action is none of add, remove and bind, which is all
 * that the broker wants to hear of; -EINVAL when one of the three is missing or makes no sense;
 * -EMSGSIZE when one is over-long; another -errno when the boot id can't be read. *RET_MSG is
 * written only with 1. */
int collect_event(struct wire_msg *ret_msg) _must_check_;
