/* What an HTTP answer says: see http.h. */
#include "broker/http.h"

/* The head of one answer: what its lines say of the body. */
struct head {
	size_t size; /* with the empty line at its end */
	unsigned status;
	bool has_length, keeps_alive;
	size_t length;
};

/* "HTTP/1.1 204 No Content" */
static int parse_status_line(const char *line, size_t n, struct head *head)
{
	static const char start[] = "HTTP/1.";
	const char *digits = line + sizeof(start) + 1; /* "1 " */

	if (n < sizeof(start) + 4 || memcmp(line, start, sizeof(start) - 1) != 0 ||
	    line[sizeof(start)] != ' ' || (n > sizeof(start) + 4 && digits[3] != ' '))
		return -EBADMSG;
	for (size_t i = 0; i < 3; i++) {
		if (digits[i] < '0' || digits[i] > '9')
			return -EBADMSG;
		head->status = head->status * 10 + (unsigned) (digits[i] - '0');
	}
	return head->status >= 100 && head->status < 600 ? 0 : -EBADMSG;
}

static int parse_length(const char *value, size_t n, struct head *head)
{
	size_t length = 0;

	for (size_t i = 0; i < n; i++) {
		if (value[i] < '0' || value[i] > '9')
			return -EBADMSG;
		length = length * 10 + (size_t) (value[i] - '0');
		if (length > HTTP_MAX_ANSWER)
			return -EMSGSIZE;
	}
	if (n == 0 || (head->has_length && head->length != length))
		return -EBADMSG;
	head->has_length = true;
	head->length = length;
	return 0;
}

static bool is_name(const char *line, size_t n, const char *name)
{
	return n == strlen(name) && strncasecmp(line, name, n) == 0;
}

/* "Content-Length: 12" */
static int parse_field(const char *line, size_t n, struct head *head)
{
	const char *colon = memchr(line, ':', n);

	if (!colon || colon == line || line[0] == ' ' || line[0] == '\t' || memchr(line, 0, n))
		return -EBADMSG;
	size_t n_name = (size_t) (colon - line);
	const char *value = colon + 1, *end = line + n;
	while (value < end && (*value == ' ' || *value == '\t'))
		value++;
	while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
		end--;
	size_t n_value = (size_t) (end - value);
	if (is_name(line, n_name, "Transfer-Encoding"))
		return -EBADMSG;
	if (is_name(line, n_name, "Content-Length"))
		return parse_length(value, n_value, head);
	if (is_name(line, n_name, "Connection"))
		head->keeps_alive = is_name(value, n_value, "keep-alive");
	return 0;
}

/* Takes the head at the beginning of DATA apart. Returns 0, or as http_parse. */
static int parse_head(const char *data, size_t n, struct head *ret_head)
{
	struct head head = {0};
	const char *end = memmem(data, n < HTTP_MAX_HEAD ? n : HTTP_MAX_HEAD, "\r\n\r\n", 4);

	if (!end)
		return n >= HTTP_MAX_HEAD ? -EMSGSIZE : -EAGAIN;
	head.size = (size_t) (end - data) + 4;
	for (const char *line = data; line <= end;) {
		const char *next = memmem(line, (size_t) (end + 2 - line), "\r\n", 2);
		size_t length = (size_t) (next - line);
		int r = line == data ? parse_status_line(line, length, &head)
				     : parse_field(line, length, &head);

		if (r < 0)
			return r;
		line = next + 2;
	}
	*ret_head = head;
	return 0;
}

/* How long the body is: 0, or -EAGAIN while only the end of the connection will tell. */
static int body_length(const struct head *head, size_t n_after, bool at_end, size_t *ret_length)
{
	if (head->status == 204 || head->status == 304)
		*ret_length = 0;
	else if (head->has_length)
		*ret_length = head->length;
	else if (head->keeps_alive)
		*ret_length = 0; /* nothing that the end of the connection could delimit */
	else if (at_end)
		*ret_length = n_after;
	else
		return -EAGAIN;
	return 0;
}

static int parse_answer(const char *data, size_t n, bool at_end, struct http_answer *ret_answer)
{
	struct head head;
	size_t length;
	int r;

	if (n > HTTP_MAX_ANSWER)
		return -EMSGSIZE;
	/* 100 Continue and its like are not the answer yet. */
	while ((r = parse_head(data, n, &head)) == 0 && head.status < 200) {
		data += head.size;
		n -= head.size;
	}
	if (r < 0)
		return r;
	data += head.size;
	n -= head.size;
	r = body_length(&head, n, at_end, &length);
	if (r < 0 || n < length)
		return -EAGAIN;
	/* One question has one answer. */
	if (n > length)
		return -EBADMSG;
	*ret_answer = (struct http_answer){.status = head.status, .body = data, .length = length};
	return 0;
}

int http_parse(const char *data, size_t n, bool at_end, struct http_answer *ret_answer)
{
	int r = parse_answer(data, n, at_end, ret_answer);

	return r == -EAGAIN && at_end ? -EBADMSG : r;
}
