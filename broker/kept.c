/* A table of texts that counts who holds them: see kept.h. */
#include "broker/kept.h"

#include <stdint.h>

#include "broker/log.h"
#include "helper/text.h"

#define MIN_CHAINS 64
#define MAX_LENGTH 4 /* of a chain, on the average */

struct text {
	struct text *next; /* in its chain */
	unsigned n_holders;
	char words[];
};

static struct text **chains;
static size_t n_chains, n_texts;

/* FNV-1a */
size_t kept_hash(const char *words)
{
	uint64_t h = 0xcbf29ce484222325;

	for (; *words; words++)
		h = (h ^ (unsigned char) *words) * 0x100000001b3;
	return (size_t) (h ^ h >> 32);
}

static struct text **chain_of(const char *words)
{
	return &chains[kept_hash(words) & (n_chains - 1)];
}

static void *need_memory(void *memory)
{
	if (memory)
		return memory;
	log_error("out of memory");
	_exit(EXIT_FAILURE);
}

/* No chain is long, whatever the number of texts. */
static void make_chains(void)
{
	struct text **former = chains;
	size_t n_former = n_chains;

	n_chains = n_former ? 2 * n_former : MIN_CHAINS;
	chains = need_memory(calloc(n_chains, sizeof(struct text *)));
	for (size_t i = 0; i < n_former; i++)
		while (former[i]) {
			struct text *text = former[i], **chain = chain_of(text->words);

			former[i] = text->next;
			text->next = *chain;
			*chain = text;
		}
	free(former);
}

static struct text *find_text(const char *words)
{
	struct text *text = n_chains ? *chain_of(words) : NULL;

	while (text && !streq(text->words, words))
		text = text->next;
	return text;
}

static struct text *add_text(const char *words, size_t length)
{
	if (n_texts >= MAX_LENGTH * n_chains)
		make_chains();
	struct text *text = need_memory(malloc(offsetof(struct text, words) + length + 1));
	struct text **chain = chain_of(words);

	text->next = *chain;
	text->n_holders = 0;
	memcpy(text->words, words, length + 1);
	*chain = text;
	n_texts++;
	return text;
}

static kept_text hold_words(const char *words)
{
	char cut[KEPT_SIZE];
	size_t length = strlen(words);

	if (length == 0)
		return "";
	if (length >= sizeof(cut)) {
		text_words(cut, sizeof(cut), "%s", words);
		return hold_words(cut);
	}
	struct text *text = find_text(words);
	if (!text)
		text = add_text(words, length);
	text->n_holders++;
	return text->words;
}

/* A literal is in no chain. */
static void drop_words(kept_text words)
{
	if (!words || !*words || n_chains == 0)
		return;
	for (struct text **at = chain_of(words); *at; at = &(*at)->next) {
		struct text *text = *at;

		if (text->words != words)
			continue;
		if (--text->n_holders == 0) {
			*at = text->next;
			free(text);
			n_texts--;
		}
		return;
	}
}

void kept_set(kept_text *at, const char *text)
{
	kept_text former = *at;

	*at = hold_words(text);
	drop_words(former);
}

void kept_clean(kept_text *at, size_t size, const char *from)
{
	char clean[KEPT_SIZE];

	text_clean(clean, size < sizeof(clean) ? size : sizeof(clean), from);
	kept_set(at, clean);
}

void kept_drop(kept_text *at)
{
	kept_set(at, "");
}

static kept_text *field_at(void *object, size_t offset)
{
	return (kept_text *) ((char *) object + offset);
}

void kept_init_fields(void *object, struct kept_fields fields)
{
	for (size_t i = 0; i < fields.n; i++)
		if (!*field_at(object, fields.offsets[i]))
			*field_at(object, fields.offsets[i]) = "";
}

void kept_hold_fields(void *object, struct kept_fields fields)
{
	for (size_t i = 0; i < fields.n; i++) {
		kept_text *at = field_at(object, fields.offsets[i]);

		*at = *at ? hold_words(*at) : "";
	}
}

void kept_drop_fields(void *object, struct kept_fields fields)
{
	for (size_t i = 0; i < fields.n; i++)
		kept_drop(field_at(object, fields.offsets[i]));
}

size_t kept_count(void)
{
	return n_texts;
}
