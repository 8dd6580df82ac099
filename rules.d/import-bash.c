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

#define BLANKS " \t\r"

/* Skips what is in SPACE, joined lines and comments. */
static void skip_space(struct bash_reader *r, const char *space)
{
	for (;;) {
		if (*r->at == '#')
			r->at += strcspn(r->at, "\n");
		if (r->at[0] == '\\' && r->at[1] == '\n')
			r->at++;
		else if (*r->at == '\0' || !strchr(space, *r->at))
			return;
		next_byte(r);
	}
}

static int refuse_line(struct bash_reader *r, const char *why)
{
	r->why = why;
	return -EINVAL;
}

static int add_byte(struct bash_reader *r, struct word *word, char c)
{
	if ((unsigned char) c < ' ' || c == 127)
		return refuse_line(r, "a control character, or a word over two lines");
	if (word->n + 1 >= sizeof(word->text))
		return refuse_line(r, "a word of more than 255 bytes");
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
			return refuse_line(r, "a quote that does not end");
		if (quote == '"' && strchr("$`", *r->at))
			return refuse_line(r, "something that Bash puts another text for");
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
			return refuse_line(r, "something that Bash puts another text for");
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

/* At "[3]=", which is the place of the next word. */
static int read_index(struct bash_reader *r, struct bash_assignment *a)
{
	size_t n = strspn(r->at + 1, "0123456789");
	unsigned long index;

	if (n == 0 || r->at[n + 1] != ']' || r->at[n + 2] != '=')
		return refuse_line(r, "a list by names");
	index = strtoul(r->at + 1, NULL, 10);
	if (n > 9 || (n > 1 && r->at[1] == '0') || a->how == BASH_APPEND || index < a->next)
		return refuse_line(r, "a word in the place of another one");
	if (a->n_words == 0)
		a->first = index;
	a->next = index;
	r->at += n + 3;
	return 0;
}

/* At a word of an array. */
static int read_element(struct bash_reader *r, struct bash_assignment *a)
{
	int result = *r->at == '[' ? read_index(r, a) : 0;
	struct word word;

	if (result == 0)
		result = read_word(r, &word);
	if (result < 0)
		return result;
	if (*r->at == ';')
		return refuse_line(r, "a list that does not end");
	a->next++;
	return append_word(a, word.text);
}

/* At the parenthesis of an array. */
static int read_array(struct bash_reader *r, struct bash_assignment *a)
{
	a->is_array = true;
	r->at++;
	for (;;) {
		skip_space(r, BLANKS "\n");
		if (*r->at == '\0')
			return refuse_line(r, "a list that does not end");
		if (*r->at == ')')
			break;
		int result = read_element(r, a);

		if (result < 0)
			return result;
	}
	/* To Bash "(1 2)x" is a word. */
	if (!strchr(" \t\r\n;", *++r->at))
		return refuse_line(r, "more than an assignment");
	return 0;
}

/* At what is between the name and the value. */
static int read_how(struct bash_reader *r, struct bash_assignment *a)
{
	if (*r->at == '[') {
		a->how = BASH_ELEMENT;
		a->is_array = true;
		return read_index(r, a);
	}
	if (*r->at == '+') {
		a->how = BASH_APPEND;
		r->at++;
	}
	r->at++;
	if (a->how == BASH_APPEND && *r->at != '(')
		return refuse_line(r, "a word put behind another one");
	return 0;
}

static int read_value(struct bash_reader *r, struct bash_assignment *a)
{
	struct word word;
	int result;

	if (*r->at == '(' && a->how != BASH_ELEMENT)
		return read_array(r, a);
	result = read_word(r, &word);
	a->next++;
	return result < 0 ? result : append_word(a, word.text);
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
		skip_space(r, BLANKS);
		while (*r->at == '-') {
			r->at += strcspn(r->at, " \t\n");
			skip_space(r, BLANKS);
		}
		return;
	}
}

static int read_assignment(struct bash_reader *r, struct bash_assignment *a)
{
	size_t n = name_length(r->at);
	int result;

	if (n == 0 || !r->at[n] ||
	    (r->at[n] == '+' ? r->at[n + 1] != '=' : !strchr("=[", r->at[n])))
		return refuse_line(r, "no assignment NAME=value");
	a->line = r->line;
	a->name = strndup(r->at, n);
	if (!a->name)
		return -ENOMEM;
	r->at += n;
	result = read_how(r, a);
	if (result == 0)
		result = read_value(r, a);
	if (result < 0)
		return result;
	skip_space(r, BLANKS);
	if (*r->at && *r->at != '\n' && *r->at != ';')
		return refuse_line(r, "more than an assignment");
	return 1;
}

int bash_next(struct bash_reader *reader, struct bash_assignment *ret)
{
	struct bash_assignment a = {0};
	int r;

	skip_space(reader, BLANKS "\n;");
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
