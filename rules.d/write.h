/* The whole rules file for a config. */
#pragma once

#include "conf/config.h"

/* Of what the host keeps its hands off below a claimed device. */
#define FENCED_SUBSYSTEMS                                                                        \
	"usb|hid|hidraw|input|scsi|block|tty|net|sound|usbmisc|wwan|bluetooth|video4linux|media" \
	"|mmc|thunderbolt|rfkill"

/* Writes the rules for CONFIG, which was read from the file CONFIG_PATH, on OUT. On NOTES, unless
 * NULL, one line for each field that holds a pattern: whether it became globs, and if not, why.
 * Returns 0 or -ENOMEM. Write errors are for the caller to find in OUT. */
int rules_write(const struct config *config, const char *config_path, FILE *out,
		FILE *notes) _must_check_;
