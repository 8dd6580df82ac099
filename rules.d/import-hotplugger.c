/* hotplugger's config.yaml, read line by line in the plain form that its documentation shows; a
 * line that says something else is noted. */
#include <ctype.h>

#include "conf/keys.h"
#include "rules.d/import-readers.h"

/* The next line of *TEXT without comment and blanks at its end, as a new string; NULL at the end.
 * *RET_INDENT: how many blanks it starts with, which are not in the string. */
static char *next_line(const char **text, size_t *ret_indent)
{
	size_t n = strcspn(*text, "\n");
	const char *start = *text, *comment;
	char *line;

	if (!*start)
		return NULL;
	*text += n + (start[n] == '\n');
	*ret_indent = strspn(start, " \t");
	if (*ret_indent > n)
		*ret_indent = n;
	line = strndup(start + *ret_indent, n - *ret_indent);
	if (!line)
		return NULL;
	comment = line[0] == '#' ? line : strstr(line, " #");
	n = comment ? (size_t) (comment - line) : strlen(line);
	while (n > 0 && isspace((unsigned char) line[n - 1]))
		n--;
	line[n] = '\0';
	return line;
}

/* Ends LINE, "key: value", behind the key, and returns the value; NULL if it is none. A colon
 * within a word is part of that. */
static char *cut_key(char *line)
{
	char *colon = strchr(line, ':');

	while (colon && colon[1] && !strchr(" \t", colon[1]))
		colon = strchr(colon + 1, ':');
	if (!colon)
		return NULL;
	*colon++ = '\0';
	return colon + strspn(colon, " \t");
}

/* VALUE without one pair of quotes, in place. */
static char *unquote_value(char *value)
{
	size_t n = strlen(value);

	if (n >= 2 && (value[0] == '"' || value[0] == '\'') && value[n - 1] == value[0]) {
		value[n - 1] = '\0';
		return value + 1;
	}
	return value;
}

/* A VM of hotplugger while it is read. Without a name there is none, and what comes is of none. */
struct machine {
	char name[IMPORT_VM_NAME];
	char socket[128];
	char hubs[160];
	char ports[4096]; /* our rules */
	unsigned n_ports;
	char list[16]; /* the key whose items come */
	size_t indent; /* of its keys */
};

static void finish_machine(struct importer *i, struct machine *m)
{
	char name[sizeof("Ports for ") + IMPORT_VM_NAME];

	if (m->name[0] && !m->socket[0]) {
		import_note(i, "VM %s: it has no socket with an absolute path", m->name);
	} else if (m->name[0]) {
		fprintf(i->out, "\n[vm %s]\ntype = qemu\nsocket = %s\n", m->name, m->socket);
		if (m->hubs[0])
			fprintf(i->out, "usbBus = %s\n", m->hubs);
		snprintf(name, sizeof(name), "Ports for %s", m->name);
		import_header(i, 0, "usb", name, "");
		fprintf(i->out, "targetVm = %s\n%s", m->name, m->ports);
	}
	*m = (struct machine){0};
}

/* An item of hubs or ports. */
static void machine_item(struct importer *i, struct machine *m, const char *value)
{
	size_t n = strlen(m->ports), hubs = strlen(m->hubs);

	if (streq(m->list, "hubs") && key_is_name(value) && hubs + strlen(value) + 3 < 150)
		snprintf(m->hubs + hubs, sizeof(m->hubs) - hubs, "%s%s", hubs ? ", " : "", value);
	else if (streq(m->list, "ports") && startswith(value, "/devices/") && strlen(value) < 180 &&
		 import_survives("devpath", value) && n + strlen(value) * 2 + 40 < sizeof(m->ports))
		snprintf(m->ports + n, sizeof(m->ports) - n,
			 "\n[allow Port %u, %.20s]\ndevpath = %s\n", ++m->n_ports,
			 strrchr(value, '/') + 1, value);
	else
		import_note(i, "%s of %s: %s", m->list[0] ? m->list : "an item", m->name, value);
}

/* The items of KEY come: in lines of their own, or in VALUE, [like, this]. */
static void begin_list(struct importer *i, struct machine *m, const char *key, char *value)
{
	size_t n = strlen(value);
	char *item;

	snprintf(m->list, sizeof(m->list), "%s", key);
	if (n == 0)
		return;
	if (n < 2 || value[0] != '[' || value[n - 1] != ']') {
		import_note(i, "%s of %s: %s", key, m->name, value);
		return;
	}
	value[n - 1] = '\0';
	value++;
	while ((item = strsep(&value, ","))) {
		item += strspn(item, " \t");
		for (n = strlen(item); n > 0 && isspace((unsigned char) item[n - 1]); n--)
			item[n - 1] = '\0';
		if (*item)
			machine_item(i, m, unquote_value(item));
	}
}

static void machine_key(struct importer *i, struct machine *m, const char *key, char *value)
{
	m->list[0] = '\0';
	if (streq(key, "socket") && value[0] == '/' && strlen(value) < 108 &&
	    import_survives(key, value))
		snprintf(m->socket, sizeof(m->socket), "%s", value);
	else if (streq(key, "hubs") || streq(key, "ports"))
		begin_list(i, m, key, value);
	else if (streq(key, "delay"))
		import_note(i,
			    "delay of %s: there it is waited after each plug; here the device is "
			    "handed over opened, and nothing has to be waited for",
			    m->name);
	else
		import_note(i, "%s of %s: %s", key, m->name, value);
}

static void begin_machine(struct importer *i, struct machine *m, const char *name)
{
	char own[IMPORT_VM_NAME];

	finish_machine(i, m);
	import_vm_name(own, name);
	if (!own[0])
		import_note(i, "a VM without a name");
	else if (!import_remember(i, own))
		import_note(i, "VM %s: another one is called %s here", name, own);
	else
		snprintf(m->name, sizeof(m->name), "%s", own);
}

/* A line below virtual_machines, "LINE: VALUE". *OF_MACHINES: how far the machines' names are
 * indented. */
static void machine_line(struct importer *i, struct machine *m, size_t indent, size_t *of_machines,
			 char *line, char *value)
{
	if (*of_machines == 0 || indent == *of_machines) {
		*of_machines = indent;
		begin_machine(i, m, unquote_value(line));
		if (*value)
			import_note(i, "VM %s: %s", line, value);
		return;
	}
	if (!m->name[0])
		return;
	if (m->indent == 0)
		m->indent = indent;
	if (indent == m->indent)
		machine_key(i, m, line, unquote_value(value));
	else
		import_note(i, "%s of %s: %s", line, m->name, value);
}

int import_hotplugger(struct importer *i, const char *text)
{
	struct machine m = {0};
	size_t indent, of_machines = 0;
	bool inside = false;
	char *next;

	fputs("[general]\nattachConnected = yes\n", i->out);
	while ((next = next_line(&text, &indent))) {
		_cleanup_free_ char *line = next;
		char *value;

		if (!*line)
			continue;
		if (line[0] == '-' && line[1] == ' ') {
			if (m.name[0])
				machine_item(i, &m,
					     unquote_value(line + 2 + strspn(line + 2, " ")));
			continue;
		}
		value = cut_key(line);
		if (!value) {
			import_note(i, "%s", line);
		} else if (indent == 0) {
			finish_machine(i, &m);
			inside = streq(line, "virtual_machines");
			of_machines = 0;
		} else if (inside) {
			machine_line(i, &m, indent, &of_machines, line, value);
		}
	}
	finish_machine(i, &m);
	return 0;
}
