/* Listening sockets of control.h: see control_listen.h. Used by the broker's main and at reload. */
#include "broker/control_listen.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
/* After sys/socket.h. */
#include <linux/vm_sockets.h>

#include "broker/account.h"
#include "broker/log.h"
#include "broker/socket.h"
#include "broker/watch.h"
#include "conf/config.h"
#include "helper/text.h"

#define BACKLOG 1024
#define RETRY_MS 1000  /* while no client can be taken */
#define AGAIN_MS 3000  /* while a socket can't be made */
#define CLEARED_MS 200 /* for whoever clears a directory to be done with it */
#define MAX_CIDS 64
#define AT_ONCE 64 /* clients taken in one pass */

struct listener {
	struct listener *next;
	struct control_listeners *all;
	int fd; /* -1: it can't be made yet, or not again */
	struct loop_source *source;
	struct loop_timer retry, again;
	enum control_dialect dialect;
	bool is_trusted;
	char name[CONFIG_SOCKET_SIZE + 20]; /* for people */
	char path[CONFIG_SOCKET_SIZE];      /* of a unix socket; "" */
	ino_t inode;                        /* ours there */
	mode_t mode;
	uid_t uid;
	gid_t gid;
	struct watch *watch;
	struct sockaddr_storage address; /* of another socket */
	socklen_t size;
	unsigned cids[MAX_CIDS];
	size_t n_cids;
	bool is_vsock;
};

struct control_listeners {
	struct loop *loop;
	struct control *control;
	struct listener *first;
};

static bool has_cid(const unsigned *cids, size_t n, unsigned cid)
{
	for (size_t i = 0; i < n; i++)
		if (cids[i] == cid)
			return true;
	return false;
}

static bool is_allowed(const struct listener *listener, const struct sockaddr_vm *peer)
{
	if (has_cid(listener->cids, listener->n_cids, peer->svm_cid))
		return true;
	log_warning("refused a vsock client with CID %u: it is not in allowedCids", peer->svm_cid);
	return false;
}

static void accept_again(void *data)
{
	struct listener *listener = data;

	loop_source_set_events(listener->source, EPOLLIN);
}

/* No descriptors left, say: those who knock wait a while. */
static void pause_listener(struct listener *listener)
{
	log_warning("can't accept a client: %s", strerror(errno));
	loop_source_set_events(listener->source, 0);
	loop_timer_start(listener->all->loop, &listener->retry, RETRY_MS, accept_again, listener);
}

static void listener_readable(void *data, uint32_t events)
{
	struct listener *listener = data;

	(void) events;
	for (int i = 0; i < AT_ONCE; i++) {
		struct sockaddr_vm peer = {0};
		socklen_t size = sizeof(peer);
		int fd =
			accept4(listener->fd, listener->is_vsock ? (struct sockaddr *) &peer : NULL,
				listener->is_vsock ? &size : NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd < 0 && errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			pause_listener(listener);
		if (fd < 0)
			return;
		if (listener->is_vsock && !is_allowed(listener, &peer))
			close(fd);
		else
			control_accept(listener->all->control, fd, listener->dialect,
				       listener->is_trusted);
	}
}

static void stop_accepting(struct listener *listener)
{
	loop_timer_stop(&listener->retry);
	listener->source = loop_source_free(listener->source);
	listener->fd = close_fd(listener->fd);
}

static void listener_free(struct listener *listener)
{
	stop_accepting(listener);
	loop_timer_stop(&listener->again);
	watch_free(listener->watch);
	if (listener->path[0])
		socket_remove(listener->path, listener->inode);
	free(listener);
}

static struct listener *listener_new(struct control_listeners *all, enum control_dialect dialect,
				     bool is_trusted)
{
	struct listener *listener = calloc(1, sizeof(*listener));

	if (!listener)
		return NULL;
	listener->all = all;
	listener->fd = -1;
	listener->dialect = dialect;
	listener->is_trusted = is_trusted;
	return listener;
}

/* Begins to accept on FD, which it takes over. */
static int start_accepting(struct listener *listener, int fd)
{
	listener->fd = fd;
	return listen(fd, BACKLOG) < 0 ? -errno
				       : loop_add(listener->all->loop, fd, EPOLLIN,
						  listener_readable, listener, &listener->source);
}

static int find_owner(const struct control_unix *place, uid_t *ret_uid, gid_t *ret_gid)
{
	uid_t uid = place->user ? account_ask_user(place->user) : (uid_t) -1;
	gid_t gid = place->group ? account_ask_group(place->group) : (gid_t) -1;
	bool no_user = place->user && uid == (uid_t) -1;

	if (no_user || (place->group && gid == (gid_t) -1)) {
		log_error("%s: there is no %s %s", place->path, no_user ? "user" : "group",
			  no_user ? place->user : place->group);
		return -ENOENT;
	}
	*ret_uid = uid;
	*ret_gid = gid;
	return 0;
}

/* A socket at ADDRESS that somebody answers on is not ours to take. */
static bool is_in_use(const struct sockaddr_un *address)
{
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	return connect(fd, (const struct sockaddr *) address, sizeof(*address)) == 0 ||
	       errno == EAGAIN;
}

static int bind_unix(int fd, const struct listener *listener)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	_Static_assert(sizeof(address.sun_path) == sizeof(listener->path), "any path fits");
	strcpy(address.sun_path, listener->path);
	return is_in_use(&address) ? -EADDRINUSE
				   : socket_bind(fd, listener->path, listener->mode, listener->uid,
						 listener->gid);
}

