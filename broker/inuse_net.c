/* The host's way to the network: see inuse.h.
 * Sources: kernel, Documentation/networking (proc/net/route); proc(5), /proc/PID/mountinfo;
 * Documentation/ABI/testing/sysfs-class-net (lower_DEVICE: what an interface is made of). */
#include <net/route.h>
#include <sys/socket.h>

#include "broker/inuse.h"
#include "broker/routes.h"
#include "conf/array.h"
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

/* Does NAME lie on no device, and on no other interface? Then it is a tunnel, or the port of a
 * switch in software, and nothing tells what it goes through. Returns 0, 1 or -errno. */
static int is_tunnel(const char *name)
{
	const struct dirent *entry;
	char place[PATH_MAX];
	int r = root_resolve(place, "/sys/class/net/%s", name);

	if (r < 0)
		return r == -ENOENT ? 0 : r;
	if (!strstr(place, "/devices/virtual/"))
		return 0;
	DIR *dir = root_opendir("%s", place);
	r = dir ? 1 : -errno;
	while (dir && r == 1 && (entry = readdir(dir)))
		if (startswith(entry->d_name, "lower_"))
			r = 0;
	if (dir)
		closedir(dir);
	return r;
}

/* Can anything go out by NAME just now? Not where that can't be told. Source: kernel,
 * Documentation/ABI/testing/sysfs-class-net, carrier. */
static bool has_carrier(const char *name)
{
	char carrier[8];

	return root_read(carrier, sizeof(carrier), "/sys/class/net/%s/carrier", name) == 0 &&
	       streq(carrier, "1");
}

/* Where default routes lead, of one table. */
struct ways {
	uint32_t table;
	unsigned below, tunnels, others;
	char interface[64]; /* one that is below */
	char tunnel[64];
};

static int note_way(struct ways *ways, struct inuse *inuse, const char *interface)
{
	int r = is_below(interface, inuse, MAX_LAYERS);
	bool is_other;

	if (r == 1) {
		ways->below++;
		snprintf(ways->interface, sizeof(ways->interface), "%s", interface);
		return 0;
	}
	if (r == 0)
		r = is_tunnel(interface);
	if (r == 1)
		snprintf(ways->tunnel, sizeof(ways->tunnel), "%s", interface);
	ways->tunnels += r == 1;
	is_other = r == 0 && has_carrier(interface);
	ways->others += is_other;
	inuse->n_elsewhere += is_other;
	return r < 0 ? r : 0;
}

static int say_needed(struct inuse *inuse, const char *interface)
{
	inuse->is_needed = true;
	return inuse_say(inuse,
			 "the host's only default route goes through it (%s); force = yes in"
			 " its rule gives it away all the same",
			 interface);
}

static int say_unknown(struct inuse *inuse, int r)
{
	return inuse_say(inuse,
			 "can't tell whether the host's only default route goes through it:"
			 " %s; force = yes in its rule gives it away all the same",
			 strerror(-r));
}

/* The default routes in the file NAME. Returns 0 or -errno. */
static int read_ways(struct inuse *inuse, const char *name, bool (*parse)(const char *, char *),
		     struct ways *ways)
{
	char line[512], interface[64];
	int r = 0;
	_cleanup_fclose_ FILE *f = root_fopen("/proc/1/net/%s", name);

	if (!f)
		return -errno;
	while (r == 0 && fgets(line, sizeof(line), f))
		if (parse(line, interface))
			r = note_way(ways, inuse, interface);
	return r == 0 && ferror(f) ? -EIO : r;
}

static bool route_carries(const char *line, const char *name)
{
	char interface[64];
	unsigned flags;

	return sscanf(line, "%63s %*s %*s %x", interface, &flags) == 2 && streq(interface, name) &&
	       flags & (RTF_GATEWAY | RTF_HOST);
}

