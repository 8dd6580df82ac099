/* Memory that the broker holds and does not need: given back to the kernel when there is time for
 * it. Used by the snapshot, whose copies follow whatever has happened, and by the store in a
 * silence. */
#pragma once

/* Gives back what is free between what is in use. */
void memory_trim(void);

/* Lets go of the code and the constants, its own and the libraries', that were needed until now.
 * Each page that is needed again comes back from the kernel's memory, some microseconds later: for
 * once, behind the start, of which most is never needed again. */
void memory_forget_code(void);
