/* Memory that the broker holds and does not need: given back to the kernel when there is time for
 * it. Used by the snapshot, whose copies follow whatever has happened, and by the store in a
 * silence. */
#pragma once

/* Gives back what is free between what is in use. */
void memory_trim(void);

/* Lets go of the code and the constants, its own and the libraries', that were needed until now.
 * What is needed again comes back from the kernel's memory, in some forty steps of a few
 * microseconds: for once in a while, behind the start above all, of which most is not needed again.
 */
void memory_forget_code(void);
