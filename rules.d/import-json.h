/* Looking at vhotplug's JSON, for its importer's parts: import-vhotplug.c (VMs, groups, rules) and
 * import-vhotplug-general.c (what holds for all). */
#pragma once

#include <jansson.h>

#include "rules.d/import-pen.h"

/* The text under KEY; NULL when it is none, or empty. */
static inline const char *text_of(json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text && *text ? text : NULL;
}

static inline long number_of(json_t *object, const char *key)
{
	json_t *value = json_object_get(object, key);

	return json_is_integer(value) ? (long) json_integer_value(value) : 0;
}

static inline bool is_true(json_t *value)
{
	return json_is_true(value) || (json_is_integer(value) && json_integer_value(value) != 0);
}

/* "disable" counts before "enable". */
static inline bool is_disabled(json_t *object)
{
	json_t *disable = json_object_get(object, "disable");
	json_t *enable = json_object_get(object, "enable");

	return disable ? is_true(disable) : enable ? !is_true(enable) : false;
}

/* Notes the keys of OBJECT that are not in KNOWN, a list that ends with NULL, and say anything. */
void import_note_others(struct importer *i, json_t *object, const char *what,
			const char *const *known);

/* [general] and [api]. */
void import_general(struct importer *i, json_t *root, bool attach_connected);
/* Does [general] have the firmware that autoOvmf needs? */
bool import_has_firmware(json_t *root);
/* The ACPI tables of the VM called NAME, as a line of its section. */
void import_acpi(struct importer *i, json_t *root, const char *name);
