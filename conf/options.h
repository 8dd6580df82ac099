/* What a group or a rule can ask of the broker beyond the VM: one table for the config's key, the
 * word in VHOTPLUG_OPTIONS, and the bit that stands for both in the program. */
#pragma once

#include <stddef.h>

#include "helper/macro.h"

/* ROW(NAME, the key in the config, the word in the rules and from there to the broker). A row more
 * is a key more for groups and rules, yes or no, and a bit OPTION_NAME more. */
#define OPTION_LIST(ROW)                                                          \
	ROW(FORCE, "force", "force")                                              \
	ROW(IOMMU_ADD_ALL, "pciIommuAddAll", "iommu-add-all")                     \
	ROW(IOMMU_SKIP_IF_SHARED, "pciIommuSkipIfShared", "iommu-skip-if-shared") \
	ROW(NO_RESET, "usbNoReset", "no-reset")                                   \
	ROW(RESET, "reset", "reset")

/* With what a group alone says, by a key that is not yes or no. */
#define OPTION_WORDS(ROW) OPTION_LIST(ROW) ROW(ASK, "choose", "ask")

enum {
#define OPTION_NUMBER(name, key, word) OPTION_NUMBER_##name,
	OPTION_WORDS(OPTION_NUMBER)
#undef OPTION_NUMBER
		OPTIONS,
};

enum config_option {
#define OPTION_BIT(name, key, word) OPTION_##name = 1 << OPTION_NUMBER_##name,
	OPTION_WORDS(OPTION_BIT)
#undef OPTION_BIT
};

struct option_row {
	enum config_option bit;
	const char *key;
	const char *word;
};

extern const struct option_row option_table[OPTIONS];

/* The bit of the option called WORD in the rules, or 0 when there is none. */
unsigned option_from_word(const char *word);
