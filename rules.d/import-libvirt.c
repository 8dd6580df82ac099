/* libvirt-usb-hotplug.conf: Bash assignments that name a domain, a mode and ids. The names of the
 * variables differ, so what a value looks like says what it is for; what can't be told is refused
 * by its line, since a device that is missing in a blacklist would be given away. */
#include <ctype.h>

#include "conf/array.h"
#include "rules.d/import-bash.h"
#include "rules.d/import-readers.h"

/* vvvv:pppp, of which either half may be missing. */
struct id {
	char vendor[5], product[5];
};

/* A variable that has a value. */
struct variable {
	char *name;
	unsigned long next; /* of a list: behind its last word */
};

struct settings {
	struct variable *variables;
	size_t n_variables;
	char domain[101];
	char uri[101];
	char mode[16];    /* whitelist, blacklist or matchall */
	const char *list; /* what the variable of the ids is called */
	struct id *ids;
	size_t n_ids;
};

static int refuse_value(struct importer *i, unsigned line, const char *what, const char *value)
{
	_cleanup_free_ char *text = NULL;

	if (asprintf(&text, "%s %s", what, value) < 0)
		return -ENOMEM;
	import_clean_line(text);
	fprintf(i->notes,
		"line %u: %s, allowed here: a domain, a mode (whitelist, blacklist, "
		"matchall), one list of ids like 046d:c52b, 046d: or :c52b\n",
		line, text);
	return -EINVAL;
}

/* Four hex digits, or none, of the N bytes at S. */
static bool read_half(const char *s, size_t n, char ret[5])
{
	if (n >= 2 && s[0] == '0' && (s[1] == 'x' || s[1] == 'X')) {
		s += 2;
		n -= 2;
	}
	ret[0] = '\0';
	if (n != 4)
		return n == 0;
	for (size_t c = 0; c < 4; c++) {
		if (!isxdigit((unsigned char) s[c]))
			return false;
		ret[c] = (char) tolower((unsigned char) s[c]);
	}
	ret[4] = '\0';
	return true;
}

static bool read_id(const char *text, struct id *ret)
{
	const char *colon = strchr(text, ':');

	return colon && read_half(text, (size_t) (colon - text), ret->vendor) &&
	       read_half(colon + 1, strlen(colon + 1), ret->product) &&
	       (ret->vendor[0] || ret->product[0]);
}

static int add_id(struct settings *s, const struct id *id)
{
	struct id *slot;

	for (size_t n = 0; n < s->n_ids; n++)
		if (streq(s->ids[n].vendor, id->vendor) && streq(s->ids[n].product, id->product))
			return 0;
	slot = ARRAY_APPEND(s->ids, s->n_ids);
	if (!slot)
		return -ENOMEM;
	*slot = *id;
	return 0;
}

/* Ids, with blanks or commas between. */
static int take_ids(struct importer *i, struct settings *s, unsigned line, char *text)
{
	char *rest = text, *one;
	int r = 0;

	while (r == 0 && (one = strsep(&rest, " \t,"))) {
		struct id id;

		if (!*one)
			continue;
		r = read_id(one, &id) ? add_id(s, &id) : refuse_value(i, line, "no id:", one);
	}
	return r;
}

static struct variable *find_variable(struct settings *s, const char *name)
{
	for (size_t n = 0; n < s->n_variables; n++)
		if (streq(s->variables[n].name, name))
			return &s->variables[n];
	return NULL;
}

/* Of two lists one may say what is allowed and the other what is not, and only the script that
 * reads them knows which. */
static int take_list(struct importer *i, struct settings *s, const struct bash_assignment *a)
{
	int r = 0;

	if (s->list && !streq(s->list, a->name))
		return refuse_value(i, a->line, "a second list of ids:", a->name);
	s->list = find_variable(s, a->name)->name;
	for (size_t n = 0; r == 0 && n < a->n_words; n++)
		r = take_ids(i, s, a->line, a->words[n]);
	return r;
}

static bool is_mode(const char *word)
{
	return streq(word, "whitelist") || streq(word, "blacklist") || streq(word, "matchall");
}

static int set_once(struct importer *i, unsigned line, char *place, size_t size, const char *value)
{
	if (place[0] && !streq(place, value))
		return refuse_value(i, line, "a second value:", value);
	snprintf(place, size, "%s", value);
	return 0;
}

/* libvirt takes nearly everything for a name; here it must be a value in the config as well. */
static bool is_domain(const char *word)
{
	for (const char *c = word; *c; c++)
		if (!isalnum((unsigned char) *c) && !strchr(" ._+()-", *c))
			return false;
	return word[0] && word[0] != ' ' && word[strlen(word) - 1] != ' ';
}

/* Of libvirt on this host, and a value in the config as well. */
static bool is_uri(const char *word)
{
	const char *c = startswith(word, "qemu:///");

	while (c && *c && (isalnum((unsigned char) *c) || strchr("/?=&._%-", *c)))
		c++;
	return c && !*c;
}

static int take_uri(struct importer *i, struct settings *s, unsigned line, const char *word)
{
	if (is_uri(word) && strlen(word) < sizeof(s->uri))
		return set_once(i, line, s->uri, sizeof(s->uri), word);
	return refuse_value(i, line, "no libvirt of this host:", word);
}

