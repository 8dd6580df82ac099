/* Devices that are pulled out: see unplug.h. */
#include "broker/unplug.h"

#include "broker/arrival.h"
#include "broker/attempt.h"
#include "broker/log.h"

void unplug_note(struct registry *registry, struct device *device)
{
	if (!device->wish.present)
		return;
	log_info("%s (%s): unplugged", device->id.kernel_name, device->id.name);
	device->wish.present = false;
	attempt_note_unplugged(device);
	device_set_cause(device, CAUSE_UNPLUG);
	arrival_lead_followers(registry, device);
	registry_remember_family(registry, device);
	device_retry(device);
}

/* Level-triggered, and hung up for ever: closed before anything else. */
static void handle_hangup(void *data, uint32_t events)
{
	struct device *device = data;
	struct registry *registry = device->place.unplug.registry;

	(void) events;
	unplug_ignore(device);
	unplug_note(registry, device);
}

void unplug_watch(struct registry *registry, struct device *device, int fd)
{
	struct device_unplug *unplug = &device->place.unplug;
	int r;

	unplug_ignore(device);
	unplug->asked = true;
	if (fd < 0)
		return;
	/* No events: what hangs up says so unasked. */
	r = loop_add(registry->loop, fd, 0, handle_hangup, device, &unplug->source);
	if (r < 0) {
		log_debug("%s: its unplug will be told by udev only: %s", device->id.kernel_name,
			  strerror(-r));
		close(fd);
		return;
	}
	unplug->registry = registry;
	unplug->fd = fd;
}

void unplug_ignore(struct device *device)
{
	struct device_unplug *unplug = &device->place.unplug;

	if (!unplug->source)
		return;
	unplug->source = loop_source_free(unplug->source);
	unplug->fd = close_fd(unplug->fd);
}
