/* vhotplugctl: asks the broker. This file reads the command line; see vhotplugctl(8). */
#include <getopt.h>
#include <stdarg.h>

#include "helper/ctl_act.h"
#include "helper/ctl_explain.h"
#include "helper/ctl_ports.h"
#include "helper/ctl_show.h"
#include "helper/ctl_table.h"

static const char usage[] =
	"Usage: vhotplugctl [--json] [--socket PATH] COMMAND …\n"
	"Asks vhotplug-broker about devices and VMs, or to move them; see vhotplugctl(8).\n"
	"  list [--all] [--vm VM] [--tag TAG]    the devices that rules claim, or all\n"
	"  status                                the broker, the VMs, and what is not well\n"
	"  history [--device DEVICE] [--vm VM] [--since TIME] [--limit N] [--follow]\n"
	"  watch                                 what changes, as it changes\n"
	"  attach DEVICE [--vm VM]               give it to its VM\n"
	"  detach DEVICE [--until-replug]        take it out, and keep it out\n"
	"  select DEVICE VM                      choose one of the VMs that it may go to\n"
	"  explain DEVICE                        why it is where it is, and what would help\n"
	"  rule DEVICE [--vm VM]                 what a config would say of it, to paste\n"
	"  ports [--vm VM] [--limit N]           the same for a place: plug something in\n"
	"  suspend [--vm VM], resume [--vm VM]   before and after the host or a VM sleeps\n"
	"  reload                                read the config again\n"
	"  vmm-args VM [--qemu-bus-prefix PREFIX] [--qemu-bus-start-index N]\n"
	"           [--timeout SECONDS] [--require-pci]\n"
	"                                        arguments to start it with its devices\n"
	"  -h, --help, --version\n"
	"DEVICE is its place (1-3.2, 0000:00:14.3, event3), node, ids (046d:c52b), serial\n"
	"number, tag:TAG, or a part of its name.\n";

struct command {
	const char *name;
	int (*fn)(const struct ctl_options *options);
	int n_args;
	const char *options; /* letters of the table below */
};

static const struct command commands[] = {
	{"list", ctl_list, 0, "avt"},         {"status", ctl_status, 0, ""},
	{"history", ctl_history, 0, "dvsnf"}, {"watch", ctl_watch, 0, ""},
	{"attach", ctl_attach, 1, "v"},       {"detach", ctl_detach, 1, "u"},
	{"select", ctl_choose, 2, ""},        {"explain", ctl_explain, 1, ""},
	{"rule", ctl_rule, 1, "v"},           {"ports", ctl_ports, 0, "vn"},
	{"suspend", ctl_suspend, 0, "v"},     {"resume", ctl_resume, 0, "v"},
	{"reload", ctl_reload, 0, ""},        {"vmm-args", ctl_vmm_args, 1, "pbTR"},
};

static const struct option long_options[] = {
	{"json", no_argument, NULL, 'j'},
	{"socket", required_argument, NULL, 'S'},
	{"all", no_argument, NULL, 'a'},
	{"vm", required_argument, NULL, 'v'},
	{"tag", required_argument, NULL, 't'},
	{"device", required_argument, NULL, 'd'},
	{"since", required_argument, NULL, 's'},
	{"limit", required_argument, NULL, 'n'},
	{"follow", no_argument, NULL, 'f'},
	{"until-replug", no_argument, NULL, 'u'},
	{"qemu-bus-prefix", required_argument, NULL, 'p'},
	{"qemu-bus-start-index", required_argument, NULL, 'b'},
	{"timeout", required_argument, NULL, 'T'},
	{"require-pci", no_argument, NULL, 'R'},
	{"help", no_argument, NULL, 'h'},
	{"version", no_argument, NULL, 'V'},
	{NULL, 0, NULL, 0},
};

int ctl_fail(enum ctl_exit status, const char *format, ...)
{
	va_list args;

	fprintf(stderr, "vhotplugctl: ");
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	return (int) status;
}