static int take_word(struct importer *i, struct settings *s, const struct bash_assignment *a)
{
	const char *word = a->words[0];

	if (is_mode(word))
		return set_once(i, a->line, s->mode, sizeof(s->mode), word);
	if (strstr(word, "://"))
		return take_uri(i, s, a->line, word);
	if (strchr(word, ':'))
		return take_list(i, s, a);
	if (strcasestr(a->name, "domain") || strcasestr(a->name, "vm") ||
	    strcasestr(a->name, "guest")) {
		if (is_domain(word) && strlen(word) < sizeof(s->domain))
			return set_once(i, a->line, s->domain, sizeof(s->domain), word);
		return refuse_value(i, a->line, "no name of a domain here:", word);
	}
	if (strcasestr(a->name, "mode"))
		return refuse_value(i, a->line, "no mode:", word);
	if (strcasestr(a->name, "list"))
		return take_list(i, s, a);
	import_note(i, "%s=%s", a->name, word);
	return 0;
}

static struct variable *add_variable(struct settings *s, const char *name)
{
	struct variable *slot = ARRAY_APPEND(s->variables, s->n_variables);

	if (!slot)
		return NULL;
	*slot = (struct variable){.name = strdup(name)};
	if (slot->name)
		return slot;
	s->n_variables--;
	return NULL;
}

/* To Bash the last value is the one that counts, or it takes the place of some of the words before
 * it: what is allowed or denied in the end would be another list than all of them together. */
static int take_place(struct importer *i, struct settings *s, const struct bash_assignment *a)
{
	struct variable *variable = find_variable(s, a->name);

	if (variable &&
	    (a->how == BASH_SET || (a->how == BASH_ELEMENT && a->first < variable->next)))
		return refuse_value(i, a->line, "a second value of", a->name);
	if (!variable)
		variable = add_variable(s, a->name);
	if (!variable)
		return -ENOMEM;
	variable->next = a->how == BASH_APPEND ? variable->next + a->next : a->next;
	return 0;
}

static int take_assignment(struct importer *i, struct settings *s, const struct bash_assignment *a)
{
	int r = take_place(i, s, a);

	if (r < 0)
		return r;
	return a->is_array ? take_list(i, s, a) : take_word(i, s, a);
}

static int read_settings(struct importer *i, const char *text, struct settings *s)
{
	struct bash_reader reader = {.at = text, .line = 1};
	struct bash_assignment a;
	int r;

	while ((r = bash_next(&reader, &a)) > 0) {
		r = take_assignment(i, s, &a);
		bash_finish(&a);
		if (r < 0)
			return r;
	}
	return r == -EINVAL ? refuse_value(i, reader.line, "not understood:", reader.why) : r;
}

static void print_ids(struct importer *i, const struct settings *s, const char *verb)
{
	for (size_t n = 0; n < s->n_ids; n++) {
		const struct id *id = &s->ids[n];

		fprintf(i->out, "\n[%s %s:%s]\n", verb, id->vendor, id->product);
		if (id->vendor[0])
			fprintf(i->out, "vendorId = %s\n", id->vendor);
		if (id->product[0])
			fprintf(i->out, "productId = %s\n", id->product);
	}
}

static void print_group(struct importer *i, const struct settings *s, const char *vm)
{
	fprintf(i->out, "\n[usb Devices for %.30s]\ntargetVm = %s\n", vm, vm);
	if (streq(s->mode, "whitelist")) {
		print_ids(i, s, "allow");
		return;
	}
	if (streq(s->mode, "blacklist"))
		print_ids(i, s, "deny");
	else if (s->n_ids > 0)
		import_note(i, "the list of devices: it means nothing with matchall");
	fputs("\n[allow All]\nmatchAll = yes\n", i->out);
}

/* Is the list called what the mode is not? Then it is none of this mode, or the mode is none. */
static bool is_other_list(const struct settings *s)
{
	const char *other = streq(s->mode, "whitelist")   ? "blacklist"
			    : streq(s->mode, "blacklist") ? "whitelist"
							  : NULL;

	return s->list && other && strcasestr(s->list, other);
}

static int print_settings(struct importer *i, const struct settings *s)
{
	char vm[IMPORT_VM_NAME];

	if (!s->mode[0] || !s->domain[0]) {
		fprintf(i->notes, "this is no config that is known here: it names no %s\n",
			s->mode[0] ? "domain" : "mode (whitelist, blacklist, matchall)");
		return -EINVAL;
	}
	if (is_other_list(s)) {
		fprintf(i->notes, "%s is no %s: which devices it is for can't be told\n", s->list,
			s->mode);
		return -EINVAL;
	}
	import_vm_name(vm, s->domain);
	fprintf(i->out, "[general]\nattachConnected = yes\n\n[vm %s]\ntype = libvirt\n", vm);
	if (!streq(vm, s->domain))
		fprintf(i->out, "domain = %s\n", s->domain);
	if (s->uri[0] && !streq(s->uri, "qemu:///system"))
		fprintf(i->out, "uri = %s\n", s->uri);
	print_group(i, s, vm);
	return 0;
}

int import_libvirt_usb_hotplug(struct importer *i, const char *text)
{
	struct settings s = {0};
	int r = read_settings(i, text, &s);

	if (r == 0)
		r = print_settings(i, &s);
	for (size_t n = 0; n < s.n_variables; n++)
		free(s.variables[n].name);
	free(s.variables);
	free(s.ids);
	return r;
}
