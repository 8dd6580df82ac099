/* What the tests of the QEMU backend look at; everything else goes through vmm.h. */
#pragma once

#include "broker/vmm.h"

/* Every id that vhotplug gives a device in QEMU starts with this. */
#define QEMU_HANDLE_PREFIX "vhp-"

/* What QEMU's error TEXT for device_add means. VMM_OK: the device is there already. */
enum vmm_outcome qemu_classify(const char *text);
