/* Any bytes from a client of the control sockets: the first one says which socket and whether he
 * may change things. He gets whole lines of JSON, at most one answer a request, and the broker does
 * not wait for him. */
#include <assert.h>
#include <stdint.h>
#include <sys/socket.h>

#define assert_true(x) assert(x)
#include "broker/log.h"
#include "tests/unit/api-double.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const devices[] = {
	"{\"sys_name\": \"1-3\", \"device_node\": \"/dev/bus/usb/001/004\", \"vendor_name\": "
	"\"V\", \"vid\": \"046d\","
	" \"pid\": \"c52b\", \"busnum\": 1, \"devnum\": 4, \"portnum\": 3, \"serial\": \"S\", "
	"\"tag\": \"t\", \"vms\":"
	" \"vm1,vm2\", \"vm\": \"vm1\"}",
	"{\"address\": \"0000:00:07.0\", \"vendor_name\": \"V\", \"vid\": \"10EC\", \"did\": "
	"\"8139\", \"vms\": \"vm1\"}",
};

static void end_of_pass(void *data)
{
	struct api **api = data;

	api_pass(*api);
}

/* Each line is a JSON object that has a result, or is an event. */
static void check_answers(int fd)
{
	static char text[1 << 20];
	ssize_t n, length = 0;

	while ((n = recv(fd, text + length, sizeof(text) - (size_t) length, MSG_DONTWAIT)) > 0)
		length += n;
	for (char *line = text, *end; line < text + length; line = end + 1) {
		json_t *value;

		end = memchr(line, '\n', (size_t) (text + length - line));
		if (!end)
			return; /* he has not read it all */
		value = json_loadb(line, (size_t) (end - line), JSON_REJECT_DUPLICATES, NULL);
		if (!json_object_get(value, "result") == !json_object_get(value, "event"))
			abort();
		json_decref(value);
	}
}

static void plug_all(struct double_broker *broker)
{
	for (size_t i = 0; i < ARRAY_SIZE(devices); i++) {
		json_t *device = json_loads(devices[i], 0, NULL);

		double_plug(broker, device);
		json_decref(device);
	}
}

static void unplug_all(struct double_broker *broker)
{
	while (broker->n > 0)
		json_decref(broker->devices[--broker->n].json);
	json_decref(broker->query);
	free(broker);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct double_broker *broker = calloc(1, sizeof(*broker));
	struct loop *loop = NULL;
	struct api *api = NULL;
	int pair[2];

	plug_all(broker);
	if (loop_new(&loop) < 0 || api_new(loop, &double_verbs, broker, &api) < 0 ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		abort();
	loop_set_pass_end(loop, end_of_pass, &api);
	control_accept(api_control(api), pair[1],
		       size > 0 && data[0] & 1 ? CONTROL_OWN : CONTROL_VHOTPLUG,
		       size > 0 && data[0] & 2);
	if (size > 1 && send(pair[0], data + 1, size - 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		abort();
	shutdown(pair[0], SHUT_WR);
	for (int i = 0; i < 20; i++)
		if (loop_pass(loop, now_monotonic_ms()) < 0)
			abort();
	check_answers(pair[0]);
	close(pair[0]);
	api_free(api);
	loop_free(loop);
	unplug_all(broker);
	return 0;
}
