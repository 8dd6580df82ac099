/* Writing and reading libvirt's XML: see device_xml.h. */
#include "broker/libvirt/device_xml.h"

#include <libxml/parser.h>
#include <libxml/xpath.h>

#include "conf/array.h"

static bool has_only(const char *s, const char *allowed)
{
	return s && *s && s[strspn(s, allowed)] == 0;
}

#define DIGITS "0123456789"
#define LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

/* libvirt takes no vendor 0000; bus and number say which one it is. */
static void write_ids(char *to, size_t size, unsigned vendor, unsigned product)
{
	*to = 0;
	if (vendor != 0)
		snprintf(to, size, "<vendor id='0x%04x'/><product id='0x%04x'/>", vendor, product);
}

/* startupPolicy is requisite: a device that has gone does not keep the domain from being restored
 * later. When it has gone already it is "missing" (device_xml_missing). */
static char *write_usb(const struct device_xml *device)
{
	unsigned vendor, product;
	char *xml = NULL;
	char ids[60], rest;

	if (device->bus == 0 || device->device == 0 || !device->ids ||
	    sscanf(device->ids, "%4x:%4x%c", &vendor, &product, &rest) != 2) {
		errno = EINVAL;
		return NULL;
	}
	write_ids(ids, sizeof(ids), vendor, product);
	if (asprintf(&xml,
		     "<hostdev mode='subsystem' type='usb' managed='no'>"
		     "<source startupPolicy='requisite'>%s<address bus='%u' device='%u'/></source>"
		     "<alias name='%s'/></hostdev>",
		     ids, device->bus, device->device, device->alias) < 0)
		return NULL;
	return xml;
}

/* managed='no': the broker has bound it to vfio-pci with the rest of its IOMMU group, as its
 * policies say, and gives it back to its driver itself. */
static char *write_pci(const struct device_xml *device)
{
	unsigned domain, bus, slot, function;
	char *xml = NULL;
	char rest;

	if (!device->address || sscanf(device->address, "%8x:%2x:%2x.%1x%c", &domain, &bus, &slot,
				       &function, &rest) != 4) {
		errno = EINVAL;
		return NULL;
	}
	if (asprintf(&xml,
		     "<hostdev mode='subsystem' type='pci' managed='no'>"
		     "<source><address domain='0x%04x' bus='0x%02x' slot='0x%02x' function='0x%x'/>"
		     "</source><alias name='%s'/></hostdev>",
		     domain, bus, slot, function, device->alias) < 0)
		return NULL;
	return xml;
}

/* <input type='evdev'> can't be plugged into a domain that runs; this is virtio-input-host. */
static char *write_evdev(const struct device_xml *device)
{
	char *xml = NULL;

	if (!has_only(device->node, DIGITS LETTERS "/_-")) {
		errno = EINVAL;
		return NULL;
	}
	if (asprintf(&xml,
		     "<input type='passthrough' bus='virtio'><source evdev='%s'/>"
		     "<alias name='%s'/></input>",
		     device->node, device->alias) < 0)
		return NULL;
	return xml;
}

char *device_xml_write(const struct device_xml *device)
{
	if (!has_only(device->alias, DIGITS LETTERS "-_") ||
	    !startswith(device->alias, ALIAS_PREFIX) || !device->kind) {
		errno = EINVAL;
		return NULL;
	}
	if (streq(device->kind, "usb"))
		return write_usb(device);
	if (streq(device->kind, "pci"))
		return write_pci(device);
	if (streq(device->kind, "evdev"))
		return write_evdev(device);
	errno = EINVAL;
	return NULL;
}

static void free_strings(char **strings, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(strings[i]);
	free(strings);
}

/* The names in the attribute nodes of SET. */
static int copy_names(const xmlNodeSet *set, char ***ret_names, size_t *ret_n)
{
	char **names = NULL;
	size_t n = 0;

	for (int i = 0; set && i < set->nodeNr; i++) {
		xmlChar *text = xmlNodeGetContent(set->nodeTab[i]);
		char **name = text ? ARRAY_APPEND(names, n) : NULL;

		if (name)
			*name = strdup((const char *) text);
		xmlFree(text);
		if (!name || !*name) {
			free_strings(names, n);
			return -ENOMEM;
		}
	}
	*ret_names = names;
	*ret_n = n;
	return 0;
}

#define OUR_ALIAS "alias[starts-with(@name, '" ALIAS_PREFIX "')]/@name"

static int find_names(const char *xml, const char *query, char ***ret_names, size_t *ret_n)
{
	int options = XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING;
	xmlDoc *document = xmlReadDoc((const xmlChar *) xml, NULL, NULL, options);
	xmlXPathContext *context = document ? xmlXPathNewContext(document) : NULL;
	xmlXPathObject *found = context ? xmlXPathEval((const xmlChar *) query, context) : NULL;
	int r = !document ? -EBADMSG : !found ? -ENOMEM : 0;

	if (r == 0)
		r = copy_names(found->nodesetval, ret_names, ret_n);
	xmlXPathFreeObject(found);
	xmlXPathFreeContext(context);
	xmlFreeDoc(document);
	return r;
}

int device_xml_aliases(const char *xml, char ***ret_aliases, size_t *ret_n)
{
	return find_names(xml, "/domain/devices/*/" OUR_ALIAS, ret_aliases, ret_n);
}

int device_xml_missing(const char *xml, char ***ret_aliases, size_t *ret_n)
{
	return find_names(xml, "/domain/devices/*[source/@missing = 'yes']/" OUR_ALIAS, ret_aliases,
			  ret_n);
}
