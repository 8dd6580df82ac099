/* What a VM has had since its start: see cold.h. Filled by the backends, read by decide. */
#include "broker/cold.h"

#include "helper/root.h"

void cold_set_node(struct cold *cold, const char *folder, const char *path)
{
	char node[PATH_MAX];

	if (startswith(path, folder) && !strstr(path, "/..") && root_resolve(node, "%s", path) == 0)
		snprintf(cold->node, sizeof(cold->node), "%.63s", node);
}

bool cold_add(struct cold_list *list, const struct cold *cold)
{
	struct cold *items;

	if (list->n == COLD_MAX || !cold->handle[0] || !(cold->node[0] || cold->kernel_name[0]))
		return false;
	items = reallocarray(list->items, list->n + 1, sizeof(*items));
	if (!items)
		return false;
	list->items = items;
	items[list->n++] = *cold;
	return true;
}

void cold_clear(struct cold_list *list)
{
	free(list->items);
	*list = (struct cold_list){0};
}

void cold_forget(struct cold_list *list, const char *handle)
{
	for (size_t i = 0; i < list->n; i++)
		if (streq(list->items[i].handle, handle)) {
			list->items[i] = list->items[--list->n];
			return;
		}
}

static bool part_fits(const char *part, const char *whole)
{
	return !part[0] || streq(part, whole);
}

bool cold_is(const struct cold *cold, const struct device *device)
{
	return cold->kind == device->id.kind && part_fits(cold->node, device->id.node) &&
	       part_fits(cold->kernel_name, device->id.kernel_name);
}

const struct cold *cold_find(const struct cold_list *list, const char *handle)
{
	for (size_t i = 0; i < list->n; i++)
		if (streq(list->items[i].handle, handle))
			return &list->items[i];
	return NULL;
}
