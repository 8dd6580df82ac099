/* vhotplug-gen-rules: compiles the config into udev rules and puts them in force. */
#include <getopt.h>
#include <limits.h>
#include <stdint.h>

#include "conf/load.h"
#include "helper/wire.h"
#include "rules.d/apply.h"
#include "rules.d/check.h"
#include "rules.d/explain.h"
#include "rules.d/import.h"
#include "rules.d/install.h"
#include "rules.d/lint.h"
#include "rules.d/write.h"

#define CONFIG_PATH VHOTPLUG_CONFDIR "/vhotplug.conf"
#define RULES_PATH VHOTPLUG_UDEV_RULESDIR "/66-vhotplug.rules"
#define BROKER_WAIT_MS 5000
#define EXIT_USAGE 2

struct options {
	const char *config;
	const char *output;
	bool check;
	bool apply;
	bool verbose;
	const char *explain; /* a device, or NULL */
	const char *import;  /* another tool's config, or NULL */
	bool attach_connected;
	bool lint;
};

static const char usage[] =
	"Usage: vhotplug-gen-rules [options]\n"
	"Compiles " CONFIG_PATH " into " RULES_PATH "\n"
	"and makes udevd use it.\n\n"
	"  -c, --config FILE   read this config instead\n"
	"  -o, --output FILE   only write the rules to FILE (- prints them); udevd is not told\n"
	"      --check         only compare: exit 1 and print a diff when the installed rules\n"
	"                      are not what the config gives\n"
	"      --no-apply      write the rules, but don't tell udevd and the broker\n"
	"      --explain DEVICE    say for each rule whether it matches this device, and why\n"
	"                      (a devpath, a node, bus:device, vid:pid, a PCI address)\n"
	"      --lint              say what in the config is hardly meant; exit 1 if anything\n"
	"      --import FILE       print our config for another tool's: vhotplug's JSON,\n"
	"                      hotplugger's config.yaml, libvirt-usb-hotplug.conf\n"
	"  -a, --attach-connected  with --import: vhotplug ran with this option\n"
	"  -v, --verbose       say how each pattern was compiled\n"
	"  -h, --help\n"
	"      --version\n";

/* Takes one option. Returns false for one that there is not. */
static bool take_option(struct options *o, int option)
{
	switch (option) {
	case 'c':
		o->config = optarg;
		return true;
	case 'o':
		o->output = optarg;
		o->apply = false;
		return true;
	case 'k':
		o->check = true;
		return true;
	case 'n':
		o->apply = false;
		return true;
	case 'e':
		o->explain = optarg;
		return true;
	case 'l':
		o->lint = true;
		return true;
	case 'i':
		o->import = optarg;
		return true;
	case 'a':
		o->attach_connected = true;
		return true;
	case 'v':
		o->verbose = true;
		return true;
	}
	return false;
}

