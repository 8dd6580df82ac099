/* A broker without devices of its own, for tests of clients: serves the double of
 * tests/unit/api-double.h on sockets.
 * Usage: api-server OWN_SOCKET VHOTPLUG_SOCKET GROUP DEVICES (a file, one JSON object a line) */
#include <assert.h>
#include <grp.h>

#define assert_true(x) assert(x)
#include "broker/control_listen.h"
#include "broker/log.h"
#include "tests/unit/api-double.h"

static void pass(void *data)
{
	api_pass(data);
}

static void plug_all(struct double_broker *broker, const char *path)
{
	_cleanup_fclose_ FILE *f = fopen(path, "re");
	json_t *line;

	while (f && (line = json_loadf(f, JSON_DISABLE_EOF_CHECK, NULL))) {
		double_plug(broker, line);
		json_decref(line);
	}
}

int main(int argc, char **argv)
{
	struct double_broker *broker = calloc(1, sizeof(*broker));
	struct control_listeners *listeners;
	struct loop *loop;
	struct api *api;

	if (argc != 5)
		return 2;
	log_init(false);
	plug_all(broker, argv[4]);
	struct control_unix own = {.path = argv[1], .mode = 0666, .dialect = CONTROL_OWN};
	struct control_unix other = {
		.path = argv[2], .mode = 0600, .dialect = CONTROL_VHOTPLUG, .is_trusted = true};
	const struct group *group = getgrnam(argv[3]);
	if (loop_new(&loop) < 0 || api_new(loop, &double_verbs, broker, &api) < 0 ||
	    control_listeners_new(loop, api_control(api), &listeners) < 0 ||
	    control_listen_unix(listeners, &own) < 0 || control_listen_unix(listeners, &other) < 0)
		return 1;
	if (group)
		control_set_group(api_control(api), group->gr_gid);
	loop_set_pass_end(loop, pass, api);
	puts("ready");
	fflush(stdout);
	return loop_run(loop) < 0;
}
