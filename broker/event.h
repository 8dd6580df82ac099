/* An event as the helper delivers it. */
#pragma once

#include <stdint.h>

#include "helper/macro.h"
#include "helper/wire.h"

struct event {
	char boot_id[40];
	uint64_t seqnum;
	char action[16];
	char devpath[512];
	uint64_t inode;
	char vms[256];
	char rule[256];
	bool is_new; /* set by the store: false when it had been seen before */
};

/* The fields of *RET_EVENT, from a message that is well-formed but says what it likes. Returns 0,
 * or -EBADMSG for what can't be an event of a device. */
int event_read(const struct wire_msg *msg, struct event *ret_event) _must_check_;
