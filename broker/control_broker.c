/* What people ask for, done: see control_broker.h. Owned by main. */
#include "broker/control_broker.h"

#include "broker/account.h"
#include "broker/choice.h"
#include "broker/control_fill.h"
#include "broker/control_host.h"
#include "broker/control_listen.h"
#include "broker/control_view.h"
#include "broker/log.h"
#include "broker/store_history.h"
#include "broker/vmm_args.h"
#include "helper/text.h"

#define HISTORY_MAX 1000

struct control_broker {
	struct manager *manager;
	struct api *api;
	struct control_listeners *listeners;
	char path[CONFIG_SOCKET_SIZE];
	const char *config_path;
	uint64_t since; /* ms, wall clock */
};

/* Devices */

struct walk {
	struct registry *registry;
	control_device_fn fn;
	void *data;
};

static void hand_out(void *data, const struct device *found)
{
	struct walk *walk = data;
	const struct device *known =
		registry_find(walk->registry, found->id.devpath, found->id.inode);
	struct control_device view;

	control_fill(&view, walk->registry, known ? known : found);
	walk->fn(walk->data, &view);
}

static int compare_order(const void *a, const void *b)
{
	const struct device *x = *(struct device *const *) a, *y = *(struct device *const *) b;

	if (x->wish.order != y->wish.order)
		return x->wish.order < y->wish.order ? -1 : 1;
	return strcmp(x->id.kernel_name, y->id.kernel_name);
}

static bool is_claimed(const struct device *device)
{
	return device->wish.present && device->wish.rule[0];
}

static void each_claimed(struct registry *registry, control_device_fn fn, void *data)
{
	_cleanup_free_ struct device **list = NULL;
	struct control_device view;
	size_t n = 0, i = 0;

	for (struct device *d = registry->devices; d; d = d->next)
		n += is_claimed(d);
	list = calloc(n + 1, sizeof(struct device *));
	for (struct device *d = registry->devices; list && d; d = d->next)
		if (is_claimed(d))
			list[i++] = d;
	if (i > 1)
		qsort(list, i, sizeof(struct device *), compare_order);
	for (n = 0; n < i; n++) {
		control_fill(&view, registry, list[n]);
		fn(data, &view);
	}
}

static void each_device(void *data, enum control_scope scope, control_device_fn fn, void *fn_data)
{
	struct control_broker *broker = data;
	struct walk walk = {.registry = &broker->manager->registry, .fn = fn, .data = fn_data};

	switch (scope) {
	case CONTROL_CLAIMED:
		each_claimed(walk.registry, fn, fn_data);
		return;
	case CONTROL_USB:
		host_each_device(DEVICE_USB, hand_out, &walk);
		return;
	case CONTROL_PCI:
		host_each_device(DEVICE_PCI, hand_out, &walk);
		return;
	case CONTROL_EVDEV:
		host_each_device(DEVICE_EVDEV, hand_out, &walk);
		return;
	}
}

static struct device *find_claimed(struct control_broker *broker, const char *id)
{
	char own[CONTROL_ID_SIZE];

	for (struct device *d = broker->manager->registry.devices; d; d = d->next) {
		control_device_id(d, own, sizeof(own));
		if (is_claimed(d) && streq(own, id))
			return d;
	}
	return NULL;
}

/* Verbs */

static int say_gone(char *error, size_t size)
{
	snprintf(error, size, "it has been unplugged");
	return -ENODEV;
}

static int attach_device(void *data, const char *id, const char *vm, bool is_kept, char *error,
			 size_t size)
{
	struct control_broker *broker = data;
	struct device *device = find_claimed(broker, id);

	if (!device)
		return say_gone(error, size);
	choice_attach(&broker->manager->registry, device, vm, is_kept);
	return 0;
}

static int detach_device(void *data, const char *id, bool until_replug, char *error, size_t size)
{
	struct control_broker *broker = data;
	struct device *device = find_claimed(broker, id);

	if (!device)
		return say_gone(error, size);
	choice_detach(&broker->manager->registry, device, until_replug);
	return 0;
}

static void suspend_devices(void *data, const char *vm, unsigned kinds)
{
	struct control_broker *broker = data;

	choice_suspend(&broker->manager->registry, vm, kinds);
}

