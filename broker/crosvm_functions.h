/* Which of the PCI functions on record a crosvm VM has, for its probe. crosvm keeps no list of
 * them, so the kernel is asked whether their IOMMU groups are open. One look at a time.
 */
#pragma once

#include "broker/vm.h"

struct crosvm_function;

struct crosvm_functions {
	struct vm *vm;
	struct crosvm_function *first; /* those that were looked at */
	size_t n_asked;                /* and have not been answered yet */
	void (*done)(void *data);
	void *data;
};

/* Looks at all that this very process has by our book; DONE is called once, perhaps before the call
 * returns. */
void crosvm_functions_look(struct crosvm_functions *functions, void (*done)(void *data),
			   void *data);
/* Stops a look, whose DONE is not called then, and forgets what was seen. */
void crosvm_functions_clear(struct crosvm_functions *functions);
/* A request for HANDLE begins: what was seen of it counts no more. */
void crosvm_functions_forget(struct crosvm_functions *functions, const char *handle);
/* Has VM got DEVICE, which is in it by our book, as far as is known? Also while it is looked at. */
bool crosvm_functions_has(const struct crosvm_functions *functions, const struct device *device);
