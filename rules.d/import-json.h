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

/* What Python takes for true: all but null, false, 0, and what is empty. */
static inline bool is_true(json_t *value)
{
	return json_is_true(value) || (json_is_number(value) && json_number_value(value) != 0.0) ||
	       json_string_length(value) > 0 || json_array_size(value) > 0 ||
	       json_object_size(value) > 0;
}

/* The number under KEY, 0 if it says nothing. False when it is something else, which equals no
 * number. */
static inline bool read_number(json_t *object, const char *key, long *ret)
{
	json_t *value = json_object_get(object, key);
	double number = json_is_true(value) ? 1 : json_number_value(value);

	*ret = number > -1e6 && number < 1e6 ? (long) number : -1;
	return !is_true(value) || json_is_true(value) || json_is_integer(value) ||
	       (json_is_real(value) && number == (double) *ret);
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
