/* Texts that are kept for long, above all those of devices: each is there once, however many hold
 * it. Most devices have most of theirs in common with others (a rule, a VM, a reason), and what is
 * not known of a device takes no room.
 *
 * A field of type kept_text holds what it points at, until it is set anew or dropped; it is read
 * like any string, and never changed in place. NULL and a literal may stand in a field too: they
 * hold nothing. Where there is no memory for a text the process ends: what it knew is on disk, and
 * the next start goes on from there, as after a kill.
 */
#pragma once

#include <stddef.h>

#include "helper/macro.h"

typedef const char *kept_text;

#define KEPT_SIZE 512 /* no text is longer, its NUL included */

/* *AT is TEXT from now on, cut to KEPT_SIZE; TEXT may be what *AT is now. */
void kept_set(kept_text *at, const char *text);
/* The same with FROM as it can be shown to a person, cut to SIZE bytes: see text_clean. */
void kept_clean(kept_text *at, size_t size, const char *from);
/* *AT is "" from now on. */
void kept_drop(kept_text *at);

/* For all fields of a struct: OFFSETS has where they are in it. */
struct kept_fields {
	const size_t *offsets;
	size_t n;
};
/* Those that are NULL are "" from now on. */
void kept_init_fields(void *object, struct kept_fields fields);
/* OBJECT has the bytes of another one: now it holds its texts as well. */
void kept_hold_fields(void *object, struct kept_fields fields);
void kept_drop_fields(void *object, struct kept_fields fields);

/* A number that is the same for the same text, and seldom for others. */
size_t kept_hash(const char *text);

/* How many different texts are held. */
size_t kept_count(void);
