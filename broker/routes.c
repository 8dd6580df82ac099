/* Routes by netlink: see routes.h. Used by inuse_net.c. */
#include "broker/routes.h"

#include <arpa/inet.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>
#include <sys/time.h>

#define ANSWER_SECONDS 2

struct request {
	struct nlmsghdr header;
	struct rtmsg route;
	char attributes[64];
};

static int open_netlink(void)
{
	struct timeval limit = {.tv_sec = ANSWER_SECONDS};
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	return fd;
}

static const struct rtattr *find_attribute(const struct nlmsghdr *message, unsigned short type)
{
	const struct rtmsg *route = NLMSG_DATA(message);
	unsigned length = RTM_PAYLOAD(message);

	for (const struct rtattr *a = RTM_RTA(route); RTA_OK(a, length); a = RTA_NEXT(a, length))
		if (a->rta_type == type)
			return a;
	return NULL;
}

static uint32_t number_of(const struct rtattr *attribute, uint32_t otherwise)
{
	uint32_t value = otherwise;

	if (attribute && RTA_PAYLOAD(attribute) >= sizeof(value))
		memcpy(&value, RTA_DATA(attribute), sizeof(value));
	return value;
}

/* An interface that is just going has no name any more, and no route: -ENETUNREACH. */
static int name_interface(uint32_t index, char ret_interface[IF_NAMESIZE])
{
	if (index == 0)
		return -ENETUNREACH;
	if (if_indextoname(index, ret_interface))
		return 0;
	return errno == ENXIO || errno == ENODEV ? -ENETUNREACH : -errno;
}

static int call_for_route(routes_fn fn, void *data, uint32_t table, uint32_t index)
{
	char name[IF_NAMESIZE];

	int r = name_interface(index, name);

	if (r < 0)
		return r == -ENETUNREACH ? 0 : r;
	return fn(data, table, name);
}

/* A route may have several ways out. */
static int each_interface(const struct nlmsghdr *message, routes_fn fn, void *data)
{
	const struct rtmsg *route = NLMSG_DATA(message);
	uint32_t table = number_of(find_attribute(message, RTA_TABLE), route->rtm_table);
	const struct rtattr *ways = find_attribute(message, RTA_MULTIPATH);
	int r = call_for_route(fn, data, table, number_of(find_attribute(message, RTA_OIF), 0));
	int left = ways ? (int) RTA_PAYLOAD(ways) : 0;

	for (const struct rtnexthop *way = ways ? RTA_DATA(ways) : NULL;
	     r == 0 && way && RTNH_OK(way, left); way = RTNH_NEXT(way)) {
		r = call_for_route(fn, data, table, (uint32_t) way->rtnh_ifindex);
		left -= RTNH_ALIGN(way->rtnh_len);
	}
	return r;
}

static bool is_default(const struct nlmsghdr *message)
{
	const struct rtmsg *route = NLMSG_DATA(message);

	return message->nlmsg_type == RTM_NEWROUTE &&
	       message->nlmsg_len >= NLMSG_LENGTH(sizeof(*route)) && route->rtm_dst_len == 0 &&
	       route->rtm_type == RTN_UNICAST && !(route->rtm_flags & RTM_F_CLONED);
}

static int error_of(const struct nlmsghdr *message)
{
	const struct nlmsgerr *error = NLMSG_DATA(message);

	return message->nlmsg_len < NLMSG_LENGTH(sizeof(*error)) ? -EIO
	       : error->error == 0                               ? -EIO
								 : error->error;
}

/* One datagram of the answer. Returns 1 at the end, 0 for more. */
static int read_part(int fd, routes_fn fn, void *data)
{
	_Alignas(struct nlmsghdr) char buffer[32768];
	ssize_t n = recv(fd, buffer, sizeof(buffer), MSG_TRUNC);
	int r = 0;

	if (n < 0)
		return -errno;
	if ((size_t) n > sizeof(buffer))
		return -EMSGSIZE;
	size_t left = (size_t) n;
	for (const struct nlmsghdr *m = (struct nlmsghdr *) buffer; r == 0 && NLMSG_OK(m, left);
	     m = NLMSG_NEXT(m, left)) {
		if (m->nlmsg_type == NLMSG_DONE)
			return 1;
		if (m->nlmsg_type == NLMSG_ERROR)
			return error_of(m);
		if (is_default(m))
			r = each_interface(m, fn, data);
	}
	return r;
}

int routes_each_default(int family, routes_fn fn, void *data)
{
	struct request request = {
		.header = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct rtmsg)),
			   .nlmsg_type = RTM_GETROUTE,
			   .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
		.route = {.rtm_family = (unsigned char) family},
	};
	_cleanup_close_ int fd = open_netlink();
	int r = 0;

	if (fd < 0)
		return fd;
	if (send(fd, &request, request.header.nlmsg_len, 0) < 0)
		return -errno;
	while (r == 0)
		r = read_part(fd, fn, data);
	return r > 0 ? 0 : r;
}

/* The request for the way to ADDRESS. */
static int make_request(const char *address, struct request *ret)
{
	struct rtattr *target = (struct rtattr *) (void *) ret->attributes;
	bool is_v6 = strchr(address, ':');
	unsigned short size = is_v6 ? sizeof(struct in6_addr) : sizeof(struct in_addr);

	*ret = (struct request){
		.header = {.nlmsg_type = RTM_GETROUTE, .nlmsg_flags = NLM_F_REQUEST},
		.route = {.rtm_family = is_v6 ? AF_INET6 : AF_INET,
			  .rtm_dst_len = (unsigned char) (size * 8)},
	};
	target->rta_type = RTA_DST;
	target->rta_len = (unsigned short) RTA_LENGTH(size);
	ret->header.nlmsg_len = NLMSG_LENGTH(sizeof(struct rtmsg)) + target->rta_len;
	return inet_pton(ret->route.rtm_family, address, RTA_DATA(target)) == 1 ? 0 : -EINVAL;
}

/* "fe80::1%2", "fe80::1%eth0": such an address says itself by which interface. */
static int read_scope(const char *scope, char ret_interface[IF_NAMESIZE])
{
	char *end;
	unsigned long index = strtoul(scope, &end, 10);

	if (*scope && !*end)
		return name_interface((uint32_t) index, ret_interface);
	if (!*scope || strlen(scope) >= IF_NAMESIZE)
		return -EINVAL;
	strcpy(ret_interface, scope);
	return 0;
}

int routes_find(const char *address, char ret_interface[IF_NAMESIZE])
{
	_Alignas(struct nlmsghdr) char buffer[4096];
	const struct nlmsghdr *answer = (struct nlmsghdr *) buffer;
	struct request request;
	const char *scope = strchr(address, '%');

	if (scope)
		return read_scope(scope + 1, ret_interface);
	int r = make_request(address, &request);
	_cleanup_close_ int fd = r < 0 ? r : open_netlink();

	if (fd < 0)
		return fd;
	if (send(fd, &request, request.header.nlmsg_len, 0) < 0)
		return -errno;
	ssize_t n = recv(fd, buffer, sizeof(buffer), 0);
	if (n < 0)
		return -errno;
	if (!NLMSG_OK(answer, (size_t) n) || answer->nlmsg_type == NLMSG_ERROR)
		return n >= (ssize_t) sizeof(*answer) ? error_of(answer) : -EIO;
	uint32_t index = number_of(find_attribute(answer, RTA_OIF), 0);
	return name_interface(index, ret_interface);
}
