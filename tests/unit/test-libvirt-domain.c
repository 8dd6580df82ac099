/* The way to a domain of libvirt's own test driver, where libvirt's answers are ours: what it is
 * asked, and what comes of it. */
#include "broker/libvirt/domain.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>
#include <libvirt/virterror.h>

#define ALIAS "ua-vhp-0000_04_00_0-77"
#define EMPTY "<domain><devices/></domain>"
#define FILLED "<domain><devices><hostdev><alias name='" ALIAS "'/></hostdev></devices></domain>"
#define MISSING                                                                \
	"<domain><devices><hostdev><source missing='yes'/><alias name='" ALIAS \
	"'/></hostdev></devices></domain>"

static const char *xml; /* of the domain; NULL: libvirt does not say */
static int attach_code; /* of libvirt's error; 0: it is done */
static int save_code;
static int last_code;
static unsigned n_saves; /* of what libvirt knows of the domain */
static unsigned n_detaches;
static unsigned n_misuses;

static int fail_with(int code)
{
	last_code = code;
	return code == 0 ? 0 : -1;
}

int __wrap_virGetLastErrorCode(void);
int __wrap_virGetLastErrorCode(void)
{
	return last_code;
}

const char *__wrap_virGetLastErrorMessage(void);
const char *__wrap_virGetLastErrorMessage(void)
{
	return "no";
}

int __wrap_virDomainAttachDeviceFlags(virDomainPtr domain, const char *device, unsigned int flags);
int __wrap_virDomainAttachDeviceFlags(virDomainPtr domain, const char *device, unsigned int flags)
{
	assert_string_equal(virDomainGetName(domain), "test");
	assert_string_equal(device, "<hostdev/>");
	assert_int_equal(flags, VIR_DOMAIN_AFFECT_LIVE);
	return fail_with(attach_code);
}

int __wrap_virDomainDetachDeviceAlias(virDomainPtr domain, const char *alias, unsigned int flags);
int __wrap_virDomainDetachDeviceAlias(virDomainPtr domain, const char *alias, unsigned int flags)
{
	assert_string_equal(virDomainGetName(domain), "test");
	assert_string_equal(alias, ALIAS);
	assert_int_equal(flags, VIR_DOMAIN_AFFECT_LIVE);
	n_detaches++;
	return 0;
}

char *__wrap_virDomainGetXMLDesc(virDomainPtr domain, unsigned int flags);
char *__wrap_virDomainGetXMLDesc(virDomainPtr domain, unsigned int flags)
{
	(void) domain, (void) flags;
	return xml ? strdup(xml) : NULL;
}

int __wrap_virDomainSetMetadata(virDomainPtr domain, int type, const char *metadata,
				const char *key, const char *uri, unsigned int flags);
int __wrap_virDomainSetMetadata(virDomainPtr domain, int type, const char *metadata,
				const char *key, const char *uri, unsigned int flags)
{
	assert_string_equal(virDomainGetName(domain), "test");
	assert_int_equal(type, VIR_DOMAIN_METADATA_ELEMENT);
	assert_null(metadata);
	assert_null(key);
	assert_non_null(uri);
	assert_int_equal(flags, VIR_DOMAIN_AFFECT_LIVE);
	n_saves++;
	return fail_with(save_code);
}

static void note_changed(void *data)
{
	(void) data;
}

static void note_device(void *data, const char *alias, bool is_removed)
{
	(void) data, (void) alias, (void) is_removed;
}

/* What its test driver can't do is no mistake of ours. */
static void note_error(void *data, virErrorPtr error)
{
	(void) data;
	if (error->code == VIR_ERR_INVALID_ARG)
		n_misuses++;
}

static int set_up(void **state)
{
	static const struct domain_handler handler = {.changed = note_changed,
						      .device = note_device};
	static struct domain domain;

	xml = EMPTY;
	attach_code = save_code = last_code = 0;
	n_saves = n_detaches = n_misuses = 0;
	domain_init(&domain, "test:///default", "test", &handler, NULL);
	*state = &domain;
	return 0;
}

static int tear_down(void **state)
{
	domain_finish(*state);
	assert_int_equal(n_misuses, 0);
	return 0;
}

