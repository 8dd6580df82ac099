/* Marks for udev's rules: see grant.h. The worker notes and forgets them; whoever finds that a
 * device has been unplugged forgets them too. */
#include "broker/grant.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "helper/root.h"

/* The service manager makes it. */
static const char *runtime_directory(void)
{
	const char *set = getenv("RUNTIME_DIRECTORY");

	return set && *set ? set : VHOTPLUG_RUNDIR;
}

static int make_path(char path[PATH_MAX], const char *name, const char *node)
{
	const char *number = strrchr(node, '/');

	if (strchr(name, '/') || !number)
		return -EINVAL;
	return root_path(path, PATH_MAX, "%s/given/%s-%d", runtime_directory(), name,
			 atoi(number + 1));
}

int grant_note(const char *name, const char *node)
{
	char path[PATH_MAX], folder[PATH_MAX];
	int r = make_path(path, name, node);

	if (r < 0 || (r = root_path(folder, sizeof(folder), "%s/given", runtime_directory())) < 0)
		return r;
	if (mkdir(folder, 0755) < 0 && errno != EEXIST)
		return -errno;
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
	return fd < 0 ? -errno : 0;
}

int grant_forget(const char *name, const char *node)
{
	char path[PATH_MAX];
	int r = make_path(path, name, node);

	if (r < 0)
		return r;
	return unlink(path) < 0 && errno != ENOENT ? -errno : 0;
}
