/* Why, and what would help: see ctl_explain.h. */
#include "helper/ctl_explain.h"

#include <ctype.h>
#include <sys/wait.h>

#include "helper/ctl_select.h"
#include "helper/ctl_show.h"

#define NAME_BYTES 40 /* a section's name has at most 49, with the kind before it */

/* What a person can do about a device in that state. */
static const struct {
	const char *state, *help;
} helps[] = {
	{"waiting", "It goes there by itself as soon as the reason is no more."},
	{"held", "Plug it in again, or: vhotplugctl attach %s"},
	{"choose", "Choose one of its VMs: vhotplugctl select %s VM"},
	{"detached", "Somebody has taken it out. To give it back: vhotplugctl attach %s"},
	{"suspended", "It comes back with: vhotplugctl resume"},
	{"releasing", "Unload its driver in the guest, or reset or stop the VM."},
	{"refused", "The host needs it. The broker looks again by itself."},
	{"failed", "See to what the reason says, then: vhotplugctl attach %s"},
};

static void print_help(const json_t *device)
{
	for (size_t i = 0; i < ARRAY_SIZE(helps); i++)
		if (streq(helps[i].state, json_text(device, "state"))) {
			const char *help = helps[i].help, *at = strstr(help, "%s");

			if (at)
				printf("%.*s%s%s\n", (int) (at - help), help,
				       json_text(device, "device"), at + 2);
			else
				puts(help);
		}
}

static void print_broker_part(const json_t *device)
{
	const char *vm = json_text(device, "wanted_vm"), *reason = json_text(device, "reason");

	puts("\nThe broker:");
	if (!json_is_true(json_object_get(device, "claimed"))) {
		puts("No rule claims it, so it stays with the host. For one that would: "
		     "vhotplugctl rule");
		return;
	}
	printf("%s%s%s%s%s\n", json_text(device, "state"), *vm ? ", " : "", vm, *reason ? ": " : "",
	       reason);
	printf("by the rule %s\n", json_text(device, "rule"));
	print_help(device);
}

/* Runs the program that knows the rules, on our own stdout. Returns its exit status. */
static int explain_rules(const json_t *device)
{
	const char *what = json_text(device, "devpath");
	int status = 0;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		execlp("vhotplug-gen-rules", "vhotplug-gen-rules", "--explain", what, NULL);
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0 || !WIFEXITED(status))
		return -1;
	return WEXITSTATUS(status);
}

int ctl_explain(const struct ctl_options *options)
{
	json_t *devices = NULL, *device, *rows = NULL, *request;
	int r = ctl_get_devices(options, true, &devices);

	if (r > 0)
		return r;
	device = select_one(devices, options->args[0]);
	if (!device) {
		json_decref(devices);
		return CTL_NO_DEVICE;
	}
	request = json_pack("{s:s, s:s, s:i}", "action", "history", "device",
			    json_text(device, "device"), "limit", 10);
	r = ctl_ask_for(options, request, "history", &rows);
	/* That has been said; the rest is for everybody. */
	if (r == CTL_NOT_ALLOWED)
		r = 0;
	if (r == 0 && options->json) {
		json_t *all = json_pack("{s:O, s:O?}", "device", device, "history", rows);
		ctl_print_json(all);
		json_decref(all);
	} else if (r == 0) {
		if (explain_rules(device) != 0)
			ctl_fail(CTL_FAILED, "vhotplug-gen-rules --explain does not say why");
		print_broker_part(device);
		if (rows) {
			puts("\nWhat has happened:");
			ctl_print_history(options, rows);
		}
	}
	json_decref(rows);
	json_decref(devices);
	return r;
}

/* rule */

/* TEXT as the name of a section: printable, short, and without what ends a header. */
static void print_name(const char *text)
{
	int n = 0;

	for (; *text && n < NAME_BYTES; text++)
		if (isalnum((unsigned char) *text) || strchr(" ._-", *text)) {
			putchar(*text);
			n++;
		}
	if (n == 0)
		fputs("Device", stdout);
}

/* TEXT as a regular expression for exactly that text. */
static void print_exactly(const char *text)
{
	for (; *text; text++)
		printf("%s%c", strchr("\\^$.[]|()?*+{}", *text) ? "\\" : "", *text);
	putchar('$');
}

void ctl_print_rule(const json_t *device, const char *vm)
{
	const char *kind = json_text(device, "kind"), *serial = json_text(device, "serial");
	bool is_usb = streq(kind, "usb");

	printf("[%s ", kind);
	print_name(json_text(device, "name"));
	printf("]\ntargetVm = %s\n\n[allow ", vm);
	print_name(json_text(device, "name"));
	puts("]");
	if (streq(kind, "evdev")) {
		fputs("name = ", stdout);
		print_exactly(json_text(device, "name"));
		putchar('\n');
		return;
	}
	if (!is_usb)
		printf("address = %s\n", json_text(device, "device"));
	printf("vendorId = %s\n%s = %s\n", json_text(device, "vid"),
	       is_usb ? "productId" : "deviceId", json_text(device, "pid"));
	if (is_usb && *serial)
		printf("serial = %s\n", serial);
}

const char *ctl_some_vm(const struct ctl_options *options, json_t **ret_status)
{
	const char *vm = "";

	if (options->vm)
		return options->vm;
	if (ctl_ask_for(options, json_pack("{s:s}", "action", "status"), "status", ret_status) == 0)
		vm = json_text(json_array_get(json_object_get(*ret_status, "vms"), 0), "name");
	return *vm ? vm : "VM";
}

int ctl_rule(const struct ctl_options *options)
{
	json_t *devices = NULL, *status = NULL, *device;
	int r = ctl_get_devices(options, true, &devices);

	if (r > 0)
		return r;
	device = select_one(devices, options->args[0]);
	if (device)
		ctl_print_rule(device, ctl_some_vm(options, &status));
	json_decref(devices);
	json_decref(status);
	return device ? 0 : CTL_NO_DEVICE;
}
