/* Building and checking the helper's message: see wire.h. Used by the helper, which writes
 * messages, and by the broker, which must survive whatever arrives. */
#include "helper/wire.h"

static bool key_char(char c)
{
	return (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

/* The length of the key at S, which ends at '='; 0 when there is none. */
static size_t key_length(const char *s)
{
	size_t n = 0;

	while (key_char(s[n]))
		n++;
	return s[n] == '=' ? n : 0;
}

static const char *find_key(const char *data, size_t len, const char *key, size_t key_len)
{
	for (const char *s = data; s < data + len; s += strlen(s) + 1)
		if (strncmp(s, key, key_len) == 0 && s[key_len] == '=')
			return s + key_len + 1;
	return NULL;
}

void wire_init(struct wire_msg *msg)
{
	memcpy(msg->data, WIRE_VERSION, sizeof(WIRE_VERSION));
	msg->len = sizeof(WIRE_VERSION);
}

int wire_add(struct wire_msg *msg, const char *key, const char *value)
{
	size_t key_len = strlen(key), value_len = strlen(value);

	for (size_t i = 0; i < key_len; i++)
		if (!key_char(key[i]))
			return -EINVAL;
	if (key_len == 0)
		return -EINVAL;
	if (find_key(msg->data, msg->len, key, key_len))
		return -EEXIST;
	if (key_len >= WIRE_MAX || value_len >= WIRE_MAX ||
	    msg->len + key_len + value_len + 2 > WIRE_MAX)
		return -EMSGSIZE;

	char *end = msg->data + msg->len;
	memcpy(end, key, key_len);
	end[key_len] = '=';
	memcpy(end + key_len + 1, value, value_len + 1);
	msg->len += key_len + value_len + 2;
	return 0;
}

int wire_check(const struct wire_msg *msg)
{
	if (msg->len < sizeof(WIRE_VERSION) || msg->len > WIRE_MAX || msg->data[msg->len - 1] != 0)
		return -EBADMSG;
	if (memcmp(msg->data, WIRE_VERSION, sizeof(WIRE_VERSION)) != 0)
		return -EBADMSG;

	for (const char *s = msg->data; s < msg->data + msg->len; s += strlen(s) + 1) {
		size_t n = key_length(s);

		if (n == 0 || find_key(msg->data, (size_t) (s - msg->data), s, n))
			return -EBADMSG;
	}
	return 0;
}

const char *wire_get(const struct wire_msg *msg, const char *key)
{
	return find_key(msg->data, msg->len, key, strlen(key));
}

int wire_get_number(const struct wire_msg *msg, const char *key, uint64_t *ret)
{
	const char *s = wire_get(msg, key);
	uint64_t n = 0;

	if (!s)
		return -ENOENT;
	if (!*s || s[strspn(s, "0123456789")] || strlen(s) > 20)
		return -EINVAL;
	for (; *s; s++)
		if (__builtin_mul_overflow(n, 10, &n) ||
		    __builtin_add_overflow(n, (uint64_t) (*s - '0'), &n))
			return -ERANGE;
	*ret = n;
	return 0;
}
