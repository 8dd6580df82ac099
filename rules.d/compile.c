/* Turns the fields of a config rule into tokens. Fields that are one test each share a line;
 * fields with alternatives, or that would make the line too long, follow in stages of their own.
 * Called by the rule writer (write.c) and by explain.c. */
#include "rules.d/compile.h"

#include "conf/array.h"
#include "conf/base64url.h"
#include "rules.d/glob.h"

/* Room for GOTO, the assignments and the line's end. */
#define LINE_ROOM 600

struct compiler {
	const struct config_rule *rule;
	enum config_kind kind;
	struct compiled_rule *out;
	size_t shared_bytes; /* how long the first stage's line is by now */
};

static size_t token_bytes(const struct token *token)
{
	/* KEY{}==""  and ", ", and the program's path and name. */
	return strlen(token->pattern) + (token->name ? strlen(token->name) : 0) +
	       (token->key == TOKEN_PROGRAM ? 120 : 20);
}

static int add_token(struct conjunction *line, enum token_key key, const char *name, bool negate,
		     const char *pattern)
{
	struct token *token = ARRAY_APPEND(line->tokens, line->n_tokens);

	if (!token)
		return -ENOMEM;
	*token = (struct token){key, name, negate, strdup(pattern)};
	if (token->pattern)
		return 0;
	line->n_tokens--;
	return -ENOMEM;
}

static struct stage *add_stage(struct compiler *c)
{
	return ARRAY_APPEND(c->out->stages, c->out->n_stages);
}

/* Two tests of one key in a line draw complaints from udevadm verify. */
static bool line_has(const struct conjunction *line, enum token_key key, const char *name)
{
	for (size_t i = 0; i < line->n_tokens; i++)
		if (line->tokens[i].key == key &&
		    (line->tokens[i].name == name ||
		     (name && line->tokens[i].name && streq(name, line->tokens[i].name))))
			return true;
	return false;
}

/* Adds a field that is one test: to the last line that has room for it, if the stages so far are
 * single lines, or as a stage of its own. */
static int add_test(struct compiler *c, enum token_key key, const char *name, const char *pattern)
{
	struct token token = {key, name, false, (char *) (uintptr_t) pattern};
	size_t bytes = token_bytes(&token);
	struct stage *stage = c->out->n_stages ? &c->out->stages[c->out->n_stages - 1] : NULL;

	if (!stage || stage->n_lines != 1 || c->shared_bytes + bytes > LINE_ROOM ||
	    line_has(&stage->lines[0], key, name)) {
		stage = add_stage(c);
		if (!stage || !ARRAY_APPEND(stage->lines, stage->n_lines))
			return -ENOMEM;
		c->shared_bytes = 0;
	}
	c->shared_bytes += bytes;
	return add_token(&stage->lines[0], key, name, false, pattern);
}

static int add_class_test(struct compiler *c, const char *name, const struct config_field *field)
{
	return add_test(c, TOKEN_ATTR, name, field->value);
}

/* A test whose pattern is VALUE between texts: BEFORE VALUE, and again where there is a BETWEEN:
 * BEFORE VALUE BETWEEN VALUE AFTER. */
static int add_built_test(struct compiler *c, enum token_key key, const char *name,
			  const char *before, const char *value, const char *between,
			  const char *after)
{
	_cleanup_free_ char *pattern = NULL;

	if (asprintf(&pattern, "%s%s%s%s%s", before, value, between, between[0] ? value : "",
		     after) < 0) {
		pattern = NULL;
		return -ENOMEM;
	}
	return add_test(c, key, name, pattern);
}

static const char *field_value(const struct compiler *c, enum config_match match,
			       const char *otherwise)
{
	const struct config_field *field = config_rule_field(c->rule, match);

	return field ? field->value : otherwise;
}

static const char *interfaces_name(const struct compiler *c)
{
	return c->rule->deny ? ALL_INTERFACES : INTERFACES;
}

/* One interface must satisfy all interface fields at once: they are one pattern. */
static int add_interface_test(struct compiler *c)
{
	char pattern[32];

	snprintf(pattern, sizeof(pattern), "*:%s%s%s:*",
		 field_value(c, MATCH_INTERFACE_CLASS, "??"),
		 field_value(c, MATCH_INTERFACE_SUBCLASS, "??"),
		 field_value(c, MATCH_INTERFACE_PROTOCOL, "??"));
	return add_test(c, TOKEN_ENV, interfaces_name(c), pattern);
}

