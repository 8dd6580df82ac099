/* crosvm's control protocol: see crosvm_socket.h. Used by vmm_crosvm.c. */
#include "broker/crosvm_socket.h"

#include <jansson.h>
#include <sys/socket.h>

#include "broker/device.h"
#include "broker/socket.h"
#include "helper/text.h"

#define MAX_PACKET 65536 /* an answer has some 800 bytes */

/* Requests */

static int send_packet(int fd, const char *text, int pass_fd)
{
	ssize_t n = socket_send(fd, text, strlen(text), &pass_fd, pass_fd >= 0 ? 1 : 0);

	return n < 0 ? (int) n : 0;
}

int crosvm_send_attach(int fd, int device_fd)
{
	/* Until 2022-06 bus to pid had to be there (and were not looked at); later versions skip
	 * them. "file" is the index among the packet's descriptors. */
	return send_packet(fd,
			   "{\"UsbCommand\":{\"AttachDevice\":"
			   "{\"bus\":0,\"addr\":0,\"vid\":0,\"pid\":0,\"file\":0}}}",
			   device_fd);
}

int crosvm_send_detach(int fd, unsigned port)
{
	char text[80];

	snprintf(text, sizeof(text), "{\"UsbCommand\":{\"DetachDevice\":{\"port\":%u}}}", port);
	return send_packet(fd, text, -1);
}

int crosvm_send_list(int fd)
{
	/* Exactly 16 numbers; crosvm's own client asks for 0 to 15 and never sees port 16. */
	return send_packet(fd,
			   "{\"UsbCommand\":{\"ListDevice\":{\"ports\":"
			   "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]}}}",
			   -1);
}

/* Answers */

static int parse_port(const json_t *value, unsigned first, unsigned *ret_port)
{
	json_int_t port = json_integer_value(value);

	if (!json_is_integer(value) || port < first || port > CROSVM_PORTS)
		return -EBADMSG;
	*ret_port = (unsigned) port;
	return 0;
}

static int parse_id(const json_t *value, uint16_t *ret_id)
{
	json_int_t id = json_integer_value(value);

	if (!json_is_integer(value) || id < 0 || id > UINT16_MAX)
		return -EBADMSG;
	*ret_id = (uint16_t) id;
	return 0;
}

/* Port 0 stands for "nothing there". */
static int parse_devices(const json_t *list, struct crosvm_reply *reply)
{
	size_t i;
	json_t *entry;

	if (json_array_size(list) > CROSVM_PORTS)
		return -EBADMSG;
	json_array_foreach((json_t *) list, i, entry)
	{
		struct crosvm_port port = {.used = true};
		unsigned number;

		if (parse_port(json_object_get(entry, "port"), 0, &number) < 0 ||
		    parse_id(json_object_get(entry, "vendor_id"), &port.vendor) < 0 ||
		    parse_id(json_object_get(entry, "product_id"), &port.product) < 0)
			return -EBADMSG;
		if (number == 0)
			continue;
		if (reply->ports[number].used)
			return -EBADMSG;
		reply->ports[number] = port;
	}
	reply->answer = CROSVM_DEVICES;
	return 0;
}

static void parse_result_name(const char *name, struct crosvm_reply *reply)
{
	static const struct {
		const char *name;
		enum crosvm_answer answer;
	} known[] = {
		{"NoAvailablePort", CROSVM_NO_AVAILABLE_PORT},
		{"NoSuchDevice", CROSVM_NO_SUCH_DEVICE},
		{"NoSuchPort", CROSVM_NO_SUCH_PORT},
		{"FailedToOpenDevice", CROSVM_FAILED_TO_OPEN_DEVICE},
		{"FailedToInitHostDevice", CROSVM_FAILED_TO_INIT_HOST_DEVICE},
	};

	reply->answer = CROSVM_ERROR;
	text_clean(reply->text, sizeof(reply->text), name);
	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (streq(known[i].name, name))
			reply->answer = known[i].answer;
}

static int parse_usb(const json_t *usb, struct crosvm_reply *reply)
{
	const json_t *ok = json_object_get(usb, "Ok"), *list = json_object_get(usb, "Devices");

	if (json_is_string(usb)) {
		parse_result_name(json_string_value(usb), reply);
		return 0;
	}
	if (json_object_size(usb) != 1)
		return -EBADMSG;
	if (json_is_array(list))
		return parse_devices(list, reply);
	if (json_is_object(ok)) {
		snprintf(reply->text, sizeof(reply->text), "Ok");
		return parse_port(json_object_get(ok, "port"), 1, &reply->port);
	}
	parse_result_name(json_object_iter_key(json_object_iter((json_t *) usb)), reply);
	return 0;
}

static int parse_response(const json_t *response, struct crosvm_reply *reply)
{
	const json_t *usb = json_object_get(response, "UsbResponse");
	const json_t *error = json_object_get(response, "Err");
	const json_t *text = json_object_get(response, "ErrString");

	if (json_is_string(response) && streq(json_string_value(response), "Ok")) {
		snprintf(reply->text, sizeof(reply->text), "Ok");
		return 0;
	}
	if (json_object_size(response) != 1)
		return -EBADMSG;
	if (usb)
		return parse_usb(usb, reply);
	reply->answer = CROSVM_ERROR;
	if (json_is_integer(error) && json_integer_value(error) > 0 &&
	    json_integer_value(error) < 4096) {
		reply->error = (int) json_integer_value(error);
		text_clean(reply->text, sizeof(reply->text), strerror(reply->error));
	} else if (json_is_string(text)) {
		text_clean(reply->text, sizeof(reply->text), json_string_value(text));
	} else {
		return -EBADMSG;
	}
	return 0;
}

int crosvm_parse(const char *data, size_t n, struct crosvm_reply *ret_reply)
{
	struct crosvm_reply reply = {0};
	json_t *response = json_loadb(data, n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, NULL);
	int r = response ? parse_response(response, &reply) : -EBADMSG;

	json_decref(response);
	if (r == 0)
		*ret_reply = reply;
	return r;
}

int crosvm_receive(int fd, struct crosvm_reply *ret_reply)
{
	char buffer[MAX_PACKET];
	/* Without room for control messages the kernel closes descriptors that come along. */
	ssize_t n = recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT | MSG_TRUNC);

	if (n < 0)
		return errno == EINTR ? -EAGAIN : -errno;
	if (n == 0)
		return -ECONNRESET;
	if ((size_t) n > sizeof(buffer))
		return -EBADMSG;
	return crosvm_parse(buffer, (size_t) n, ret_reply);
}
