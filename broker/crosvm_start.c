/* What a crosvm was started with: see crosvm_start.h. Called by vmm_crosvm.c.
 *
 * Source: crosvm, src/crosvm/cmdline.rs (--vfio, --pci-hotplug-slots, --input, --evdev),
 * src/crosvm/sys/linux.rs (create_pure_virtual_pcie_root_port), devices/src/pci/vfio_pci.rs
 * (allocate_address), devices/src/pci/pci_root.rs (add_device), devices/src/proxy.rs (a process for
 * each device). */
#include "broker/crosvm_start.h"

#include <fcntl.h>
#include <unistd.h>

#include "broker/device.h"
#include "broker/vfio_group.h"
#include "helper/root.h"

#define PREFIX "crosvm-start-"
#define MAX_COMMAND_LINE 65536 /* what comes behind is not looked at */
#define BUSES 256
#define INPUTS "/dev/input/"
#define MAX_CHILDREN 256

/* Returns the length of the words, each with a NUL behind it, and none where they can't be had. */
static size_t read_command_line(pid_t pid, char *ret_words, size_t size)
{
	_cleanup_close_ int fd = root_open(O_RDONLY, "/proc/%d/cmdline", (int) pid);
	size_t length = 0;
	ssize_t n = fd < 0 ? 0 : 1;

	while (n > 0 && length < size - 1) {
		n = read(fd, ret_words + length, size - 1 - length);
		length += n > 0 ? (size_t) n : 0;
	}
	ret_words[length] = 0;
	return length;
}

/* What stands behind OPTION, which WORD may be: in the same word, or in the next one; or NULL. */
static const char *value_of(const char *option, const char *word, const char *next)
{
	const char *rest = startswith(word, option);

	if (!rest)
		return NULL;
	return *rest == '=' ? rest + 1 : *rest ? NULL : next;
}

struct start {
	struct vm *vm;
	struct crosvm_cards *cards;
	bool has_bus[BUSES]; /* of the guest, from the start */
	struct vfio_groups open;
	struct cold_list inputs; /* by the command line */
};

static bool is_open(const struct start *start, const char *address)
{
	int group = vfio_group_of(address);

	return group >= 0 && vfio_groups_have(&start->open, group) > 0;
}

/* PATH may have options behind it: "/sys/bus/pci/devices/0000:01:00.0/,iommu=viommu". */
static void add_card(struct start *start, const char *path)
{
	struct vm *vm = start->vm;
	unsigned bus;
	struct cold cold = {.kind = DEVICE_PCI};
	size_t end = strcspn(path, ","), begin;

	while (end > 0 && path[end - 1] == '/')
		end--;
	for (begin = end; begin > 0 && path[begin - 1] != '/';)
		begin--;
	snprintf(cold.kernel_name, sizeof(cold.kernel_name), "%.*s", (int) (end - begin),
		 path + begin);
	if (sscanf(cold.kernel_name, "%*x:%2x:", &bus) == 1)
		start->has_bus[bus] = true;
	snprintf(cold.handle, sizeof(cold.handle), PREFIX "%.48s", cold.kernel_name);
	if (is_open(start, cold.kernel_name))
		cold_add(&vm->cold, &cold);
}

/* PATH may have a bracket behind it. */
static void add_input(struct start *start, const char *path)
{
	struct cold cold = {.kind = DEVICE_EVDEV};
	char node[PATH_MAX];

	snprintf(node, sizeof(node), "%.*s", (int) strcspn(path, "]"), path);
	cold_set_node(&cold, INPUTS, node);
	const char *name = startswith(cold.node, INPUTS);
	if (!name)
		return;
	snprintf(cold.handle, sizeof(cold.handle), PREFIX "%.48s", name);
	if (!cold_find(&start->inputs, cold.handle))
		cold_add(&start->inputs, &cold);
}

static void take_word(struct start *start, const char *word, const char *next)
{
	const char *path = value_of("--vfio", word, next);
	const char *input = value_of("--input", word, next);

	if (path)
		add_card(start, path);
	else if (input && startswith(input, "evdev[path="))
		add_input(start, startswith(input, "evdev[path="));
	else if ((input = value_of("--evdev", word, next)))
		add_input(start, input);
	else if (value_of("--pci-hotplug-slots", word, next))
		snprintf(start->cards->none, sizeof(start->cards->none),
			 "%s was started with --pci-hotplug-slots, which keeps it from taking any"
			 " card while it runs; start it without, or with --vfio",
			 start->vm->name);
}

/* Takes those that process PID has open over into the VM's list. A node that was unplugged counts
 * no more, whatever has its name by now. LEFT descriptors are looked at. */