static const char *option_name(int letter)
{
	const struct option *o = long_options;

	while (o->name && o->val != letter)
		o++;
	return o->name;
}

static int read_number(const char *text, const char *name, long long *ret)
{
	if (!*text || strlen(text) > 9 || text[strspn(text, "0123456789")])
		return ctl_fail(CTL_USAGE, "--%s %s: a number, please", name, text);
	*ret = atoll(text);
	return 0;
}

static int read_since(const char *text, long long *ret)
{
	*ret = text_time(text);
	if (*ret > 0)
		return 0;
	return ctl_fail(CTL_USAGE,
			"--since %s: a time like 2026-01-31T08:00, or an age like 10min, 2h, 1d",
			text);
}

static int set_option(struct ctl_options *o, int letter)
{
	switch (letter) {
	case 'j':
		o->json = true;
		return 0;
	case 'S':
		o->socket = optarg;
		return 0;
	case 'a':
		o->all = true;
		return 0;
	case 'v':
		o->vm = optarg;
		return 0;
	case 't':
		o->tag = optarg;
		return 0;
	case 'd':
		o->device = optarg;
		return 0;
	case 's':
		return read_since(optarg, &o->since);
	case 'n':
		return read_number(optarg, "limit", &o->limit);
	case 'f':
		o->follow = true;
		return 0;
	case 'u':
		o->until_replug = true;
		return 0;
	case 'p':
		o->bus_prefix = optarg;
		return 0;
	case 'b':
		return read_number(optarg, "qemu-bus-start-index", &o->start);
	case 'T':
		return read_number(optarg, "timeout", &o->timeout);
	case 'R':
		o->require_pci = true;
		return 0;
	default:
		return CTL_USAGE; /* getopt has said it */
	}
}

/* Reads all options. GIVEN: their letters. Returns 0 to go on, -1 when all is done, or an exit
 * status. */
static int read_options(struct ctl_options *o, int argc, char **argv, char given[32])
{
	int letter, r = 0;
	size_t n = 0;

	while (r == 0 && (letter = getopt_long(argc, argv, "h", long_options, NULL)) != -1) {
		if (letter == 'h' || letter == 'V') {
			fputs(letter == 'h' ? usage : "vhotplugctl " VHOTPLUG_VERSION "\n", stdout);
			return -1;
		}
		r = set_option(o, letter);
		if (n < 30 && !strchr("jS", letter))
			given[n++] = (char) letter;
	}
	o->args = argv + optind;
	o->n_args = argc - optind;
	return r;
}

static const struct command *find_command(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (streq(commands[i].name, name))
			return &commands[i];
	return NULL;
}

static int check_command(const struct command *command, const struct ctl_options *o,
			 const char *given)
{
	for (; *given; given++)
		if (!strchr(command->options, *given))
			return ctl_fail(CTL_USAGE, "%s takes no --%s; see --help", command->name,
					option_name(*given));
	if (o->n_args != command->n_args)
		return ctl_fail(CTL_USAGE, "%s takes %s; see --help", command->name,
				command->n_args == 0   ? "nothing more"
				: command->n_args == 1 ? "one argument"
						       : "two arguments");
	return 0;
}

int main(int argc, char **argv)
{
	struct ctl_options options = {.socket = VHOTPLUG_RUNDIR "/control.sock"};
	const struct command *command;
	char given[32] = "";
	int r = read_options(&options, argc, argv, given);

	if (r != 0)
		return r < 0 ? 0 : r;
	if (options.n_args == 0) {
		fputs(usage, stderr);
		return CTL_USAGE;
	}
	command = find_command(options.args[0]);
	if (!command)
		return ctl_fail(CTL_USAGE, "what is \"%s\"? See --help", options.args[0]);
	options.args++;
	options.n_args--;
	r = check_command(command, &options, given);
	return r > 0 ? r : command->fn(&options);
}
