/* vhotplug-libvirt: hands devices to one domain of libvirt, for the broker, which starts it (see
 * words.h). libvirt's calls block, its library is large, and a host without libvirt needs neither:
 * so it is a program of its own. */
#include <err.h>
#include <jansson.h>
#include <libvirt/virterror.h>
#include <signal.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "broker/libvirt/device_xml.h"
#include "broker/libvirt/domain.h"
#include "broker/libvirt/words.h"
#include "helper/text.h"

static bool is_over; /* the broker has closed its end */

static void send_json(json_t *object)
{
	char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;

	/* Who does not read is dead or stopped; the broker looks anew when it is back. */
	if (!text || send(LIBVIRT_FD, text, strlen(text), MSG_NOSIGNAL) < 0)
		is_over = true;
	free(text);
	json_decref(object);
}

static void tell_changed(void *data)
{
	(void) data;
	send_json(json_pack("{ss}", "event", "changed"));
}

static void tell_device(void *data, const char *alias, bool is_removed)
{
	(void) data;
	send_json(
		json_pack("{ss ss}", "event", is_removed ? "removed" : "refused", "alias", alias));
}

static const struct domain_handler handler = {.changed = tell_changed, .device = tell_device};

/* What libvirt says may be no UTF-8, what QEMU says in its words least of all. */
static json_t *write_detail(const char *detail)
{
	char words[256];

	text_clean(words, sizeof(words), detail);
	return json_string(words);
}

static void answer_look(struct domain *domain, json_int_t id)
{
	struct domain_view view;
	json_t *aliases = json_array();

	domain_look(domain, &view);
	for (size_t i = 0; i < view.n_aliases; i++)
		json_array_append_new(aliases, json_string(view.aliases[i]));
	send_json(json_pack("{sI ss si so so}", "id", id, "is",
			    domain_condition_name(view.condition), "run", view.run, "detail",
			    write_detail(view.detail), "aliases", aliases));
	domain_view_finish(&view);
}

static void answer_outcome(json_int_t id, enum domain_outcome outcome, const char *detail)
{
	send_json(json_pack("{sI ss so}", "id", id, "outcome", domain_outcome_name(outcome),
			    "detail", write_detail(detail)));
}

static void answer_attach(struct domain *domain, json_int_t id, json_t *request)
{
	struct device_xml device = {0};
	int bus = 0, number = 0;
	char detail[256];

	if (json_unpack(request, "{ss ss s?i s?i s?s s?s s?s}", "alias", &device.alias, "kind",
			&device.kind, "bus", &bus, "device", &number, "ids", &device.ids, "address",
			&device.address, "node", &device.node) < 0) {
		answer_outcome(id, DOMAIN_FAILED, "not understood: attach; update all of vhotplug");
		return;
	}
	device.bus = bus > 0 ? (unsigned) bus : 0;
	device.device = number > 0 ? (unsigned) number : 0;
	_cleanup_free_ char *xml = device_xml_write(&device);
	if (!xml)
		answer_outcome(id, DOMAIN_FAILED,
			       "libvirt can't be told of it; update all of vhotplug");
	else
		answer_outcome(id, domain_attach(domain, device.alias, xml, detail, sizeof(detail)),
			       detail);
}

static void answer_detach(struct domain *domain, json_int_t id, json_t *request)
{
	const char *alias;
	char detail[256];

	if (json_unpack(request, "{ss}", "alias", &alias) < 0 || !startswith(alias, ALIAS_PREFIX))
		answer_outcome(id, DOMAIN_FAILED, "not understood: detach; update all of vhotplug");
	else
		answer_outcome(id, domain_detach(domain, alias, detail, sizeof(detail)), detail);
}

static void answer_request(struct domain *domain, json_t *request)
{
	const char *verb;
	json_int_t id;

	if (json_unpack(request, "{sI ss}", "id", &id, "do", &verb) < 0)
		errx(1, "not understood: a request without id or verb");
	if (streq(verb, "look"))
		answer_look(domain, id);
	else if (streq(verb, "attach"))
		answer_attach(domain, id, request);
	else if (streq(verb, "detach"))
		answer_detach(domain, id, request);
	else
		answer_outcome(id, DOMAIN_FAILED, "not understood; update all of vhotplug");
}

static void on_packet(int watch, int fd, int events, void *data)
{
	static char packet[LIBVIRT_PACKET_BYTES];
	ssize_t n = recv(fd, packet, sizeof(packet), MSG_DONTWAIT);

	(void) watch, (void) events;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		is_over = true;
		return;
	}
	json_t *request = json_loadb(packet, (size_t) n, 0, NULL);
	if (!request)
		errx(1, "not understood: no JSON");
	answer_request(data, request);
	json_decref(request);
}

/* libvirt would print its errors to stderr; they are in the answers. */
static void keep_quiet(void *data, virErrorPtr error)
{
	(void) data, (void) error;
}

int main(int argc, char **argv)
{
	struct domain domain;
	int type = 0;
	socklen_t size = sizeof(type);

	if (argc != 3 || getsockopt(LIBVIRT_FD, SOL_SOCKET, SO_TYPE, &type, &size) < 0 ||
	    type != SOCK_SEQPACKET)
		errx(2, "is started by vhotplug-broker, for a [vm] with type = libvirt");
	/* In a call that hangs it would not see its broker's end. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	virSetErrorFunc(NULL, keep_quiet);
	if (virInitialize() < 0 || virEventRegisterDefaultImpl() < 0)
		errx(1, "libvirt: %s", virGetLastErrorMessage());
	domain_init(&domain, argv[1], argv[2], &handler, NULL);
	if (virEventAddHandle(LIBVIRT_FD, VIR_EVENT_HANDLE_READABLE | VIR_EVENT_HANDLE_HANGUP,
			      on_packet, &domain, NULL) < 0)
		errx(1, "libvirt: %s", virGetLastErrorMessage());
	while (!is_over && virEventRunDefaultImpl() == 0)
		;
	domain_finish(&domain);
	return 0;
}
