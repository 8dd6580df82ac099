/* The words of crosvm: what its control socket is asked and what it answers.
 *
 * SOCK_SEQPACKET, one JSON value a packet, the device's descriptor by SCM_RIGHTS. Requests of one
 * connection are answered in order; one that crosvm does not understand is not answered at all, so
 * whoever asks needs a deadline. Nothing here waits.
 * Sources: crosvm, vm_control/src/lib.rs (VmRequest, VmResponse, UsbControlCommand,
 * UsbControlResult), base/src/sys/unix/tube.rs.
 */
#pragma once

#include <stdint.h>

#include "helper/macro.h"

/* Ports of the hub, from 1: 1 to 8 take USB 2 devices, 9 to 16 USB 3 devices. */
#define CROSVM_PORTS 16

enum crosvm_answer {
	CROSVM_OK,                         /* done; PORT is 0 where there is none to tell */
	CROSVM_DEVICES,                    /* what is on the PORTS */
	CROSVM_NO_AVAILABLE_PORT,          /* hub full, or the guest has no USB driver yet */
	CROSVM_NO_SUCH_DEVICE,             /* descriptors unreadable; detach: port empty */
	CROSVM_NO_SUCH_PORT,               /* not said by today's crosvm */
	CROSVM_FAILED_TO_OPEN_DEVICE,      /* its event handler could not be set up */
	CROSVM_FAILED_TO_INIT_HOST_DEVICE, /* not said by today's crosvm */
	CROSVM_ERROR,                      /* see ERROR and TEXT */
};

struct crosvm_port {
	bool used;
	uint16_t vendor, product;
};

struct crosvm_reply {
	enum crosvm_answer answer;
	unsigned port;
	int error;      /* CROSVM_ERROR: an errno, or 0 when there is only TEXT */
	char text[200]; /* the answer in words, for people */
	struct crosvm_port ports[CROSVM_PORTS + 1]; /* CROSVM_DEVICES; by number, 0 is unused */
};

/* Send one request on FD. DEVICE_FD is an open /dev/bus/usb node and stays the caller's. The
 * request to attach is the one that every crosvm since 2021-01 understands. Return 0 or -errno;
 * -EAGAIN when crosvm reads so slowly that nothing fits any more. */
int crosvm_send_attach(int fd, int device_fd) _must_check_;
int crosvm_send_detach(int fd, unsigned port) _must_check_;
int crosvm_send_list(int fd) _must_check_;

/* Takes the next answer from FD. Returns 0, -EAGAIN when there is none yet, -ECONNRESET at the end
 * of the connection, -EBADMSG for what is no answer of crosvm's; another -errno. */
int crosvm_receive(int fd, struct crosvm_reply *ret_reply) _must_check_;

/* Understands the N bytes of one packet. Returns 0, or -EBADMSG for what is not JSON of a known
 * shape; a result whose name is not known is a CROSVM_ERROR. */
int crosvm_parse(const char *data, size_t n, struct crosvm_reply *ret_reply) _must_check_;
