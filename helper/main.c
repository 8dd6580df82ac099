/* vhotplug-helper: udevd runs it for each device that a rule has claimed. See helper.h. */
#include <signal.h>

#include "helper/helper.h"

static int print_usage(FILE *out, int status)
{
	fputs("Usage: vhotplug-helper [udev]\n"
	      "Takes one udev event from its environment to vhotplug-broker. Run by udev rules.\n",
	      out);
	return status;
}

int main(int argc, char **argv)
{
	bool alone;

	helper_close_inherited();
	signal(SIGPIPE, SIG_IGN);

	if (argc == 2 && streq(argv[1], "--help"))
		return print_usage(stdout, 0);
	if (argc == 2 && streq(argv[1], "--version"))
		return puts("vhotplug-helper " VHOTPLUG_VERSION) < 0;
	if (argc > 2 || (argc == 2 && !streq(argv[1], "udev")))
		return print_usage(stderr, 2);
	return helper_run(VHOTPLUG_RUNDIR, &alone);
}
