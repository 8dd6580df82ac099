/* Reads a rules file the way udevd and eudev do, and accepts only the part of the language that
 * write.c uses. main.c asks it before it installs anything; the fuzzers ask it whether some config
 * or name got something into the rules that does not belong there. */
#include "rules.d/check.h"

#include <stdarg.h>

#include "rules.d/compile.h"

#define HELPER VHOTPLUG_LIBEXECDIR "/vhotplug-helper"
#define MATCHER VHOTPLUG_LIBEXECDIR "/vhotplug-match "
#define EUDEV_TOKENS 63
#define EUDEV_ALTERNATIVES 1023
#define VALUE_BYTES 512 /* what an assigned property may hold */

/* The parts of KEY{NAME}OP"VALUE". */
struct expression {
	char key[16];
	char name[64];
	char op[3];
	char value[RULE_LINE_BYTES];
};

struct checker {
	FILE *errors;
	const char *lines; /* where the line after this one starts */
	unsigned line;
	unsigned mistakes;
};

static void report_mistake(struct checker *c, const char *format, ...) _printf_(2, 3);
static void report_mistake(struct checker *c, const char *format, ...)
{
	va_list args;

	c->mistakes++;
	fprintf(c->errors, "rules:%u: ", c->line);
	va_start(args, format);
	vfprintf(c->errors, format, args);
	va_end(args);
	fputc('\n', c->errors);
}

/* Copies what the characters of ACCEPT make up at *P into RET, and moves *P behind it. */
static bool take_word(const char **p, const char *accept, char *ret, size_t size)
{
	size_t n = strspn(*p, accept);

	if (n == 0 || n >= size)
		return false;
	memcpy(ret, *p, n);
	ret[n] = '\0';
	*p += n;
	return true;
}

#define UPPER "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
#define WORD UPPER "abcdefghijklmnopqrstuvwxyz0123456789_"

/* Takes a quoted value; \" is the only escape. */
static bool take_value(const char **p, char *ret, size_t size)
{
	size_t n = 0;

	if (*(*p)++ != '"')
		return false;
	for (; **p != '"'; (*p)++) {
		if (**p == '\0' || n + 1 >= size)
			return false;
		if ((*p)[0] == '\\' && (*p)[1] == '"')
			(*p)++;
		ret[n++] = **p;
	}
	ret[n] = '\0';
	(*p)++;
	return true;
}

static bool take_expression(const char **p, struct expression *e)
{
	e->name[0] = '\0';
	if (!take_word(p, UPPER, e->key, sizeof(e->key)))
		return false;
	if (**p == '{') {
		(*p)++;
		if (!take_word(p, WORD "./", e->name, sizeof(e->name)) || *(*p)++ != '}')
			return false;
	}
	return take_word(p, "=!+", e->op, sizeof(e->op)) &&
	       take_value(p, e->value, sizeof(e->value));
}

/* Every way in which write.c uses a key. NAME: * is any, nothing is none. */
static const struct use {
	const char *key, *name, *op;
	enum { TEXT, PATTERN, ASSIGNED, BUILTIN, COMMAND, PLACE, SUBJECT } kind;
} uses[] = {
	{"ACTION", "", "==", TEXT},
	{"ACTION", "", "!=", TEXT},
	{"SUBSYSTEM", "", "==", TEXT},
	{"SUBSYSTEM", "", "!=", TEXT},
	{"SUBSYSTEMS", "", "==", TEXT},
	{"TAGS", "", "==", TEXT},
	{"KERNEL", "", "==", PATTERN},
	{"DEVPATH", "", "==", PATTERN},
	{"ATTR", "*", "==", PATTERN},
	{"ENV", "*", "==", PATTERN},
	{"ENV", "*", "!=", PATTERN},
	{"ENV", "*", "=", ASSIGNED},
	{"TAG", "", "+=", ASSIGNED},
	{"TEST", "", "!=", SUBJECT},
	{"TEST", "", "==", SUBJECT},
	{"DRIVER", "", "!=", TEXT},
	{"IMPORT", "db", "=", ASSIGNED},
	{"IMPORT", "program", "=", COMMAND},
	{"IMPORT", "builtin", "=", BUILTIN},
	{"PROGRAM", "", "==", COMMAND},
	{"PROGRAM", "", "!=", COMMAND},
	{"RUN", "", "+=", COMMAND},
	{"GOTO", "", "=", PLACE},
	{"LABEL", "", "=", PLACE},
	{"ATTR", "driver_override", "=", ASSIGNED},
	{"ATTRS", "*", "==", PATTERN},
	{"IMPORT", "parent", "=", ASSIGNED},
	{"ATTR", "authorized", "=", ASSIGNED},
	{"ATTR", "subsystem/drivers_probe", "=", ASSIGNED},
};

static const struct use *find_use(const struct expression *e)
{
	for (size_t i = 0; i < ARRAY_SIZE(uses); i++)
		if (streq(uses[i].key, e->key) && streq(uses[i].op, e->op) &&
		    (streq(uses[i].name, "*") ? e->name[0] != '\0' : streq(uses[i].name, e->name)))
			return &uses[i];
	return NULL;
}

/* The substitutions there are: a name into a property that udev keeps to itself, and an interface
 * that drivers are to look at. */
static bool is_name(const struct expression *e)
{
	if (streq(e->name, "subsystem/drivers_probe"))
		return streq(e->value, "$kernel");
	if (streq(e->name, VENDOR_NAME))
		return streq(e->value, "$env{ID_VENDOR_FROM_DATABASE}") ||
		       streq(e->value, "$env{ID_VENDOR}");
	return streq(e->name, PRODUCT_NAME) && (streq(e->value, "$env{ID_MODEL_FROM_DATABASE}") ||
						streq(e->value, "$env{ID_MODEL}"));
}

