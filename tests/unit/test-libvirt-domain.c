/* The way to a domain of libvirt's own test driver, where libvirt's answers are ours: what it is
 * asked to do when a device leaves. */
#include "broker/libvirt/domain.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>
#include <libvirt/virterror.h>

#define ALIAS "ua-vhp-0000_04_00_0-77"
#define EMPTY "<domain><devices/></domain>"
#define FILLED "<domain><devices><hostdev><alias name='" ALIAS "'/></hostdev></devices></domain>"

static const char *xml;  /* of the domain, after it was asked to let go */
static unsigned n_saves; /* of what libvirt knows of it */
static unsigned n_misuses;

int __wrap_virDomainDetachDeviceAlias(virDomainPtr domain, const char *alias, unsigned int flags);
int __wrap_virDomainDetachDeviceAlias(virDomainPtr domain, const char *alias, unsigned int flags)
{
	assert_string_equal(virDomainGetName(domain), "test");
	assert_string_equal(alias, ALIAS);
	assert_int_equal(flags, VIR_DOMAIN_AFFECT_LIVE);
	return 0;
}

char *__wrap_virDomainGetXMLDesc(virDomainPtr domain, unsigned int flags);
char *__wrap_virDomainGetXMLDesc(virDomainPtr domain, unsigned int flags)
{
	(void) domain, (void) flags;
	return strdup(xml);
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
	return 0;
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

static void assert_saves(const char *left, unsigned n)
{
	static const struct domain_handler handler = {.changed = note_changed,
						      .device = note_device};
	struct domain domain;
	char detail[100];

	xml = left;
	n_saves = 0;
	domain_init(&domain, "test:///default", "test", &handler, NULL);
	assert_int_equal(domain_detach(&domain, ALIAS, detail, sizeof(detail)), DOMAIN_PENDING);
	assert_string_equal(detail, "");
	assert_int_equal(n_saves, n);
	domain_finish(&domain);
	assert_int_equal(n_misuses, 0);
}

/* libvirt forgets a device that QEMU had no more, and would know it again after its next start. */
static void test_it_had_gone_already(void **state)
{
	(void) state;
	assert_saves(EMPTY, 1);
}

static void test_it_is_leaving(void **state)
{
	(void) state;
	assert_saves(FILLED, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_it_had_gone_already),
		cmocka_unit_test(test_it_is_leaving),
	};

	virSetErrorFunc(NULL, note_error);
	if (virEventRegisterDefaultImpl() < 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