/* libvirt forgets a device that QEMU had no more, and would know it again after its next start. */
static void test_it_had_gone_already(void **state)
{
	char detail[100];

	assert_int_equal(domain_detach(*state, ALIAS, detail, sizeof(detail)), DOMAIN_PENDING);
	assert_string_equal(detail, "");
	assert_int_equal(n_saves, 1);
}

static void test_it_is_leaving(void **state)
{
	char detail[100];

	xml = FILLED;
	assert_int_equal(domain_detach(*state, ALIAS, detail, sizeof(detail)), DOMAIN_PENDING);
	assert_int_equal(n_saves, 0);
}

static void assert_attached(struct domain *domain, const char *becomes, int code,
			    enum domain_outcome outcome, const char *words)
{
	char detail[100];

	xml = becomes;
	attach_code = code;
	assert_int_equal(domain_attach(domain, ALIAS, "<hostdev/>", detail, sizeof(detail)),
			 outcome);
	assert_string_equal(detail, words);
}

static void test_attach(void **state)
{
	static const char refused[] = "libvirt: no";

	assert_attached(*state, FILLED, 0, DOMAIN_OK, "");
	assert_attached(*state, EMPTY, VIR_ERR_INTERNAL_ERROR, DOMAIN_RETRY, refused);
	assert_attached(*state, EMPTY, VIR_ERR_XML_ERROR, DOMAIN_FAILED, refused);
	assert_attached(*state, NULL, VIR_ERR_INTERNAL_ERROR, DOMAIN_UNKNOWN, refused);
	assert_int_equal(n_detaches, 0);
}

/* A former request has done it, or has not found the device. */
static void test_attach_that_was_done_before(void **state)
{
	assert_attached(*state, FILLED, VIR_ERR_OPERATION_INVALID, DOMAIN_OK, "");
	assert_attached(*state, MISSING, VIR_ERR_OPERATION_INVALID, DOMAIN_RETRY,
			"libvirt has not found it any more");
	assert_int_equal(n_detaches, 1);
}

/* "ok" may be of a device that has gone, in whose place QEMU would have any other. */
static void test_attach_without_a_device(void **state)
{
	assert_attached(*state, MISSING, 0, DOMAIN_RETRY, "libvirt has not found it any more");
	assert_int_equal(n_detaches, 1);
	assert_attached(*state, NULL, 0, DOMAIN_UNKNOWN, "");
	assert_int_equal(n_detaches, 1);
}

static void assert_looks(struct domain *domain, enum domain_condition condition, size_t n_aliases)
{
	struct domain_view view;

	domain_look(domain, &view);
	assert_int_equal(view.condition, condition);
	assert_int_equal(view.n_aliases, n_aliases);
	assert_int_equal(view.detail[0] == 0, condition == DOMAIN_RUNNING);
	domain_view_finish(&view);
}

/* What a former connection has asked for is in no XML before it is done. */
static void test_first_look_waits_for_former_requests(void **state)
{
	xml = FILLED;
	save_code = VIR_ERR_OPERATION_TIMEOUT;
	assert_looks(*state, DOMAIN_UNREACHABLE, 0);
	assert_looks(*state, DOMAIN_UNREACHABLE, 0);
	save_code = 0;
	assert_looks(*state, DOMAIN_RUNNING, 1);
	assert_int_equal(n_saves, 3);
	assert_looks(*state, DOMAIN_RUNNING, 1);
	assert_int_equal(n_saves, 3);
}

/* A driver that has no notes has none to take away. */
static void test_look_without_notes(void **state)
{
	save_code = VIR_ERR_NO_SUPPORT;
	assert_looks(*state, DOMAIN_RUNNING, 0);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_it_had_gone_already),
		TEST(test_it_is_leaving),
		TEST(test_attach),
		TEST(test_attach_that_was_done_before),
		TEST(test_attach_without_a_device),
		TEST(test_first_look_waits_for_former_requests),
		TEST(test_look_without_notes),
	};

	virSetErrorFunc(NULL, note_error);
	if (virEventRegisterDefaultImpl() < 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
