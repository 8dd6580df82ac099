/* The kernel's routing tables, all of them (/proc/net/route has one), as the network namespace that
 * the broker runs in has them. For the jobs of the worker only: may block for a moment.
 *
 * Source: rtnetlink(7), RTM_GETROUTE. */
#pragma once

#include <net/if.h>
#include <stdint.h>

#include "helper/macro.h"

/* Calls FN for each default route of FAMILY that leads anywhere, once for each interface that it
 * may go out by; FN returns 0, or -errno to end it. Returns 0 or -errno. */
typedef int (*routes_fn)(void *data, uint32_t table, const char *interface);
int routes_each_default(int family, routes_fn fn, void *data) _must_check_;

/* The interface by which the host reaches ADDRESS, "192.0.2.1", "2001:db8::1" or "fe80::1%2".
 * Returns 0; -EINVAL for what is no address; -ENETUNREACH or -EHOSTUNREACH where there is no way to
 * it; another -errno when that can't be told. */
int routes_find(const char *address, char ret_interface[IF_NAMESIZE]) _must_check_;