/* Returns -1 to go on, or what to exit with. */
static int parse_options(int argc, char **argv, struct options *o)
{
	static const struct option names[] = {
		{"config", required_argument, NULL, 'c'},
		{"output", required_argument, NULL, 'o'},
		{"check", no_argument, NULL, 'k'},
		{"no-apply", no_argument, NULL, 'n'},
		{"explain", required_argument, NULL, 'e'},
		{"lint", no_argument, NULL, 'l'},
		{"import", required_argument, NULL, 'i'},
		{"attach-connected", no_argument, NULL, 'a'},
		{"verbose", no_argument, NULL, 'v'},
		{"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'V'},
		{NULL, 0, NULL, 0},
	};
	int c;

	*o = (struct options){.config = CONFIG_PATH, .output = RULES_PATH, .apply = true};
	while ((c = getopt_long(argc, argv, "ac:o:vh", names, NULL)) >= 0) {
		if (take_option(o, c))
			continue;
		if (c == 'V')
			puts("vhotplug-gen-rules " VHOTPLUG_VERSION);
		else
			fputs(usage, c == 'h' ? stdout : stderr);
		return c == 'h' || c == 'V' ? EXIT_SUCCESS : EXIT_USAGE;
	}
	if (optind < argc) {
		fprintf(stderr, "vhotplug-gen-rules: %s is no option\n%s", argv[optind], usage);
		return EXIT_USAGE;
	}
	return -1;
}

/* The rules for the config in O as a new string in *RET. Returns 0, or -errno with the reason
 * said. */
static int make_rules(const struct options *o, const struct config *config, char **ret)
{
	_cleanup_free_ char *text = NULL, *path = NULL;
	size_t size;
	FILE *out;
	int r;

	path = realpath(o->config, NULL);
	out = open_memstream(&text, &size);
	if (!out)
		return -ENOMEM;
	r = rules_write(config, path ?: o->config, out, o->verbose ? stderr : NULL);
	if (fclose(out) != 0 && r == 0)
		r = -ENOMEM;
	if (r < 0) {
		fprintf(stderr, "vhotplug-gen-rules: %s\n", strerror(-r));
		return r;
	}
	if (rules_check(text, stderr) > 0) {
		fputs("vhotplug-gen-rules: these rules are not safe to use, nothing is written\n",
		      stderr);
		return -EINVAL;
	}
	*ret = TAKE_PTR(text);
	return 0;
}

static int report_failure(const char *what, int error)
{
	fprintf(stderr, "vhotplug-gen-rules: %s: %s\n", what, strerror(-error));
	return EXIT_FAILURE;
}

static int check_rules(const struct options *o, const char *text)
{
	_cleanup_free_ char *installed = NULL;
	int r = rules_installed(o->output, &installed);

	if (r < 0)
		return report_failure(o->output, r);
	if (streq(installed, text))
		return EXIT_SUCCESS;
	r = rules_print_diff(o->output, text);
	if (r < 0)
		report_failure("diff", r);
	return EXIT_FAILURE;
}

static int apply_rules(const struct config *config)
{
	int applied, r;

	if (rules_reload() < 0)
		return EXIT_FAILURE;
	applied = rules_apply(config);
	/* One device that udevd is not done with must not keep the broker from what holds for all
	 * others. */
	r = rules_tell_broker(VHOTPLUG_RUNDIR "/" WIRE_SOCKET_NAME, BROKER_WAIT_MS);
	if (r == -ENOENT || r == -ECONNREFUSED)
		puts(applied < 0 ? "The broker is not running."
				 : "The rules are in force; the broker is not running.");
	else if (r < 0)
		return report_failure(
			applied < 0 ? "the broker did not take note"
				    : "the rules are in force, but the broker did not take note",
			r);
	return applied < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

static int explain_devices(const struct options *o)
{
	_cleanup_(config_freep) struct config *config = NULL;
	int r = config_load(o->config, stderr, &config);

	if (r < 0)
		return EXIT_FAILURE;
	r = rules_explain(config, o->explain, stdout);
	if (r < 0 && r != -ENODEV)
		return report_failure(o->explain, r);
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

static int lint_config(const struct options *o)
{
	_cleanup_(config_freep) struct config *config = NULL;

	if (config_load(o->config, stderr, &config) < 0)
		return EXIT_FAILURE;
	return config_lint(config, o->config, stdout) > 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* What was made must be a config that we take ourselves. */
static int check_imported(const char *text, size_t size)
{
	_cleanup_(config_freep) struct config *config = NULL;
	FILE *file = fmemopen((void *) (uintptr_t) text, size, "r");
	int r = file ? config_read(file, "imported", stderr, &config) : -errno;

	if (file)
		fclose(file);
	return r;
}

static int import_config(const struct options *o)
{
	_cleanup_free_ char *theirs = NULL, *ours = NULL;
	size_t size;
	FILE *out;
	int r = access(o->import, R_OK) < 0 ? -errno : rules_installed(o->import, &theirs);

	if (r < 0)
		return report_failure(o->import, r);
	out = open_memstream(&ours, &size);
	if (!out)
		return report_failure(o->import, -ENOMEM);
	const char *slash = strrchr(o->import, '/');

	fprintf(out, "; From %s, by vhotplug-gen-rules --import.\n", slash ? slash + 1 : o->import);
	r = config_import(theirs, o->attach_connected, out, stderr);
	if (fclose(out) != 0 || r < 0)
		return report_failure(o->import, r < 0 ? r : -ENOMEM);
	fputs(ours, stdout);
	r = check_imported(ours, size);
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

struct making {
	const struct options *o;
	struct config *config; /* that the last rules are of */
};

static int make_from_file(void *data, char **ret_text)
{
	struct making *making = data;
	_cleanup_(config_freep) struct config *config = NULL;

	if (config_load(making->o->config, stderr, &config) < 0 ||
	    make_rules(making->o, config, ret_text) < 0)
		return -ECANCELED;
	config_free(making->config);
	making->config = TAKE_PTR(config);
	return 0;
}

/* Makes the rules, and puts them where they are to be, and in force. */
static int install_rules(const struct options *o)
{
	struct making making = {.o = o};
	int r = rules_install_of(o->config, o->output, make_from_file, &making), status;

	if (r == -ECANCELED)
		status = EXIT_FAILURE;
	else if (r < 0)
		status = report_failure(o->output, r);
	else
		status = o->apply ? apply_rules(making.config) : EXIT_SUCCESS;
	config_free(making.config);
	return status;
}

/* Makes the rules, and shows them or what is different in those that are installed. */
static int show_rules(const struct options *o)
{
	_cleanup_(config_freep) struct config *config = NULL;
	_cleanup_free_ char *text = NULL;

	if (config_load(o->config, stderr, &config) < 0 || make_rules(o, config, &text) < 0)
		return EXIT_FAILURE;
	if (o->check)
		return check_rules(o, text);
	return fputs(text, stdout) < 0 || fflush(stdout) != 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
	struct options o;
	int r = parse_options(argc, argv, &o);

	if (r >= 0)
		return r;
	if (o.import)
		return import_config(&o);
	if (o.lint)
		return lint_config(&o);
	if (o.explain)
		return explain_devices(&o);
	if (o.check || streq(o.output, "-"))
		return show_rules(&o);
	return install_rules(&o);
}
