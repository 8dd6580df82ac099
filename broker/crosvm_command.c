/* The crosvm program as a child process: see crosvm_command.h. Nothing here waits: the child's end
 * is a pidfd in the loop, what it prints comes by pipes. */
#include "broker/crosvm_command.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "broker/device.h"
#include "broker/spawn.h"
#include "helper/text.h"

#define KILL_MS 1000 /* for a killed process to end */
#define CANCEL_MS 50

struct pipe {
	int fd;
	struct loop_source *source;
	char *text; /* of the result */
	size_t length, size;
};

struct crosvm_command {
	struct loop *loop;
	struct loop_garbage garbage;
	struct loop_timer deadline;
	pid_t pid;
	int pidfd;
	struct loop_source *exit_source;
	struct pipe out, err;
	struct crosvm_command_result result;
	crosvm_command_fn fn;
	void *data;
};

/* Pipes */

static void close_pipe(struct pipe *pipe)
{
	pipe->source = loop_source_free(pipe->source);
	pipe->fd = close_fd(pipe->fd);
}

/* Takes what is there; what does not fit is read and dropped, so that the writer goes on. */
static void drain_pipe(struct pipe *pipe)
{
	char rest[512];

	/* One that prints without end must not keep the loop. */
	for (int i = 0; pipe->fd >= 0 && i < 64; i++) {
		size_t room = pipe->size - 1 - pipe->length;
		ssize_t n = room > 0 ? read(pipe->fd, pipe->text + pipe->length, room)
				     : read(pipe->fd, rest, sizeof(rest));

		if (n > 0 && room > 0)
			pipe->length += (size_t) n;
		else if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
			close_pipe(pipe);
		else if (n < 0)
			return;
	}
}

static void pipe_readable(void *data, uint32_t events)
{
	(void) events;
	drain_pipe(data);
}

/* Makes a pipe whose reading end does not block. */
static int make_pipe(struct pipe *pipe, int *ret_write_fd)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	fcntl(fds[0], F_SETFL, O_NONBLOCK);
	pipe->fd = fds[0];
	*ret_write_fd = fds[1];
	return 0;
}

/* The end */

static void free_command(void *data)
{
	free(data);
}

static void stop_command(struct crosvm_command *command)
{
	loop_timer_stop(&command->deadline);
	command->exit_source = loop_source_free(command->exit_source);
	command->pidfd = close_fd(command->pidfd);
	close_pipe(&command->out);
	close_pipe(&command->err);
	loop_discard(command->loop, &command->garbage, free_command, command);
}

static void command_ended(struct crosvm_command *command)
{
	drain_pipe(&command->out);
	drain_pipe(&command->err);
	stop_command(command);
	command->fn(command->data, &command->result);
}

static void process_ended(void *data, uint32_t events)
{
	struct crosvm_command *command = data;

	(void) events;
	if (waitpid(command->pid, &command->result.status, WNOHANG) == command->pid)
		command_ended(command);
}

/* Stuck in the kernel: it stays in the process table until it ends, and then until the broker does.
 */
static void killing_failed(void *data)
{
	command_ended(data);
}

static void deadline_passed(void *data)
{
	struct crosvm_command *command = data;

	command->result.timed_out = true;
	kill(-command->pid, SIGKILL);
	loop_timer_start(command->loop, &command->deadline, KILL_MS, killing_failed, command);
}

struct crosvm_command *crosvm_command_cancel(struct crosvm_command *command)
{
	if (!command)
		return NULL;
	/* A killed process that is not stuck in the kernel ends at once. */
	if (command->pid > 0) {
		struct pollfd end = {.fd = command->pidfd, .events = POLLIN};

		kill(-command->pid, SIGKILL);
		poll(&end, 1, CANCEL_MS);
		waitpid(command->pid, NULL, WNOHANG);
	}
	stop_command(command);
	return NULL;
}

/* The start */

/* There is no program: told in the loop like everything else. */
static void not_started(void *data)
{
	struct crosvm_command *command = data;

	stop_command(command);
	command->fn(command->data, &command->result);
}

static int watch_command(struct crosvm_command *command, unsigned deadline_ms)
{
	struct loop *loop = command->loop;
	int r;

	command->pidfd = (int) syscall(SYS_pidfd_open, command->pid, 0);
	if (command->pidfd < 0)
		return -errno;
	r = loop_add(loop, command->pidfd, EPOLLIN, process_ended, command, &command->exit_source);
	if (r == 0)
		r = loop_add(loop, command->out.fd, EPOLLIN, pipe_readable, &command->out,
			     &command->out.source);
	if (r == 0)
		r = loop_add(loop, command->err.fd, EPOLLIN, pipe_readable, &command->err,
			     &command->err.source);
	if (r == 0)
		loop_timer_start(loop, &command->deadline, deadline_ms, deadline_passed, command);
	return r;
}

int crosvm_command_run(struct loop *loop, const char *const *argv, int fd, unsigned deadline_ms,
		       crosvm_command_fn fn, void *data, struct crosvm_command **ret_command)
{
	struct crosvm_command *command = calloc(1, sizeof(*command));
	_cleanup_close_ int out = -1, err = -1;
	int r;

	if (!command)
		return -ENOMEM;
	*command = (struct crosvm_command){.loop = loop, .pidfd = -1, .fn = fn, .data = data};
	command->out = (struct pipe){
		.fd = -1, .text = command->result.out, .size = sizeof(command->result.out)};
	command->err = (struct pipe){
		.fd = -1, .text = command->result.err, .size = sizeof(command->result.err)};
	if ((r = make_pipe(&command->out, &out)) < 0 || (r = make_pipe(&command->err, &err)) < 0) {
		crosvm_command_cancel(command);
		return r;
	}
	/* The last one, since that number may be one of the others' here. */
	const struct spawn_fd fds[] = {
		{out, STDOUT_FILENO}, {err, STDERR_FILENO}, {fd, CROSVM_COMMAND_FD}};
	r = spawn_program(argv, fds, ARRAY_SIZE(fds) - (fd < 0), &command->pid);
	if (r < 0) {
		command->pid = 0;
		snprintf(command->result.err, sizeof(command->result.err), "%s", strerror(-r));
		loop_timer_start(loop, &command->deadline, 0, not_started, command);
	} else {
		command->result.started = true;
		if ((r = watch_command(command, deadline_ms)) < 0) {
			crosvm_command_cancel(command);
			return r;
		}
	}
	*ret_command = command;
	return 0;
}

