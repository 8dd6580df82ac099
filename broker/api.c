/* Receives requests, finds who handles them, and answers: see api.h. The actions themselves are in
 * api_own.c and api_vhotplug.c. */
#include "broker/api_request.h"

#include <stdarg.h>

#include "broker/api_members.h"
#include "broker/log.h"

#define TLS_HANDSHAKE 0x16 /* the type of its first record. Source: RFC 8446, 5.1 */

int api_fail(struct api_request *request, int r, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(request->error, sizeof(request->error), format, args);
	va_end(args);
	return r;
}

int api_text(struct api_request *request, const char *key, const char **ret)
{
	const json_t *value = json_object_get(request->message, key);

	if (value && !json_is_null(value) && !json_is_string(value))
		return api_fail(request, -EINVAL, "\"%s\" must be a string", key);
	*ret = json_string_value(value);
	return 0;
}

void api_each(struct api *api, enum control_scope scope, control_device_fn fn, void *data)
{
	api->verbs->each(api->data, scope, fn, data);
}

int api_await(struct api_request *request, const char *id, enum api_await_kind kind, const char *vm,
	      bool is_quiet)
{
	struct api_await *awaits =
		reallocarray(request->awaits, request->n_awaits + 1, sizeof(*awaits));

	if (!awaits)
		return api_fail(request, -ENOMEM, "no memory");
	request->awaits = awaits;
	struct api_await *await = &awaits[request->n_awaits++];
	*await = (struct api_await){.kind = kind, .is_quiet = is_quiet};
	snprintf(await->id, sizeof(await->id), "%s", id);
	snprintf(await->vm, sizeof(await->vm), "%s", vm ? vm : "");
	return 0;
}

/* Answers */

static void send_json(struct control_client *client, const json_t *value, bool is_event)
{
	_cleanup_free_ char *text = json_dumps(value, JSON_ENSURE_ASCII);

	if (!text)
		return;
	if (is_event)
		control_send_event(client, text, strlen(text));
	else
		control_send(client, text, strlen(text));
}

void api_send_event(struct control_client *client, const json_t *event)
{
	send_json(client, event, true);
}

static void request_free(struct api_request *request)
{
	loop_timer_stop(&request->limit);
	json_decref(request->message);
	json_decref(request->answer);
	free(request->awaits);
	free(request);
}

/* Answers with what R and the request say, and ends the request. */
static void finish_request(struct api_request *request, int r)
{
	struct control_client *client = request->client;
	json_t *id = json_object_get(request->message, "id");

	if (r == 0 && request->conclude)
		r = request->conclude(request);
	if (r < 0) {
		json_object_clear(request->answer);
		json_object_set_new(request->answer, "error", json_string(request->error));
	}
	json_object_set_new(request->answer, "result", json_string(r < 0 ? "failed" : "ok"));
	if (id && client && client->dialect == CONTROL_OWN)
		json_object_set(request->answer, "id", id);
	if (client)
		send_json(client, request->answer, false);
	request_free(request);
	if (client && client->is_held)
		control_release(client);
}

/* Requests that wait */

/* A VM has it still while it is leaving, and on record only before it has been asked: neither is an
 * arrival. */
static void settle_arrival(struct api_request *request, struct api_await *await,
			   const struct control_device *device)
{
	bool is_there =
		*device->vm && !device->is_busy && (!await->vm[0] || streq(await->vm, device->vm));

	await->is_settled = is_there || !device->is_busy || request->is_late;
	if (await->is_settled && !is_there && !await->is_quiet)
		api_fail(request, -EIO, "%s: %s", device->state,
			 *device->reason ? device->reason : "it is not in a VM");
}

static void settle_leave(struct api_request *request, struct api_await *await,
			 const struct control_device *device)
{
	bool has_left = !*device->vm && !device->is_busy;

	await->is_settled = has_left || request->is_late;
	if (await->is_settled && !has_left && !await->is_quiet)
		api_fail(request, -EIO, "%s: %s", device->state,
			 *device->reason ? device->reason : "the VM has it still");
}

