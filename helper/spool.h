/* The directory where events wait for a broker that is not there: RUN_DIR/spool, one message a
 * file, named by its SEQNUM in twenty digits. The helper writes, the broker reads; both sides
 * live in spool.c.
 *
 * A file appears whole, by rename (IN_MOVED_TO for whoever watches the directory). Names that
 * start with a dot are no events.
 *
 * The cap: when SPOOL_MAX events are waiting, a new event takes the place of the oldest one of the
 * same DEVPATH. The broker goes by the last event of a device anyway, so a stick that flaps all
 * night costs lines of history and nothing else. Only where no event of that device is waiting is
 * the new one lost, and then the mark ".lost" tells the broker to look at every device. Helpers
 * that run at the same moment may overshoot the cap by their number.
 */
#pragma once

#include <stdint.h>

#include "helper/wire.h"

#define SPOOL_MAX 1024 /* events */

/* Opens RUN_DIR/spool, and makes RUN_DIR (0755) and the spool (0700) where they are missing,
 * whatever the umask. Returns 0 and a directory descriptor that the caller closes; -ENOTDIR or
 * -ELOOP when one of them is a symbolic link or no directory; -EPERM when one belongs to another
 * user than ours or others may write to it; another -errno. Sets the umask for a moment: not for
 * programs with threads. */
int spool_open(const char *run_dir, int *ret_dir_fd) _must_check_;

/* Writes MSG, which must have a SEQNUM and a DEVPATH, to the spool. Returns 0; -ENOBUFS at the
 * cap (see above); -EINVAL when SEQNUM or DEVPATH is missing; another -errno. With an error the
 * event is not there. */
int spool_put(int dir_fd, const struct wire_msg *msg) _must_check_;

/* Leaves the mark that an event was lost. Returns 1 when this is the first since the broker last
 * looked (worth a line in the log), 0 when the mark was there, or a -errno. */
int spool_mark_lost(int dir_fd);

/* Returns 1 and takes the mark away when an event was lost since the last call: what udev's
 * database says now must be compared for every device. 0 when none was, or a -errno. */
int spool_take_lost(int dir_fd);

/* Lists what is waiting, in the order of SEQNUM, into a new array (free it). Removes temporary
 * files older than a minute, which a killed helper left. Returns 0 or a -errno. */
int spool_list(int dir_fd, uint64_t **ret_seqnums, size_t *ret_n) _must_check_;

/* Reads one event. Returns 0; -ENOENT when it has gone; -EPERM when the file belongs to another
 * user than ours; -EBADMSG when it is no regular file, is too long, is no message or is another
 * event than its name says. -EPERM and -EBADMSG never heal: say so and remove the file. */
int spool_read(int dir_fd, uint64_t seqnum, struct wire_msg *ret_msg) _must_check_;

/* Removes one event, after it was committed. Returns 0, also when it had gone, or a -errno. */
int spool_remove(int dir_fd, uint64_t seqnum);
