/* The worker's job on a device that has left a VM: the kernel takes nothing back that a program has
 * open, so at least that is said. Runs in the worker: may block. */
#include <sys/stat.h>

#include "broker/inuse.h"
#include "broker/pci.h"
#include "broker/worker_host.h"
#include "helper/root.h"

#define CLOSING_TRIES 30 /* for a VMM that has said that it let go to close it */
#define CLOSING_MS 100

/* What a VMM opens of the device. Returns 0 or -errno. */
static int find_node(const struct worker_request *request, char *ret_path, size_t size)
{
	struct pci_group group;

	if (*request->node)
		return root_path(ret_path, size, "%s", request->node);
	int r = pci_get_group(strrchr(request->devpath, '/') + 1, &group);
	return r < 0 ? r : root_path(ret_path, size, "/dev/vfio/%d", group.number);
}

/* The first look finds them all: the next VM may have it a moment later. */
void worker_look_open(const struct worker_request *request, struct worker_answer *answer)
{
	char path[PATH_MAX], who[96];
	struct stat st;

	if (find_node(request, path, sizeof(path)) < 0 || stat(path, &st) < 0)
		return; /* it has gone, or is the host's again */
	struct node node = {.number = st.st_rdev, .is_block = false};
	struct nodes nodes = {1, &node};
	int r = inuse_find_process(&nodes, &answer->pid, who, sizeof(who));
	for (int tries = 0; r > 0 && tries < CLOSING_TRIES; tries++) {
		usleep(CLOSING_MS * 1000);
		r = inuse_is_open_in(&nodes, answer->pid);
	}
	if (r > 0)
		worker_fail(answer, -EBUSY, "%s", who);
}