static void settle_ready(struct api_request *request, struct api_await *await,
			 const struct control_device *device)
{
	bool is_ready = streq(device->driver, "vfio-pci");

	await->is_settled = is_ready || !device->is_busy || request->is_late;
	if (await->is_settled && !is_ready && !await->is_quiet)
		api_fail(request, -EIO, "%s is not ready for a VM: %s", device->kernel_name,
			 *device->reason ? device->reason : "vfio-pci does not have it");
}

struct look {
	struct api_request *request;
	struct api_await *await;
	bool was_seen;
};

static void look_at(void *data, const struct control_device *device)
{
	struct look *look = data;

	if (!streq(device->id, look->await->id))
		return;
	look->was_seen = true;
	switch (look->await->kind) {
	case AWAIT_ARRIVAL:
		settle_arrival(look->request, look->await, device);
		break;
	case AWAIT_LEAVE:
		settle_leave(look->request, look->await, device);
		break;
	case AWAIT_READY:
		settle_ready(look->request, look->await, device);
		break;
	}
}

/* Is all that REQUEST waits for over? */
static bool is_settled(struct api_request *request)
{
	bool settled = true;

	for (size_t i = 0; i < request->n_awaits; i++) {
		struct look look = {.request = request, .await = &request->awaits[i]};

		if (look.await->is_settled)
			continue;
		api_each(request->api, CONTROL_CLAIMED, look_at, &look);
		if (!look.was_seen) {
			look.await->is_settled = true;
			if (look.await->kind != AWAIT_LEAVE && !look.await->is_quiet)
				api_fail(request, -ENODEV, "it has been unplugged");
		}
		settled = settled && look.await->is_settled;
	}
	return settled;
}

static void limit_passed(void *data)
{
	struct api_request *request = data;

	request->is_late = true;
}

bool api_pass(struct api *api)
{
	struct api_request **at = &api->pending, *done = NULL, *request;
	bool has_answered;

	api_events_pass(api);
	while ((request = *at)) {
		if (!is_settled(request)) {
			at = &request->next;
			continue;
		}
		*at = request->next;
		request->next = done;
		done = request;
	}
	has_answered = done != NULL;
	while ((request = done)) {
		done = request->next;
		finish_request(request, request->error[0] ? -EIO : 0);
	}
	return has_answered;
}

/* Receiving */

static const struct api_action *find_action(const struct api_action *actions, const char *name)
{
	for (; actions->name; actions++)
		if (streq(actions->name, name))
			return actions;
	return NULL;
}

static int perform_request(struct api_request *request)
{
	const json_t *name = json_object_get(request->message, "action");
	const struct api_action *action = NULL;
	const char *text = json_string_value(name);

	if (!json_is_object(request->message))
		return api_fail(request, -EINVAL, "a request is an object with an \"action\"");
	if (!name || json_is_null(name) || (text && !*text))
		return api_fail(request, -EINVAL, "No action specified");
	if (!text)
		return api_fail(request, -EINVAL, "\"action\" must be a string");
	if (request->client->dialect == CONTROL_OWN)
		action = find_action(api_own_actions, text);
	if (action && api_check_members(request, action) < 0)
		return -EINVAL;
	if (!action)
		action = find_action(api_vhotplug_actions, text);
	if (!action)
		return api_fail(request, -EINVAL, "Unknown message: %s", text);
	if (action->changes && !request->client->may_change)
		return api_fail(request, -EPERM,
				"not permitted: only root, and the group in controlGroup of "
				"vhotplug.conf, may do that");
	return action->fn(request);
}

/* It is answered in api_pass, when what it waits for may have happened. */
static void wait_for_devices(struct api_request *request)
{
	struct api_request **at = &request->api->pending;

	while (*at)
		at = &(*at)->next;
	*at = request;
	control_hold(request->client);
	loop_timer_start(request->api->loop, &request->limit, API_WAIT_MS, limit_passed, request);
}

/* Any page that a browser shows may have it send lines here, in a request of HTTP's or in the first
 * message of TLS. JSON begins like neither. */
