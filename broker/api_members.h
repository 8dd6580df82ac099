/* What a request of our own dialect may have in it. */
#pragma once

#include "broker/api_request.h"

/* Checks REQUEST against ACTION->members: names, types, and what must be there. "action" and "id"
 * may always be there. Returns 0, or -EINVAL with words that say what is allowed. */
int api_check_members(struct api_request *request, const struct api_action *action) _must_check_;