/* What a rule may set: our properties, those that fence a child, who drives a PCI function, and
 * whether a USB interface is open. */
static bool may_assign(const struct expression *e)
{
	static const char *const names[] = {
		".VHOTPLUG_KNOWN",        ".VHOTPLUG_NEW",     "MODALIAS",
		"ID_MM_DEVICE_IGNORE",    "ID_MM_PORT_IGNORE", "UDISKS_IGNORE",
		"SYSTEMD_READY",          "MTP_NO_PROBE",      "ID_INPUT_KEY",
		"LIBINPUT_IGNORE_DEVICE", "ID_INPUT_SWITCH",   "NM_UNMANAGED",
		"PULSE_IGNORE",           "ACP_IGNORE",        "DM_UDEV_DISABLE_OTHER_RULES_FLAG",
	};

	if (streq(e->name, "authorized"))
		return streq(e->value, "0") || streq(e->value, "1");
	if (streq(e->key, "ATTR"))
		return is_name(e) || streq(e->value, "vfio-pci");
	if (!streq(e->key, "ENV") || startswith(e->name, "VHOTPLUG_") || is_name(e))
		return true;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (streq(e->name, names[i]))
			return true;
	return false;
}

/* The helper without an argument, or the matcher with words that need no quoting. */
static bool is_our_command(const struct expression *e)
{
	const char *arguments = startswith(e->value, MATCHER);

	if (streq(e->key, "RUN"))
		return streq(e->value, HELPER);
	return arguments && strspn(arguments, WORD "-. ") == strlen(arguments);
}

static void check_value(struct checker *c, const struct expression *e, const struct use *use)
{
	bool globs = strpbrk(e->value, "*?[") != NULL;

	switch (use->kind) {
	case PATTERN:
		if (globs && strchr(e->value, '|') && strlen(e->value) > EUDEV_ALTERNATIVES)
			report_mistake(c, "more alternatives than eudev keeps");
		break;
	case ASSIGNED:
		if ((strpbrk(e->value, "$%") && !is_name(e)) || strlen(e->value) >= VALUE_BYTES)
			report_mistake(c, "a substitution, or too long a value");
		if (!may_assign(e))
			report_mistake(c, "%s is not ours to set", e->name);
		break;
	case COMMAND:
		if (!is_our_command(e))
			report_mistake(c, "a command that is not ours");
		break;
	case BUILTIN:
		if (!streq(e->value, "path_id"))
			report_mistake(c, "a builtin that is not ours");
		break;
	case SUBJECT:
		if (!streq(e->value, GIVEN) && !streq(e->value, REFUSED) &&
		    strspn(e->value, WORD "./-") != strlen(e->value))
			report_mistake(c, "an odd path");
		break;
	case PLACE:
		if (strspn(e->value, WORD) != strlen(e->value))
			report_mistake(c, "an odd label");
		break;
	case TEXT:
		if (strspn(e->value, WORD "|-") != strlen(e->value))
			report_mistake(c, "an odd value");
		break;
	}
}

/* Whether LABEL="NAME" starts a line further down. One of our labels is always the first key of its
 * line. */
static void check_goto(struct checker *c, const char *name)
{
	char label[RULE_LINE_BYTES + 16];
	const char *found;

	snprintf(label, sizeof(label), "\nLABEL=\"%s\"", name);
	/* c->lines is behind the newline of this line. */
	found = strstr(c->lines - 1, label);
	if (!found)
		report_mistake(c, "GOTO=\"%s\" has no LABEL further down", name);
}

static void check_expressions(struct checker *c, const char *p)
{
	unsigned n = 0;

	for (;;) {
		struct expression e;
		const struct use *use;

		if (!take_expression(&p, &e)) {
			report_mistake(c, "not understood: %.40s", p);
			return;
		}
		use = find_use(&e);
		if (!use)
			report_mistake(c, "%s%s is not used like that", e.key, e.op);
		else
			check_value(c, &e, use);
		if (streq(e.key, "GOTO"))
			check_goto(c, e.value);
		n++;
		if (*p == '\0')
			break;
		if (p[0] != ',' || p[1] != ' ') {
			report_mistake(c, "not understood: %.40s", p);
			return;
		}
		p += 2;
	}
	if (n > EUDEV_TOKENS)
		report_mistake(c, "%u tokens, of which eudev takes 63", n);
}

static void check_bytes(struct checker *c, const char *line, size_t len)
{
	if (len >= RULE_LINE_BYTES)
		report_mistake(c, "the line has %zu bytes", len);
	for (size_t i = 0; i < len; i++)
		if ((unsigned char) line[i] < ' ' || line[i] == 127) {
			report_mistake(c, "a control character");
			return;
		}
	if (len > 0 && line[len - 1] == '\\')
		report_mistake(c, "the next line would be part of this one");
}

unsigned rules_check(const char *text, FILE *errors)
{
	struct checker c = {.errors = errors, .line = 1};

	for (const char *end; *text; text = end + 1, c.line++) {
		char line[RULE_LINE_BYTES + 1];

		end = strchr(text, '\n');
		if (!end) {
			report_mistake(&c, "the last line has no end");
			break;
		}
		c.lines = end + 1;
		check_bytes(&c, text, (size_t) (end - text));
		if (*text == '#' || end == text || end - text >= RULE_LINE_BYTES)
			continue;
		memcpy(line, text, (size_t) (end - text));
		line[end - text] = '\0';
		check_expressions(&c, line);
	}
	return c.mistakes;
}
