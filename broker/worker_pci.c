/* The worker's jobs on PCI functions: taking an IOMMU group from its host drivers for vfio-pci, and
 * giving it back. Runs in the worker: a driver may take for ever to let go.
 * Sources: kernel, Documentation/driver-api/vfio.rst; Documentation/ABI/testing/sysfs-bus-pci
 * (driver_override, sriov_numvfs, virtfnN); Documentation/PCI/pci-iov-howto.rst. */
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "broker/device.h"
#include "broker/inuse.h"
#include "broker/mark.h"
#include "broker/pci.h"
#include "broker/worker.h"
#include "broker/worker_host.h"
#include "conf/array.h"
#include "helper/root.h"

#define GROUP_NODE_MS 5000 /* for udevd to make /dev/vfio/GROUP */
#define CLOSING_TRIES 20   /* for a VMM that has just ended to close a group */
#define CLOSING_MS 100     /* between two looks */
#define MAX_NAMED 3        /* virtual functions that are named */
#define NVIDIA_MAJOR 195   /* of its nodes: kernel, Documentation/admin-guide/devices.txt */

static int write_attribute(const char *address, const char *attribute, const char *text)
{
	return root_write(text, "/sys/bus/pci/devices/%s/%s", address, attribute);
}

/* Safety */

/* The number of the node of the IOMMU group of the function at ADDRESS, or 0. */
static dev_t group_node(const char *address)
{
	char node[PATH_MAX];
	struct pci_group group;
	struct stat st;

	if (pci_get_group(address, &group) < 0 ||
	    root_path(node, sizeof(node), "/dev/vfio/%d", group.number) < 0 || stat(node, &st) < 0)
		return 0;
	return st.st_rdev;
}

static void free_nodes(struct nodes *nodes)
{
	free(nodes->list);
}

/* Adds the node of the function at ADDRESS, which a VMM may open instead of its group's (iommufd).
 * Returns 0 or -errno. */
static int add_function_node(struct nodes *nodes, const char *address)
{
	char path[PATH_MAX];
	const struct dirent *entry;
	int r = 0;
	DIR *dir = root_opendir("/sys/bus/pci/devices/%s/vfio-dev", address);

	while (dir && r == 0 && (entry = readdir(dir))) {
		snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/vfio-dev/%s", address,
			 entry->d_name);
		r = entry->d_name[0] == '.' ? 0 : nodes_add(nodes, path);
	}
	if (dir)
		closedir(dir);
	return r;
}

/* All that GROUP can be opened by. Returns 0 or -errno. */
static int find_nodes(const struct pci_group *group, struct nodes *ret_nodes)
{
	dev_t number = group_node(group->members[0]);
	struct node *node = number != 0 ? ARRAY_APPEND(ret_nodes->list, ret_nodes->n) : NULL;
	int r = number != 0 && !node ? -ENOMEM : 0;

	if (node)
		*node = (struct node){.number = number};
	for (size_t i = 0; r == 0 && i < group->n_members; i++)
		r = add_function_node(ret_nodes, group->members[i]);
	return r;
}

/* Who has the node of the IOMMU group of function VF open? */
static bool find_group_opener(const char *vf, char *ret_who, size_t size)
{
	struct node node = {.number = group_node(vf)};
	struct nodes nodes = {1, &node};

	return node.number != 0 && inuse_find_opener(&nodes, NULL, ret_who, size) > 0;
}

/* "0000:02:00.1 (qemu-system-x86 (process 12)), 0000:02:00.2 (nvme)": the virtual functions of
 * ADDRESS and who has them. */
static void describe_vfs(const char *address, unsigned n_vfs, char *ret_text, size_t size)
{
	unsigned n = n_vfs < MAX_NAMED ? n_vfs : MAX_NAMED;
	size_t length = 0;

	*ret_text = 0;
	for (unsigned i = 0; i < n && length < size; i++) {
		char vf[PCI_ADDRESS_SIZE], driver[64] = "no driver", who[96];

		if (root_link_name(vf, sizeof(vf), "/sys/bus/pci/devices/%s/virtfn%u", address, i) <
		    0)
			continue;
		pci_driver(vf, driver, sizeof(driver));
		bool is_open = find_group_opener(vf, who, sizeof(who));
		length += (size_t) snprintf(ret_text + length, size - length, "%s%s (%s)",
					    length > 0 ? ", " : "", vf, is_open ? who : driver);
	}
	if (n < n_vfs && length < size)
		snprintf(ret_text + length, size - length, " and %u more", n_vfs - n);
}

