/* One reader for each other tool's config. Called by import.c. */
#pragma once

#include "rules.d/import-pen.h"

/* They print our config for TEXT and return 0, -EINVAL (said) or -ENOMEM. */
int import_vhotplug(struct importer *i, const char *text, bool attach_connected) _must_check_;
int import_hotplugger(struct importer *i, const char *text) _must_check_;
int import_libvirt_usb_hotplug(struct importer *i, const char *text) _must_check_;