static int open_unix(struct listener *listener)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int r = fd < 0 ? -errno : bind_unix(fd, listener);

	if (r < 0) {
		close_fd(fd);
		return r;
	}
	listener->inode = socket_inode(listener->path);
	return start_accepting(listener, fd);
}

/* By TCP or vsock. */
static int open_other(struct listener *listener)
{
	int one = 1, r = 0;
	int fd = socket(listener->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		r = -errno;
	if (r == 0 && !listener->is_vsock &&
	    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0)
		r = -errno;
	if (r == 0 && bind(fd, (const struct sockaddr *) &listener->address, listener->size) < 0)
		r = -errno;
	if (r < 0) {
		close_fd(fd);
		return r;
	}
	return start_accepting(listener, fd);
}

static int open_socket(struct listener *listener)
{
	return listener->path[0] ? open_unix(listener) : open_other(listener);
}

static bool is_in_place(const struct listener *listener)
{
	return listener->fd >= 0 && socket_inode(listener->path) == listener->inode;
}

static void listen_again(void *data);

static void try_again(struct listener *listener)
{
	stop_accepting(listener);
	loop_timer_start(listener->all->loop, &listener->again, AGAIN_MS, listen_again, listener);
}

static void listen_again(void *data)
{
	struct listener *listener = data;
	bool is_news = listener->fd >= 0;
	int r;

	if (is_in_place(listener))
		return;
	if (is_news)
		log_warning("%s was removed: making it again", listener->path);
	stop_accepting(listener);
	r = open_socket(listener);
	if (r == 0) {
		log_info("listening on %s", listener->name);
		return;
	}
	if (is_news)
		log_error("can't listen on %s: %s", listener->name, strerror(-r));
	try_again(listener);
}

/* What is in the way at the host's start need not be there for long: an address that no interface
 * has yet, a directory that is still to be made, a program that we take the place of. */
static void start_listening(struct listener *listener)
{
	int r = open_socket(listener);

	listener->next = listener->all->first;
	listener->all->first = listener;
	if (r == 0)
		return;
	log_error("can't listen on %s yet: %s", listener->name, strerror(-r));
	try_again(listener);
}

/* Somebody has cleared the directory, say: nobody would find the socket any more. */
static void look_at_socket(void *data)
{
	struct listener *listener = data;

	if (!listener->again.loop && !is_in_place(listener))
		loop_timer_start(listener->all->loop, &listener->again, CLEARED_MS, listen_again,
				 listener);
}

int control_listen_unix(struct control_listeners *listeners, const struct control_unix *place)
{
	struct listener *listener = listener_new(listeners, place->dialect, place->is_trusted);
	int r;

	if (!listener)
		return -ENOMEM;
	listener->mode = place->mode;
	r = find_owner(place, &listener->uid, &listener->gid);
	if (r == 0)
		r = text_path(listener->path, sizeof(listener->path), "%s", place->path);
	if (r == 0)
		r = watch_new(listeners->loop, listener->path, look_at_socket, listener,
			      &listener->watch);
	if (r < 0) {
		log_error("can't listen on %s: %s", place->path, strerror(-r));
		listener_free(listener);
		return r;
	}
	snprintf(listener->name, sizeof(listener->name), "%s", listener->path);
	start_listening(listener);
	return 0;
}

static bool is_loopback(const struct sockaddr_storage *address)
{
	const struct sockaddr_in *four = (const void *) address;
	const struct sockaddr_in6 *six = (const void *) address;

	if (address->ss_family == AF_INET)
		return ntohl(four->sin_addr.s_addr) >> 24 == 127;
	return IN6_IS_ADDR_LOOPBACK(&six->sin6_addr);
}

static int make_address(const char *host, unsigned port, struct sockaddr_storage *ret,
			socklen_t *ret_size)
{
	struct sockaddr_in *four = (void *) ret;
	struct sockaddr_in6 *six = (void *) ret;

	memset(ret, 0, sizeof(*ret));
	if (inet_pton(AF_INET, host, &four->sin_addr) == 1) {
		four->sin_family = AF_INET;
		four->sin_port = htons((uint16_t) port);
		*ret_size = sizeof(*four);
		return 0;
	}
	if (inet_pton(AF_INET6, host, &six->sin6_addr) != 1)
		return -EINVAL;
	six->sin6_family = AF_INET6;
	six->sin6_port = htons((uint16_t) port);
	*ret_size = sizeof(*six);
	return 0;
}

int control_listen_tcp(struct control_listeners *listeners, const char *host, unsigned port)
{
	struct listener *listener = listener_new(listeners, CONTROL_VHOTPLUG, true);
	int r;

	if (!listener)
		return -ENOMEM;
	snprintf(listener->name, sizeof(listener->name), "%s, TCP port %u", host, port);
	r = make_address(host, port, &listener->address, &listener->size);
	if (r < 0) {
		log_error("can't listen on %s: %s", listener->name, strerror(-r));
		listener_free(listener);
		return r;
	}
	if (!is_loopback(&listener->address))
		log_warning("the API listens on %s: whoever reaches it may attach and detach "
			    "devices; nothing on it is encrypted, and nobody is asked who he is",
			    listener->name);
	start_listening(listener);
	return 0;
}

int control_listen_vsock(struct control_listeners *listeners, unsigned port, const unsigned *cids,
			 size_t n)
{
	struct sockaddr_vm address = {
		.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port};
	struct listener *listener = listener_new(listeners, CONTROL_VHOTPLUG, true);

	if (!listener)
		return -ENOMEM;
	snprintf(listener->name, sizeof(listener->name), "vsock port %u", port);
	listener->is_vsock = true;
	listener->size = sizeof(address);
	memcpy(&listener->address, &address, sizeof(address));
	for (; listener->n_cids < n && listener->n_cids < MAX_CIDS; listener->n_cids++)
		listener->cids[listener->n_cids] = cids[listener->n_cids];
	start_listening(listener);
	return 0;
}

void control_drop_guests(struct control *control, const unsigned *cids, size_t n)
{
	for (struct control_client *c = control_clients(control); c; c = c->next) {
		struct sockaddr_vm peer = {0};
		socklen_t size = sizeof(peer);

		if (getpeername(c->fd, (struct sockaddr *) &peer, &size) < 0 ||
		    peer.svm_family != AF_VSOCK || has_cid(cids, n, peer.svm_cid))
			continue;
		log_info("hung up on the vsock client with CID %u: it is not in allowedCids "
			 "any more",
			 peer.svm_cid);
		control_hang_up(c);
	}
}

int control_listeners_new(struct loop *loop, struct control *control,
			  struct control_listeners **ret_listeners)
{
	struct control_listeners *listeners = calloc(1, sizeof(*listeners));

	if (!listeners)
		return -ENOMEM;
	listeners->loop = loop;
	listeners->control = control;
	*ret_listeners = listeners;
	return 0;
}

void control_listeners_close(struct control_listeners *listeners, enum control_dialect dialect)
{
	struct listener **at = &listeners->first;

	while (*at) {
		struct listener *listener = *at;

		if (listener->dialect != dialect) {
			at = &listener->next;
			continue;
		}
		*at = listener->next;
		listener_free(listener);
	}
}

void control_listeners_free(struct control_listeners *listeners)
{
	if (!listeners)
		return;
	control_listeners_close(listeners, CONTROL_OWN);
	control_listeners_close(listeners, CONTROL_VHOTPLUG);
	free(listeners);
}