/* The same for the three parts of a PCI class. */
static int add_pci_class_test(struct compiler *c)
{
	char pattern[32];

	snprintf(pattern, sizeof(pattern), "0x%s%s%s", field_value(c, MATCH_DEVICE_CLASS, "??"),
		 field_value(c, MATCH_DEVICE_SUBCLASS, "??"),
		 field_value(c, MATCH_DEVICE_PROG_IF, "??"));
	return add_test(c, TOKEN_ATTR, "class", pattern);
}

static int add_note(struct compiler *c, const struct config_field *field, const char *why,
		    size_t n_globs)
{
	struct field_note *slot = ARRAY_APPEND(c->out->notes, c->out->n_notes);

	if (!slot)
		return -ENOMEM;
	*slot = (struct field_note){field, why, n_globs};
	return 0;
}

/* Where a text field looks. */
struct source {
	enum token_key key;
	const char *name;
};

/* The arguments of vhotplug-match for FIELD: its key, then the property's name and the pattern, in
 * characters that no reader of a command line can take for anything else. */
static int program_arguments(const struct compiler *c, const struct config_field *field, char **ret)
{
	_cleanup_free_ char *pattern = base64url_encode(field->value);
	_cleanup_free_ char *property = base64url_encode(field_value(c, MATCH_PROPERTY, ""));
	int r;

	if (!pattern || !property)
		return -ENOMEM;
	r = asprintf(ret, "%s%s%s%s %s", c->rule->deny ? "--surely-not " : "",
		     config_match_name(field->match), field->match == MATCH_VALUE ? " " : "",
		     field->match == MATCH_VALUE ? property : "", pattern);
	return r < 0 ? -ENOMEM : 0;
}

/* Only a device whose interfaces are all of class 0 or 0xff is asked for its driver. */
#define VALID_INTERFACE "*:[!0f]?????:*|*:0[!0]????:*|*:f[!f]????:*"

static int add_program(struct compiler *c, const struct config_field *field)
{
	_cleanup_free_ char *arguments = NULL;
	struct stage *stage = add_stage(c);
	struct conjunction *line = stage ? ARRAY_APPEND(stage->lines, stage->n_lines) : NULL;
	int r = program_arguments(c, field, &arguments);

	if (!line || r < 0)
		return -ENOMEM;
	if (field->match == MATCH_DRIVER_PATH)
		r = add_token(line, TOKEN_ENV, interfaces_name(c), true, VALID_INTERFACE);
	return r < 0 ? r : add_token(line, TOKEN_PROGRAM, NULL, c->rule->deny, arguments);
}

/* A missing attribute is no match for udev, but the empty string for us. */
static bool needs_empty_attribute(const struct source *source, const struct globs *globs)
{
	for (size_t i = 0; i < globs->n; i++)
		if (source->key == TOKEN_ATTR && globs->list[i][0] == '\0')
			return true;
	return false;
}

static int add_globs(struct compiler *c, const struct source *source, const struct globs *globs)
{
	struct stage *stage;
	int r = 0;

	if (globs->always)
		return 0;
	if (globs->n == 1)
		return add_test(c, source->key, source->name, globs->list[0]);
	stage = add_stage(c);
	for (size_t i = 0; r == 0 && i < globs->n; i++) {
		struct conjunction *line =
			stage ? ARRAY_APPEND(stage->lines, stage->n_lines) : NULL;

		r = line ? add_token(line, source->key, source->name, false, globs->list[i])
			 : -ENOMEM;
	}
	return r;
}

/* A field with a text: as globs where that is exact, else by the program. PROGRAMS: which of the
 * two this pass is for. */
static int add_text(struct compiler *c, const struct config_field *field,
		    const struct source *source, bool programs)
{
	struct globs globs;
	int r = field->match == MATCH_VALUE ? globs_from_text(field->value, &globs)
					    : globs_from_regex(field->value, &globs);

	if (r > 0 && needs_empty_attribute(source, &globs)) {
		globs.why = "the attribute may be missing";
		r = 0;
	}
	if (r >= 0 && !programs && (field->match != MATCH_VALUE || r == 0))
		if (add_note(c, field, globs.why, globs.n) < 0)
			r = -ENOMEM;
	if (r > 0 && !programs)
		r = add_globs(c, source, &globs);
	else if (r == 0 && programs)
		r = add_program(c, field);
	globs_finish(&globs);
	return r < 0 ? r : 0;
}