/* The same for /proc/net/ipv6_route, where each address of the host's own has a route, too. */
static bool ipv6_route_carries(const char *line, const char *name)
{
	char interface[64];
	unsigned flags;

	return sscanf(line, "%*s %*s %*s %*s %*s %*s %*s %*s %x %63s", &flags, interface) == 2 &&
	       streq(interface, name) && flags & RTF_GATEWAY;
}

/* Is there such a route in the file FILE? Returns 0, 1 or -errno. */
static int any_route(const char *file, bool (*fn)(const char *line, const char *name),
		     const char *name)
{
	char line[512];
	int r = 0;
	_cleanup_fclose_ FILE *f = root_fopen("/proc/1/net/%s", file);

	if (!f)
		return -errno;
	while (r == 0 && fgets(line, sizeof(line), f))
		r = fn(line, name);
	return r == 0 && ferror(f) ? -EIO : r;
}

/* Has NAME, which is below one of the devices, a route to more than its own net, or is it a port of
 * a switch? Then a tunnel may go through it. Returns 0, 1 or -errno. */
static int may_carry(const char *name)
{
	char master[64];
	int r = root_link_name(master, sizeof(master), "/sys/class/net/%s/master", name);

	if (r != -ENOENT)
		return r < 0 ? r : 1;
	r = any_route("route", route_carries, name);
	if (r != 0)
		return r;
	r = any_route("ipv6_route", ipv6_route_carries, name);
	return r == -ENOENT ? 0 : r; /* a kernel without IPv6 */
}

/* Calls FN for each network interface below the devices, or made of one that is, until it says so.
 * Returns what it says last (0: for none), or -errno. */
