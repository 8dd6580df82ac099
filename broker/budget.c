/* Budgets: see budget.h. */
#include "broker/budget.h"

void budget_init(struct budget *budget, uint64_t size, uint64_t rate)
{
	*budget = (struct budget){.size = size, .rate = rate, .left = (int64_t) size * 1000};
}

/* RATE a second is RATE thousandths a millisecond. */
static void fill_budget(struct budget *budget, uint64_t now)
{
	uint64_t passed = now > budget->at ? now - budget->at : 0;
	uint64_t room = (uint64_t) ((int64_t) budget->size * 1000 - budget->left);

	budget->at = now;
	budget->left += (int64_t) (passed > room / budget->rate ? room : passed * budget->rate);
}

bool budget_take(struct budget *budget, uint64_t amount, uint64_t now)
{
	fill_budget(budget, now);
	if (budget->left < (int64_t) amount * 1000)
		return false;
	budget->left -= (int64_t) amount * 1000;
	return true;
}

void budget_use(struct budget *budget, uint64_t amount, uint64_t now)
{
	fill_budget(budget, now);
	budget->left -= (int64_t) amount * 1000;
}

uint64_t budget_wait(struct budget *budget, uint64_t amount, uint64_t now)
{
	int64_t missing;

	fill_budget(budget, now);
	missing = (int64_t) amount * 1000 - budget->left;
	return missing <= 0 ? 0 : ((uint64_t) missing + budget->rate - 1) / budget->rate;
}
