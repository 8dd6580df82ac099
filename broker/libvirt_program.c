/* The child process: see libvirt_program.h. Called by vmm_libvirt.c. */
#include "broker/libvirt_program.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "broker/libvirt/words.h"
#include "broker/spawn.h"

struct libvirt_program {
	struct loop *loop;
	struct loop_garbage garbage;
	const struct libvirt_program_handler *handler;
	void *data;
	pid_t pid;
	int fd; /* -1: it is over */
	struct loop_source *source;
};

static const char *program_path = VHOTPLUG_LIBEXECDIR "/vhotplug-libvirt";

void libvirt_program_set_path(const char *path)
{
	program_path = path;
}

/* The end */

static void free_program(void *data)
{
	free(data);
}

/* Kills it and puts its end into words. It does nothing but talk on sockets, so it dies at once. */
static void finish_program(struct libvirt_program *program, char *ret_why, size_t size)
{
	int status = 0;

	program->source = loop_source_free(program->source);
	program->fd = close_fd(program->fd);
	kill(program->pid, SIGKILL);
	while (waitpid(program->pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFEXITED(status))
		snprintf(ret_why, size, "vhotplug-libvirt has ended with status %d",
			 WEXITSTATUS(status));
	else
		snprintf(ret_why, size, "vhotplug-libvirt was killed by signal %d",
			 WTERMSIG(status));
	loop_discard(program->loop, &program->garbage, free_program, program);
}

struct libvirt_program *libvirt_program_stop(struct libvirt_program *program)
{
	char why[100];

	if (program)
		finish_program(program, why, sizeof(why));
	return NULL;
}

/* WHY: NULL when it has ended by itself, which its status tells. */
static void end_program(struct libvirt_program *program, const char *why)
{
	const struct libvirt_program_handler *handler = program->handler;
	void *data = program->data;
	char its_end[100];

	finish_program(program, its_end, sizeof(its_end));
	handler->ended(data, why ? why : its_end);
}

/* What it says */

static void read_packet(void *data, uint32_t events)
{
	static char packet[LIBVIRT_PACKET_BYTES];
	struct libvirt_program *program = data;
	ssize_t n = recv(program->fd, packet, sizeof(packet), 0);

	(void) events;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		end_program(program, NULL);
		return;
	}
	json_t *said = json_loadb(packet, (size_t) n, JSON_REJECT_DUPLICATES, NULL);
	if (json_is_object(said))
		program->handler->said(program->data, said);
	else
		end_program(program,
			    "vhotplug-libvirt says what is not understood; update all of vhotplug");
	json_decref(said);
}

int libvirt_program_send(struct libvirt_program *program, const json_t *packet)
{
	_cleanup_free_ char *text = json_dumps(packet, JSON_COMPACT);

	if (!text)
		return -ENOMEM;
	return send(program->fd, text, strlen(text), MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* The start */

static int start_program(struct libvirt_program *program, const char *const *argv)
{
	_cleanup_close_ int its_end = -1;
	int pair[2], r;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	program->fd = pair[0];
	its_end = pair[1];
	/* Ours alone: the child waits until there is room for its words. */
	if (fcntl(program->fd, F_SETFL, O_NONBLOCK) < 0)
		return -errno;
	r = loop_add(program->loop, program->fd, EPOLLIN, read_packet, program, &program->source);
	struct spawn_fd fd = {.ours = its_end, .its = LIBVIRT_FD};
	return r < 0 ? r : spawn_program(argv, &fd, 1, &program->pid);
}

int libvirt_program_start(struct loop *loop, const char *uri, const char *domain,
			  const struct libvirt_program_handler *handler, void *data,
			  struct libvirt_program **ret_program)
{
	const char *const argv[] = {program_path, uri, domain, NULL};
	struct libvirt_program *program;
	int r;

	if (access(program_path, F_OK) < 0)
		return -errno;
	program = calloc(1, sizeof(*program));
	if (!program)
		return -ENOMEM;
	program->loop = loop;
	program->handler = handler;
	program->data = data;
	program->fd = -1;
	r = start_program(program, argv);
	if (r < 0) {
		loop_source_free(program->source);
		close_fd(program->fd);
		free(program);
		return r;
	}
	*ret_program = program;
	return 0;
}
