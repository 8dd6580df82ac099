/* --import: the configs of comparable tools as ours. */
#pragma once

#include <stdio.h>

#include "helper/macro.h"

/* Reads TEXT, the config of another tool: vhotplug's JSON, hotplugger's config.yaml, or
 * libvirt-usb-hotplug.conf (which of them shows in the text), and prints our INI on OUT. What can't
 * be carried over is a comment there, and a line on NOTES. ATTACH_CONNECTED: whether vhotplug ran
 * with -a. Returns 0; -EINVAL when TEXT can't be read (said on NOTES); -ENOMEM. */
int config_import(const char *text, bool attach_connected, FILE *out, FILE *notes) _must_check_;