/* The driver of a function takes its virtual functions with it when it lets go. */
static int check_vfs(struct inuse *inuse, const char *address)
{
	char number[16], vfs[180];
	int r = root_read(number, sizeof(number), "/sys/bus/pci/devices/%s/sriov_numvfs", address);

	if (r == -ENOENT || (r == 0 && streq(number, "0")))
		return 0;
	if (r < 0)
		return inuse_say(inuse, "can't tell whether %s has virtual functions: %s", address,
				 strerror(-r));
	describe_vfs(address, (unsigned) atoi(number), vfs, sizeof(vfs));
	return inuse_say(inuse, "%s has %s virtual function(s): %s", address, number, vfs);
}

/* NVIDIA's driver makes no device of its node, which nvidia-persistenced and CUDA have open;
 * unbound then, it waits for them for ever. Source: open-gpu-kernel-modules, nv-procfs.c and
 * nv-pci.c. */
static int note_nvidia(struct inuse *inuse, const char *address)
{
	char line[200], driver[64];
	unsigned number;

	if (!pci_driver(address, driver, sizeof(driver)) || !streq(driver, "nvidia"))
		return 0;
	_cleanup_fclose_ FILE *f = root_fopen("/proc/driver/nvidia/gpus/%s/information", address);
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "Device Minor: %u", &number) == 1)
			return inuse_note_node(inuse, makedev(NVIDIA_MAJOR, number), "nvidia%u",
					       number);
	return inuse_say(inuse,
			 "can't tell whether %s is in use: nvidia does not say which node "
			 "it has",
			 address);
}

static int check_member(struct inuse *inuse, const char *address)
{
	char path[PATH_MAX];
	int r = check_vfs(inuse, address);

	if (r < 0)
		return r;
	r = root_resolve(path, "/sys/bus/pci/devices/%s", address);
	if (r < 0 && r != -ENOENT)
		return inuse_say(inuse, "can't tell whether %s is in use: %s", address,
				 strerror(-r));
	if (r < 0)
		return 0;
	r = inuse_below(inuse, path);
	return r < 0 ? r : note_nvidia(inuse, address);
}

/* The group must have no virtual functions, hold nothing in use, and not the host's last way to the
 * network. What INUSE holds keeps others from beginning to use it before it has gone. */
static int look_at_group(const struct worker_request *request, const struct pci_group *group,
			 struct inuse *inuse)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < group->n_members; i++)
		r = check_member(inuse, group->members[i]);
	if (r == 0)
		r = inuse_by_processes(inuse);
	return r < 0 ? r : worker_check_needs(request, inuse);
}

static int check_group(const struct worker_request *request, const struct pci_group *group,
		       struct inuse *inuse, struct worker_answer *answer)
{
	int r;

	inuse->glances = request->options & WORKER_WAS_USED;
	r = look_at_group(request, group, inuse);
	if (r == 0 && worker_looks_again(request, inuse))
		r = look_at_group(request, group, inuse);
	return r < 0 ? worker_fail(answer, r, "%s", inuse->words) : 0;
}

/* Drivers */

/* By the name of DRIVER: "driver" of the function may lead to another one by now. */
static int unbind_driver(const char *address, const char *driver)
{
	int r = root_write(address, "/sys/bus/pci/drivers/%s/unbind", driver);

	return r == -ENOENT || r == -ENODEV ? 0 : r;
}