static void resume_devices(void *data, const char *vm, unsigned kinds)
{
	struct control_broker *broker = data;

	choice_resume(&broker->manager->registry, vm, kinds);
}

static bool has_vm(void *data, const char *vm)
{
	struct control_broker *broker = data;

	return config_find_vm(broker->manager->config, vm) != NULL;
}

/* A domain of libvirt starts with what its definition says. */
static bool takes_args(void *data, const char *name)
{
	struct control_broker *broker = data;
	const struct config_vm *vm = config_find_vm(broker->manager->config, name);

	return vm && vm->type != VM_LIBVIRT;
}

struct preparing {
	void (*await)(void *data, const char *id);
	void *data;
};

static void await_device(void *data, const struct device *device)
{
	struct preparing *preparing = data;
	char id[CONTROL_ID_SIZE];

	control_device_id(device, id, sizeof(id));
	preparing->await(preparing->data, id);
}

static void prepare_devices(void *data, const char *vm,
			    void (*await)(void *await_data, const char *id), void *await_data)
{
	struct control_broker *broker = data;
	struct preparing preparing = {.await = await, .data = await_data};

	vmm_args_prepare(&broker->manager->registry, vm, await_device, &preparing);
}

static json_t *vmm_args(void *data, const struct control_args *args)
{
	struct control_broker *broker = data;
	const struct config *config = broker->manager->config;
	const struct config_vm *vm = config_find_vm(config, args->vm);

	/* The config may have changed while the devices got ready. */
	return vm ? vmm_args_list(&broker->manager->registry, config, vm, args) : json_array();
}

static int reload_config(void *data, char *error, size_t size)
{
	struct control_broker *broker = data;
	struct manager *manager = broker->manager;
	int r = manager->reload(manager->reload_data);

	if (r < 0)
		snprintf(error, size,
			 "%s has mistakes, and the config stays as it was; vhotplug-gen-rules "
			 "--check says which",
			 broker->config_path);
	return r;
}

static json_t *view_vm(const struct registry *registry, const struct vm *vm)
{
	static const char *const states[] = {
		[VM_DOWN] = "down", [VM_PROBING] = "asked", [VM_UP] = "up"};
	json_t *view = json_object();
	size_t n = 0;

	for (const struct device *d = registry->devices; d; d = d->next)
		n += d->place.vm == vm;
	json_object_set_new(view, "name", json_string(vm->name));
	json_object_set_new(view, "type", json_string(config_vm_types[vm->type].word));
	json_object_set_new(view, "state", json_string(states[vm->state]));
	json_object_set_new(view, "reason", json_string(vm->reason));
	json_object_set_new(view, "pid",
			    vm->state == VM_UP && vm->peer.pid != 0 ? json_integer(vm->peer.pid)
								    : json_null());
	json_object_set_new(view, "devices", json_integer((json_int_t) n));
	return view;
}

static json_t *make_status(void *data)
{
	struct control_broker *broker = data;
	const struct registry *registry = &broker->manager->registry;
	json_t *view = json_object(), *vms = json_array();

	json_object_set_new(view, "version", json_string(VHOTPLUG_VERSION));
	json_object_set_new(view, "pid", json_integer(getpid()));
	json_object_set_new(view, "since", view_time(broker->since));
	json_object_set_new(view, "config", json_string(broker->config_path));
	json_object_set_new(view, "digest", json_string(broker->manager->config->digest));
	for (const struct vm *vm = registry->vms; vm; vm = vm->next)
		json_array_append_new(vms, view_vm(registry, vm));
	json_object_set_new(view, "vms", vms);
	return view;
}

static int read_history(void *data, const json_t *asked, json_t **ret_rows, char *error,
			size_t size)
{
	struct control_broker *broker = data;
	json_int_t limit = json_integer_value(json_object_get(asked, "limit"));
	struct history_query query = {
		.after = json_integer_value(json_object_get(asked, "after")),
		.since = json_integer_value(json_object_get(asked, "since")),
		.limit = limit > 0 && limit <= HISTORY_MAX ? limit : HISTORY_MAX,
		.device = json_string_value(json_object_get(asked, "device")),
		.vm = json_string_value(json_object_get(asked, "vm")),
	};
	int r = store_query_history(broker->manager->registry.store, &query, ret_rows);

	if (r < 0)
		snprintf(error, size, "the database can't be read now");
	return r;
}

