/* In the place of broker/memory.c's functions, for tests that are linked with --wrap: how often
 * they were called. */
#pragma once

static unsigned n_trimmed, n_forgotten;

void __wrap_memory_trim(void);
void __wrap_memory_trim(void)
{
	n_trimmed++;
}

void __wrap_memory_forget_code(void);
void __wrap_memory_forget_code(void)
{
	n_forgotten++;
}