static int bind_to_vfio(const char *address, struct worker_answer *answer)
{
	char driver[64];
	int r = write_attribute(address, "driver_override", "vfio-pci");

	if (r < 0)
		return worker_fail(answer, r, "can't set driver_override of %s: %s", address,
				   strerror(-r));
	if (pci_driver(address, driver, sizeof(driver)) && !streq(driver, "vfio-pci") &&
	    (r = unbind_driver(address, driver)) < 0)
		return worker_fail(answer, r, "%s does not let go of %s: %s", driver, address,
				   strerror(-r));
	r = root_write(address, "/sys/bus/pci/drivers_probe");
	if (!pci_driver(address, driver, sizeof(driver)) || !streq(driver, "vfio-pci"))
		return worker_fail(answer, r < 0 ? r : -EIO, "vfio-pci does not take %s: %s",
				   address, r < 0 ? strerror(-r) : "see the kernel's log");
	return 0;
}

/* Where it can't be loaded (a kernel whose modules have been replaced by an upgrade, say) the
 * host's drivers must not be asked to let go: that would be for nothing, at each try again. */
static int load_vfio(struct worker_answer *answer)
{
	worker_load_module("vfio-pci");
	int r = root_exists("/sys/bus/pci/drivers/vfio-pci");
	if (r == -ENOENT)
		return worker_fail(answer, r,
				   "the kernel has no vfio-pci, and can't load its module");
	return r < 0 ? worker_fail(answer, r, "can't tell whether the kernel has vfio-pci: %s",
				   strerror(-r))
		     : 0;
}

/* Returns 0, also where no host driver wants it; or -errno: it is kept from them still. */
static int return_member(const char *address)
{
	char driver[64], device[64];
	int r = write_attribute(address, "driver_override", "\n");

	if (r == 0 && pci_driver(address, driver, sizeof(driver)) && streq(driver, "vfio-pci"))
		r = unbind_driver(address, driver);
	if (r < 0)
		return r == -ENOENT ? 0 : r; /* it has gone */
	snprintf(device, sizeof(device), "/sys/bus/pci/devices/%s", address);
	worker_load_driver(device);
	root_write(address, "/sys/bus/pci/drivers_probe");
	mark_clear(MARK_GIVEN, address, "");
	return 0;
}

/* One without an IOMMU group. No VM has it by us; in VFIO's no-IOMMU mode somebody else may, and to
 * take it from him would block. */
static int return_ungrouped(const char *address)
{
	char driver[64];

	if (pci_driver(address, driver, sizeof(driver)))
		return write_attribute(address, "driver_override", "\n");
	return return_member(address);
}

/* Waits for the node of the group, and makes it accessible to the VMM's user. */
static int open_group_node(int group, uid_t uid, struct worker_answer *answer)
{
	char node[PATH_MAX];
	int r = root_path(node, sizeof(node), "/dev/vfio/%d", group);

	if (r < 0)
		return worker_fail(answer, r, "/dev/vfio/%d: %s", group, strerror(-r));
	for (int waited = 0; access(node, F_OK) < 0; waited += 20) {
		if (waited >= GROUP_NODE_MS)
			return worker_fail(answer, -ETIMEDOUT,
					   "%s has not appeared; see the kernel's log", node);
		usleep(20000);
	}
	/* udevd may still be setting its own ownership: ours must be the last word. */
	if (chown(node, uid, (gid_t) -1) < 0)
		return worker_fail(answer, -errno, "can't give %s to uid %u: %s", node,
				   (unsigned) uid, strerror(errno));
	return 0;
}

/* The jobs */

static int lock_group(const struct pci_group *group, struct worker_answer *answer)
{
	char name[32];

	snprintf(name, sizeof(name), "iommu-group-%d", group->number);
	return worker_lock(name, answer);
}

/* A broker that comes later is to know what it can't see: whether vfio-pci is our doing. It leaves
 * what is ready for its VM's start as it is. */
static int note_taken(const struct worker_request *request, const char *address,
		      struct worker_answer *answer)
{
	bool is_ahead = request->options & WORKER_IS_AHEAD;
	int r = is_ahead ? 0 : mark_set(MARK_GIVEN, address, "");

	return r < 0 ? worker_fail(answer, r, "can't note that it is taken: %s", strerror(-r)) : 0;
}

/* Binds the whole group. TAKEN gets those that had to be taken for it, also when that failed: not
 * those that a VM may have already. */
