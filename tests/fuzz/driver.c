/* Stands in for libFuzzer where clang's is not to be had: runs LLVMFuzzerTestOneInput over all
 * seeds, then over what random changes make of them, until the time is up. It knows nothing of
 * coverage; the sanitizers look on as they do there. Usage: fuzz-NAME -max_total_time=SECONDS
 * FOLDER… */
#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MAX_LEN 4096
#define MAX_SEEDS 1024

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
	uint8_t *data;
	size_t size;
};

static struct input seeds[MAX_SEEDS];
static size_t n_seeds;

static void read_seed(const char *folder, const char *name)
{
	char path[4096];
	uint8_t data[MAX_LEN];

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, data, sizeof(data));

	if (n >= 0 && n_seeds < MAX_SEEDS) {
		struct input *seed = &seeds[n_seeds++];

		seed->size = (size_t) n;
		seed->data = malloc(MAX_LEN);
		memcpy(seed->data, data, seed->size);
	}
	if (fd >= 0)
		close(fd);
}

static void read_seeds(const char *folder)
{
	DIR *dir = opendir(folder);

	for (struct dirent *entry; dir && (entry = readdir(dir));)
		if (entry->d_name[0] != '.')
			read_seed(folder, entry->d_name);
	if (dir)
		closedir(dir);
}

/* One byte changed, some taken out, or a piece of another seed put in. */
static void change(struct input *input)
{
	size_t at = input->size ? (size_t) rand() % input->size : 0;
	size_t left = input->size - at;
	const struct input *other = &seeds[(size_t) rand() % n_seeds];
	size_t from = other->size ? (size_t) rand() % other->size : 0;
	size_t n = (size_t) rand() % 32;

	switch (rand() % 3) {
	case 0:
		if (left)
			input->data[at] = (uint8_t) rand();
		break;
	case 1:
		n = n < left ? n : left;
		memmove(input->data + at, input->data + at + n, left - n);
		input->size -= n;
		break;
	case 2:
		n = n < other->size - from ? n : other->size - from;
		n = n < MAX_LEN - input->size ? n : MAX_LEN - input->size;
		memmove(input->data + at + n, input->data + at, left);
		memcpy(input->data + at, other->data + from, n);
		input->size += n;
		break;
	}
}

/* In memory of exactly its size, so that the sanitizer sees a byte too far. */
static void try(const uint8_t *data, size_t size)
{
	uint8_t *exact = malloc(size ? size : 1);

	memcpy(exact, data, size);
	LLVMFuzzerTestOneInput(exact, size);
	free(exact);
}

/* What crashes can be had again: the numbers come from the seed 1. */
static unsigned long try_until(time_t end)
{
	uint8_t data[MAX_LEN];
	unsigned long runs = 0;

	for (srand(1); time(NULL) < end; runs++) {
		const struct input *seed = &seeds[(size_t) rand() % n_seeds];
		struct input input = {.data = data, .size = seed->size};

		memcpy(data, seed->data, seed->size);
		for (int n = rand() % 8; n >= 0; n--)
			change(&input);
		try(input.data, input.size);
	}
	return runs;
}

int main(int argc, char **argv)
{
	long seconds = 30;

	for (int i = 1; i < argc; i++)
		if (argv[i][0] != '-')
			read_seeds(argv[i]);
		else if (sscanf(argv[i], "-max_total_time=%ld", &seconds) == 1)
			continue;
	if (n_seeds == 0) {
		fprintf(stderr, "no seeds\n");
		return 1;
	}
	for (size_t i = 0; i < n_seeds; i++)
		try(seeds[i].data, seeds[i].size);
	printf("%zu seeds, %lu runs\n", n_seeds, try_until(time(NULL) + seconds));
	return 0;
}
