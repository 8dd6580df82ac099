/* The choice between the three importers. */
#include "rules.d/import.h"

#include "rules.d/import-pen.h"
#include "rules.d/import-readers.h"

int config_import(const char *text, bool attach_connected, FILE *out, FILE *notes)
{
	struct importer i = {.out = out, .notes = notes};
	int r;

	text += strspn(text, " \t\r\n");
	if (*text == '{')
		r = import_vhotplug(&i, text, attach_connected);
	else if (strstr(text, "virtual_machines:"))
		r = import_hotplugger(&i, text);
	else
		r = import_libvirt_usb_hotplug(&i, text);
	import_forget_names(&i, 0);
	return i.no_memory ? -ENOMEM : r;
}
