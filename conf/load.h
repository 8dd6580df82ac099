/* From the file to the model: every mistake in it said, or a config that is right. */
#pragma once

#include "conf/config.h"

/* Reads and checks the config at PATH. Every mistake is one line "PATH:LINE: …" on ERRORS, all of
 * them in one run. Returns 0 and a new config in *RET_CONFIG (free it with config_free); -EINVAL
 * when there were mistakes; another -errno, said on ERRORS too, when the file can't be read. */
int config_load(const char *path, FILE *errors, struct config **ret_config) _must_check_;

/* The same for an open FILE, which PATH names in the messages. */
int config_read(FILE *file, const char *path, FILE *errors,
		struct config **ret_config) _must_check_;
