/* What keeps a VMM from a device's node, by a made-up /dev and /proc. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "broker/confinement.h"
#include "helper/root.h"
#include "tests/unit/silent-mount.h"
#include "tests/unit/tree.h"

#define NODE "/dev/vfio/12"
#define MISSING "vfio 0000:03:00.0: failed to open " NODE ": No such file or directory"
#define REFUSED "vfio 0000:03:00.0: failed to open " NODE ": Permission denied"
#define FORBIDDEN "Could not open '" NODE "': Operation not permitted"

static const char *tree;

/* The process 77 sees the host's /dev, and its node is the host's, of UID 1000. */
static int setup(void **state)
{
	char path[PATH_MAX], link[PATH_MAX];

	tree = *state = temp_new();
	root_set(tree);
	tree_write(tree, NODE, "");
	tree_path(path, tree, NODE);
	assert_int_equal(chmod(path, 0600), 0);
	assert_int_equal(chown(path, 1000, 0), 0);
	tree_mkdir(tree, "/proc/77");
	tree_path(link, tree, "/proc/77/root");
	assert_int_equal(symlink(tree, link), 0);
	return 0;
}

static int teardown(void **state)
{
	root_set("");
	temp_remove((char **) state);
	return 0;
}

static const char *explain(uid_t uid, const char *text)
{
	static char words[300];
	struct peer peer = {.pid = 77, .uid = uid};

	strcpy(words, "x");
	confinement_explain(&peer, text, words, sizeof(words));
	return words;
}

static void expect(uid_t uid, const char *text, const char *part)
{
	if (!strstr(explain(uid, text), part))
		fail_msg("\"%s\" is not in \"%s\"", part, explain(uid, text));
}

static void has_its_own_dev(void)
{
	char link[PATH_MAX];

	tree_path(link, tree, "/proc/77/root");
	assert_int_equal(unlink(link), 0);
	tree_mkdir(tree, "/proc/77/root/dev/vfio");
}

static void test_the_owner(void **state)
{
	(void) state;
	expect(1001, REFUSED, "; " NODE " is not for uid 1001: say in \"user =\" who");
	expect(1001, FORBIDDEN, "say in \"user =\" who");
	/* That of QEMU is right, and nothing is known to be in the way. */
	assert_string_equal(explain(1000, REFUSED), "");
	assert_string_equal(explain(0, REFUSED), "");
	assert_string_equal(explain(1000, MISSING), "");
}

static void test_a_dev_of_its_own(void **state)
{
	(void) state;
	has_its_own_dev();
	expect(1000, MISSING, "; process 77 has a /dev of its own without " NODE);
	tree_write(tree, "/proc/77/root" NODE, "");
	expect(1000, REFUSED, "; process 77 has a /dev of its own with another " NODE);
	expect(1001, FORBIDDEN, "namespaces = []");
}

static bool says_what_is_known(void *data)
{
	(void) data;
	return strstr(explain(1000, MISSING), "of its own without " NODE) &&
	       strstr(explain(1001, REFUSED), "is not for uid 1001") &&
	       streq(explain(1000, REFUSED), "");
}

/* Its user has mounted something there that answers nobody. */
static void test_a_dev_that_never_answers(void **state)
{
	char path[PATH_MAX];

	(void) state;
	has_its_own_dev();
	tree_path(path, tree, "/proc/77/root/dev");
	silent_mount_expect(path, says_what_is_known, NULL);
}

/* Its links lead nowhere but into its own files. */
static void test_a_dev_behind_a_link(void **state)
{
	char link[PATH_MAX], path[PATH_MAX];

	(void) state;
	has_its_own_dev();
	tree_path(path, tree, "/proc/77/root/dev/vfio");
	assert_int_equal(rmdir(path), 0);
	tree_path(link, tree, "/dev/vfio");
	assert_int_equal(symlink(link, path), 0);
	expect(1000, MISSING, "of its own without");
}

static void test_a_security_module(void **state)
{
	(void) state;
	tree_write(tree, "/proc/77/attr/current", "libvirt-4d1f (enforce)\n");
	expect(1000, REFUSED, "; AppArmor's profile libvirt-4d1f keeps process 77 from " NODE);
	expect(1001, REFUSED, "say in \"user =\" who"); /* that comes first */
	tree_write(tree, "/proc/77/attr/current", "libvirt-4d1f (complain)\n");
	assert_string_equal(explain(1000, REFUSED), "");
	tree_write(tree, "/proc/77/attr/current", "unconfined\n");
	assert_string_equal(explain(1000, REFUSED), "");

	tree_write(tree, "/proc/77/attr/current", "system_u:system_r:svirt_t:s0:c1,c2");
	assert_string_equal(explain(1000, REFUSED), "");
	tree_write(tree, "/sys/fs/selinux/enforce", "0");
	assert_string_equal(explain(1000, REFUSED), "");
	tree_write(tree, "/sys/fs/selinux/enforce", "1");
	expect(1000, REFUSED, "; SELinux, by the label system_u:system_r:svirt_t:s0:c1,c2, keeps");
}

static void test_its_cgroup(void **state)
{
	(void) state;
	expect(1000, FORBIDDEN, "; the cgroup of process 77 allows no such device: add " NODE);
}

static void test_other_words(void **state)
{
	struct peer unseen = {.pid = 0, .uid = 1000};
	char words[300] = "x";

	(void) state;
	has_its_own_dev();
	assert_string_equal(explain(1000, "failed to open " NODE ": Device or resource busy"), "");
	assert_string_equal(explain(1000, "No such file or directory"), "");
	assert_string_equal(explain(1000, "failed to open /dev/nosuch: No such file or directory"),
			    "");
	assert_string_equal(explain(1000, "/dev/../etc/shadow: Permission denied"), "");
	assert_string_equal(explain(1000, "/dev/: Permission denied"), "");
	/* What lies elsewhere below /dev may be its user's own, and is not looked at. */
	tree_write(tree, "/dev/shm/own/1", "");
	assert_string_equal(explain(1000, "/dev/shm/own/1: Permission denied"), "");
	confinement_explain(&unseen, MISSING, words, sizeof(words));
	assert_string_equal(words, "");
}

int main(void)
{
#define CONFINEMENT_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		CONFINEMENT_TEST(test_the_owner),
		CONFINEMENT_TEST(test_a_dev_of_its_own),
		CONFINEMENT_TEST(test_a_dev_that_never_answers),
		CONFINEMENT_TEST(test_a_dev_behind_a_link),
		CONFINEMENT_TEST(test_a_security_module),
		CONFINEMENT_TEST(test_its_cgroup),
		CONFINEMENT_TEST(test_other_words),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
