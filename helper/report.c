/* Lines on stderr and for syslog. */
#include "helper/report.h"

#include <stdarg.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <syslog.h>

static void send_to_syslog(const char *program, int priority, const char *text)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX, .sun_path = "/dev/log"};
	char line[512];
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0 || connect(fd, (struct sockaddr *) &addr, sizeof(addr)) < 0)
		return;
	int n = snprintf(line, sizeof(line), "<%d>%s[%ld]: %s", LOG_DAEMON | priority, program,
			 (long) getpid(), text);
	if (n > 0)
		(void) !send(fd, line, strnlen(line, sizeof(line)), MSG_NOSIGNAL);
}

void report_line(const char *program, int priority, const char *format, ...)
{
	char text[400];
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	fprintf(stderr, "%s: %s\n", program, text);
	if (priority <= LOG_WARNING)
		send_to_syslog(program, priority, text);
}
