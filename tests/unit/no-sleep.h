/* The code under test does not sleep: for tests linked with -Wl,--wrap=usleep. */
#pragma once

#include <unistd.h>

int __wrap_usleep(useconds_t us);
int __wrap_usleep(useconds_t us)
{
	(void) us;
	return 0;
}
