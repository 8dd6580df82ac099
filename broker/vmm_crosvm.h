/* What the tests of the crosvm backend look at; everything else goes through vmm.h. */
#pragma once

#include "broker/vmm.h"

/* How patient the broker is with a crosvm, in ms where not said otherwise. */
struct crosvm_pace {
	unsigned answer;  /* for an answer, before the VM is said to be silent */
	unsigned command; /* for the crosvm program to end */
	unsigned
		first_wait; /* for a guest without USB driver, or without room; doubled each time */
	unsigned max_wait;
	unsigned attempts; /* how many of them */
};
extern struct crosvm_pace crosvm_pace;

/* How long to wait after N_BEFORE attempts, in ms. */
unsigned crosvm_wait_ms(unsigned n_before);
