/* Why a VMM could not open a device's node, where that is not the node's owner: it may have a /dev
 * of its own (libvirt), or AppArmor, SELinux or its cgroup may keep it out. */
#pragma once

#include "broker/peer.h"

/* TEXT is the VMM's error, PEER its process. Writes "; …", what is in the way and what to do, or ""
 * when the error is about no node of /dev or nothing is known. Does not wait, whatever the
 * process has mounted. */
void confinement_explain(const struct peer *peer, const char *text, char *ret_words, size_t size);
