/* The host's way to the network: see inuse.h.
 * Sources: kernel, Documentation/networking (proc/net/route);
 * Documentation/ABI/testing/sysfs-class-net (lower_DEVICE: what an interface is made of). */
#include <net/route.h>

#include "broker/inuse.h"
#include "helper/root.h"

#define MAX_LAYERS 16 /* of interfaces made of others; who has more counts as needed */

static bool is_in(const char *place, const struct inuse *inuse)
{
	for (size_t i = 0; i < inuse->n_paths; i++) {
		const char *rest = startswith(place, inuse->paths[i]);

		if (rest && *rest == '/')
			return true;
	}
	return false;
}

/* Is the network interface NAME below one of the devices of INUSE, or made of one that is (a
 * bridge, a bond, a VLAN, a team)? Returns 0, 1 or -errno. */
static int is_below(const char *name, const struct inuse *inuse, int layers)
{
	const struct dirent *entry;
	char place[PATH_MAX];
	int r = root_resolve(place, "/sys/class/net/%s", name);

	if (r < 0)
		return r == -ENOENT ? 0 : r;
	if (layers == 0 || is_in(place, inuse))
		return 1;
	DIR *dir = root_opendir("%s", place);
	if (!dir)
		return errno == ENOENT ? 0 : -errno;
	while (r == 0 && (entry = readdir(dir))) {
		const char *lower = startswith(entry->d_name, "lower_");

		if (lower)
			r = is_below(lower, inuse, layers - 1);
	}
	closedir(dir);
	return r;
}

/* The interface that the default route in LINE of /proc/net/route goes out by; false: it is none.
 */
static bool parse_route(const char *line, char ret_interface[64])
{
	unsigned target, mask, flags;

	return sscanf(line, "%63s %x %*s %x %*d %*d %*d %x", ret_interface, &target, &flags,
		      &mask) == 4 &&
	       target == 0 && mask == 0 && flags & RTF_UP && !(flags & RTF_REJECT);
}

/* The same for /proc/net/ipv6_route. */
static bool parse_ipv6_route(const char *line, char ret_interface[64])
{
	char target[33];
	unsigned length, flags;

	return sscanf(line, "%32s %x %*s %*s %*s %*s %*s %*s %x %63s", target, &length, &flags,
		      ret_interface) == 4 &&
	       length == 0 && strspn(target, "0") == 32 && flags & RTF_UP && !(flags & RTF_REJECT);
}

/* Do all default routes in the table NAME, and at least one, go through the devices of INUSE?
 * Returns 0 or 1, or -errno. */
static int needs(const struct inuse *inuse, const char *name, bool (*parse)(const char *, char *),
		 char ret_interface[64])
{
	char line[512], interface[64];
	unsigned n_below = 0, n_other = 0;
	_cleanup_fclose_ FILE *f = root_fopen("/proc/1/net/%s", name);

	if (!f)
		return -errno;
	while (fgets(line, sizeof(line), f)) {
		if (!parse(line, interface))
			continue;
		int r = is_below(interface, inuse, MAX_LAYERS);
		if (r < 0)
			return r;
		n_below += r == 1;
		n_other += r == 0;
		if (r == 1)
			strcpy(ret_interface, interface);
	}
	if (ferror(f))
		return -EIO;
	return n_below > 0 && n_other == 0;
}

int inuse_by_routes(struct inuse *inuse)
{
	char interface[64];
	int r = needs(inuse, "route", parse_route, interface);

	if (r == 0)
		r = needs(inuse, "ipv6_route", parse_ipv6_route, interface);
	/* A kernel without IPv6. */
	if (r == -ENOENT && root_exists("/proc/1/net/route") == 0)
		r = 0;
	if (r < 0)
		return inuse_say(inuse,
				 "can't tell whether the host's only default route goes through it:"
				 " %s; force = yes in its rule gives it away all the same",
				 strerror(-r));
	if (r > 0)
		return inuse_say(
			inuse,
			"the host's only default route goes through it (%s); force = yes in"
			" its rule gives it away all the same",
			interface);
	return 0;
}