static bool is_browser(const char *text, size_t length)
{
	size_t word = 0;

	while (word < length && text[word] >= 'A' && text[word] <= 'Z')
		word++;
	if (word > 0 && word < length && text[word] == ' ')
		return memmem(text, length, " HTTP/", 6) != NULL;
	return length > 0 && text[0] == TLS_HANDSHAKE;
}

/* TEXT as JSON, or NULL. Who can't be answered in vhotplug's dialect is not answered: it skips such
 * lines. */
static json_t *parse_request(struct control_client *client, const char *text, size_t length)
{
	static const char words[] = "{\"result\": \"failed\", \"error\": \"%s\"}";
	char answer[256];
	json_error_t error;
	json_t *message = json_loadb(text, length, JSON_DECODE_ANY, &error);
	bool is_encoding = json_error_code(&error) == json_error_invalid_utf8;

	if (message || (client->dialect == CONTROL_VHOTPLUG && !is_encoding))
		return message;
	snprintf(answer, sizeof(answer), words,
		 is_encoding ? "not UTF-8" : "not JSON: a request is one JSON object on one line");
	control_send(client, answer, strlen(answer));
	return NULL;
}

static void receive_line(void *data, struct control_client *client, const char *line, size_t length)
{
	struct api *api = data;
	struct api_request *request;
	json_t *message;
	int r;

	if (is_browser(line, length)) {
		/* Who may only look can't fill the log. */
		if (client->may_change)
			log_info("a client speaks HTTP or TLS, as browsers do: hung up on it");
		control_hang_up(client);
		return;
	}
	message = parse_request(client, line, length);
	request = message ? calloc(1, sizeof(*request)) : NULL;
	if (!request) {
		json_decref(message);
		return;
	}
	request->api = api;
	request->client = client;
	request->message = message;
	request->answer = json_object();
	r = perform_request(request);
	if (r < 0 || request->n_awaits == 0)
		finish_request(request, r);
	else
		wait_for_devices(request);
}

static void client_gone(void *data, struct control_client *client)
{
	struct api *api = data;

	for (struct api_request *r = api->pending; r; r = r->next)
		if (r->client == client)
			r->client = NULL;
}

static const struct control_handler handler = {.line = receive_line, .gone = client_gone};

int api_new(struct loop *loop, const struct control_verbs *verbs, void *data, struct api **ret_api)
{
	struct api *api = calloc(1, sizeof(*api));
	int r;

	if (!api)
		return -ENOMEM;
	api->loop = loop;
	api->verbs = verbs;
	api->data = data;
	r = control_new(loop, &handler, api, &api->control);
	if (r < 0) {
		free(api);
		return r;
	}
	*ret_api = api;
	return 0;
}

void api_free(struct api *api)
{
	struct api_request *request;

	if (!api)
		return;
	control_free(api->control);
	while ((request = api->pending)) {
		api->pending = request->next;
		request_free(request);
	}
	api_events_forget(api);
	free(api);
}

struct control *api_control(struct api *api)
{
	return api->control;
}

/* What both dialects do */

struct suspension {
	struct api_request *request;
	unsigned kinds;
	bool resume;
	int r;
};

static void await_suspended(void *data, const struct control_device *device)
{
	struct suspension *s = data;
	bool concerns = s->resume ? device->is_suspended : device->is_suspended && *device->vm;

	if (s->r == 0 && concerns && (s->kinds & (1U << device->kind)))
		s->r = api_await(s->request, device->id, s->resume ? AWAIT_ARRIVAL : AWAIT_LEAVE,
				 NULL, true);
}

int api_suspend(struct api_request *request, unsigned kinds, bool resume)
{
	struct suspension s = {.request = request, .kinds = kinds, .resume = resume};
	struct api *api = request->api;
	const char *vm = NULL;
	int r = api_text(request, "vm", &vm);

	if (r < 0)
		return r;
	if (vm && !*vm)
		vm = NULL;
	if (resume) {
		api_each(api, CONTROL_CLAIMED, await_suspended, &s);
		api->verbs->resume(api->data, vm, kinds);
	} else {
		api->verbs->suspend(api->data, vm, kinds);
		api_each(api, CONTROL_CLAIMED, await_suspended, &s);
	}
	return s.r;
}
