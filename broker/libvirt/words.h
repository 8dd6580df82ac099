/* What the broker and vhotplug-libvirt say to each other: one JSON object a packet, on a
 * SOCK_SEQPACKET socketpair that the child has as descriptor LIBVIRT_FD.
 *
 * Requests carry an "id", which the answer repeats; one is under way at a time.
 *
 *   {"id":1,"do":"look"}
 *       →
 * {"id":1,"is":"running"|"off"|"absent"|"unreachable","run":RUN,"detail":WORDS,"aliases":[…]} RUN
 * tells one start of the domain from the next (libvirt's domain id, -1 when it is off).
 *   {"id":2,"do":"attach","alias":"ua-vhp-…","kind":"usb","bus":1,"device":5,
 *    "ids":"046d:c52b"}
 *   {"id":2,"do":"attach","alias":"ua-vhp-…","kind":"pci","address":"0000:03:00.0"}
 *   {"id":2,"do":"attach","alias":"ua-vhp-…","kind":"evdev","node":"/dev/input/event3"}
 *   {"id":3,"do":"detach","alias":"ua-vhp-…"}
 *       → {"id":2,"outcome":"ok"|"gone"|"pending"|"retry"|"unknown"|"failed",
 *          "detail":WORDS}
 *         pending (detach): the guest has been asked, and has not let go yet; "removed" follows.
 *         unknown (attach): the domain may have it.
 *
 * Unasked: {"event":"changed"}: the domain has started, ended, come or gone, or libvirt has: look
 * again. {"event":"removed","alias":…}, {"event":"refused","alias":…}: what a pending detach has
 * come to.
 *
 * The child ends when the broker closes its end.
 */
#pragma once

#define LIBVIRT_FD 3
#define LIBVIRT_PACKET_BYTES 65536
