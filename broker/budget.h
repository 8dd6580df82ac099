/* How much of something one VM may have of the broker: bytes, log lines, looks.
 *
 * A budget is a bucket that fills by RATE a second up to SIZE; what is taken from it may be at
 * once. It lives in its owner's struct.
 */
#pragma once

#include <stdint.h>

#include "helper/macro.h"

struct budget {
	uint64_t size, rate; /* in whatever is counted; a second */
	int64_t left;        /* thousandths; below 0: owed */
	uint64_t at;         /* ms: when LEFT was true */
};

/* What a read costs at least: one byte at a time is not to be cheaper than all at once. */
#define BUDGET_MIN_READ 512

/* A full one. */
void budget_init(struct budget *budget, uint64_t size, uint64_t rate);

/* Takes AMOUNT if there is so much, at the time NOW in ms. */
bool budget_take(struct budget *budget, uint64_t amount, uint64_t now);
/* Takes AMOUNT all the same: it has been used already. */
void budget_use(struct budget *budget, uint64_t amount, uint64_t now);
/* In how many ms there is AMOUNT (at most SIZE); 0: now. */
uint64_t budget_wait(struct budget *budget, uint64_t amount, uint64_t now);
