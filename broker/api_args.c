/* vmm_args: the arguments that give a VM its PCI and input devices from its start. The same in both
 * dialects, see api.h. */
#include "broker/api_request.h"

/* The first number in the names that QEMU's devices get: a number, or text that is one. */
static int read_start(struct api_request *request, unsigned *ret)
{
	const json_t *value = json_object_get(request->message, "qemu_bus_start_index");
	const char *text = json_string_value(value);
	long long start = json_integer_value(value);
	char *end = NULL;

	if (text) {
		start = strtoll(text, &end, 10);
		if (end == text || *end)
			return api_fail(request, -EINVAL,
					"invalid literal for int() with base 10: '%s'", text);
	} else if (value && !json_is_null(value) && !json_is_integer(value)) {
		return api_fail(request, -EINVAL, "\"qemu_bus_start_index\" must be a number");
	}
	if (start < 0 || start > 9999)
		return api_fail(request, -EINVAL, "\"qemu_bus_start_index\" must be 0 to 9999");
	*ret = (unsigned) start;
	return 0;
}

static int read_args(struct api_request *request, struct control_args *ret_args)
{
	int r = api_text(request, "vm", &ret_args->vm);

	if (r == 0)
		r = api_text(request, "qemu_bus_prefix", &ret_args->bus_prefix);
	if (r == 0)
		r = read_start(request, &ret_args->start);
	if (r == 0 && (!ret_args->vm || !*ret_args->vm))
		return api_fail(request, -EINVAL, "VM name is required");
	if (ret_args->bus_prefix && !*ret_args->bus_prefix)
		ret_args->bus_prefix = NULL;
	return r;
}

struct waiting {
	struct api_request *request;
	int r;
};

/* What does not get ready is left out, and the broker's log says so. */
static void await_ready(void *data, const char *id)
{
	struct waiting *waiting = data;

	if (waiting->r == 0)
		waiting->r = api_await(waiting->request, id, AWAIT_READY, NULL, true);
}

static bool has_pci(const json_t *args)
{
	const char *text;
	json_t *arg;
	size_t i;

	json_array_foreach(args, i, arg)
	{
		text = json_string_value(arg);
		if (strstr(text, "vfio-pci,") || strstr(text, "/sys/bus/pci/devices/"))
			return true;
	}
	return false;
}

static int answer_args(struct api_request *request)
{
	struct control_args args = {0};
	int r = read_args(request, &args);
	json_t *list = NULL;

	if (r == 0)
		list = request->api->verbs->vmm_args(request->api->data, &args);
	if (list && json_is_true(json_object_get(request->message, "require_pci")) &&
	    !has_pci(list)) {
		json_decref(list);
		return api_fail(request, -ENODEV, "no PCI device is there for %s", args.vm);
	}
	if (list)
		json_object_set_new(request->answer, "vmm_args", list);
	return r;
}

int api_vmm_args(struct api_request *request)
{
	struct waiting waiting = {.request = request};
	struct api *api = request->api;
	struct control_args args = {0};
	int r = read_args(request, &args);

	if (r < 0)
		return r;
	if (!api->verbs->has_vm(api->data, args.vm))
		return api_fail(request, -ENOENT, "VM %s is not found in the config file", args.vm);
	if (!api->verbs->takes_args(api->data, args.vm))
		return api_fail(request, -EOPNOTSUPP,
				"%s is libvirt's, which starts it as its definition says", args.vm);
	api->verbs->prepare(api->data, args.vm, await_ready, &waiting);
	request->conclude = answer_args;
	return waiting.r;
}
