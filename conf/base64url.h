/* Texts as letters, digits, - and _ : how a pattern gets onto a command line in a rule, where no
 * way of quoting is safe with every udev. */
#pragma once

#include <stddef.h>

#include "helper/macro.h"

/* TEXT in base64url without padding, as a new string, or NULL when there is no memory. */
char *base64url_encode(const char *text) _must_check_;

/* The text that ENCODED stands for, as a new string in *RET. Returns 0, -EINVAL when ENCODED is no
 * such text or has a NUL in it, or -ENOMEM. */
int base64url_decode(const char *encoded, char **ret) _must_check_;