/* Where udev has the text that a key is about. */
static const struct source text_sources[MATCH_KEYS] = {
	[MATCH_VENDOR_NAME] = {TOKEN_ENV, VENDOR_NAME},
	[MATCH_PRODUCT_NAME] = {TOKEN_ENV, PRODUCT_NAME},
	[MATCH_VENDOR_STRING] = {TOKEN_ATTR, "manufacturer"},
	[MATCH_PRODUCT_STRING] = {TOKEN_ATTR, "product"},
	[MATCH_NAME] = {TOKEN_ATTR, "device/name"},
	[MATCH_PATH_TAG] = {TOKEN_ENV, "ID_PATH_TAG"},
};

static int add_text_field(struct compiler *c, const struct config_field *field, bool programs)
{
	struct source source = text_sources[field->match];

	if (field->match == MATCH_DRIVER_PATH)
		return programs ? add_program(c, field)
				: add_note(c, field, "the driver is looked up in the module index",
					   0);
	if (field->match == MATCH_VALUE)
		source = (struct source){TOKEN_ENV, field_value(c, MATCH_PROPERTY, "?")};
	return source.name ? add_text(c, field, &source, programs) : 0;
}

/* Fields that several keys share are compiled with the first of them in the rule. */
static bool is_first_of(const struct compiler *c, const struct config_field *field,
			enum config_match a, enum config_match b, enum config_match d)
{
	for (size_t i = 0; i < c->rule->n_fields; i++) {
		enum config_match match = c->rule->fields[i].match;

		if (match == a || match == b || match == d)
			return &c->rule->fields[i] == field;
	}
	return false;
}

static int add_pci_field(struct compiler *c, const struct config_field *field)
{
	switch ((int) field->match) {
	case MATCH_ADDRESS:
		return add_test(c, TOKEN_KERNEL, NULL, field->value);
	case MATCH_VENDOR_ID:
		return add_built_test(c, TOKEN_ATTR, "vendor", "0x", field->value, "", "");
	case MATCH_DEVICE_ID:
		return add_built_test(c, TOKEN_ATTR, "device", "0x", field->value, "", "");
	case MATCH_SUBSYSTEM_VENDOR_ID:
		return add_built_test(c, TOKEN_ATTR, "subsystem_vendor", "0x", field->value, "",
				      "");
	case MATCH_SUBSYSTEM_ID:
		return add_built_test(c, TOKEN_ATTR, "subsystem_device", "0x", field->value, "",
				      "");
	case MATCH_DEVICE_CLASS:
	case MATCH_DEVICE_SUBCLASS:
	case MATCH_DEVICE_PROG_IF:
		return is_first_of(c, field, MATCH_DEVICE_CLASS, MATCH_DEVICE_SUBCLASS,
				   MATCH_DEVICE_PROG_IF)
			       ? add_pci_class_test(c)
			       : 0;
	}
	return 0;
}

static int add_serial_test(struct compiler *c, const struct config_field *field)
{
	/* What a serial may hold means nothing special in a glob. */
	return add_test(c, TOKEN_ENV, "ID_SERIAL_SHORT", field->value);
}

static int add_usb_field(struct compiler *c, const struct config_field *field)
{
	switch ((int) field->match) {
	case MATCH_VENDOR_ID:
		return add_test(c, TOKEN_ATTR, "idVendor", field->value);
	case MATCH_PRODUCT_ID:
		return add_test(c, TOKEN_ATTR, "idProduct", field->value);
	case MATCH_SERIAL:
		return add_serial_test(c, field);
	case MATCH_BUS:
		return add_test(c, TOKEN_ATTR, "busnum", field->value);
	case MATCH_PORT:
		return add_built_test(c, TOKEN_KERNEL, NULL, "*-", field->value, "|*-", ".*");
	case MATCH_PORT_PATH:
		return add_test(c, TOKEN_KERNEL, NULL, field->value);
	case MATCH_DEVPATH:
		return add_built_test(c, TOKEN_DEVPATH, NULL, "", field->value, "|", "/*");
	case MATCH_DEVICE_CLASS:
		return add_class_test(c, "bDeviceClass", field);
	case MATCH_DEVICE_SUBCLASS:
		return add_class_test(c, "bDeviceSubClass", field);
	case MATCH_DEVICE_PROTOCOL:
		return add_class_test(c, "bDeviceProtocol", field);
	case MATCH_REMOVABLE:
		return add_test(c, TOKEN_ATTR, "removable", field->value);
	case MATCH_INTERFACE_CLASS:
	case MATCH_INTERFACE_SUBCLASS:
	case MATCH_INTERFACE_PROTOCOL:
		return is_first_of(c, field, MATCH_INTERFACE_CLASS, MATCH_INTERFACE_SUBCLASS,
				   MATCH_INTERFACE_PROTOCOL)
			       ? add_interface_test(c)
			       : 0;
	}
	return 0;
}

