/* One question and its answer over HTTP/1.1, as the API sockets of VMMs want it: a connection, a
 * request with a JSON body or none, the answer, and the end. Nothing here waits.
 *
 * What an answer may be is bounded: a head of HTTP_MAX_HEAD bytes, all in all HTTP_MAX_ANSWER, no
 * chunked body. Source: RFC 9112.
 */
#pragma once

#include "broker/budget.h"
#include "broker/loop.h"
#include "helper/macro.h"

#define HTTP_MAX_HEAD 8192
#define HTTP_MAX_ANSWER (1024 * 1024)

struct http_answer {
	unsigned status; /* 200 to 599 */
	const char *body;
	size_t length;
};

/* Looks for an answer in the N bytes so far; AT_END: no more will come. Returns 0 when it is whole
 * (*RET_ANSWER points into DATA), -EAGAIN when more is needed, -EMSGSIZE when it is too long,
 * -EBADMSG for what is no such answer. */
int http_parse(const char *data, size_t n, bool at_end,
	       struct http_answer *ret_answer) _must_check_;

struct http;

/* R is 0 and ANSWER there (borrowed), or ANSWER is NULL and R is -ETIMEDOUT, -ECONNRESET (the other
 * side hung up in the middle), or as of http_parse; another -errno. */
typedef void (*http_fn)(void *data, int r, const struct http_answer *answer);

/* Sends METHOD PATH with the JSON text BODY (NULL: none) over the connected stream socket FD, which
 * it takes over (not when it fails), and calls FN once, in the loop, DEADLINE_MS later at the
 * latest. Returns 0 or -errno. */
int http_ask(struct loop *loop, int fd, const char *method, const char *path, const char *body,
	     unsigned deadline_ms, http_fn fn, void *data, struct http **ret_http) _must_check_;
/* What the answer may cost, in bytes; INPUT is borrowed. */
void http_limit(struct http *http, struct budget *input);
/* Forgets a question whose FN has not been called yet. NULL is fine. Returns NULL. */
struct http *http_cancel(struct http *http);
