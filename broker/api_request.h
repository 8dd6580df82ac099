/* One request on its way through the API: for api.c, which receives and answers it, and the two
 * dialects. */
#pragma once

#include "broker/api.h"

#define API_WAIT_MS 30000 /* for a device to get where it should */

/* What a request waits for in one device. */
enum api_await_kind {
	AWAIT_ARRIVAL, /* it is in a VM, or will not be for now */
	AWAIT_LEAVE,   /* no VM has it */
	AWAIT_READY,   /* PCI: vfio-pci has it */
};

struct api_await {
	char id[CONTROL_ID_SIZE];
	char vm[64]; /* arrival: in this one; "" for any */
	enum api_await_kind kind;
	bool is_quiet; /* the answer is ok whatever comes of it */
	bool is_settled;
};

struct api_request {
	struct api_request *next;
	struct api *api;
	struct control_client *client; /* NULL once it has gone */
	json_t *message;
	json_t *answer; /* an object; what is in it is sent with "result": "ok" */
	char error[512];
	struct api_await *awaits;
	size_t n_awaits;
	struct loop_timer limit;
	bool is_late;
	int (*conclude)(struct api_request *request); /* when all that it waits for is over; or NULL
						       */
};

/* Returns 0, or -errno with words in REQUEST->error. */
typedef int (*api_action_fn)(struct api_request *request);

struct api_action {
	const char *name;
	api_action_fn fn;
	bool changes;        /* it takes the right to change things */
	const char *members; /* ours: "device:string! vm:string"; ! what must be there */
};

/* The end of each table has a NULL name. */
extern const struct api_action api_own_actions[], api_vhotplug_actions[];

struct api {
	struct loop *loop;
	struct control *control;
	const struct control_verbs *verbs;
	void *data;
	struct api_request *pending;
	struct api_told *told; /* what those who want events know (api_events.c) */
	size_t n_told;
	bool has_told;
};

/* Fills REQUEST->error; returns R. */
int api_fail(struct api_request *request, int r, const char *format, ...) _printf_(3, 4);
/* The answer waits for DEVICE. Returns 0 or -ENOMEM. */
int api_await(struct api_request *request, const char *id, enum api_await_kind kind, const char *vm,
	      bool is_quiet) _must_check_;
/* A text member of the request; NULL for one that is missing or null. -EINVAL, with words, for one
 * that is something else. */
int api_text(struct api_request *request, const char *key, const char **ret) _must_check_;
/* Calls FN for each device in SCOPE. */
void api_each(struct api *api, enum control_scope scope, control_device_fn fn, void *data);
void api_send_event(struct control_client *client, const json_t *event);

/* Shared by both dialects. */
int api_suspend(struct api_request *request, unsigned kinds, bool resume) _must_check_;
int api_vmm_args(struct api_request *request) _must_check_;

/* api_events.c: compares the devices with what has been told; VM's own next look tells DEVICE's
 * arrival again. */
void api_events_pass(struct api *api);
void api_events_repeat(struct api *api, const char *id);
void api_events_forget(struct api *api);
