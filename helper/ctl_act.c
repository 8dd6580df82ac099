/* Attach, detach and the like: see ctl_act.h. The broker answers when it is done. */
#include "helper/ctl_act.h"

#include "helper/ctl_connection.h"
#include "helper/ctl_select.h"
#include "helper/ctl_show.h"

#include <time.h>

static int ask_broker(struct ctl_connection *connection, json_t *request, json_t **ret_answer)
{
	json_t *answer = NULL;
	int r = ctl_ask(connection, request, &answer);

	if (r == 0 && ret_answer)
		*ret_answer = answer;
	else
		json_decref(answer);
	return r;
}

static json_t *device_request(const struct ctl_options *options, const char *action,
			      const json_t *device)
{
	json_t *request =
		json_pack("{s:s, s:s}", "action", action, "device", json_text(device, "id"));

	if (options->vm)
		json_object_set_new(request, "vm", json_string(options->vm));
	if (options->until_replug)
		json_object_set_new(request, "until_replug", json_true());
	return request;
}

/* Does ACTION to each device that the first argument means. One that fails does not keep the others
 * from being tried. */
static int for_devices(const struct ctl_options *options, const char *action, const char *done)
{
	_cleanup_(ctl_disconnectp) struct ctl_connection *connection = NULL;
	json_t *devices = NULL, *some = NULL, *device;
	size_t i;
	int r = ctl_connect(options->socket, &connection), status = 0;

	if (r == 0)
		r = ctl_get_devices(options, false, &devices);
	if (r == 0) {
		some = select_some(devices, options->args[0]);
		r = some ? 0 : CTL_NO_DEVICE;
	}
	json_array_foreach(some, i, device)
	{
		int one = ask_broker(connection, device_request(options, action, device), NULL);

		if (one == 0 && !options->json)
			printf("%s %s%s\n", json_text(device, "device"), json_text(device, "name"),
			       done);
		if (one > status)
			status = one;
	}
	json_decref(devices);
	json_decref(some);
	return r > 0 ? r : status;
}

int ctl_attach(const struct ctl_options *options)
{
	return for_devices(options, "attach", ": attached");
}

int ctl_detach(const struct ctl_options *options)
{
	return for_devices(options, "detach", ": detached");
}

int ctl_choose(const struct ctl_options *given)
{
	struct ctl_options options = *given;

	options.vm = options.args[1];
	return for_devices(&options, "attach", ": attached");
}

/* ACTION without a device. */
static int act_on_device(const struct ctl_options *options, const char *action)
{
	_cleanup_(ctl_disconnectp) struct ctl_connection *connection = NULL;
	json_t *request;
	int r = ctl_connect(options->socket, &connection);

	if (r > 0)
		return r;
	request = json_pack("{s:s}", "action", action);
	if (options->vm)
		json_object_set_new(request, "vm", json_string(options->vm));
	return ask_broker(connection, request, NULL);
}

int ctl_suspend(const struct ctl_options *options)
{
	return act_on_device(options, "suspend");
}

int ctl_resume(const struct ctl_options *options)
{
	return act_on_device(options, "resume");
}

int ctl_reload(const struct ctl_options *options)
{
	return act_on_device(options, "reload");
}

/* vmm-args */

static bool has_pci(const json_t *args)
{
	json_t *arg;
	size_t i;

	json_array_foreach(args, i, arg) if (strstr(json_string_value(arg), "vfio-pci,") ||
					     strstr(json_string_value(arg),
						    "/sys/bus/pci/devices/")) return true;
	return false;
}

/* One argument a line or, for $(…), all on one with blanks: none of them has a blank in it. */
static void print_args(const struct ctl_options *options, const json_t *args)
{
	json_t *arg;
	size_t i;

	if (options->json) {
		ctl_print_json(args);
		return;
	}
	json_array_foreach(args, i, arg) printf("%s%s", i > 0 ? " " : "", json_string_value(arg));
	putchar('\n');
}

static int get_args(const struct ctl_options *options, json_t **ret_args)
{
	_cleanup_(ctl_disconnectp) struct ctl_connection *connection = NULL;
	json_t *request, *answer = NULL;
	int r = ctl_connect(options->socket, &connection);

	if (r > 0)
		return r;
	request = json_pack("{s:s, s:s, s:I}", "action", "vmm_args", "vm", options->args[0],
			    "qemu_bus_start_index", (json_int_t) options->start);
	if (options->bus_prefix)
		json_object_set_new(request, "qemu_bus_prefix", json_string(options->bus_prefix));
	r = ask_broker(connection, request, &answer);
	if (r > 0)
		return r;
	*ret_args = json_incref(json_object_get(answer, "vmm_args"));
	json_decref(answer);
	return 0;
}

/* At boot the broker, or the card, may come a little later than the VM is to start. */
int ctl_vmm_args(const struct ctl_options *options)
{
	time_t end = time(NULL) + options->timeout;
	json_t *args = NULL;
	bool is_enough;
	int r;

	for (;;) {
		r = get_args(options, &args);
		is_enough = r == 0 && (!options->require_pci || has_pci(args));
		if (is_enough || time(NULL) >= end || (r > 0 && r != CTL_NO_BROKER))
			break;
		json_decref(args);
		args = NULL;
		sleep(1);
	}
	if (is_enough)
		print_args(options, args);
	else if (r == 0)
		r = ctl_fail(CTL_NO_DEVICE, "no PCI device is there for %s", options->args[0]);
	json_decref(args);
	return r;
}
