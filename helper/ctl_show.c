/* What the broker knows, for people and for programs: see ctl_show.h. */
#include "helper/ctl_show.h"

#include "helper/ctl_connection.h"
#include "helper/ctl_select.h"
#include "helper/ctl_table.h"

const char *json_text(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

void ctl_print_json(const json_t *value)
{
	json_dumpf(value, stdout, JSON_INDENT(2));
	putchar('\n');
}

/* Connects, asks, and disconnects. */
static int ask_once(const struct ctl_options *options, json_t *request, json_t **ret_answer)
{
	_cleanup_(ctl_disconnectp) struct ctl_connection *connection = NULL;
	int r = ctl_connect(options->socket, &connection);

	if (r > 0)
		json_decref(request);
	return r > 0 ? r : ctl_ask(connection, request, ret_answer);
}

int ctl_ask_for(const struct ctl_options *options, json_t *request, const char *key,
		json_t **ret_value)
{
	json_t *answer = NULL;
	int r = ask_once(options, request, &answer);

	if (r > 0)
		return r;
	*ret_value = json_incref(json_object_get(answer, key));
	json_decref(answer);
	return *ret_value ? 0 : ctl_fail(CTL_FAILED, "the broker's answer has no \"%s\"", key);
}

int ctl_get_devices(const struct ctl_options *options, bool all, json_t **ret_devices)
{
	return ctl_ask_for(options, json_pack("{s:s, s:b}", "action", "list", "all", (int) all),
			   "devices", ret_devices);
}

static uint64_t time_under(const json_t *object, const char *key)
{
	const char *text = json_text(object, key);
	int64_t ms = *text ? text_time(text) : -1;

	return ms > 0 ? (uint64_t) ms : 0;
}

/* list */

static bool is_asked_for(const struct ctl_options *options, const char *vm, const char *tag)
{
	if (options->vm && !streq(vm, options->vm))
		return false;
	return !options->tag || streq(tag, options->tag);
}

static int list_as_json(const struct ctl_options *options)
{
	json_t *devices = NULL, *kept = json_array(), *device;
	size_t i;
	int r = ctl_get_devices(options, options->all, &devices);

	json_array_foreach(devices, i, device)
	{
		if (is_asked_for(options, json_text(device, "wanted_vm"), json_text(device, "tag")))
			json_array_append(kept, device);
	}
	if (r == 0)
		ctl_print_json(kept);
	json_decref(devices);
	json_decref(kept);
	return r;
}

/* The columns of a brief row, as conf/control.schema.json has them. */
enum brief {
	BRIEF_PLACE,
	BRIEF_NAME,
	BRIEF_IDS,
	BRIEF_VM,
	BRIEF_STATE,
	BRIEF_TAG,
	BRIEF_SINCE,
};

static const char *text_at(const json_t *row, enum brief column)
{
	const char *text = json_string_value(json_array_get(row, column));

	return text ? text : "";
}

static void add_device(struct table *table, const json_t *row)
{
	const char *state = text_at(row, BRIEF_STATE);
	char age[16];

	text_age((uint64_t) json_integer_value(json_array_get(row, BRIEF_SINCE)), age, sizeof(age));
	table_add(table,
		  (const char *[]){text_at(row, BRIEF_PLACE), text_at(row, BRIEF_IDS),
				   *state ? text_at(row, BRIEF_VM) : "-",
				   *state ? state : "no rule", age, text_at(row, BRIEF_NAME)});
}

int ctl_list(const struct ctl_options *options)
{
	struct table table = {.heads = {"DEVICE", "ID", "VM", "STATE", "SINCE", "NAME"},
			      .limits = {16, 9, 20, 10, 6, 100}};
	json_t *rows = NULL, *row;
	size_t i;

	if (options->json)
		return list_as_json(options);
	json_t *request = json_pack("{s:s, s:b, s:b}", "action", "list", "all", (int) options->all,
				    "brief", 1);
	int r = ctl_ask_for(options, request, "devices", &rows);
	if (r > 0)
		return r;
	json_array_foreach(rows, i, row)
	{
		if (is_asked_for(options, text_at(row, BRIEF_VM), text_at(row, BRIEF_TAG)))
			add_device(&table, row);
	}
	if (table.n_rows > 0)
		table_print(&table);
	else if (isatty(STDOUT_FILENO))
		puts("No rule claims a device that is plugged in.");
	json_decref(rows);
	return 0;
}

/* status */

static void print_vms(const json_t *vms)
{
	struct table table = {.heads = {"VM", "TYPE", "STATE", "DEVICES", "WHY"},
			      .limits = {24, 16, 8, 8, 200}};
	json_t *vm;
	size_t i;

	json_array_foreach(vms, i, vm)
	{
		char devices[16];

		snprintf(devices, sizeof(devices), "%lld",
			 (long long) json_integer_value(json_object_get(vm, "devices")));
		table_add(&table, (const char *[]){json_text(vm, "name"), json_text(vm, "type"),
						   json_text(vm, "state"), devices,
						   json_text(vm, "reason")});
	}
	table_print(&table);
}

/* What is not as it should be, with the reason in full. */
static void print_problems(const json_t *devices)
{
	json_t *device;
	size_t i;

	json_array_foreach(devices, i, device)
	{
		if (streq(json_text(device, "state"), "attached"))
			continue;
		printf("\n%s %s: %s\n", json_text(device, "device"), json_text(device, "name"),
		       json_text(device, "state"));
		if (*json_text(device, "reason"))
			printf("  %s\n", json_text(device, "reason"));
	}
}

int ctl_status(const struct ctl_options *options)
{
	json_t *status = NULL, *devices = NULL;
	char age[16];
	int r = ctl_ask_for(options, json_pack("{s:s}", "action", "status"), "status", &status);

	if (r == 0)
		r = ctl_get_devices(options, false, &devices);
	if (r == 0 && options->json) {
		ctl_print_json(status);
	} else if (r == 0) {
		text_age(time_under(status, "since"), age, sizeof(age));
		printf("vhotplug-broker %s, process %lld, runs since %s\n",
		       json_text(status, "version"),
		       (long long) json_integer_value(json_object_get(status, "pid")), age);
		printf("config %s (%s)\n\n", json_text(status, "config"),
		       json_text(status, "digest"));
		print_vms(json_object_get(status, "vms"));
		print_problems(devices);
	}
	json_decref(status);
	json_decref(devices);
	return r;
}

/* history */

static json_t *history_request(const struct ctl_options *options, long long after)
{
	json_t *request = json_pack("{s:s, s:I}", "action", "history", "limit",
				    (json_int_t) (options->limit > 0 ? options->limit : 50));

	if (options->vm)
		json_object_set_new(request, "vm", json_string(options->vm));
	if (options->device)
		json_object_set_new(request, "device", json_string(options->device));
	if (options->since > 0)
		json_object_set_new(request, "since", json_integer(options->since));
	if (after > 0)
		json_object_set_new(request, "after", json_integer(after));
	return request;
}

static void add_row(struct table *table, const json_t *row)
{
	char age[16];

	text_age(time_under(row, "time"), age, sizeof(age));
	table_add(table, (const char *[]){age, json_text(row, "device"), json_text(row, "vm"),
					  json_text(row, "action"), json_text(row, "cause"),
					  json_text(row, "result"),
					  *json_text(row, "detail") ? json_text(row, "detail")
								    : json_text(row, "name")});
}

static void print_rows(const json_t *rows)
{
	struct table table = {
		.heads = {"AGO", "DEVICE", "VM", "ACTION", "CAUSE", "RESULT", "DETAIL"},
		.limits = {6, 12, 12, 8, 9, 8, 300}};
	json_t *row;
	size_t i;

	json_array_foreach(rows, i, row) add_row(&table, row);
	if (table.n_rows > 0)
		table_print(&table);
}

void ctl_print_history(const struct ctl_options *options, const json_t *rows)
{
	if (options->json)
		ctl_print_json(rows);
	else
		print_rows(rows);
}

/* One line for each row that comes, with the time of day: it stays on the screen. */
static void print_following(const struct ctl_options *options, const json_t *rows, long long *after)
{
	json_t *row;
	size_t i;

	json_array_foreach(rows, i, row)
	{
		*after = json_integer_value(json_object_get(row, "id"));
		if (options->json) {
			json_dumpf(row, stdout, JSON_COMPACT);
			putchar('\n');
			continue;
		}
		printf("%s %-10s %-10s %s %s (%s)%s%s\n", json_text(row, "time"),
		       json_text(row, "device"), json_text(row, "vm"), json_text(row, "action"),
		       json_text(row, "result"), json_text(row, "cause"),
		       *json_text(row, "detail") ? ": " : "", json_text(row, "detail"));
	}
	fflush(stdout);
}

/* Whatever changes may have brought a row. The place of the newest is remembered, so none is shown
 * twice or missed. */
static int follow_events(const struct ctl_options *options, struct ctl_connection *connection)
{
	json_t *answer = NULL, *event;
	long long after = 0;
	int r = ctl_ask(connection, json_pack("{s:s}", "action", "watch"), &answer);

	json_decref(answer);
	while (r == 0) {
		r = ctl_ask(connection, history_request(options, after), &answer);
		if (r > 0)
			break;
		print_following(options, json_object_get(answer, "history"), &after);
		json_decref(answer);
		event = ctl_next_event(connection);
		if (!event)
			return ctl_fail(CTL_NO_BROKER, "the broker has ended");
		json_decref(event);
	}
	return r;
}

/* DEVICE may be named in any way that fits something that is plugged in; else as history has it. */
static void name_device(struct ctl_options *options, json_t **ret_devices)
{
	json_t *found;

	if (!options->device || ctl_get_devices(options, false, ret_devices) > 0)
		return;
	found = select_devices(*ret_devices, options->device);
	if (json_array_size(found) == 1)
		options->device = json_text(json_array_get(found, 0), "device");
	json_decref(found);
}

int ctl_history(const struct ctl_options *given)
{
	_cleanup_(ctl_disconnectp) struct ctl_connection *connection = NULL;
	struct ctl_options options = *given;
	json_t *devices = NULL, *answer = NULL;
	int r = ctl_connect(options.socket, &connection);

	if (r > 0)
		return r;
	name_device(&options, &devices);
	if (options.follow) {
		r = follow_events(&options, connection);
	} else {
		r = ctl_ask(connection, history_request(&options, 0), &answer);
		if (r == 0)
			ctl_print_history(&options, json_object_get(answer, "history"));
		json_decref(answer);
	}
	json_decref(devices);
	return r;
}

/* watch */

static void print_event(const json_t *event)
{
	const json_t *device = json_object_get(event, "device");
	const char *vm = json_text(device, "wanted_vm");

	if (json_is_string(device))
		printf("%s: gone\n", json_string_value(device));
	else
		printf("%s %s: %s%s%s%s%s\n", json_text(device, "device"),
		       json_text(device, "name"), json_text(device, "state"), *vm ? ", " : "", vm,
		       *json_text(device, "reason") ? ": " : "", json_text(device, "reason"));
}

int ctl_watch(const struct ctl_options *options)
{
	_cleanup_(ctl_disconnectp) struct ctl_connection *connection = NULL;
	json_t *answer = NULL, *event;
	int r = ctl_connect(options->socket, &connection);

	if (r == 0)
		r = ctl_ask(connection, json_pack("{s:s}", "action", "watch"), &answer);
	json_decref(answer);
	if (r > 0)
		return r;
	while ((event = ctl_next_event(connection))) {
		if (options->json) {
			json_dumpf(event, stdout, JSON_COMPACT);
			putchar('\n');
		} else {
			print_event(event);
		}
		fflush(stdout);
		json_decref(event);
	}
	return ctl_fail(CTL_NO_BROKER, "the broker has ended");
}