static const struct control_verbs verbs = {
	.each = each_device,
	.attach = attach_device,
	.detach = detach_device,
	.suspend = suspend_devices,
	.resume = resume_devices,
	.has_vm = has_vm,
	.takes_args = takes_args,
	.prepare = prepare_devices,
	.vmm_args = vmm_args,
	.status = make_status,
	.history = read_history,
	.reload = reload_config,
};

/* Sockets */

static void listen_own(struct control_broker *broker)
{
	struct control_unix place = {.path = broker->path, .mode = 0666, .dialect = CONTROL_OWN};

	if (control_listen_unix(broker->listeners, &place) < 0)
		log_error("vhotplugctl can't reach this broker");
}

static void listen_as_configured(struct control_broker *broker)
{
	const struct config_api *api = &broker->manager->config->api;
	struct control_unix place = {
		.path = api->path,
		.user = api->user,
		.group = api->group,
		.mode = api->mode    ? api->mode
			: api->group ? 0660
				     : 0600,
		.dialect = CONTROL_VHOTPLUG,
		.is_trusted = true,
	};
	size_t n_cids = 0;
	int r = 0;

	while (api->cids && api->cids[n_cids])
		n_cids++;
	control_drop_guests(api_control(broker->api), api->cids, api->vsock ? n_cids : 0);
	if (api->unix_socket)
		r = control_listen_unix(broker->listeners, &place);
	if (api->tcp && control_listen_tcp(broker->listeners, api->host, api->port) < 0)
		r = -EIO;
	if (api->vsock && control_listen_vsock(broker->listeners, api->port, api->cids, n_cids) < 0)
		r = -EIO;
	if (r < 0)
		log_error("not all sockets of [api] are there; the config read again tries again");
}

static void set_group(struct control_broker *broker)
{
	const char *name = broker->manager->config->general.control_group;
	gid_t group = name ? account_ask_group(name) : (gid_t) -1;

	if (name && group == (gid_t) -1)
		log_error("controlGroup = %s: there is no such group, so only root may change "
			  "anything",
			  name);
	control_set_group(api_control(broker->api), group);
}

void control_broker_reload(struct control_broker *broker, gid_t readers)
{
	if (!broker)
		return;
	set_group(broker);
	control_set_readers(api_control(broker->api), readers);
	control_listeners_close(broker->listeners, CONTROL_VHOTPLUG);
	listen_as_configured(broker);
}

bool control_broker_is_used(const struct control_broker *broker)
{
	return broker && control_clients(api_control(broker->api));
}

bool control_broker_pass(struct control_broker *broker)
{
	return broker && api_pass(broker->api);
}

int control_broker_new(struct manager *manager, const char *run_directory, const char *config_path,
		       gid_t readers, struct control_broker **ret_broker)
{
	struct control_broker *broker = calloc(1, sizeof(*broker));
	int r;

	if (!broker)
		return -ENOMEM;
	broker->manager = manager;
	broker->config_path = config_path;
	broker->since = now_realtime_ms();
	r = text_path(broker->path, sizeof(broker->path), "%s/" CONTROL_SOCKET_NAME, run_directory);
	if (r < 0)
		log_error("%s/" CONTROL_SOCKET_NAME " is too long for a socket's path",
			  run_directory);
	if (r == 0)
		r = api_new(manager->registry.loop, &verbs, broker, &broker->api);
	if (r == 0)
		r = control_listeners_new(manager->registry.loop, api_control(broker->api),
					  &broker->listeners);
	if (r < 0) {
		control_broker_free(broker);
		return r;
	}
	listen_own(broker);
	control_broker_reload(broker, readers);
	*ret_broker = broker;
	return 0;
}

void control_broker_free(struct control_broker *broker)
{
	if (!broker)
		return;
	control_listeners_free(broker->listeners);
	api_free(broker->api);
	free(broker);
}
