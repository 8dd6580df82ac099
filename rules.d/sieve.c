/* The sieve in front of many rules: see sieve.h. All that their lines need is put together by what
 * it looks at, each value once. Names, which are the dearest to compare, are cut down to four
 * letters that as many of them as possible share: whatever matches `*ethernet adapter*` matches
 * `*ethe*`. */
#include "rules.d/sieve.h"

#include <ctype.h>

#include "conf/array.h"

#define LINE_BYTES 900 /* of values in a line */
#define FEW 8          /* so many globs are left as they are */

/* Four letters in a row, in either case, as a number. */
#define RUN 4
#define ALPHABET 26
#define RUNS (ALPHABET * ALPHABET * ALPHABET * ALPHABET)
#define LETTER_BYTES 4 /* [Ee] */

/* What is looked for in one place. */
struct wanted {
	const struct token *key;
	char **plain; /* values that are compared as they are */
	size_t n_plain;
	char **globs;
	size_t n_globs;
};

static bool has_empty_alternative(const char *pattern)
{
	size_t n = strlen(pattern);

	return n == 0 || pattern[0] == '|' || pattern[n - 1] == '|' || strstr(pattern, "||");
}

const struct token *token_needed(const struct conjunction *line)
{
	for (size_t i = 0; i < line->n_tokens; i++) {
		const struct token *token = &line->tokens[i];

		if (!token->negate && token->key != TOKEN_PROGRAM &&
		    !has_empty_alternative(token->pattern))
			return token;
	}
	return NULL;
}

bool token_same_key(const struct token *a, const struct token *b)
{
	return a->key == b->key &&
	       (a->name == b->name || (a->name && b->name && streq(a->name, b->name)));
}

void token_write_key(FILE *out, const struct token *token)
{
	static const char *const keys[] = {
		[TOKEN_KERNEL] = "KERNEL", [TOKEN_DEVPATH] = "DEVPATH", [TOKEN_ENV] = "ENV",
		[TOKEN_ATTR] = "ATTR",     [TOKEN_PROGRAM] = "PROGRAM",
	};

	fputs(keys[token->key], out);
	if (token->name)
		fprintf(out, "{%s}", token->name);
	fputs(token->negate ? "!=" : "==", out);
}

void token_write_value(FILE *out, const char *value)
{
	for (; *value; value++) {
		if (*value == '"')
			fputc('\\', out);
		fputc(*value, out);
	}
}

bool sieve_can_tell(const struct compiled_rule *rule)
{
	if (rule->n_stages == 0)
		return false;
	for (size_t i = 0; i < rule->stages[0].n_lines; i++)
		if (!token_needed(&rule->stages[0].lines[i]))
			return false;
	return true;
}

static struct wanted *find_wanted(struct sieve *sieve, const struct token *token)
{
	struct wanted *wanted;

	for (size_t i = 0; i < sieve->n_wanted; i++)
		if (token_same_key(sieve->wanted[i].key, token))
			return &sieve->wanted[i];
	wanted = ARRAY_APPEND(sieve->wanted, sieve->n_wanted);
	if (wanted)
		wanted->key = token;
	return wanted;
}

static int add_value(struct wanted *wanted, const char *value, size_t n)
{
	char *copy = strndup(value, n);
	char **slot = NULL;

	if (copy)
		slot = strpbrk(copy, "*?[") ? ARRAY_APPEND(wanted->globs, wanted->n_globs)
					    : ARRAY_APPEND(wanted->plain, wanted->n_plain);
	if (!slot) {
		free(copy);
		return -ENOMEM;
	}
	*slot = copy;
	return 0;
}

int sieve_add(struct sieve *sieve, const struct compiled_rule *rule)
{
	for (size_t i = 0; i < rule->stages[0].n_lines; i++) {
		const struct token *token = token_needed(&rule->stages[0].lines[i]);
		struct wanted *wanted = find_wanted(sieve, token);
		const char *rest = token->pattern;

		for (size_t n; wanted; rest += n + 1) {
			n = strcspn(rest, "|");
			if (add_value(wanted, rest, n) < 0)
				return -ENOMEM;
			if (!rest[n])
				break;
		}
		if (!wanted)
			return -ENOMEM;
	}
	sieve->n_rules++;
	return 0;
}

/* The letter that GLOB begins with in either case, as [Ee] has it, counted from 0; -1: something
 * else. */
static int letter_at(const char *glob)
{
	if (glob[0] != '[' || !isalpha((unsigned char) glob[1]) ||
	    !isalpha((unsigned char) glob[2]) || glob[3] != ']' || glob[1] == glob[2] ||
	    tolower((unsigned char) glob[1]) != tolower((unsigned char) glob[2]))
		return -1;
	return tolower((unsigned char) glob[1]) - 'a';
}

/* How many bytes of GLOB stand for one character, or for any number; 0: not worth understanding. */
static size_t element_bytes(const char *glob)
{
	size_t n;

	if (glob[0] != '[')
		return glob[0] != '\0' && glob[0] != '\\';
	n = strcspn(glob + 1, "[]\\") + 2;
	return n > 2 && glob[n - 1] == ']' && glob[1] != '!' && glob[1] != '^' ? n : 0;
}

