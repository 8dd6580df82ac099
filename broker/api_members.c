/* Strict checks of our own requests: see api_members.h. Used by api.c. */
#include "broker/api_members.h"

/* One "name:type" or "name:type!" of a list with blanks between. */
struct member {
	char name[32], type[16];
	bool is_needed;
};

/* Reads the member at *AT and moves on; false at the end. */
static bool next_member(const char **at, struct member *ret)
{
	int n = 0;

	if (sscanf(*at, " %31[a-z_]:%15[a-z]%n", ret->name, ret->type, &n) != 2)
		return false;
	*at += n;
	ret->is_needed = **at == '!';
	*at += ret->is_needed;
	return true;
}

static bool has_type(const json_t *value, const char *type)
{
	if (streq(type, "string"))
		return json_is_string(value);
	if (streq(type, "integer"))
		return json_is_integer(value);
	return json_is_boolean(value);
}

static bool is_known(const char *members, const char *name)
{
	struct member member;

	while (next_member(&members, &member))
		if (streq(member.name, name))
			return true;
	return streq(name, "action") || streq(name, "id");
}

/* "all (boolean), vm (string)", or "none". */
static void describe_members(const char *members, char *ret, size_t size)
{
	struct member member;
	size_t n = 0;

	snprintf(ret, size, "none");
	while (next_member(&members, &member) && n < size)
		n += (size_t) snprintf(ret + n, size - n, "%s%s (%s)", n > 0 ? ", " : "",
				       member.name, member.type);
}

int api_check_members(struct api_request *request, const struct api_action *action)
{
	const char *members = action->members, *name;
	struct member member;
	char allowed[256];
	json_t *value;

	describe_members(members, allowed, sizeof(allowed));
	json_object_foreach(request->message, name, value)
	{
		if (!is_known(action->members, name))
			return api_fail(request, -EINVAL,
					"\"%s\" has no \"%s\"; allowed beside \"action\" and "
					"\"id\": %s",
					action->name, name, allowed);
	}
	while (next_member(&members, &member)) {
		value = json_object_get(request->message, member.name);
		if (member.is_needed && !value)
			return api_fail(request, -EINVAL, "\"%s\" needs \"%s\" (%s)", action->name,
					member.name, member.type);
		if (value && !has_type(value, member.type))
			return api_fail(request, -EINVAL, "\"%s\" must be: %s", member.name,
					member.type);
	}
	return 0;
}
