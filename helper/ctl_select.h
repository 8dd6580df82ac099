/* Which device a person means, among those that the broker lists: by its place (1-3.2,
 * 0000:00:14.3, event3), its node, its ids (046d:c52b), its serial number, tag:NAME, or a part of
 * its name. The first of these ways that fits any device counts. */
#pragma once

#include "helper/ctl.h"

/* The devices of the array DEVICES that TEXT may mean: a new array of references, perhaps empty. */
json_t *select_devices(json_t *devices, const char *text);

/* The one device that TEXT means, borrowed from DEVICES. When there is none, or more than one, says
 * so with the candidates and returns NULL. */
json_t *select_one(json_t *devices, const char *text);

/* Those that TEXT means: one, or for "tag:NAME" all that have the tag. NULL when there is none or
 * TEXT is ambiguous; then it has been said. A new reference. */
json_t *select_some(json_t *devices, const char *text);

/* Whether DEVICE is an input device on USB: such belong to [usb]. */
bool select_is_usb(const json_t *device);