static int take_group(const struct pci_group *group, struct pci_group *taken,
		      struct worker_answer *answer)
{
	char driver[64];
	int r = 0;

	taken->n_members = 0;
	for (size_t i = 0; r == 0 && i < group->n_members; i++) {
		const char *address = group->members[i];

		if (!pci_driver(address, driver, sizeof(driver)) || !streq(driver, "vfio-pci"))
			strcpy(taken->members[taken->n_members++], address);
		r = bind_to_vfio(address, answer);
	}
	return r;
}

/* All that can be. Returns 0, or the last -errno. */
static int return_members(const struct pci_group *group)
{
	int result = 0;

	for (size_t i = 0; i < group->n_members; i++) {
		int r = return_member(group->members[i]);

		result = r < 0 ? r : result;
	}
	return result;
}

/* Never a bridge's. Returns 0, or -errno with ANSWER filled. */
static int find_group(const char *address, struct pci_group *ret_group,
		      struct worker_answer *answer)
{
	int r = pci_is_bridge(address);

	if (r < 0)
		return worker_fail(answer, r, "can't tell whether it is a bridge: %s",
				   strerror(-r));
	if (r > 0)
		return worker_fail(answer, -EBUSY, "it is a bridge: such are never given away");
	r = pci_get_group(address, ret_group);
	if (r == -ENOENT)
		return worker_fail(answer, -EOPNOTSUPP,
				   "it has no IOMMU group; switch the IOMMU on (firmware, and"
				   " intel_iommu=on on the kernel's command line)");
	if (r == -E2BIG)
		return worker_fail(answer, -EOPNOTSUPP,
				   "its IOMMU group has more than %d functions", PCI_MAX_GROUP);
	return r < 0 ? worker_fail(answer, r, "can't read its IOMMU group: %s", strerror(-r)) : 0;
}

/* Source: kernel, Documentation/ABI/testing/sysfs-bus-pci, reset. */
static int reset_function(const struct worker_request *request, const char *address,
			  struct worker_answer *answer)
{
	int r = request->options & WORKER_MUST_RESET ? write_attribute(address, "reset", "1") : 0;

	return r < 0 ? worker_fail(answer, -EOPNOTSUPP,
				   "it can't be reset (%s), and its rule says reset = yes",
				   r == -ENOENT ? "the kernel knows no way" : strerror(-r))
		     : 0;
}

/* Waits a little for a VMM that has just ended, the one before ours say, to close GROUP. Returns 0
 * when nobody but REQUEST's VMM has it open, or -errno with ANSWER filled. */
static int await_others(const struct worker_request *request, const struct pci_group *group,
			struct worker_answer *answer)
{
	_cleanup_(free_nodes) struct nodes nodes = {0};
	char who[96];

	if (request->options & WORKER_GROUP_IS_OURS)
		return 0;
	int r = find_nodes(group, &nodes);
	for (int tries = r < 0 ? CLOSING_TRIES : 0; nodes.n > 0 && tries < CLOSING_TRIES; tries++) {
		r = inuse_find_stranger(&nodes, request->pid, who, sizeof(who));
		if (r <= 0 && r != -ENOENT && r != -ESRCH) /* it ends just now */
			break;
		usleep(CLOSING_MS * 1000);
	}
	if (r > 0)
		return worker_fail(answer, -EBUSY, "its IOMMU group is open in %s", who);
	return r < 0 ? worker_fail(answer, r, "can't tell who has its IOMMU group open: %s",
				   strerror(-r))
		     : 0;
}

void worker_pci_take(const struct worker_request *request, struct worker_answer *answer)
{
	const char *address = strrchr(request->devpath, '/') + 1;
	_cleanup_(inuse_finish) struct inuse inuse = {0};
	struct pci_group group = {0}, taken = {0};
	int r = 0;

	if (worker_has_gone(request, answer) || find_group(address, &group, answer) < 0)
		return;
	_cleanup_close_ int lock = lock_group(&group, answer);
	if (lock < 0)
		return;
	if (await_others(request, &group, answer) == 0 &&
	    check_group(request, &group, &inuse, answer) == 0 &&
	    !worker_has_gone(request, answer) && load_vfio(answer) == 0 &&
	    note_taken(request, address, answer) == 0)
		r = take_group(&group, &taken, answer);
	if (answer->result == 0 && reset_function(request, address, answer) == 0)
		open_group_node(group.number, request->uid, answer);
	else if (answer->result == -EOPNOTSUPP || r < 0)
		return_members(&taken);
}

