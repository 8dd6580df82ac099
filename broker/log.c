/* Log lines on stderr; used by everything in the broker that decides something. */
#include "broker/log.h"

#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "broker/budget.h"
#include "broker/loop.h"
#include "helper/text.h"

#define MAX_LINE 1024
#define KINDS 128        /* of lines that are counted at a time */
#define BURST 30         /* lines of one kind at once */
#define RATE_PER_HOUR 60 /* and in the long run */

/* Lines of one place in the code about one subject: a VM or a device can fill none but its own. */
struct kind {
	const char *format;
	uint32_t subject;
	struct budget budget;
	uint64_t used; /* ms, monotonic: when the last such line came; 0: free */
	unsigned left_out;
};

static bool log_with_debug;
static bool log_to_journal;
static int log_fd = STDERR_FILENO;
static bool log_never_waits; /* a file, or a descriptor that says so */
static struct kind kinds[KINDS];
static unsigned long lost; /* lines that stderr has not taken */

/* A pipe or a terminal, opened once more: that nothing is waited for there is then said of this
 * descriptor, and not of all who have it for their stderr too. Source: pipe(7), tty_ioctl(4). */
static int open_again(mode_t mode)
{
	int fd = -1;

	if (S_ISFIFO(mode) || S_ISCHR(mode))
		fd = open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	return fd >= 0 ? fd : STDERR_FILENO;
}

void log_init(bool debug)
{
	struct stat st = {0};

	log_with_debug = debug;
	log_to_journal = getenv("JOURNAL_STREAM") != NULL;
	if (log_fd != STDERR_FILENO)
		close(log_fd);
	fstat(STDERR_FILENO, &st);
	log_fd = open_again(st.st_mode);
	log_never_waits = S_ISREG(st.st_mode) || log_fd != STDERR_FILENO;
	memset(kinds, 0, sizeof(kinds));
	lost = 0;
}

/* Who or what a line is about stands at its beginning. */
static uint32_t subject_of(const char *line)
{
	uint32_t hash = 2166136261; /* FNV-1a */

	for (size_t i = 0; line[i] && line[i] != ':' && line[i] != ' '; i++)
		hash = (hash ^ (unsigned char) line[i]) * 16777619;
	return hash;
}

/* The kind of a line, in the place of the one that has been silent longest if it is new. */
static struct kind *find_kind(const char *format, uint32_t subject)
{
	struct kind *place = &kinds[0];

	for (size_t i = 0; i < KINDS; i++) {
		if (kinds[i].format == format && kinds[i].subject == subject)
			return &kinds[i];
		if (kinds[i].used < place->used)
			place = &kinds[i];
	}
	*place = (struct kind){.format = format, .subject = subject};
	budget_init(&place->budget, BURST * 3600, RATE_PER_HOUR);
	return place;
}

/* Never waits for whoever reads stderr, and survives it. */
static bool write_line(const char *line, size_t length)
{
	struct pollfd pollfd = {.fd = STDERR_FILENO, .events = POLLOUT};

	if (log_never_waits)
		return write(log_fd, line, length) == (ssize_t) length;
	ssize_t n = send(STDERR_FILENO, line, length, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n < 0 && errno == ENOTSOCK)
		n = poll(&pollfd, 1, 0) == 1 && pollfd.revents & POLLOUT
			    ? write(STDERR_FILENO, line, length)
			    : -1;
	return n == (ssize_t) length;
}

static void put_line(enum log_level level, const char *text)
{
	char line[MAX_LINE + 64];
	int length;

	if (log_to_journal)
		length = snprintf(line, sizeof(line), "<%d>%s\n", (int) level, text);
	else
		length = snprintf(line, sizeof(line), "vhotplug-broker: %s\n", text);
	if (!write_line(line, (size_t) length))
		lost++;
}

/* Says how many lines are missing, as soon as lines are taken again. */
static void tell_lost(void)
{
	char text[100];
	unsigned long n = lost;

	if (n == 0)
		return;
	lost = 0;
	snprintf(text, sizeof(text), "%lu lines of this log were lost: nobody read them", n);
	put_line(LOG_LEVEL_WARNING, text);
	if (lost > 0)
		lost = n;
}

/* May a line like this be written now? The next one that may tells how many were not. */
static bool is_welcome(const char *format, char *line, size_t size)
{
	uint64_t now = now_monotonic_ms();
	struct kind *kind = find_kind(format, subject_of(line));
	size_t length = strlen(line);

	kind->used = now;
	if (!budget_take(&kind->budget, 3600, now)) {
		kind->left_out++;
		return false;
	}
	if (kind->left_out > 0)
		snprintf(line + length, size - length, " (and %u more lines like this one)",
			 kind->left_out);
	kind->left_out = 0;
	return true;
}

void log_line(enum log_level level, const char *format, ...)
{
	char raw[MAX_LINE], line[MAX_LINE];
	int saved = errno;
	va_list args;

	if (level == LOG_LEVEL_DEBUG && !log_with_debug)
		return;
	va_start(args, format);
	vsnprintf(raw, sizeof(raw), format, args);
	va_end(args);
	text_clean(line, sizeof(line), raw);
	if (level == LOG_LEVEL_DEBUG || is_welcome(format, line, sizeof(line))) {
		tell_lost();
		put_line(level, line);
	}
	errno = saved;
}
