/* Jumps in the rules file: see writer.h. */
#include "rules.d/writer.h"

void write_goto(struct writer *w, struct target *target)
{
	fprintf(w->out, "GOTO=\"%s_%u\"\n", target->name, target->hop);
	target->used = true;
}

void write_label(struct writer *w, const struct target *target)
{
	if (target->used)
		fprintf(w->out, "LABEL=\"%s_%u\"\n", target->name, target->hop);
}

static void write_relay(struct writer *w, struct target *target)
{
	if (!target->used)
		return;
	fprintf(w->out, "LABEL=\"%s_%u\", GOTO=\"%s_%u\"\n", target->name, target->hop,
		target->name, target->hop + 1);
	target->hop++;
}

/* Lets jumps to A and B land and jump on; who is not jumping passes by. */
void write_relays(struct writer *w, struct target *a, struct target *b)
{
	unsigned skip = w->n_skips++;

	if (!a->used && !b->used)
		return;
	fprintf(w->out, "GOTO=\"vhp_skip_%u\"\n", skip);
	write_relay(w, a);
	write_relay(w, b);
	fprintf(w->out, "LABEL=\"vhp_skip_%u\"\n", skip);
}
