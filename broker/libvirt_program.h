/* vhotplug-libvirt as a child process: packets to and from it (libvirt/words.h), and its end.
 *
 * It is started for a VM of type = libvirt and for nothing else, so that the broker itself needs no
 * libvirt. It may hang, as libvirt's calls do; it is then killed.
 */
#pragma once

#include <jansson.h>

#include "broker/loop.h"
#include "helper/macro.h"

struct libvirt_program;

struct libvirt_program_handler {
	/* It has said PACKET, an object. The program may be stopped here. */
	void (*said)(void *data, const json_t *packet);
	/* It has ended, or what it says is not understood: WHY in words. The program is gone when
	 * this is called; nothing else will come of it. */
	void (*ended)(void *data, const char *why);
};

/* Starts it for DOMAIN at URI, which are not needed after the call. Returns 0; -ENOENT: it is not
 * installed; another -errno. */
int libvirt_program_start(struct loop *loop, const char *uri, const char *domain,
			  const struct libvirt_program_handler *handler, void *data,
			  struct libvirt_program **ret_program) _must_check_;
/* Sends PACKET. Returns 0 or -errno: it can't be told anything any more then. */
int libvirt_program_send(struct libvirt_program *program, const json_t *packet) _must_check_;
/* Kills it; ended is not called. NULL is fine. Returns NULL. */
struct libvirt_program *libvirt_program_stop(struct libvirt_program *program);

/* For tests: PATH is started instead. */
void libvirt_program_set_path(const char *path);
