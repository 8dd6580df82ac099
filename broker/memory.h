/* Memory that the broker holds and does not need: given back to the kernel when there is time for
 * it. Used by the snapshot, whose copies follow whatever has happened, by the store in a silence,
 * and by attend when nothing is to be done. */
#pragma once

/* Gives back what is free between what is in use. */
void memory_trim(void);

/* Lets go of the code and the constants, its own and the libraries', that were needed until now.
 * What is needed again comes back from the kernel's memory, in some fifty steps of a few
 * microseconds: for the end of the start, and a long silence. */
void memory_forget_code(void);
