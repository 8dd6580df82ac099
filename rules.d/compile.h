/* A config rule as what udev can test, before it becomes text. The rule writer prints it and
 * --explain evaluates it, so the two can't disagree. */
#pragma once

#include "conf/config.h"

/* What udev looks at. */
enum token_key {
	TOKEN_KERNEL,
	TOKEN_DEVPATH,
	TOKEN_ENV,
	TOKEN_ATTR,
	TOKEN_PROGRAM,
};

/* There while a VM has the USB device that an interface belongs to: broker/mark.h. Behind a test
 * of ATTRS{idVendor}. */
#define GIVEN VHOTPLUG_RUNDIR "/given/$id-$attr{devnum}"

/* The same while the broker refuses the device that a disk is on. */
#define REFUSED VHOTPLUG_RUNDIR "/refused/$id-$attr{devnum}"

/* Properties that the rules set before they test them, and that udev does not store: the name in
 * the hardware database and, only where it has none, the device's own. */
#define VENDOR_NAME ".VHOTPLUG_VENDOR"
#define PRODUCT_NAME ".VHOTPLUG_PRODUCT"

/* What an allow looks at is udev's list, which may lack some; what a deny looks at is complete, and
 * there only for a device that an allow of the group has taken. */
#define INTERFACES "ID_USB_INTERFACES"
#define ALL_INTERFACES ".VHOTPLUG_INTERFACES"

/* Subsystems of what is a radio or an adapter on USB: their input devices are no USB devices. */
#define BUSES_ON_USB "bluetooth|serio|i2c"

/* When udev's list can't be trusted, and is read again: when it is empty; when its end is missing,
 * as after a descriptor that contradicts itself; and from 280 bytes on, since udev stops at 72
 * interfaces (505 bytes). */
#define LOST_SEVEN "???????"
#define LOST_SEVENTY                                                                            \
	LOST_SEVEN LOST_SEVEN LOST_SEVEN LOST_SEVEN LOST_SEVEN LOST_SEVEN LOST_SEVEN LOST_SEVEN \
		LOST_SEVEN LOST_SEVEN
#define LOST_INTERFACES "|*[!:]|" LOST_SEVENTY LOST_SEVENTY LOST_SEVENTY LOST_SEVENTY "*"

/* KEY{NAME}=="PATTERN". PATTERN is udev's glob, alternatives with |, not yet quoted. For
 * TOKEN_PROGRAM it is the arguments of vhotplug-match. */
struct token {
	enum token_key key;
	const char *name; /* constant or owned by the config; NULL for keys without one */
	bool negate;      /* != ; never for ATTR, where udev takes a missing one for no match */
	char *pattern;
};

/* Tokens that must all hold: one rule line. */
struct conjunction {
	struct token *tokens;
	size_t n_tokens;
};

/* Alternatives, one of which must hold. */
struct stage {
	struct conjunction *lines;
	size_t n_lines;
};

/* How a field of a rule became tokens: for -v. */
struct field_note {
	const struct config_field *field;
	const char *why; /* NULL: exactly as globs; else why vhotplug-match has to look */
	size_t n_globs;
};

/* Stages that must all hold, in this order. None: every device matches. */
struct compiled_rule {
	struct stage *stages;
	size_t n_stages;
	struct field_note *notes;
	size_t n_notes;
};

#define RULE_LINE_BYTES 1000 /* every line is shorter */

/* Compiles RULE of a group of KIND. A deny is compiled so that a program that fails, or is not
 * there, counts as a match. Returns 0 or -ENOMEM. */
int rule_compile(const struct config_rule *rule, enum config_kind kind,
		 struct compiled_rule *ret) _must_check_;

/* The same for a single FIELD of RULE: for --explain. The interface fields are compiled together,
 * whichever of them is asked for. */
int field_compile(const struct config_rule *rule, enum config_kind kind,
		  const struct config_field *field, struct compiled_rule *ret) _must_check_;

/* Whether COMPILED looks at what only a program can tell. */
bool compiled_needs_interfaces(const struct compiled_rule *compiled);
bool compiled_needs_program(const struct compiled_rule *compiled);

/* Frees what it holds, not COMPILED itself. */
void compiled_finish(struct compiled_rule *compiled);
