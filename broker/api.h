/* What is said on the control sockets: requests in, answers and events out.
 *
 * Two dialects share one machine. Ours (CONTROL_OWN, api_own.c) is strict, answers with the
 * request's id, and is what vhotplugctl speaks; conf/control.schema.json describes it. vhotplug's
 * (CONTROL_VHOTPLUG, api_vhotplug.c) is that of the program of the same name, for its clients;
 * our sockets understand it too.
 *
 * A line that is not JSON is answered in ours and skipped in vhotplug's; but one that begins a
 * request of HTTP's, or TLS, ends the connection: what follows is a web page's.
 *
 * A request that takes time (attach, detach …) is answered when it is over or a limit has passed;
 * the client's next line waits until then.
 */
#pragma once

#include "broker/control.h"
#include "broker/control_verbs.h"
#include "helper/macro.h"

struct api;

/* VERBS and DATA are borrowed. Returns 0 or -errno. */
int api_new(struct loop *loop, const struct control_verbs *verbs, void *data,
	    struct api **ret_api) _must_check_;
/* Hangs up on everybody. NULL is fine. */
void api_free(struct api *api);

/* Where clients are to be brought. */
struct control *api_control(struct api *api);

/* At the end of a pass, when the devices have moved: tells those who want to know, and answers what
 * is settled. Returns whether it has answered anything: then there may be more to move. */
bool api_pass(struct api *api);