static void note_open_inputs(struct start *start, pid_t pid, const char *inputs, unsigned *left)
{
	char found[PATH_MAX];
	const struct dirent *entry;
	DIR *dir = root_opendir("/proc/%d/fd", (int) pid);

	while (dir && *left > 0 && (entry = readdir(dir))) {
		ssize_t length = readlinkat(dirfd(dir), entry->d_name, found, sizeof(found) - 1);

		found[length > 0 ? length : 0] = 0;
		--*left;
		const char *name = startswith(found, inputs);
		for (size_t i = 0; name && i < start->inputs.n; i++)
			if (streq(start->inputs.items[i].node + strlen(INPUTS), name) &&
			    !cold_find(&start->vm->cold, start->inputs.items[i].handle))
				cold_add(&start->vm->cold, &start->inputs.items[i]);
	}
	if (dir)
		closedir(dir);
}

/* With its sandbox each device is a process of its own, which has what it needs. */
static void look_for_inputs(struct start *start)
{
	int pid = start->vm->peer.pid;
	unsigned left = VFIO_MAX_DESCRIPTORS;
	char inputs[PATH_MAX];

	if (start->inputs.n == 0 || root_path(inputs, sizeof(inputs), INPUTS) < 0)
		return;
	_cleanup_fclose_ FILE *children = root_fopen("/proc/%d/task/%d/children", pid, pid);
	note_open_inputs(start, pid, inputs, &left);
	for (int n = 0; children && n < MAX_CHILDREN && fscanf(children, "%d", &pid) == 1; n++)
		note_open_inputs(start, pid, inputs, &left);
}

static bool is_known(const struct vm *vm, int group)
{
	for (const struct device *d = NULL; (d = vm_next_device(vm, d));)
		if (d->id.kind == DEVICE_PCI && d->id.group == group)
			return true;
	for (size_t i = 0; i < vm->cold.n; i++)
		if (vfio_group_of(vm->cold.items[i].kernel_name) == group)
			return true;
	return false;
}

static void look_for_strangers(const struct start *start)
{
	const struct vm *vm = start->vm;
	struct crosvm_cards *cards = start->cards;

	for (size_t i = 0; i < start->open.n && !cards->none[0]; i++)
		if (!is_known(vm, start->open.numbers[i]))
			snprintf(cards->none, sizeof(cards->none),
				 "%s has a card of somebody else's (IOMMU group %d), and takes one"
				 " while it runs; start it with --vfio for this one",
				 vm->name, start->open.numbers[i]);
}

static void look_at_command_line(struct start *start, const char *words, size_t length)
{
	struct crosvm_cards *cards = start->cards;

	for (size_t at = 0, next; at < length; at = next) {
		next = at + strlen(words + at) + 1;
		take_word(start, words + at, next < length ? words + next : "");
	}
	for (cards->bus = 0; cards->bus < BUSES - 1 && start->has_bus[cards->bus];)
		cards->bus++;
}

void crosvm_start_look(struct vm *vm, struct crosvm_cards *ret_cards)
{
	_cleanup_free_ char *words = malloc(MAX_COMMAND_LINE);
	size_t length = words ? read_command_line(vm->peer.pid, words, MAX_COMMAND_LINE) : 0;
	struct start start = {.vm = vm, .cards = ret_cards, .has_bus[0] = true};

	vfio_groups_read(vm->peer.pid, &start.open);
	cold_clear(&vm->cold);
	*ret_cards = (struct crosvm_cards){0};
	look_at_command_line(&start, words, length);
	look_for_inputs(&start);
	cold_clear(&start.inputs);
	look_for_strangers(&start);
	if (start.open.error < 0 || length == 0)
		snprintf(ret_cards->none, sizeof(ret_cards->none),
			 "can't tell which cards %s has: %s", vm->name,
			 start.open.error < 0 ? vfio_groups_explain(start.open.error)
					      : "its command line can't be read");
}

bool crosvm_start_takes(const struct vm *vm, const struct crosvm_cards *cards,
			const struct device *device, char *reason, size_t size)
{
	const char *bus = strchr(device->id.kernel_name, ':');

	if (cards->none[0])
		snprintf(reason, size, "%s", cards->none);
	else if (cards->bus != 0 && bus && strtoul(bus + 1, NULL, 16) != cards->bus)
		snprintf(reason, size,
			 "it is on bus %.2s of the host: the guest of %s sees a card that comes"
			 " while it runs on bus %02x only; start the VM with --vfio",
			 bus + 1, vm->name, cards->bus);
	else
		return true;
	return false;
}

bool crosvm_start_is_handle(const char *handle)
{
	return startswith(handle, PREFIX) != NULL;
}