static int add_plain_field(struct compiler *c, const struct config_field *field)
{
	switch (c->kind) {
	case CONFIG_USB:
		return add_usb_field(c, field);
	case CONFIG_PCI:
		return add_pci_field(c, field);
	case CONFIG_EVDEV:
	case CONFIG_KINDS:
		break;
	}
	return 0;
}

int rule_compile(const struct config_rule *rule, enum config_kind kind, struct compiled_rule *ret)
{
	struct compiler c = {.rule = rule, .kind = kind, .out = ret};
	int r = 0;

	*ret = (struct compiled_rule){0};
	/* What costs least comes first, and programs last. */
	for (size_t i = 0; r == 0 && i < rule->n_fields; i++)
		r = add_plain_field(&c, &rule->fields[i]);
	for (size_t i = 0; r == 0 && i < rule->n_fields; i++)
		r = add_text_field(&c, &rule->fields[i], false);
	for (size_t i = 0; r == 0 && i < rule->n_fields; i++)
		r = add_text_field(&c, &rule->fields[i], true);
	if (r < 0)
		compiled_finish(ret);
	return r;
}

int field_compile(const struct config_rule *rule, enum config_kind kind,
		  const struct config_field *field, struct compiled_rule *ret)
{
	struct compiler c = {.rule = rule, .kind = kind, .out = ret};
	int r;

	*ret = (struct compiled_rule){0};
	if (kind == CONFIG_USB &&
	    (field->match == MATCH_INTERFACE_CLASS || field->match == MATCH_INTERFACE_SUBCLASS ||
	     field->match == MATCH_INTERFACE_PROTOCOL))
		r = add_interface_test(&c);
	else if (kind == CONFIG_PCI &&
		 (field->match == MATCH_DEVICE_CLASS || field->match == MATCH_DEVICE_SUBCLASS ||
		  field->match == MATCH_DEVICE_PROG_IF))
		r = add_pci_class_test(&c);
	else
		r = add_plain_field(&c, field);
	if (r == 0)
		r = add_text_field(&c, field, false);
	if (r == 0)
		r = add_text_field(&c, field, true);
	if (r < 0)
		compiled_finish(ret);
	return r;
}

/* Whether a token of COMPILED is of KEY, or, for TOKEN_ENV, looks at NAME. */
static bool compiled_has(const struct compiled_rule *compiled, enum token_key key, const char *name)
{
	for (size_t i = 0; i < compiled->n_stages; i++)
		for (size_t l = 0; l < compiled->stages[i].n_lines; l++)
			if (line_has(&compiled->stages[i].lines[l], key, name))
				return true;
	return false;
}

bool compiled_needs_interfaces(const struct compiled_rule *compiled)
{
	return compiled_has(compiled, TOKEN_ENV, ALL_INTERFACES);
}

bool compiled_needs_program(const struct compiled_rule *compiled)
{
	return compiled_has(compiled, TOKEN_PROGRAM, NULL);
}

static void stage_finish(struct stage *stage)
{
	for (size_t i = 0; i < stage->n_lines; i++) {
		for (size_t t = 0; t < stage->lines[i].n_tokens; t++)
			free(stage->lines[i].tokens[t].pattern);
		free(stage->lines[i].tokens);
	}
	free(stage->lines);
}

void compiled_finish(struct compiled_rule *compiled)
{
	for (size_t i = 0; i < compiled->n_stages; i++)
		stage_finish(&compiled->stages[i]);
	free(compiled->stages);
	free(compiled->notes);
	*compiled = (struct compiled_rule){0};
}
