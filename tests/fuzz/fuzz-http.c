/* Any bytes as an HTTP answer: refused or taken, and no beginning of it is judged otherwise. */
#include <stdint.h>

#include "broker/http.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *text = (const char *) data;
	struct http_answer answer, part;
	int r = http_parse(text, size, false, &answer), r_end = http_parse(text, size, true, &part);
	unsigned sum = 0;

	if (r_end == -EAGAIN || (r != -EAGAIN && r != r_end))
		abort();
	for (size_t i = 0; r == 0 && i < answer.length; i++)
		sum += (unsigned char) answer.body[i];
	/* What is whole was not whole before; what is wrong may only become wrong. */
	int r_part = size > 0 ? http_parse(text, size - 1, false, &part) : -EAGAIN;
	if (r == 0 && r_part != -EAGAIN)
		abort();
	return sum == UINT32_MAX;
}
