/* The broker's directories and its lock: see home.h. */
#include "broker/home.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "broker/account.h"
#include "broker/log.h"
#include "broker/service.h"

#define LOCK_NAME "broker.lock"
#define LOCK_TRIES 100 /* for processes of a broker that was killed to let go */
#define LOCK_PAUSE_MS 20
#define STATE_MODE 0751 /* everybody may go through it, to a socket that is for him */
#define READ_FLAGS (O_RDONLY | O_CLOEXEC | O_NOFOLLOW)

static int make_directory(const char *path, mode_t mode)
{
	return mkdir(path, mode) < 0 && errno != EEXIST ? -errno : 0;
}

/* As on a host whose root can't be written to, with /var in memory. */
static void tell_if_in_memory(const char *path)
{
	struct statfs fs;

	if (statfs(path, &fs) == 0 && (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC))
		log_warning("%s is in memory: choices and history end with the host", path);
}

int home_init(struct home *home)
{
	*home = (struct home){.run_lock = -1, .state_lock = -1};
	int r = service_directory("RUNTIME_DIRECTORY", VHOTPLUG_RUNDIR, home->run_directory,
				  sizeof(home->run_directory));
	if (r == 0)
		r = service_directory("STATE_DIRECTORY", VHOTPLUG_STATEDIR, home->state_directory,
				      sizeof(home->state_directory));
	if (r == 0)
		r = make_directory(home->run_directory, 0755);
	if (r < 0)
		log_error("can't use the directories of run time and state: %s", strerror(-r));
	else if (make_directory(home->state_directory, STATE_MODE) < 0)
		log_error("can't make %s: %s", home->state_directory, strerror(errno));
	else
		tell_if_in_memory(home->state_directory);
	snprintf(home->database, sizeof(home->database), "%s/vhotplug.db", home->state_directory);
	snprintf(home->refuge, sizeof(home->refuge), "%s/state.db", home->run_directory);
	snprintf(home->public_copy, sizeof(home->public_copy), "%s/vhotplug.db",
		 home->run_directory);
	return r;
}

/* The lock */

static int try_lock(int directory_fd, int *ret_fd)
{
	_cleanup_close_ int fd =
		openat(directory_fd, LOCK_NAME, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	struct stat ours, there;

	if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
		return -errno;
	/* It may have been removed in between, and then it keeps nobody out. */
	if (fstat(fd, &ours) < 0 || fstatat(directory_fd, LOCK_NAME, &there, 0) < 0 ||
	    ours.st_ino != there.st_ino)
		return -EWOULDBLOCK;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static int lock_directory(const char *path, int *ret_fd)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r = fd < 0 ? -errno : try_lock(fd, ret_fd);

	for (int i = 0; r == -EWOULDBLOCK && i < LOCK_TRIES; i++) {
		usleep(LOCK_PAUSE_MS * 1000);
		r = try_lock(fd, ret_fd);
	}
	if (r < 0)
		log_error("%s/" LOCK_NAME ": %s", path,
			  r == -EWOULDBLOCK ? "another vhotplug-broker is running" : strerror(-r));
	return r;
}

int home_lock(struct home *home)
{
	int r = lock_directory(home->state_directory, &home->state_lock);

	/* Nobody else who runs here can write there either. */
	return r == -EWOULDBLOCK ? r : lock_directory(home->run_directory, &home->run_lock);
}

/* Who may read */

static gid_t find_group(const char *name)
{
	gid_t gid = account_ask_group(name ? name : "adm");

	if (gid != (gid_t) -1)
		return gid;
	if (name)
		log_error("there is no group \"%s\"; correct \"group =\" in [general]", name);
	return 0;
}

static bool is_given_to(int fd, gid_t gid, mode_t mode)
{
	struct stat st;

	return fstat(fd, &st) == 0 && st.st_gid == gid && (st.st_mode & 07777) == mode;
}

static void give_to_group(int fd, gid_t gid, mode_t mode, const char *path)
{
	bool is_done = fd >= 0 && is_given_to(fd, gid, mode);

	/* First nobody, then nobody else. */
	if (!is_done && (fd < 0 || fchmod(fd, mode & 0700) < 0 || fchown(fd, (uid_t) -1, gid) < 0 ||
			 fchmod(fd, mode) < 0))
		log_warning("can't set who may use %s: %s", path, strerror(errno));
	close_fd(fd);
}

void home_admit(struct home *home, const char *group)
{
	gid_t gid = find_group(group);

	home->readers = group ? gid : (gid_t) -1;
	give_to_group(open(home->state_directory, READ_FLAGS | O_DIRECTORY), gid, STATE_MODE,
		      home->state_directory);
}

void home_protect(const struct home *home)
{
	static const char *const suffixes[] = {"-wal", "-shm"};
	char path[sizeof(home->database) + 4];

	/* SQLite gives its other files the owner and the mode of this one. */
	give_to_group(open(home->database, READ_FLAGS | O_CREAT, 0600), 0, 0600, home->database);
	for (size_t i = 0; i < ARRAY_SIZE(suffixes); i++) {
		snprintf(path, sizeof(path), "%s%s", home->database, suffixes[i]);
		if (access(path, F_OK) == 0)
			give_to_group(open(path, READ_FLAGS), 0, 0600, path);
	}
}

/* What others do to it */

static ino_t inode_of(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 ? st.st_ino : 0;
}

static void look_at_lock(void *data)
{
	struct home *home = data;
	char path[HOME_PATH_SIZE + sizeof(LOCK_NAME)];
	struct stat ours;

	snprintf(path, sizeof(path), "%s/" LOCK_NAME, home->run_directory);
	if (fstat(home->run_lock, &ours) == 0 && ours.st_ino == inode_of(path))
		return;
	log_warning("%s was removed: making it again", path);
	home->run_lock = close_fd(home->run_lock);
	int r = make_directory(home->run_directory, 0755);
	if (r == 0)
		r = lock_directory(home->run_directory, &home->run_lock);
	if (r < 0)
		home->lost(home->data, "the lock can't be taken again");
}

static void look_at_database(void *data)
{
	struct home *home = data;

	if (inode_of(home->database) == home->database_inode)
		return;
	home->lost(home->data, "the database was removed or replaced while it was open");
}

int home_follow(struct home *home, struct loop *loop, const char *path)
{
	char copy[sizeof(home->database)];

	snprintf(copy, sizeof(copy), "%s", path);
	strcpy(home->database, copy);
	home->database_inode = inode_of(home->database);
	watch_free(home->state_watch);
	home->state_watch = NULL;
	return watch_new(loop, home->database, look_at_database, home, &home->state_watch);
}

int home_watch(struct home *home, struct loop *loop, const char *path,
	       void (*lost)(void *data, const char *why), void *data)
{
	char lock[HOME_PATH_SIZE + sizeof(LOCK_NAME)];

	home->lost = lost;
	home->data = data;
	snprintf(lock, sizeof(lock), "%s/" LOCK_NAME, home->run_directory);
	int r = watch_new(loop, lock, look_at_lock, home, &home->run_watch);
	return r < 0 ? r : home_follow(home, loop, path);
}

void home_finish(struct home *home)
{
	watch_free(home->run_watch);
	watch_free(home->state_watch);
	close_fd(home->run_lock);
	close_fd(home->state_lock);
}