/* The four letters that GLOB begins with, as a number, or -1. */
static int run_at(const char *glob)
{
	int run = 0;

	for (unsigned i = 0; i < RUN; i++) {
		int letter = letter_at(glob + (size_t) i * LETTER_BYTES);

		if (letter < 0)
			return -1;
		run = run * ALPHABET + letter;
	}
	return run;
}

/* The next run in GLOB behind *AT, or -1. */
static int next_run(const char *glob, size_t *at)
{
	for (size_t n; (n = element_bytes(glob + *at)) > 0;) {
		int run = run_at(glob + *at);

		*at += n;
		if (run >= 0)
			return run;
	}
	return -1;
}

static void count_runs(const struct wanted *wanted, unsigned *counts)
{
	for (size_t i = 0; i < wanted->n_globs; i++) {
		size_t at = 0;

		for (int run; (run = next_run(wanted->globs[i], &at)) >= 0;)
			counts[run]++;
	}
}

/* The run of GLOB that most globs have; its beginning, where that is fixed. */
static int choose_run(const char *glob, const unsigned *counts)
{
	int best = run_at(glob);
	size_t at = 0;

	if (best >= 0)
		return best;
	for (int run; (run = next_run(glob, &at)) >= 0;)
		if (best < 0 || counts[run] > counts[best])
			best = run;
	return best;
}

/* What matches wherever GLOB does, and asks for no more than RUN, which is in it. */
static char *glob_of_run(const char *glob, int run)
{
	bool at_start = run_at(glob) == run;
	char text[2 + RUN * LETTER_BYTES + 1], *to = text + 1 + (size_t) RUN * LETTER_BYTES;

	strcpy(to, "*");
	for (unsigned i = 0; i < RUN; i++, run /= ALPHABET) {
		to -= LETTER_BYTES;
		to[0] = '[';
		to[1] = (char) ('A' + run % ALPHABET);
		to[2] = (char) ('a' + run % ALPHABET);
		to[3] = ']';
	}
	text[0] = '*';
	return strdup(at_start ? to : text);
}

static int shorten_wanted(struct wanted *wanted)
{
	_cleanup_free_ unsigned *counts = NULL;

	if (wanted->n_globs <= FEW)
		return 0;
	counts = calloc(RUNS, sizeof(*counts));
	if (!counts)
		return -ENOMEM;
	count_runs(wanted, counts);
	for (size_t i = 0; i < wanted->n_globs; i++) {
		int run = choose_run(wanted->globs[i], counts);
		char *shorter = run >= 0 ? glob_of_run(wanted->globs[i], run) : NULL;

		if (run >= 0 && !shorter)
			return -ENOMEM;
		if (run < 0)
			continue;
		free(wanted->globs[i]);
		wanted->globs[i] = shorter;
	}
	return 0;
}

static int compare_weight(const void *a, const void *b)
{
	return strcmp(*(char *const *) a, *(char *const *) b);
}

static size_t value_bytes(const char *value)
{
	size_t n = 1;

	for (; *value; value++)
		n += *value == '"' ? 2 : 1;
	return n;
}

/* Prints each of VALUES once, as many in a line as it takes. */
static void write_values(const struct wanted *wanted, char **values, size_t n, FILE *out,
			 const char *label)
{
	size_t bytes = 0;

	if (n > 0)
		qsort(values, n, sizeof(*values), compare_weight);
	for (size_t i = 0; i < n; i++) {
		size_t more = value_bytes(values[i]);

		if (i > 0 && streq(values[i], values[i - 1]))
			continue;
		if (bytes > 0 && bytes + more > LINE_BYTES) {
			fprintf(out, "\", GOTO=\"%s\"\n", label);
			bytes = 0;
		}
		if (bytes == 0)
			token_write_key(out, wanted->key);
		fputc(bytes == 0 ? '"' : '|', out);
		token_write_value(out, values[i]);
		bytes += more;
	}
	if (bytes > 0)
		fprintf(out, "\", GOTO=\"%s\"\n", label);
}

int sieve_write(struct sieve *sieve, FILE *out, const char *label)
{
	for (size_t i = 0; i < sieve->n_wanted; i++) {
		struct wanted *wanted = &sieve->wanted[i];

		if (shorten_wanted(wanted) < 0)
			return -ENOMEM;
		write_values(wanted, wanted->plain, wanted->n_plain, out, label);
		write_values(wanted, wanted->globs, wanted->n_globs, out, label);
	}
	return 0;
}

static void free_values(char **values, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(values[i]);
	free(values);
}

void sieve_finish(struct sieve *sieve)
{
	for (size_t i = 0; i < sieve->n_wanted; i++) {
		free_values(sieve->wanted[i].plain, sieve->wanted[i].n_plain);
		free_values(sieve->wanted[i].globs, sieve->wanted[i].n_globs);
	}
	free(sieve->wanted);
	*sieve = (struct sieve){0};
}
