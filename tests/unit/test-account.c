/* Users of the host: also where those who know them do not answer. */
#include <poll.h>
#include <pwd.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "broker/account.h"
#include "helper/macro.h"
#include "tests/unit/spin.h"

/* Nothing comes in the time that is waited for it; that is some seconds at most. */
static bool nothing_comes;

int __real_poll(struct pollfd *fds, nfds_t n, int timeout);
int __wrap_poll(struct pollfd *fds, nfds_t n, int timeout);
int __wrap_poll(struct pollfd *fds, nfds_t n, int timeout)
{
	assert_in_range(timeout, 1, 5000);
	return __real_poll(fds, n, nothing_comes ? 0 : timeout);
}

static uid_t knows(const char *name)
{
	return streq(name, "jane") ? 1234 : (uid_t) -1;
}

static uid_t hangs(const char *name)
{
	(void) name;
	while (true)
		pause();
	return 0;
}

static uid_t crashes(const char *name)
{
	(void) name;
	_exit(7);
}

static void test_find(void **state)
{
	(void) state;
	assert_int_equal(account_find("root"), 0);
	assert_int_equal(account_find("4711"), 4711);
	assert_int_equal(account_find("no such user"), (uid_t) -1);
	assert_int_equal(account_find(""), (uid_t) -1);
	assert_int_equal(account_ask_user("root"), 0);
	assert_int_equal(account_ask_user("4711"), 4711);
	assert_int_equal(account_ask_group("4711"), 4711);
	assert_int_equal(account_ask_group("root"), 0);
	assert_int_equal(account_ask_group("no such group"), (gid_t) -1);
}

/* It comes back at all. */
static void test_nobody_answers(void **state)
{
	(void) state;
	assert_int_equal(account_ask(knows, "jane"), 1234);
	assert_int_equal(account_ask(knows, "joe"), (uid_t) -1);
	nothing_comes = true;
	assert_int_equal(account_ask(hangs, "jane"), (uid_t) -1);
	nothing_comes = false;
	assert_int_equal(account_ask(crashes, "jane"), (uid_t) -1);
}

/* The host's other sources know Jane. */
struct passwd *__wrap_getpwnam(const char *name);
struct passwd *__wrap_getpwnam(const char *name)
{
	static struct passwd jane = {.pw_uid = 1234};

	if (streq(name, "nobody answers"))
		hangs(name);
	return streq(name, "jane") ? &jane : NULL;
}

struct answer {
	int n;
	uid_t user;
};

static void note_answer(void *data, uid_t user)
{
	*(struct answer *) data = (struct answer){((struct answer *) data)->n + 1, user};
}

static bool has_come(void *data)
{
	return ((struct answer *) data)->n > 0;
}

static uid_t ask(struct loop *loop, const char *name)
{
	struct account_question *question;
	struct answer answer = {0};

	assert_int_equal(account_question_new(loop, name, note_answer, &answer, &question), 0);
	assert_int_equal(answer.n, 0);
	spin_until(loop, has_come, &answer);
	spin_for(loop, 5);
	assert_int_equal(answer.n, 1);
	return answer.user;
}

/* All that was begun has ended, or does so by itself. */
static void await_ends(void)
{
	while (waitpid(-1, NULL, 0) > 0)
		;
}

/* The loop goes on meanwhile; and no process is left behind. */
static void test_question(void **state)
{
	struct account_question *question;
	struct answer answer = {0};
	struct loop *loop;

	(void) state;
	assert_int_equal(loop_new(&loop), 0);
	assert_int_equal(ask(loop, "jane"), 1234);
	assert_int_equal(ask(loop, "joe"), (uid_t) -1);
	loop_skip_waiting(true);
	assert_int_equal(ask(loop, "nobody answers"), (uid_t) -1);
	assert_int_equal(
		account_question_new(loop, "nobody answers", note_answer, &answer, &question), 0);
	account_question_free(question);
	spin_for(loop, 5000);
	assert_int_equal(answer.n, 0);
	loop_skip_waiting(false);
	loop_free(loop);
	await_ends();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_find),
		cmocka_unit_test(test_nobody_answers),
		cmocka_unit_test(test_question),
	};

	prctl(PR_SET_CHILD_SUBREAPER, 1); /* so that they are ours */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
