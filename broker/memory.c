/* Gives memory back: see memory.h. Called by the snapshot, the store and attend. */
#include "broker/memory.h"

#include <link.h>
#include <malloc.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAX_PARTS 32 /* of a program or library; a dozen are usual */

void memory_trim(void)
{
#ifdef __GLIBC__
	malloc_trim(0);
#endif
}

/* The loader has written addresses into its code: it is not what the file has. */
static bool has_changed_code(const struct dl_phdr_info *object)
{
	for (size_t i = 0; i < object->dlpi_phnum; i++) {
		const ElfW(Phdr) *part = &object->dlpi_phdr[i];

		if (part->p_type != PT_DYNAMIC)
			continue;
		const ElfW(Dyn) *entry = (const void *) (object->dlpi_addr + part->p_vaddr);
		for (; entry->d_tag != DT_NULL; entry++)
			if (entry->d_tag == DT_TEXTREL ||
			    (entry->d_tag == DT_FLAGS && (entry->d_un.d_val & DF_TEXTREL)))
				return true;
	}
	return false;
}

static void forget_part(const struct dl_phdr_info *object, const ElfW(Phdr) * part, uintptr_t page)
{
	uintptr_t from = (object->dlpi_addr + part->p_vaddr) & ~(page - 1);
	uintptr_t to = object->dlpi_addr + part->p_vaddr + part->p_filesz;

	madvise((void *) from, to - from, MADV_DONTNEED);
}

/* What can't be written is what the file has. The table of the parts is in one of them, and to read
 * it brings that back. */
static int forget_object(struct dl_phdr_info *object, size_t size, void *data)
{
	ElfW(Phdr) parts[MAX_PARTS];
	size_t n = object->dlpi_phnum < MAX_PARTS ? object->dlpi_phnum : MAX_PARTS;

	(void) size;
	if (has_changed_code(object))
		return 0;
	memcpy(parts, object->dlpi_phdr, n * sizeof(parts[0]));
	for (size_t i = 0; i < n; i++)
		if (parts[i].p_type == PT_LOAD && !(parts[i].p_flags & PF_W))
			forget_part(object, &parts[i], *(const uintptr_t *) data);
	return 0;
}

void memory_forget_code(void)
{
	uintptr_t page = (uintptr_t) sysconf(_SC_PAGESIZE);

	dl_iterate_phdr(forget_object, &page);
}
