/* Marks for udev's rules: see mark.h. The worker sets and clears them; whoever finds that a device
 * has been unplugged clears them too. */
#include "broker/mark.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "helper/root.h"

/* The service manager makes it. */
static const char *runtime_directory(void)
{
	const char *set = getenv("RUNTIME_DIRECTORY");

	return set && *set ? set : VHOTPLUG_RUNDIR;
}

static const char *const folders[] = {
	[MARK_GIVEN] = "given",
	[MARK_REFUSED] = "refused",
	[MARK_NEEDED] = "needed",
};

static int make_path(char path[PATH_MAX], enum mark mark, const char *name, const char *node)
{
	const char *number = strrchr(node, '/');

	if (strchr(name, '/'))
		return -EINVAL;
	return root_path(path, PATH_MAX, "%s/%s/%s-%d", runtime_directory(), folders[mark], name,
			 number ? atoi(number + 1) : 0);
}

int mark_set(enum mark mark, const char *name, const char *node)
{
	char path[PATH_MAX], folder[PATH_MAX];
	int r = make_path(path, mark, name, node);

	if (r < 0 || (r = root_path(folder, sizeof(folder), "%s/%s", runtime_directory(),
				    folders[mark])) < 0)
		return r;
	if (mkdir(folder, 0755) < 0 && errno != EEXIST)
		return -errno;
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
	return fd < 0 ? -errno : 0;
}

bool mark_is_set(enum mark mark, const char *name, const char *node)
{
	char path[PATH_MAX];

	return make_path(path, mark, name, node) == 0 && access(path, F_OK) == 0;
}

int mark_clear(enum mark mark, const char *name, const char *node)
{
	char path[PATH_MAX];
	int r = make_path(path, mark, name, node);

	if (r < 0)
		return r;
	return unlink(path) < 0 && errno != ENOENT ? -errno : 0;
}
