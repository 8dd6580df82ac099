/* A reader for Bash assignments. Called by import-libvirt.c. What it does not know it refuses: half
 * of a config that is a program would be another config. */
#include "rules.d/import-bash.h"

#include <ctype.h>

#include "conf/array.h"

/* A word while it is read. */
struct word {
	char text[256];
	size_t n;
	bool any; /* quotes make a word, even an empty one */
};

static void next_byte(struct bash_reader *r)
{
	if (*r->at == '\n')
		r->line++;
	r->at++;
}

/* Skips blanks, joined lines and comments; with LINES, ends of lines and ; too. */
static void skip_space(struct bash_reader *r, bool lines)
{
	for (;;) {
		if (*r->at == '#')
			r->at += strcspn(r->at, "\n");
		if (r->at[0] == '\\' && r->at[1] == '\n')
			r->at++;
		else if (*r->at == '\0' || !strchr(lines ? " \t\r\n;" : " \t\r", *r->at))
			return;
		next_byte(r);
	}
}

static int refuse(struct bash_reader *r, const char *why)
{
	r->why = why;
	return -EINVAL;
}

static int add_byte(struct bash_reader *r, struct word *word, char c)
{
	if ((unsigned char) c < ' ' || c == 127)
		return refuse(r, "a control character, or a word over two lines");
	if (word->n + 1 >= sizeof(word->text))
		return refuse(r, "a word of more than 255 bytes");
	word->text[word->n++] = c;
	word->text[word->n] = '\0';
	word->any = true;
	return 0;
}

/* At the opening QUOTE. */
static int read_quoted(struct bash_reader *r, char quote, struct word *word)
{
	word->any = true;
	for (r->at++; *r->at != quote; next_byte(r)) {
		int result;

		if (*r->at == '\0')
			return refuse(r, "a quote that does not end");
		if (quote == '"' && strchr("$`", *r->at))
			return refuse(r, "something that Bash puts another text for");
		if (quote == '"' && *r->at == '\\' && strchr("\"\\$`", r->at[1]))
			r->at++;
		result = add_byte(r, word, *r->at);
		if (result < 0)
			return result;
	}
	r->at++;
	return 0;
}

/* Reads one word. Returns 1, or 0 when there is none. */
static int read_word(struct bash_reader *r, struct word *word)
{
	int result = 0;

	*word = (struct word){0};
	while (result == 0 && *r->at && !strchr(" \t\r\n;)", *r->at)) {
		if (*r->at == '\'' || *r->at == '"') {
			result = read_quoted(r, *r->at, word);
		} else if (strchr("$`*?[(<>&|{~!", *r->at)) {
			return refuse(r, "something that Bash puts another text for");
		} else {
			if (*r->at == '\\' && r->at[1])
				r->at++;
			result = add_byte(r, word, *r->at);
			next_byte(r);
		}
	}
	return result < 0 ? result : word->any;
}

static int append_word(struct bash_assignment *a, const char *text)
{
	char **slot;

	/* The NULL at the end is one of the array's elements. */
	if (!a->words) {
		slot = ARRAY_APPEND(a->words, a->n_words);
		if (!slot)
			return -ENOMEM;
		a->n_words = 1;
	}
	slot = ARRAY_APPEND(a->words, a->n_words);
	if (!slot)
		return -ENOMEM;
	a->words[a->n_words - 2] = strdup(text);
	return a->words[a->n_words - 2] ? 0 : -ENOMEM;
}

/* At what is behind the parenthesis of an array. */
static int read_array(struct bash_reader *r, struct bash_assignment *a)
{
	struct word word;
	int result;

	a->is_array = true;
	for (;;) {
		skip_space(r, true);
		if (*r->at == '\0')
			return refuse(r, "a list that does not end");
		if (*r->at == ')')
			break;
		/* [3]=word */
		if (*r->at == '[') {
			r->at += 1 + strspn(r->at + 1, "0123456789");
			if (r->at[0] != ']' || r->at[1] != '=')
				return refuse(r, "a list by names");
			r->at += 2;
		}
		result = read_word(r, &word);
		if (result > 0)
			result = append_word(a, word.text);
		if (result < 0)
			return result;
	}
	r->at++;
	return 0;
}

static size_t name_length(const char *s)
{
	size_t n = 0;

	while (isalnum((unsigned char) s[n]) || s[n] == '_')
		n++;
	return isdigit((unsigned char) s[0]) ? 0 : n;
}

/* Skips `export`, `declare -a` and the like. */
static void skip_declaration(struct bash_reader *r)
{
	static const char *const words[] = {"export", "readonly", "declare", "typeset", "local"};

	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		size_t n = strlen(words[i]);

		if (strncmp(r->at, words[i], n) != 0 || !isblank((unsigned char) r->at[n]))
			continue;
		r->at += n;
		skip_space(r, false);
		while (*r->at == '-') {
			r->at += strcspn(r->at, " \t\n");
			skip_space(r, false);
		}
		return;
	}
}

static int read_assignment(struct bash_reader *r, struct bash_assignment *a)
{
	size_t n = name_length(r->at);
	struct word word;
	int result;

	if (n == 0 || r->at[n] != '=')
		return refuse(r, "no assignment NAME=value");
	a->line = r->line;
	a->name = strndup(r->at, n);
	if (!a->name)
		return -ENOMEM;
	r->at += n + 1;
	if (*r->at == '(') {
		r->at++;
		result = read_array(r, a);
	} else {
		result = read_word(r, &word);
		result = result < 0 ? result : append_word(a, word.text);
	}
	if (result < 0)
		return result;
	skip_space(r, false);
	if (*r->at && *r->at != '\n' && *r->at != ';')
		return refuse(r, "more than an assignment");
	return 1;
}

int bash_next(struct bash_reader *reader, struct bash_assignment *ret)
{
	struct bash_assignment a = {0};
	int r;

	skip_space(reader, true);
	if (*reader->at == '\0')
		return 0;
	skip_declaration(reader);
	r = read_assignment(reader, &a);
	if (r < 0) {
		bash_finish(&a);
		return r;
	}
	if (a.n_words > 0)
		a.n_words--;
	*ret = a;
	return 1;
}

void bash_finish(struct bash_assignment *assignment)
{
	for (char **word = assignment->words; word && *word; word++)
		free(*word);
	free(assignment->words);
	free(assignment->name);
	*assignment = (struct bash_assignment){0};
}
