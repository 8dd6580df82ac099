/* What a crosvm process has from its command line, as far as PCI devices go, and from others than
 * us: it keeps no list of them. Its command line is its own word; that it has the card is the
 * kernel's.
 *
 * A card has the bus in the guest that it has in the host. Those that are there from the start have
 * their buses made for them; the one port for what comes later has the first bus that is left, and
 * a card of another bus is never seen, though crosvm opens it and says that all is well. */
#pragma once

#include "broker/vm.h"

/* Fills VM->cold, VM->card_bus and VM->no_cards, now that it is up. */
void crosvm_start_look(struct vm *vm);
/* Does HANDLE stand for a card from the command line? */
bool crosvm_start_is_handle(const char *handle);
