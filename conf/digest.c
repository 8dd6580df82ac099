/* Writes a config down in one canonical way and hashes that (FNV-1a, 64 bits: it tells configs
 * apart, it does not protect them). load.c calls it once per load. */
#include "conf/digest.h"

#include <inttypes.h>

static void write_list(FILE *out, char *const *list)
{
	for (; list && *list; list++)
		fprintf(out, "%s,", *list);
	fputc('\n', out);
}

static void write_vm(FILE *out, const struct config_vm *vm)
{
	fprintf(out, "vm %s %d %s %s %s %u %d\n", vm->name, vm->type, vm->socket ?: "-",
		vm->user ?: "-", vm->listen ?: "-", vm->delay, vm->qemu_use_root_bus);
	write_list(out, vm->usb_bus);
	write_list(out, vm->pci_bus);
	if (vm->domain || vm->uri)
		fprintf(out, "%s %s\n", vm->domain ?: "-", vm->uri ?: "-");
}

static void write_rule(FILE *out, const struct config_rule *rule)
{
	fprintf(out, "%s %s\n", rule->deny ? "deny" : "allow", rule->name);
	fprintf(out, "%s %s %u\n", rule->tag ?: "-", rule->family ?: "-", rule->options);
	for (unsigned match = 0; match < MATCH_KEYS; match++) {
		const struct config_field *field =
			config_rule_field(rule, (enum config_match) match);

		if (field)
			fprintf(out, "%s=%s\n", config_match_name(field->match), field->value);
	}
}

static void write_group(FILE *out, const struct config_group *group)
{
	fprintf(out, "%s %s\n", config_kind_name(group->kind), group->name);
	fprintf(out, "%d %s %s\n", group->fence, group->tag ?: "-", group->family ?: "-");
	write_list(out, group->vms);
	for (size_t i = 0; i < group->n_rules; i++)
		if (!group->rules[i].disable)
			write_rule(out, &group->rules[i]);
}

static int compare_vms(const void *a, const void *b)
{
	const struct config_vm *const *x = a, *const *y = b;

	return strcmp((*x)->name, (*y)->name);
}

static int write_config(FILE *out, const struct config *config)
{
	_cleanup_free_ const struct config_vm **vms = calloc(config->n_vms + 1, sizeof(*vms));

	if (!vms)
		return -ENOMEM;
	for (size_t i = 0; i < config->n_vms; i++)
		vms[i] = &config->vms[i];
	qsort(vms, config->n_vms, sizeof(*vms), compare_vms);

	fprintf(out, "general %d %s\n", config->general.attach_connected, config->general.crosvm);
	for (size_t i = 0; i < config->n_vms; i++)
		write_vm(out, vms[i]);
	for (size_t i = 0; i < config->n_groups; i++)
		if (!config->groups[i].disable)
			write_group(out, &config->groups[i]);
	return 0;
}

int config_digest(const struct config *config, char ret_digest[CONFIG_DIGEST_SIZE])
{
	_cleanup_free_ char *text = NULL;
	size_t size = 0;
	uint64_t hash = 0xcbf29ce484222325u;
	FILE *out = open_memstream(&text, &size);
	int r;

	if (!out)
		return -ENOMEM;
	r = write_config(out, config);
	if (fclose(out) != 0 || r < 0)
		return -ENOMEM;
	for (size_t i = 0; i < size; i++)
		hash = (hash ^ (unsigned char) text[i]) * 0x100000001b3u;
	snprintf(ret_digest, CONFIG_DIGEST_SIZE, "%016" PRIx64, hash);
	return 0;
}
