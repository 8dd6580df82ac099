/* The message that the helper sends to the broker, and its answer.
 *
 * One message is one SOCK_SEQPACKET packet: NUL-terminated KEY=VALUE strings, one after the other.
 * Keys are [A-Z0-9_]+ and come once each; values are arbitrary bytes without NUL (the kernel and
 * the device choose them: never trust one). The first string is always "VHOTPLUG=1", the version.
 * The answer is one byte: WIRE_TAKEN after the event is committed to disk, WIRE_REFUSED when it
 * can't be (the sender then spools it at once).
 *
 * From the helper:       ACTION=add|remove|bind, DEVPATH, SEQNUM, BOOT_ID, SYSFS_INODE (0 when the
 *                        directory is gone) and the udev properties listed in helper/property.h.
 * From vhotplug-gen-rules: ACTION=reconcile and nothing else: the rules have changed, udevd has
 *                        evaluated them for every device, bring all devices in line.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "helper/macro.h"

#define WIRE_VERSION "VHOTPLUG=1"
#define WIRE_MAX 8192 /* bytes in one message; longer ones are refused by both sides */
#define WIRE_TAKEN 'T'
#define WIRE_REFUSED 'R'

#define WIRE_SOCKET_NAME "event.sock" /* below VHOTPLUG_RUNDIR */
#define WIRE_SPOOL_NAME "spool"       /* below VHOTPLUG_RUNDIR: one message a file */

struct wire_msg {
	size_t len;
	char data[WIRE_MAX];
};

/* Makes MSG an empty message of this version. */
void wire_init(struct wire_msg *msg);

/* Appends KEY=VALUE. Returns 0; -EINVAL for a bad key; -EEXIST for a second KEY; -EMSGSIZE when
 * there is no room (MSG is unchanged then). */
int wire_add(struct wire_msg *msg, const char *key, const char *value) _must_check_;

/* Checks that the LEN bytes in MSG->data are a message as described above. Returns 0 or
 * -EBADMSG. Every other function may only be used on a message that passed. */
int wire_check(const struct wire_msg *msg) _must_check_;

/* The value of KEY, owned by MSG, or NULL when it is not there. */
const char *wire_get(const struct wire_msg *msg, const char *key);

/* The value of KEY as a decimal number. Returns 0 and the number in *RET; -ENOENT when KEY is not
 * there; -EINVAL when it is anything but one to twenty digits; -ERANGE above UINT64_MAX. */
int wire_get_number(const struct wire_msg *msg, const char *key, uint64_t *ret) _must_check_;