/* The words */

/* Takes out what a terminal would make colours of. */
static void strip_colours(char *text)
{
	char *to = text;

	while (*text) {
		if (text[0] == '\033' && text[1] == '[') {
			text += 2;
			text += strspn(text, "0123456789;");
			text += *text != 0; /* "m" */
		} else {
			*to++ = *text++;
		}
	}
	*to = 0;
}

/* The last line of TEXT that says anything, printable: what a program says before it ends is why it
 * ends. Without the "[time level module]" of a log in front. That it ends, as crosvm says last,
 * does not count as long as there is another. */
static void last_line(char *to, size_t size, const char *text)
{
	char copy[sizeof(((struct crosvm_command_result *) NULL)->out)];
	const char *found = "";

	snprintf(copy, sizeof(copy), "%s", text);
	strip_colours(copy);
	for (char *save = NULL, *line = strtok_r(copy, "\r\n", &save); line;
	     line = strtok_r(NULL, "\r\n", &save)) {
		const char *end = *line == '[' ? strchr(line, ']') : NULL;

		line = end && end[1] ? (char *) end + 1 : line;
		line += strspn(line, " \t");
		if (*line && (!*found || !startswith(line, "exiting with ")))
			found = line;
	}
	text_clean(to, size, found);
}

static void describe_failure(const char *program, const struct crosvm_command_result *result,
			     char *text, size_t size)
{
	char line[120];

	/* What it prints for its caller comes before what it logs. */
	last_line(line, sizeof(line), *result->out ? result->out : result->err);
	if (!result->started)
		text_words(
			text, size,
			"can't run %.60s: %s; set \"crosvm =\" in [general] to the crosvm that runs"
			" the VM",
			program, line);
	else if (result->timed_out)
		text_words(text, size, "%.60s did not end in time and was killed: the VM hangs",
			   program);
	else if (WIFSIGNALED(result->status))
		text_words(text, size, "%.60s was ended by signal %d%s%s", program,
			   WTERMSIG(result->status), *line ? ": " : "", line);
	else if (WEXITSTATUS(result->status) == CROSVM_INVALID_ARGUMENTS)
		text_words(
			text, size,
			"%.60s does not know this command (status 35); is it the crosvm that runs"
			" the VM?",
			program);
	else
		snprintf(text, size, "%.60s: %s (status %d)", program,
			 *line ? line : "failed without a word", WEXITSTATUS(result->status));
}

/* "ok 9" and its like, whatever the exit status. Returns false for what is no such word. */
static bool parse_word(const char *line, struct crosvm_reply *reply)
{
	static const struct {
		const char *word;
		enum crosvm_answer answer;
	} known[] = {
		{"no_available_port", CROSVM_NO_AVAILABLE_PORT},
		{"no_such_device", CROSVM_NO_SUCH_DEVICE},
		{"no_such_port", CROSVM_NO_SUCH_PORT},
		{"failed_to_open_device", CROSVM_FAILED_TO_OPEN_DEVICE},
		{"failed_to_init_host_device", CROSVM_FAILED_TO_INIT_HOST_DEVICE},
	};
	char rest;

	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (streq(line, known[i].word)) {
			reply->answer = known[i].answer;
			return true;
		}
	reply->answer = CROSVM_OK;
	return sscanf(line, "ok %2u%c", &reply->port, &rest) == 1 && reply->port >= 1 &&
	       reply->port <= CROSVM_PORTS;
}

/* "devices" and " PORT VID PID" for each. */
static bool parse_list(const char *text, struct crosvm_reply *reply)
{
	const char *at = startswith(text, "devices");

	reply->answer = CROSVM_DEVICES;
	if (!at)
		return false;
	while (*at != 0 && *at != '\n') {
		struct crosvm_port port = {.used = true};
		unsigned number;
		int length = 0;

		if (sscanf(at, " %2u %4hx %4hx%n", &number, &port.vendor, &port.product, &length) !=
			    3 ||
		    number < 1 || number > CROSVM_PORTS || reply->ports[number].used)
			return false;
		reply->ports[number] = port;
		at += length;
	}
	return true;
}

void crosvm_command_parse(const char *program, const struct crosvm_command_result *result,
			  struct crosvm_reply *ret_reply)
{
	struct crosvm_reply reply = {0};
	bool is_whole = result->started && !result->timed_out && WIFEXITED(result->status);
	bool is_good = is_whole && WEXITSTATUS(result->status) == 0;

	last_line(reply.text, sizeof(reply.text), result->out);
	if (is_good && reply.text[0] == 0)
		snprintf(reply.text, sizeof(reply.text), "done"); /* CROSVM_OK */
	else if (!is_good || !parse_word(reply.text, &reply)) {
		reply.port = 0;
		if (!is_good || !parse_list(result->out, &reply)) {
			memset(reply.ports, 0, sizeof(reply.ports));
			reply.answer = CROSVM_ERROR;
			describe_failure(program, result, reply.text, sizeof(reply.text));
		}
	}
	*ret_reply = reply;
}
