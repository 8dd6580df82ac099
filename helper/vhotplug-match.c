/* vhotplug-match: udevd runs it (PROGRAM) for the rare pattern that a glob can't say. The exit
 * status is the answer. With --surely-not, for deny rules, 0 is "surely no match", so that whatever
 * goes wrong denies. */
#include <getopt.h>
#include <syslog.h>

#include "conf/base64url.h"
#include "helper/match.h"
#include "helper/report.h"

enum {
	EXIT_MATCH = 0,
	EXIT_NO_MATCH = 1,
	EXIT_ERROR = 2,
};

static int report_failure(const char *key, const char *why)
{
	report_line("vhotplug-match", LOG_ERR, "%s: %s: %s", getenv("DEVPATH") ?: "no device", key,
		    why);
	return EXIT_ERROR;
}

static int print_usage(void)
{
	fputs("Usage: vhotplug-match [--surely-not] KEY [PROPERTY] PATTERN\n"
	      "       vhotplug-match interfaces PROPERTY\n"
	      "PROPERTY and PATTERN in base64url; the device is that of the environment.\n",
	      stderr);
	return EXIT_ERROR;
}

/* Returns 0, or -1 after saying what is wrong. */
static int parse_options(int argc, char **argv, struct match_places *places, bool *ret_surely_not)
{
	static const struct option names[] = {
		{"surely-not", no_argument, NULL, 'n'},
		{"sysfs", required_argument, NULL, 's'},   /* for tests */
		{"modules", required_argument, NULL, 'm'}, /* for tests */
		{NULL, 0, NULL, 0},
	};
	int c;

	while ((c = getopt_long(argc, argv, "+", names, NULL)) >= 0) {
		if (c == 'n')
			*ret_surely_not = true;
		else if (c == 's')
			places->sysfs = optarg;
		else if (c == 'm')
			places->modules = optarg;
		else
			return -1;
	}
	return 0;
}

/* For IMPORT{program}: all interfaces as PROPERTY. */
static int print_interfaces(const struct match_places *places, const char *property)
{
	char interfaces[INTERFACES_MAX];
	int r = match_interfaces(places, interfaces);

	if (r < 0)
		return report_failure("interfaces", strerror(-r));
	printf("%s=%s\n", property, interfaces);
	return EXIT_MATCH;
}

int main(int argc, char **argv)
{
	_cleanup_free_ char *property = NULL, *pattern = NULL;
	struct match_places places = {0};
	bool surely_not = false;
	const char *why = NULL;
	int n, r;

	if (parse_options(argc, argv, &places, &surely_not) < 0)
		return print_usage();
	n = argc - optind;
	argv += optind;
	if (n == 2 && streq(argv[0], "interfaces"))
		return print_interfaces(&places, argv[1]);
	if (n < 2 || n > 3)
		return print_usage();
	if (base64url_decode(argv[n - 1], &pattern) < 0 ||
	    (n == 3 && base64url_decode(argv[1], &property) < 0))
		return report_failure(argv[0], "the pattern is not properly encoded");
	r = match_field(&places, argv[0], property, pattern, &why);
	if (r < 0)
		return report_failure(argv[0], why ?: strerror(-r));
	if (surely_not)
		return r > 0 ? EXIT_NO_MATCH : EXIT_MATCH;
	return r > 0 ? EXIT_MATCH : EXIT_NO_MATCH;
}
