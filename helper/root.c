/* Where the kernel's trees are: see root.h. Used by everything that reads /sys, /proc or /dev. */
#include "helper/root.h"

#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>

static const char *root = "";

struct path {
	char s[PATH_MAX];
};

void root_set(const char *directory)
{
	root = directory;
}

static int format_path(char *ret, size_t size, const char *format, va_list args) _printf_(3, 0);
static int format_path(char *ret, size_t size, const char *format, va_list args)
{
	size_t length = strlen(root);

	if (length >= size)
		return -ENAMETOOLONG;
	memcpy(ret, root, length);
	int n = vsnprintf(ret + length, size - length, format, args);
	return n < 0 || (size_t) n >= size - length ? -ENAMETOOLONG : 0;
}

/* The path of the arguments after FORMAT in PATH; R says whether it fits. */
#define MAKE_PATH(path, r, format)                                        \
	struct path path;                                                 \
	va_list args_;                                                    \
	va_start(args_, format);                                          \
	int r = format_path((path).s, sizeof((path).s), (format), args_); \
	va_end(args_)

int root_path(char *ret_path, size_t size, const char *format, ...)
{
	MAKE_PATH(path, r, format);
	if (r < 0 || strlen(path.s) >= size)
		return -ENAMETOOLONG;
	strcpy(ret_path, path.s);
	return 0;
}

int root_open(int flags, const char *format, ...)
{
	MAKE_PATH(path, r, format);
	if (r < 0)
		return r;
	int fd = open(path.s, flags | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

FILE *root_fopen(const char *format, ...)
{
	MAKE_PATH(path, r, format);
	errno = -r;
	return r < 0 ? NULL : fopen(path.s, "re");
}

DIR *root_opendir(const char *format, ...)
{
	MAKE_PATH(path, r, format);
	errno = -r;
	return r < 0 ? NULL : opendir(path.s);
}

uint64_t root_inode(const char *format, ...)
{
	struct stat st;

	MAKE_PATH(path, r, format);
	return r == 0 && stat(path.s, &st) == 0 ? st.st_ino : 0;
}

int root_exists(const char *format, ...)
{
	MAKE_PATH(path, r, format);
	if (r < 0)
		return r;
	return access(path.s, F_OK) < 0 ? -errno : 0;
}

int root_read(char *ret_line, size_t size, const char *format, ...)
{
	MAKE_PATH(path, r, format);
	if (r < 0)
		return r;
	_cleanup_close_ int fd = open(path.s, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	char line[PATH_MAX];
	ssize_t n = read(fd, line, sizeof(line) - 1);
	if (n < 0)
		return -errno;
	line[n] = 0;
	line[strcspn(line, "\n")] = 0;
	if (strlen(line) >= size)
		return -ENAMETOOLONG;
	strcpy(ret_line, line);
	return 0;
}

int root_write(const char *text, const char *format, ...)
{
	MAKE_PATH(path, r, format);
	if (r < 0)
		return r;
	_cleanup_close_ int fd = open(path.s, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	return write(fd, text, strlen(text)) < 0 ? -errno : 0;
}

int root_link_name(char *ret_name, size_t size, const char *format, ...)
{
	char target[PATH_MAX];

	MAKE_PATH(path, r, format);
	if (r < 0)
		return r;
	ssize_t n = readlink(path.s, target, sizeof(target) - 1);
	if (n < 0)
		return -errno;
	target[n] = 0;
	const char *slash = strrchr(target, '/'), *name = slash ? slash + 1 : target;
	if (strlen(name) >= size)
		return -ENAMETOOLONG;
	strcpy(ret_name, name);
	return 0;
}

int root_resolve(char ret_path[PATH_MAX], const char *format, ...)
{
	char resolved[PATH_MAX], real_root[PATH_MAX] = "";

	MAKE_PATH(path, r, format);
	if (r < 0)
		return r;
	if (!realpath(path.s, resolved) || (*root && !realpath(root, real_root)))
		return -errno;
	const char *rest = startswith(resolved, real_root);
	if (!rest || *rest != '/')
		return -EXDEV;
	strcpy(ret_path, rest);
	return 0;
}
