/* hotplugger's config.yaml and libvirt-usb-hotplug.conf. Both are read line by line in the plain
 * form that their documentation shows; a line that says something else is noted. */
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

/* A VM of hotplugger while it is read. */
struct machine {
	char name[64];
	char socket[128];
	char hubs[160];
	char ports[4096]; /* our rules */
	unsigned n_ports;
	char list[16]; /* the key whose items come */
};

static void finish_machine(struct importer *i, struct machine *m)
{
	if (!m->name[0])
		return;
	if (!m->socket[0]) {
		import_note(i, "VM %s: it has no socket with an absolute path", m->name);
	} else {
		fprintf(i->out, "\n[vm %s]\ntype = qemu\nsocket = %s\n", m->name, m->socket);
		if (m->hubs[0])
			fprintf(i->out, "usbBus = %s\n", m->hubs);
		fprintf(i->out, "\n[usb Ports for %.30s]\ntargetVm = %s\n%s", m->name, m->name,
			m->ports);
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
		 n + strlen(value) * 2 + 40 < sizeof(m->ports))
		snprintf(m->ports + n, sizeof(m->ports) - n,
			 "\n[allow Port %u, %.20s]\ndevpath = %s\n", ++m->n_ports,
			 strrchr(value, '/') + 1, value);
	else
		import_note(i, "%s of %s: %s", m->list[0] ? m->list : "an item", m->name, value);
}

static void machine_key(struct importer *i, struct machine *m, const char *key, const char *value)
{
	if (streq(key, "socket") && value[0] == '/' && strlen(value) < 108)
		snprintf(m->socket, sizeof(m->socket), "%s", value);
	else if (streq(key, "hubs") || streq(key, "ports"))
		snprintf(m->list, sizeof(m->list), "%s", key);
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
	finish_machine(i, m);
	if (key_is_name(name) && strlen(name) <= 40)
		snprintf(m->name, sizeof(m->name), "%s", name);
	else
		import_note(i, "VM %s: no name for a VM here", name);
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
		char *value = strchr(line, ':');

		if (!*line)
			continue;
		if (line[0] == '-' && line[1] == ' ') {
			machine_item(i, &m, unquote_value(line + 2 + strspn(line + 2, " ")));
			continue;
		}
		if (!value) {
			import_note(i, "%s", line);
			continue;
		}
		*value++ = '\0';
		value += strspn(value, " \t");
		if (indent == 0) {
			inside = streq(line, "virtual_machines");
			of_machines = 0;
		} else if (inside && (of_machines == 0 || indent == of_machines)) {
			of_machines = indent;
			begin_machine(i, &m, unquote_value(line));
		} else if (inside) {
			m.list[0] = '\0';
			machine_key(i, &m, line, unquote_value(value));
		}
	}
	finish_machine(i, &m);
	return 0;
}

/* ---- libvirt-usb-hotplug.conf: shell assignments ----------------------------------------------
 */

struct settings {
	char domain[64];
	char mode[16];  /* whitelist, blacklist or matchall */
	char ids[4096]; /* pairs of ids, each 10 bytes: "046d:c52b " */
};

/* Adds every vvvv:pppp of TEXT. */
static void add_ids(struct importer *i, struct settings *s, const char *text)
{
	static const char hex[] = "0123456789abcdefABCDEF";

	while (*(text += strspn(text, " \t()'\",")) != '\0') {
		size_t n = strcspn(text, " \t()'\","), have = strlen(s->ids);

		if (n == 9 && strspn(text, hex) == 4 && text[4] == ':' &&
		    strspn(text + 5, hex) >= 4 && have + 11 < sizeof(s->ids))
			snprintf(s->ids + have, sizeof(s->ids) - have, "%.9s ", text);
		else
			import_note(i, "device %.*s: not like 046d:c52b", (int) n, text);
		text += n;
	}
}

static void take_setting(struct importer *i, struct settings *s, const char *name, char *value)
{
	char *word = unquote_value(value);

	if (streq(word, "whitelist") || streq(word, "blacklist") || streq(word, "matchall"))
		snprintf(s->mode, sizeof(s->mode), "%s", word);
	else if (strcasestr(name, "domain") && key_is_name(word) && strlen(word) <= 40)
		snprintf(s->domain, sizeof(s->domain), "%s", word);
	else
		import_note(i, "%s=%s", name, value);
}

static void print_ids(struct importer *i, const struct settings *s, const char *verb)
{
	for (const char *id = s->ids; *id; id += 10)
		fprintf(i->out, "\n[%s %.9s]\nvendorId = %.4s\nproductId = %.4s\n", verb, id, id,
			id + 5);
}

static int print_settings(struct importer *i, const struct settings *s)
{
	if (!s->mode[0] || !s->domain[0]) {
		fprintf(i->notes, "this is no config that is known here: it names no %s\n",
			s->mode[0] ? "domain" : "mode (whitelist, blacklist, matchall)");
		return -EINVAL;
	}
	fprintf(i->out, "[general]\nattachConnected = yes\n\n[vm %s]\ntype = qemu\n", s->domain);
	fprintf(i->out, "listen = /run/vhotplug/%s.sock\nuser = libvirt-qemu\n", s->domain);
	import_note(i,
		    "attaching by libvirt: its monitor is its own, so the domain needs another one"
		    " that dials this socket (\"listen\" in vhotplug.conf(5), <qemu:commandline>"
		    " in the domain)");
	fprintf(i->out, "\n[usb Devices for %.30s]\ntargetVm = %s\n", s->domain, s->domain);
	if (streq(s->mode, "whitelist")) {
		print_ids(i, s, "allow");
		return 0;
	}
	if (streq(s->mode, "blacklist"))
		print_ids(i, s, "deny");
	else if (s->ids[0])
		import_note(i, "the list of devices: it means nothing with matchall");
	fputs("\n[allow All]\nmatchAll = yes\n", i->out);
	return 0;
}

int import_libvirt_usb_hotplug(struct importer *i, const char *text)
{
	struct settings s = {0};
	bool in_list = false;
	size_t indent;
	char *next;

	while ((next = next_line(&text, &indent))) {
		_cleanup_free_ char *line = next;
		char *value = in_list ? NULL : strchr(line, '=');

		if (!*line)
			continue;
		if (value && value[1] == '(') {
			in_list = true;
			add_ids(i, &s, value + 2);
		} else if (in_list) {
			add_ids(i, &s, line);
		} else if (value) {
			*value = '\0';
			take_setting(i, &s, line, value + 1);
		} else {
			import_note(i, "%s", line);
		}
		in_list = in_list && !strchr(value ? value + 1 : line, ')');
	}
	return print_settings(i, &s);
}
