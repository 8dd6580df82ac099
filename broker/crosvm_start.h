/* What a crosvm process has from its command line, as far as PCI devices go, and from others than
 * us: it keeps no list of them. Its command line is its own word; that it has the card is the
 * kernel's. */
#pragma once

#include "broker/vm.h"

/* Fills VM->cold and VM->no_cards, now that it is up. */
void crosvm_start_look(struct vm *vm);
/* Does HANDLE stand for a card from the command line? */
bool crosvm_start_is_handle(const char *handle);
