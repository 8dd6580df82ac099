/* The PCI functions that a crosvm has: see crosvm_functions.h. Called by vmm_crosvm.c. */
#include "broker/crosvm_functions.h"

#include "broker/crosvm_vfio.h"
#include "broker/device.h"

struct crosvm_function {
	struct crosvm_function *next;
	struct crosvm_functions *all;
	char handle[96];
	bool was_arriving;
	bool is_out;
	struct vm_look look;
};

static void function_is_seen(void *data, enum vm_open open, const char *detail)
{
	struct crosvm_function *function = data;
	struct crosvm_functions *all = function->all;

	(void) detail;
	/* That it is open for others says nothing of one whose attach nobody saw the end of. */
	function->is_out = open == VM_OPEN_NO || open == VM_OPEN_ELSEWHERE ||
			   (open == VM_OPEN_SHARED && function->was_arriving);
	if (--all->n_asked == 0)
		all->done(all->data);
}

/* What can't be asked is there, as far as is known. */
static void look_at(struct crosvm_functions *all, const struct device *device)
{
	struct crosvm_function *function = calloc(1, sizeof(*function));

	if (!function)
		return;
	*function = (struct crosvm_function){
		.next = all->first,
		.all = all,
		.was_arriving = device->place.was_arriving,
		.look = {.seen = function_is_seen, .data = function},
	};
	snprintf(function->handle, sizeof(function->handle), "%s", device->place.handle);
	all->first = function;
	if (vm_ask_open(all->vm, device, &function->look) == 0)
		all->n_asked++;
}

void crosvm_functions_look(struct crosvm_functions *functions, void (*done)(void *data), void *data)
{
	crosvm_functions_clear(functions);
	functions->done = done;
	functions->data = data;
	for (const struct device *d = NULL; (d = vm_next_device(functions->vm, d));)
		if (d->record.state == DEVICE_ATTACHED &&
		    crosvm_vfio_is_current(functions->vm, d->place.handle))
			look_at(functions, d);
	if (functions->n_asked == 0)
		done(data);
}

void crosvm_functions_clear(struct crosvm_functions *functions)
{
	while (functions->first) {
		struct crosvm_function *function = functions->first;

		functions->first = function->next;
		vm_forget_look(functions->vm, &function->look);
		free(function);
	}
	functions->n_asked = 0;
}

static struct crosvm_function *find_function(const struct crosvm_functions *functions,
					     const char *handle)
{
	struct crosvm_function *function = functions->first;

	while (function && !streq(function->handle, handle))
		function = function->next;
	return function;
}

void crosvm_functions_forget(struct crosvm_functions *functions, const char *handle)
{
	struct crosvm_function *function = find_function(functions, handle);

	/* A look that is under way ends, and finds nothing of that name. */
	if (function)
		function->handle[0] = 0;
}

bool crosvm_functions_has(const struct crosvm_functions *functions, const struct device *device)
{
	const struct crosvm_function *function = find_function(functions, device->place.handle);

	return crosvm_vfio_is_current(functions->vm, device->place.handle) &&
	       !(function && function->is_out);
}