static int any_interface(const struct inuse *inuse, int (*fn)(const char *name), char ret_name[64])
{
	const struct dirent *entry;
	DIR *dir = root_opendir("/sys/class/net");
	int r = 0;

	if (!dir)
		return errno == ENOENT ? 0 : -errno;
	while (r == 0 && (entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		r = is_below(entry->d_name, inuse, MAX_LAYERS);
		if (r == 1)
			r = fn(entry->d_name);
		if (r == 1)
			snprintf(ret_name, 64, "%.63s", entry->d_name);
	}
	closedir(dir);
	return r;
}

/* Returns 0, or -EBUSY with words. */
static int judge_ways(struct inuse *inuse, const struct ways *ways)
{
	char carrier[64];

	if (ways->others > 0)
		return 0;
	if (ways->below > 0)
		return say_needed(inuse, ways->interface);
	if (ways->tunnels == 0)
		return 0;
	int r = any_interface(inuse, may_carry, carrier);
	if (r < 0)
		return say_unknown(inuse, r);
	if (r == 0)
		return 0;
	inuse->is_needed = true;
	return inuse_say(
		inuse,
		"the host's default route goes through %s, and that perhaps through it (%s);"
		" force = yes in its rule gives it away all the same",
		ways->tunnel, carrier);
}

static int by_main_table(struct inuse *inuse)
{
	struct ways v4 = {0}, v6 = {0};
	int r = read_ways(inuse, "route", parse_route, &v4);

	if (r < 0)
		return say_unknown(inuse, r);
	r = read_ways(inuse, "ipv6_route", parse_ipv6_route, &v6);
	/* A kernel without IPv6. */
	if (r < 0 && r != -ENOENT)
		return say_unknown(inuse, r);
	r = judge_ways(inuse, &v4);
	return r < 0 ? r : judge_ways(inuse, &v6);
}

/* Routing tables besides the main one: those of VRFs, and those that rules choose. */

struct tables {
	struct inuse *inuse;
	size_t n;
	struct ways *list;
};

static int note_route(void *data, uint32_t table, const char *interface)
{
	struct tables *tables = data;
	struct ways *ways = NULL;

	for (size_t i = 0; i < tables->n && !ways; i++)
		if (tables->list[i].table == table)
			ways = &tables->list[i];
	if (!ways && !(ways = ARRAY_APPEND(tables->list, tables->n)))
		return -ENOMEM;
	ways->table = table;
	return note_way(ways, tables->inuse, interface);
}

static int by_other_tables(struct inuse *inuse, int family)
{
	struct tables tables = {.inuse = inuse};
	int r = routes_each_default(family, note_route, &tables);

	/* A kernel without IPv6. */
	if (r < 0)
		r = r == -EOPNOTSUPP || r == -EAFNOSUPPORT ? 0 : say_unknown(inuse, r);
	for (size_t i = 0; r == 0 && i < tables.n; i++)
		if (tables.list[i].below > 0)
			r = judge_ways(inuse, &tables.list[i]);
	free(tables.list);
	return r;
}

/* The route of a link that was lost, or of a host that has just woken up, is away for a while. */
static int by_former_need(struct inuse *inuse)
{
	if (!inuse->was_needed || inuse->n_elsewhere > 0)
		return 0;
	return inuse_say(inuse, "can't tell whether the host still goes to the network through it:"
				" it has no default route just now; force = yes in its rule gives"
				" it away all the same");
}

/* File systems and disks of other machines */

static int say_unknown_way(struct inuse *inuse, const char *what, int r)
{
	return inuse_say(inuse,
			 "can't tell whether %s comes to the host through it: %s; force = yes in"
			 " its rule gives it away all the same",
			 what, strerror(-r));
}

/* WHAT comes from ADDRESS. Returns 0, or -EBUSY with words. */
static int by_address(struct inuse *inuse, const char *address, const char *what)
{
	char interface[IF_NAMESIZE];
	int r = routes_find(address, interface);

	if ((r == -ENETUNREACH || r == -EHOSTUNREACH) && !inuse->was_used)
		return 0; /* it is reached by no way at all */
	if (r == 0)
		r = is_below(interface, inuse, MAX_LAYERS);
	if (r < 0)
		return say_unknown_way(inuse, what, r);
	if (r == 0)
		return 0;
	return inuse_say(
		inuse,
		"%s comes to the host through it (%s); force = yes in its rule gives it away"
		" all the same",
		what, interface);
}

/* LIST (changed) has the addresses of Ceph's monitors, with ports, and SEPARATOR between:
 * "10.0.9.2:6789,[fd00::2]:6789". */
static int by_monitors(struct inuse *inuse, char *list, const char *separator, const char *what)
{
	char *monitor;
	int r = 0;

	while (r == 0 && (monitor = strsep(&list, separator))) {
		bool is_v6 = *monitor == '[';

		monitor[strcspn(monitor, is_v6 ? "]" : ":")] = 0;
		r = *monitor ? by_address(inuse, monitor + is_v6, what) : 0;
	}
	return r;
}

/* From Linux 5.17 on they are in an option, else in what is mounted, before ":/". */
static int by_ceph(struct inuse *inuse, char *source, char *options, const char *what)
{
	char *list = strstr(options, "mon_addr=");
	char *end = strstr(source, ":/");

	if (list) {
		list += strlen("mon_addr=");
		list[strcspn(list, ",")] = 0;
		return by_monitors(inuse, list, "/", what);
	}
	if (end)
		*end = 0;
	return by_monitors(inuse, source, ",", what);
}

/* One line of a mount table: says where the server is. No other types are asked: a user may mount
 * file systems of his own, with any words in the line. */
static int by_mount(struct inuse *inuse, const char *line)
{
	static const char *const types[] = {"nfs", "nfs4", "cifs", "smb3"};
	char address[64], where[100], what[140], type[32], source[1000], options[2000];
	const char *tail = strstr(line, " - ");

	if (!tail || sscanf(tail, " - %31s %999s %1999[^\n]", type, source, options) != 3 ||
	    sscanf(line, "%*s %*s %*s %*s %99s", where) != 1)
		return 0;
	snprintf(what, sizeof(what), "the file system on %s", where);
	if (streq(type, "ceph"))
		return by_ceph(inuse, source, options, what);
	if (streq(type, "9p") && (strstr(options, "trans=tcp") || strstr(options, "trans=rdma")))
		return by_address(inuse, source, what);
	const char *option = strstr(options, ",addr=");
	for (size_t i = 0; option && i < ARRAY_SIZE(types); i++)
		if (streq(type, types[i]) && sscanf(option, ",addr=%63[^, \n]", address) == 1)
			return by_address(inuse, address, what);
	return 0;
}

static int by_mounts(struct inuse *inuse)
{
	_cleanup_fclose_ FILE *f = root_fopen("/proc/1/mountinfo");
	_cleanup_free_ char *line = NULL;
	size_t size = 0;
	int r = 0;

	if (!f)
		return say_unknown_way(inuse, "a file system", -errno);
	while (r == 0 && getline(&line, &size, f) > 0)
		r = by_mount(inuse, line);
	return r == 0 && !feof(f) ? say_unknown_way(inuse, "a file system", -errno) : r;
}

/* A connection that is just down has only the address that it is made to again. */
static int by_connection(struct inuse *inuse, const char *name)
{
	static const char *const attributes[] = {"address", "persistent_address"};
	char address[64];
	int r = -ENOENT;

	for (size_t i = 0; r < 0 && i < ARRAY_SIZE(attributes); i++)
		r = root_read(address, sizeof(address), "/sys/class/iscsi_connection/%s/%s", name,
			      attributes[i]);
	if (r == -ENOENT)
		return 0; /* it has gone */
	return r < 0 ? say_unknown_way(inuse, "an iSCSI disk", r)
		     : by_address(inuse, address, "an iSCSI disk");
}

/* A controller that another machine has. Source: kernel, drivers/nvme/host/sysfs.c. */
static int by_controller(struct inuse *inuse, const char *name)
{
	char transport[32], line[300], address[64];
	int r = root_read(transport, sizeof(transport), "/sys/class/nvme/%s/transport", name);

	if (r == 0 && (streq(transport, "tcp") || streq(transport, "rdma")))
		r = root_read(line, sizeof(line), "/sys/class/nvme/%s/address", name);
	else
		return r == 0 || r == -ENOENT ? 0 : say_unknown_way(inuse, "an NVMe disk", r);
	const char *traddr = r == 0 ? strstr(line, "traddr=") : NULL;
	if (r == -ENOENT)
		return 0; /* it has gone */
	if (!traddr || sscanf(traddr, "traddr=%63[^,]", address) != 1)
		return say_unknown_way(inuse, "an NVMe disk", r < 0 ? r : -EBADMSG);
	return by_address(inuse, address, "an NVMe disk");
}

/* FN for each device of CLASS. */
static int by_class(struct inuse *inuse, const char *class, const char *what,
		    int (*fn)(struct inuse *inuse, const char *name))
{
	DIR *dir = root_opendir("/sys/class/%s", class);
	const struct dirent *entry = NULL;
	int r = 0;

	if (!dir)
		return errno == ENOENT ? 0 : say_unknown_way(inuse, what, -errno);
	while (r == 0 && (errno = 0, entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			r = fn(inuse, entry->d_name);
	if (r == 0 && errno != 0)
		r = say_unknown_way(inuse, what, -errno);
	closedir(dir);
	return r;
}

int inuse_by_routes(struct inuse *inuse)
{
	if (inuse->has_hidden)
		return inuse_say(inuse, "its network interface is in another network namespace;"
					" force = yes in its rule gives it away all the same");
	/* A host of many VMs has many interfaces, and whoever plugs in a keyboard waits. */
	if (!inuse->has_interface)
		return 0;
	inuse->n_elsewhere = 0;
	int r = by_main_table(inuse);
	if (r == 0)
		r = by_other_tables(inuse, AF_INET);
	if (r == 0)
		r = by_other_tables(inuse, AF_INET6);
	if (r == 0)
		r = by_former_need(inuse);
	if (r == 0)
		r = by_mounts(inuse);
	if (r == 0)
		r = by_class(inuse, "iscsi_connection", "an iSCSI disk", by_connection);
	return r < 0 ? r : by_class(inuse, "nvme", "an NVMe disk", by_controller);
}
