/* Tables and times for people: see ctl_table.h. */
#include "helper/ctl_table.h"

#include <sys/ioctl.h>
#include <time.h>

#define GAP 2

/* Bytes of the text at S that take up to COLUMNS columns; characters count as one. */
static size_t bytes_for(const char *s, unsigned columns, unsigned *ret_used)
{
	size_t n = 0;
	unsigned used = 0;

	while (s[n]) {
		size_t next = n + 1;

		while (((unsigned char) s[next] & 0xc0) == 0x80)
			next++;
		if (used == columns)
			break;
		used++;
		n = next;
	}
	*ret_used = used;
	return n;
}

static unsigned width_of(const char *s)
{
	unsigned used;

	bytes_for(s, ~0U, &used);
	return used;
}

static size_t count_columns(const struct table *table)
{
	size_t n = 0;

	while (n < TABLE_COLUMNS && table->limits[n] > 0)
		n++;
	return n;
}

void table_add(struct table *table, const char *const *texts)
{
	size_t n = count_columns(table);
	size_t sizes[TABLE_COLUMNS], all = n * sizeof(char *);

	for (size_t i = 0; i < n; i++)
		all += sizes[i] = strlen(texts[i] ? texts[i] : "") + 1;
	/* One piece of memory: the pointers, then the texts. */
	char **row = malloc(all);
	if (table->n_rows == table->room) {
		table->room = table->room * 2 + 16;
		table->rows = reallocarray(table->rows, table->room, sizeof(*table->rows));
	}
	if (!row || !table->rows)
		abort();
	char *at = (char *) (row + n);
	for (size_t i = 0; i < n; i++) {
		row[i] = memcpy(at, texts[i] ? texts[i] : "", sizes[i]);
		at += sizes[i];
	}
	table->rows[table->n_rows++] = row;
}

unsigned terminal_width(void)
{
	struct winsize size;

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= 40)
		return size.ws_col;
	return 80;
}

/* How wide each column is to be. The widest gives way until all fit into a line. */
static void fit_columns(const struct table *table, size_t n, unsigned *widths)
{
	unsigned all = 0, room = terminal_width() - 1;

	for (size_t i = 0; i < n; i++) {
		widths[i] = width_of(table->heads[i]);
		for (size_t row = 0; row < table->n_rows; row++) {
			unsigned width = width_of(table->rows[row][i]);

			if (width > table->limits[i])
				width = table->limits[i];
			if (width > widths[i])
				widths[i] = width;
		}
		all += widths[i] + (i > 0 ? GAP : 0);
	}
	while (all > room) {
		size_t widest = 0;

		for (size_t i = 1; i < n; i++)
			if (widths[i] >= widths[widest])
				widest = i;
		widths[widest]--;
		all--;
	}
}

static void print_cell(const char *text, unsigned width, bool is_last)
{
	unsigned used, cut = width_of(text) > width;
	size_t n = bytes_for(text, cut ? width - 1 : width, &used);

	fwrite_unlocked(text, 1, n, stdout);
	if (cut)
		fputs_unlocked("…", stdout);
	for (unsigned i = used + cut; i < width + GAP && !is_last; i++)
		putchar_unlocked(' ');
}

static void print_row(char *const *texts, size_t n, const unsigned *widths)
{
	size_t last = n;

	/* No blanks at the end of a line. */
	while (last > 1 && !*texts[last - 1])
		last--;
	for (size_t i = 0; i < last; i++)
		print_cell(texts[i], widths[i], i + 1 == last);
	putchar_unlocked('\n');
}

void table_print(struct table *table)
{
	size_t n = count_columns(table);
	unsigned widths[TABLE_COLUMNS];

	fit_columns(table, n, widths);
	print_row((char *const *) table->heads, n, widths);
	for (size_t row = 0; row < table->n_rows; row++) {
		print_row(table->rows[row], n, widths);
		free(table->rows[row]);
	}
	free(table->rows);
	table->rows = NULL;
	table->n_rows = table->room = 0;
}

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t) now.tv_sec * 1000 + (uint64_t) now.tv_nsec / 1000000;
}

void text_age(uint64_t ms, char *ret, size_t size)
{
	uint64_t now = now_ms(), seconds = now > ms ? (now - ms) / 1000 : 0;

	if (ms == 0)
		snprintf(ret, size, "-");
	else if (seconds < 60)
		snprintf(ret, size, "%u s", (unsigned) seconds);
	else if (seconds < 3600)
		snprintf(ret, size, "%u min", (unsigned) (seconds / 60));
	else if (seconds < 48 * 3600)
		snprintf(ret, size, "%u h", (unsigned) (seconds / 3600));
	else
		snprintf(ret, size, "%u d", (unsigned) (seconds / 86400));
}

static int64_t time_ago(const char *text)
{
	static const struct {
		const char *name;
		unsigned seconds;
	} units[] = {{"s", 1}, {"min", 60}, {"h", 3600}, {"d", 86400}};
	char unit[8] = "";
	unsigned n;
	int end = 0;

	if (sscanf(text, "%9u %7[a-z]%n", &n, unit, &end) != 2 || text[end])
		return -1;
	for (size_t i = 0; i < ARRAY_SIZE(units); i++)
		if (streq(unit, units[i].name))
			return (int64_t) now_ms() - (int64_t) n * units[i].seconds * 1000;
	return -1;
}

int64_t text_time(const char *text)
{
	static const char *const formats[] = {"%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S",
					      "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M", "%Y-%m-%d"};
	unsigned ms = 0;
	int n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
		struct tm tm = {.tm_isdst = -1};
		const char *end = strptime(text, formats[i], &tm);

		if (!end)
			continue;
		if (sscanf(end, ".%3u%n", &ms, &n) == 1)
			end += n;
		if (streq(end, "Z"))
			return (int64_t) timegm(&tm) * 1000 + ms;
		if (!*end)
			return (int64_t) mktime(&tm) * 1000 + ms;
	}
	return time_ago(text);
}
