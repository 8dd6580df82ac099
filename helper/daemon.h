/* A program that goes on when whoever started it has ended: vhotplug-mdev starts the broker so,
 * where no service manager does. */
#pragma once

#include "helper/macro.h"

/* Starts PROGRAM (a path) with the one ARGUMENT, as a daemon: it belongs to nobody, and outlives
 * whoever is waited for. What it says goes where ours goes. Returns 0, or -errno when there can't
 * be another process. */
int daemon_start(const char *program, const char *argument) _must_check_;