/* A group can be open once at a time. Source: kernel, Documentation/driver-api/vfio.rst. */
static void look_whether_open(const struct worker_request *request, struct worker_answer *answer)
{
	struct pci_group group;

	if (sysfs_inode(request->devpath) != request->inode)
		return; /* it has gone */
	int r = pci_get_group(strrchr(request->devpath, '/') + 1, &group);
	if (r < 0) {
		if (r != -ENOENT)
			worker_fail(answer, r, "can't read its IOMMU group: %s", strerror(-r));
		return;
	}
	_cleanup_close_ int fd = root_open(O_RDWR, "/dev/vfio/%d", group.number);
	if (fd < 0 && fd != -ENOENT)
		worker_fail(answer, fd, "can't tell whether /dev/vfio/%d is open: %s", group.number,
			    strerror(-fd));
}

/* Where nobody else is seen to have it, it is the VMM that it was made ready for. */
void worker_pci_look(const struct worker_request *request, struct worker_answer *answer)
{
	_cleanup_(free_nodes) struct nodes nodes = {0};
	struct pci_group group;

	look_whether_open(request, answer);
	if (answer->result != -EBUSY)
		return;
	*answer->detail = 0;
	if (request->pid == 0 || pci_get_group(strrchr(request->devpath, '/') + 1, &group) < 0 ||
	    find_nodes(&group, &nodes) < 0 || nodes.n == 0 ||
	    inuse_find_stranger(&nodes, request->pid, answer->detail, sizeof(answer->detail)) <= 0)
		*answer->detail = 0;
}

/* Waits a little for a VMM that has just ended to close the group. Returns false if it does not. */
static bool await_closed(const struct worker_request *request, struct worker_answer *answer)
{
	for (int tries = 0; tries < CLOSING_TRIES; tries++) {
		answer->result = 0;
		look_whether_open(request, answer);
		if (answer->result == 0)
			return true;
		usleep(CLOSING_MS * 1000);
	}
	return false;
}

/* A VM may have another member by its own command line. To take that one from it would block, and
 * a host driver beside it is what the kernel does not allow. Returns 0, or -errno, for which ANSWER
 * may have words. */
static int return_group(const struct worker_request *request, const struct pci_group *group,
			struct worker_answer *answer)
{
	const char *address = strrchr(request->devpath, '/') + 1;
	bool is_careful = request->options & WORKER_ALONE;
	bool is_alone = request->options & (WORKER_ALONE | WORKER_NOT_GROUP);
	char driver[64];

	_cleanup_close_ int lock = lock_group(group, answer);
	if (lock < 0)
		return lock;
	if (is_careful && pci_driver(address, driver, sizeof(driver)))
		return 0;
	if (!await_closed(request, answer)) {
		write_attribute(address, "driver_override", "\n");
		return answer->result;
	}
	return is_alone ? return_member(address) : return_members(group);
}

void worker_pci_return(const struct worker_request *request, struct worker_answer *answer)
{
	const char *address = strrchr(request->devpath, '/') + 1;
	struct pci_group group;

	/* Another card, in the same slot, may be somebody's. */
	if (worker_has_gone(request, answer))
		return;
	int r = pci_get_group(address, &group);
	if (r == -ENOENT || r == -E2BIG) /* no VM has it by us */
		r = return_ungrouped(address);
	else if (r < 0)
		worker_fail(answer, r, "can't read its IOMMU group: %s", strerror(-r));
	else
		r = return_group(request, &group, answer);
	if (r < 0 && answer->result == 0)
		worker_fail(answer, r, "can't be taken from vfio-pci: %s", strerror(-r));
}
