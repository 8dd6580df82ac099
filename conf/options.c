/* The table of options. conf/keys.c reads them, rules.d/write.c writes them into the rules, and the
 * broker reads them back. */
#include "conf/options.h"

#define OPTION_ROW(name, key, word) {OPTION_##name, key, word},
const struct option_row option_table[OPTIONS] = {OPTION_WORDS(OPTION_ROW)};

unsigned option_from_word(const char *word)
{
	for (size_t i = 0; i < OPTIONS; i++)
		if (streq(option_table[i].word, word))
			return option_table[i].bit;
	return 0;
}
