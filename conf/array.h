/* Arrays that grow by one element at a time. */
#pragma once

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Appends a zeroed element to the heap array ARRAY (a pointer variable, NULL when empty) of N
 * elements, counts it in N and gives its address, or NULL when there is no memory (nothing has
 * changed then). The array's elements may move. */
#define ARRAY_APPEND(array, n) \
	((__typeof__(array)) array_append_zeroed((void **) &(array), &(n), sizeof(*(array))))

static inline void *array_append_zeroed(void **array, size_t *n, size_t size)
{
	/* Capacity is the next power of two, so it need not be stored. */
	if ((*n & (*n - 1)) == 0) {
		size_t capacity = *n > 0 ? *n * 2 : 1, bytes;
		void *grown;

		if (__builtin_mul_overflow(capacity, size, &bytes))
			return NULL;
		grown = realloc(*array, bytes);
		if (!grown)
			return NULL;
		*array = grown;
	}

	void *element = (char *) *array + *n * size;
	memset(element, 0, size);
	(*n)++;
	return element;
}
