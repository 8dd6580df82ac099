/* Events that were acted upon and not kept: see acted.h. Used by the intake. */
#include "broker/acted.h"

#include "broker/event.h"

static uint64_t *find_number(struct acted *acted, uint64_t number)
{
	if (acted->n == 0 || number == 0)
		return NULL;
	for (size_t i = 0; i < ARRAY_SIZE(acted->numbers); i++)
		if (acted->numbers[i] == number)
			return &acted->numbers[i];
	return NULL;
}

bool acted_note(struct acted *acted, const struct event *event, bool is_kept)
{
	uint64_t *place = find_number(acted, event->seqnum);

	if (place && is_kept) {
		*place = 0;
		acted->n--;
	} else if (!place && !is_kept && event->seqnum) {
		acted->n += acted->numbers[acted->next] == 0;
		acted->numbers[acted->next] = event->seqnum;
		acted->next = (acted->next + 1) % ARRAY_SIZE(acted->numbers);
	}
	return event->is_new && !place;
}
