/* vhotplug-mdev: what the rules and vhotplug-helper are where busybox's mdev or mdevd takes the
 * place of udevd. It decides by the config itself. */
#include <dirent.h>
#include <getopt.h>
#include <signal.h>

#include "conf/load.h"
#include "helper/daemon.h"
#include "helper/helper.h"
#include "helper/mdev.h"
#include "helper/root.h"
#include "helper/wire.h"
#include "rules.d/install.h"

#define BROKER_WAIT_MS 5000

static const char usage[] =
	"Usage: vhotplug-mdev [-c FILE] [--start-broker] [--all]\n"
	"Decides about the device whose event is in the environment, and takes the event to\n"
	"vhotplug-broker. Run by mdev or mdevd.\n"
	"  -c, --config FILE  the config (default " VHOTPLUG_CONFDIR "/vhotplug.conf)\n"
	"      --all          decide about every device that is there: when the system starts, "
	"and\n"
	"                     when the config has changed\n"
	"      --start-broker where none runs, start one that ends when there is nothing to do\n"
	"  -h, --help         this text\n"
	"      --version      the version\n";

static int report_failure(const char *what, int error)
{
	fprintf(stderr, "vhotplug-mdev: %s: %s\n", what, strerror(-error));
	return EXIT_FAILURE;
}

static int start_broker(void)
{
	int r = daemon_start(VHOTPLUG_SBINDIR "/vhotplug-broker", "--exit-when-idle");

	return r < 0 ? report_failure("the broker can't be started", r) : EXIT_SUCCESS;
}

/* Decides about the device at DEVPATH, which DEVICE is then about, and keeps it. Returns whether it
 * is taken, or -errno; RET_KEPT: 0, or why it could not be kept. */
static int decide_device(struct mdev_device *device, const struct config *config,
			 const char *devpath, int *ret_kept)
{
	int taken = mdev_read(device, devpath);

	*ret_kept = 0;
	if (taken <= 0)
		return taken;
	taken = mdev_decide(device, config);
	if (taken >= 0)
		*ret_kept = mdev_store(device, taken);
	return taken;
}

/* Puts what is known of DEVICE into the environment. */
static int export_device(struct mdev_device *device)
{
	for (char **p = device->properties; p && *p; p++) {
		char *value = strchr(*p, '=');

		*value++ = '\0';
		if (setenv(*p, value, true) < 0)
			return -errno;
	}
	return 0;
}

/* What the event in the environment leads to, when it is one that the broker is to have. */
static int deliver_event(bool start)
{
	bool alone;
	int status = helper_run(VHOTPLUG_RUNDIR, &alone);

	/* It finds the event in the spool. */
	return start && alone && status == EXIT_SUCCESS ? start_broker() : status;
}

/* An unplug needs no config, and is not lost while that has a mistake. */
static int handle_remove(const char *devpath, bool start)
{
	mdev_forget(getenv("SUBSYSTEM") ?: "", strrchr(devpath, '/') + 1, getenv("MAJOR"),
		    getenv("MINOR"));
	return deliver_event(start);
}

/* A decision that could not be kept goes to the broker all the same: what it says is right, and the
 * device would be lost without it. */
static int handle_add(const struct config *config, const char *devpath, bool start)
{
	_cleanup_(mdev_finish) struct mdev_device device = {0};
	int kept, taken = decide_device(&device, config, devpath, &kept);
	int r = taken > 0 ? export_device(&device) : taken, status = EXIT_SUCCESS;

	if (r < 0)
		return report_failure(devpath, r);
	if (kept < 0) {
		fprintf(stderr, "vhotplug-mdev: %s is not kept in /run/udev: %s\n", devpath,
			strerror(-kept));
		status = EXIT_FAILURE;
	}
	return taken > 0 ? deliver_event(start) | status : status;
}

/* Decides about all devices that DIRECTORY has links to. */
static int decide_all(const struct config *config, const char *directory)
{
	DIR *dir = root_opendir("%s", directory);
	struct dirent *entry;
	char path[PATH_MAX];
	int result = 0;

	while (dir && (entry = readdir(dir))) {
		_cleanup_(mdev_finish) struct mdev_device device = {0};
		const char *devpath;
		int r, kept;

		if (entry->d_name[0] == '.' ||
		    root_resolve(path, "%s/%s", directory, entry->d_name) < 0 ||
		    !(devpath = startswith(path, "/sys")))
			continue;
		r = decide_device(&device, config, devpath, &kept);
		if (r >= 0)
			r = kept;
		/* It may have gone meanwhile. */
		if (r < 0 && r != -ENOENT && r != -ENODEV)
			result = r;
	}
	if (dir)
		closedir(dir);
	return result;
}

static int handle_all(const struct config *config, bool start)
{
	static const char *const directories[] = {"/sys/bus/usb/devices", "/sys/bus/pci/devices",
						  "/sys/class/input"};
	int result = EXIT_SUCCESS, r;

	for (size_t i = 0; i < ARRAY_SIZE(directories); i++) {
		r = decide_all(config, directories[i]);
		if (r < 0)
			result = report_failure(directories[i], r);
	}
	r = rules_tell_broker(VHOTPLUG_RUNDIR "/" WIRE_SOCKET_NAME, BROKER_WAIT_MS);
	if (start && (r == -ENOENT || r == -ECONNREFUSED))
		result |= start_broker();
	else if (r < 0 && r != -ENOENT && r != -ECONNREFUSED)
		result = report_failure("the broker did not take note", r);
	return result;
}

/* Returns -1 to go on, or what to exit with. */
static int parse_options(int argc, char **argv, const char **config, bool *all, bool *start)
{
	static const struct option names[] = {
		{"config", required_argument, NULL, 'c'}, {"all", no_argument, NULL, 'a'},
		{"start-broker", no_argument, NULL, 's'}, {"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'V'},      {NULL, 0, NULL, 0},
	};
	int c;

	while ((c = getopt_long(argc, argv, "c:h", names, NULL)) >= 0) {
		if (c == 'c') {
			*config = optarg;
		} else if (c == 'a') {
			*all = true;
		} else if (c == 's') {
			*start = true;
		} else if (c == 'V') {
			puts("vhotplug-mdev " VHOTPLUG_VERSION);
			return EXIT_SUCCESS;
		} else {
			fputs(usage, c == 'h' ? stdout : stderr);
			return c == 'h' ? EXIT_SUCCESS : 2;
		}
	}
	if (optind == argc)
		return -1;
	fputs(usage, stderr);
	return 2;
}

int main(int argc, char **argv)
{
	_cleanup_(config_freep) struct config *config = NULL;
	const char *path = VHOTPLUG_CONFDIR "/vhotplug.conf";
	const char *action = getenv("ACTION") ?: "", *devpath = getenv("DEVPATH") ?: "";
	bool all = false, start = false;
	int r = parse_options(argc, argv, &path, &all, &start);

	if (r >= 0)
		return r;
	helper_close_inherited();
	signal(SIGPIPE, SIG_IGN);
	if (root_exists("/run/udev/control") == 0)
		return report_failure("udevd runs here, and vhotplug-gen-rules is for that",
				      -EBUSY);
	if (!all && !startswith(devpath, "/devices/"))
		return report_failure("no event in the environment", -EINVAL);
	if (!all && streq(action, "remove"))
		return handle_remove(devpath, start);
	if (config_load(path, stderr, &config) < 0)
		return EXIT_FAILURE;
	if (all)
		return handle_all(config, start);
	return streq(action, "add") ? handle_add(config, devpath, start) : EXIT_SUCCESS;
}
