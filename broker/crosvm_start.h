/* What a crosvm process has from its command line, as far as PCI and input devices go, and from
 * others than us: it keeps no list of them. Its command line is its own word; that it has them is
 * the kernel's.
 *
 * A card has the bus in the guest that it has in the host. Those that are there from the start have
 * their buses made for them; the one port for what comes later has the first bus that is left, and
 * a card of another bus is never seen, though crosvm opens it and says that all is well. */
#pragma once

#include "broker/vm.h"

/* Which cards a crosvm that runs might take. */
struct crosvm_cards {
	unsigned bus;   /* where in the host one must be; 0: anywhere */
	char none[256]; /* why it takes none; "": it may */
};

/* Fills VM->cold and RET_CARDS, now that it is up. */
void crosvm_start_look(struct vm *vm, struct crosvm_cards *ret_cards);
/* See takes_card in vmm.h. */
bool crosvm_start_takes(const struct vm *vm, const struct crosvm_cards *cards,
			const struct device *device, char *reason, size_t size);
/* Does HANDLE stand for what it has from the command line? */
bool crosvm_start_is_handle(const char *handle);
