/* The way to one domain: see domain.h. Called by main.c for the broker's requests and by libvirt's
 * event loop. */
#include "broker/libvirt/domain.h"

#include <libvirt/virterror.h>
#include <strings.h>

#include "broker/libvirt/device_xml.h"

#define KEEPALIVE_SECONDS 5 /* a libvirt that has not answered three of these is gone */
#define KEEPALIVE_COUNT 3
#define RETRY_MS 5000
#define NO_NOTES_URI "urn:vhotplug:none" /* nobody writes notes of this name space */

static const char *const condition_names[] = {
	[DOMAIN_RUNNING] = "running",
	[DOMAIN_OFF] = "off",
	[DOMAIN_ABSENT] = "absent",
	[DOMAIN_UNREACHABLE] = "unreachable",
};

static const char *const outcome_names[] = {
	[DOMAIN_OK] = "ok",       [DOMAIN_GONE] = "gone",     [DOMAIN_PENDING] = "pending",
	[DOMAIN_RETRY] = "retry", [DOMAIN_FAILED] = "failed", [DOMAIN_UNKNOWN] = "unknown",
};

const char *domain_condition_name(enum domain_condition condition)
{
	return condition_names[condition];
}

const char *domain_outcome_name(enum domain_outcome outcome)
{
	return outcome_names[outcome];
}

void domain_init(struct domain *domain, const char *uri, const char *name,
		 const struct domain_handler *handler, void *data)
{
	*domain = (struct domain){
		.uri = uri, .name = name, .handler = handler, .data = data, .retry = -1};
	for (size_t i = 0; i < ARRAY_SIZE(domain->callbacks); i++)
		domain->callbacks[i] = -1;
}

/* The connection */

static void on_close(virConnectPtr connection, int reason, void *data)
{
	struct domain *domain = data;

	(void) connection, (void) reason;
	domain->handler->changed(domain->data);
}

static void connection_drop(struct domain *domain)
{
	if (!domain->connection)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(domain->callbacks); i++) {
		if (domain->callbacks[i] >= 0)
			virConnectDomainEventDeregisterAny(domain->connection,
							   domain->callbacks[i]);
		domain->callbacks[i] = -1;
	}
	virConnectUnregisterCloseCallback(domain->connection, on_close);
	virConnectClose(domain->connection);
	domain->connection = NULL;
}

static void retry_stop(struct domain *domain)
{
	if (domain->retry >= 0)
		virEventRemoveTimeout(domain->retry);
	domain->retry = -1;
}

static void retry_ended(int timer, void *data)
{
	struct domain *domain = data;

	(void) timer;
	retry_stop(domain);
	domain->handler->changed(domain->data);
}

static void retry_start(struct domain *domain)
{
	if (domain->retry < 0)
		domain->retry = virEventAddTimeout(RETRY_MS, retry_ended, domain, NULL);
}

void domain_finish(struct domain *domain)
{
	retry_stop(domain);
	connection_drop(domain);
}

static bool is_uuid(const char *name)
{
	return strlen(name) == 36 && name[strspn(name, "0123456789abcdefABCDEF-")] == 0;
}

/* The domain, or NULL: there is none of that name or UUID, or libvirt does not answer. */
static virDomainPtr domain_find(struct domain *domain)
{
	virDomainPtr found = virDomainLookupByName(domain->connection, domain->name);

	if (!found && is_uuid(domain->name))
		found = virDomainLookupByUUIDString(domain->connection, domain->name);
	return found;
}

static bool is_ours(const struct domain *domain, virDomainPtr which)
{
	char uuid[VIR_UUID_STRING_BUFLEN] = "";
	const char *name = virDomainGetName(which);

	(void) virDomainGetUUIDString(which, uuid);
	return (name && streq(name, domain->name)) || strcasecmp(uuid, domain->name) == 0;
}

/* libvirt's events */

static int on_lifecycle(virConnectPtr connection, virDomainPtr which, int event, int why,
			void *data)
{
	struct domain *domain = data;

	(void) connection, (void) event, (void) why;
	if (is_ours(domain, which))
		domain->handler->changed(domain->data);
	return 0;
}

static void on_reboot(virConnectPtr connection, virDomainPtr which, void *data)
{
	(void) on_lifecycle(connection, which, 0, 0, data);
}

static void on_removed(virConnectPtr connection, virDomainPtr which, const char *alias, void *data)
{
	struct domain *domain = data;

	(void) connection;
	if (is_ours(domain, which) && startswith(alias, ALIAS_PREFIX))
		domain->handler->device(domain->data, alias, true);
}

static void on_refused(virConnectPtr connection, virDomainPtr which, const char *alias, void *data)
{
	struct domain *domain = data;

	(void) connection;
	if (is_ours(domain, which) && startswith(alias, ALIAS_PREFIX))
		domain->handler->device(domain->data, alias, false);
}

/* As VIR_DOMAIN_EVENT_CALLBACK, by way of the type that stands for all functions. */
#define ANY_CALLBACK(fn) ((virConnectDomainEventGenericCallback) (void (*)(void))(fn))

static bool listen_to(struct domain *domain)
{
	static const struct {
		int event;
		virConnectDomainEventGenericCallback callback;
	} events[] = {
		{VIR_DOMAIN_EVENT_ID_LIFECYCLE, ANY_CALLBACK(on_lifecycle)},
		{VIR_DOMAIN_EVENT_ID_REBOOT, ANY_CALLBACK(on_reboot)},
		{VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, ANY_CALLBACK(on_removed)},
		{VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED, ANY_CALLBACK(on_refused)},
	};
	_Static_assert(ARRAY_SIZE(events) == ARRAY_SIZE(domain->callbacks), "one each");

	/* Of all domains: ours may not be defined yet. */
	for (size_t i = 0; i < ARRAY_SIZE(events); i++) {
		domain->callbacks[i] =
			virConnectDomainEventRegisterAny(domain->connection, NULL, events[i].event,
							 events[i].callback, domain, NULL);
		if (domain->callbacks[i] < 0)
			return false;
	}
	return virConnectRegisterCloseCallback(domain->connection, on_close, domain, NULL) == 0;
}

/* libvirt's words for the last error, which are libvirt's. */
static void describe_error(char *detail, size_t size)
{
	const char *message = virGetLastErrorMessage();

	snprintf(detail, size, "libvirt: %s", message ? message : "no reason given");
}

static bool connection_open(struct domain *domain, char *detail, size_t size)
{
	if (domain->connection && virConnectIsAlive(domain->connection) == 1)
		return true;
	connection_drop(domain);
	domain->connection = virConnectOpen(domain->uri);
	domain->is_settled = false;
	if (domain->connection && listen_to(domain)) {
		/* Not every driver can; the local one closes its socket when it ends. */
		(void) virConnectSetKeepAlive(domain->connection, KEEPALIVE_SECONDS,
					      KEEPALIVE_COUNT);
		retry_stop(domain);
		return true;
	}
	describe_error(detail, size);
	connection_drop(domain);
	retry_start(domain);
	return false;
}

/* What it is doing */

static bool is_active(int state)
{
	return state != VIR_DOMAIN_SHUTOFF && state != VIR_DOMAIN_CRASHED &&
	       state != VIR_DOMAIN_NOSTATE;
}

typedef int (*reader)(const char *xml, char ***ret_aliases, size_t *ret_n);

static int read_aliases(virDomainPtr found, reader read, struct domain_view *view)
{
	char *xml = virDomainGetXMLDesc(found, 0);
	int r = xml ? read(xml, &view->aliases, &view->n_aliases) : -EIO;

	free(xml);
	return r;
}

/* Has libvirt write down what it knows of the domain, by taking away a note that is not there. It
 * does so when what it does for the domain is done. Returns 0, or -1: not within 30 s, say. */
static int save_status(virDomainPtr found)
{
	return virDomainSetMetadata(found, VIR_DOMAIN_METADATA_ELEMENT, NULL, NULL, NO_NOTES_URI,
				    VIR_DOMAIN_AFFECT_LIVE);
}

/* What a former connection has asked for is done all the same, however long QEMU takes, and is in
 * no XML before: the first look waits for that. Returns whether nothing is under way any more. */
static bool await_requests(struct domain *domain, virDomainPtr found)
{
	if (!domain->is_settled && save_status(found) < 0 &&
	    virGetLastErrorCode() == VIR_ERR_OPERATION_TIMEOUT)
		return false;
	domain->is_settled = true;
	return true;
}

static void look_at(struct domain *domain, virDomainPtr found, struct domain_view *view)
{
	int state, reason;

	if (virDomainGetState(found, &state, &reason, 0) < 0) {
		view->condition = DOMAIN_UNREACHABLE;
		describe_error(view->detail, sizeof(view->detail));
	} else if (!is_active(state)) {
		view->condition = DOMAIN_OFF;
		snprintf(view->detail, sizeof(view->detail),
			 "libvirt's domain %.100s is not running", domain->name);
	} else if (!await_requests(domain, found) ||
		   read_aliases(found, device_xml_aliases, view) < 0) {
		view->condition = DOMAIN_UNREACHABLE;
		describe_error(view->detail, sizeof(view->detail));
	} else {
		view->condition = DOMAIN_RUNNING;
		view->run = (int) virDomainGetID(found);
	}
}

static void look_for(struct domain *domain, struct domain_view *view)
{
	virDomainPtr found = domain_find(domain);

	if (found) {
		look_at(domain, found, view);
		virDomainFree(found);
	} else if (virGetLastErrorCode() == VIR_ERR_NO_DOMAIN) {
		view->condition = DOMAIN_ABSENT;
		snprintf(view->detail, sizeof(view->detail),
			 "libvirt has no domain %.80s (%.80s); virsh list --all shows what there "
			 "is",
			 domain->name, domain->uri);
	} else {
		view->condition = DOMAIN_UNREACHABLE;
		describe_error(view->detail, sizeof(view->detail));
	}
}

void domain_look(struct domain *domain, struct domain_view *ret_view)
{
	*ret_view = (struct domain_view){.condition = DOMAIN_UNREACHABLE, .run = -1};
	if (connection_open(domain, ret_view->detail, sizeof(ret_view->detail)))
		look_for(domain, ret_view);
	if (ret_view->condition == DOMAIN_UNREACHABLE)
		retry_start(domain);
}

void domain_view_finish(struct domain_view *view)
{
	for (size_t i = 0; i < view->n_aliases; i++)
		free(view->aliases[i]);
	free(view->aliases);
	view->aliases = NULL;
	view->n_aliases = 0;
}

/* Its devices */

/* What a person must change before it can work; everything else may pass. */
static bool is_final(int code)
{
	switch (code) {
	case VIR_ERR_XML_ERROR:
	case VIR_ERR_XML_DETAIL:
	case VIR_ERR_XML_INVALID_SCHEMA:
	case VIR_ERR_NO_SUPPORT:
	case VIR_ERR_CONFIG_UNSUPPORTED:
	case VIR_ERR_OPERATION_UNSUPPORTED:
	case VIR_ERR_OPERATION_DENIED:
	case VIR_ERR_AUTH_FAILED:
	case VIR_ERR_ACCESS_DENIED:
	case VIR_ERR_INVALID_ARG:
		return true;
	default: /* libvirt has a hundred more, and adds to them */
		return false;
	}
}

static enum domain_outcome outcome_of_error(char *detail, size_t size)
{
	describe_error(detail, size);
	return is_final(virGetLastErrorCode()) ? DOMAIN_FAILED : DOMAIN_RETRY;
}

/* Is ALIAS one of those that READ finds in the domain now? Returns 1, 0, or -1 when that can't be
 * told. */
static int has_alias(virDomainPtr found, reader read, const char *alias)
{
	struct domain_view view = {0};

	if (read_aliases(found, read, &view) < 0)
		return -1;
	bool has = false;

	for (size_t i = 0; i < view.n_aliases; i++)
		has = has || streq(view.aliases[i], alias);
	domain_view_finish(&view);
	return has;
}

/* libvirt has attached it; where it had gone meanwhile, it comes out again at once: QEMU would take
 * any other device in its place that it may open. */
static enum domain_outcome check_attached(virDomainPtr found, const char *alias, char *detail,
					  size_t size)
{
	int is_missing = has_alias(found, device_xml_missing, alias);

	*detail = 0;
	if (is_missing <= 0)
		return is_missing < 0 ? DOMAIN_UNKNOWN : DOMAIN_OK;
	(void) virDomainDetachDeviceAlias(found, alias, VIR_DOMAIN_AFFECT_LIVE);
	snprintf(detail, size, "libvirt has not found it any more");
	return DOMAIN_RETRY;
}

/* A former request, whose answer nobody heard, may have done it. */
static enum domain_outcome attach_found(virDomainPtr found, const char *alias, const char *xml,
					char *detail, size_t size)
{
	if (virDomainAttachDeviceFlags(found, xml, VIR_DOMAIN_AFFECT_LIVE) == 0)
		return check_attached(found, alias, detail, size);
	enum domain_outcome outcome = outcome_of_error(detail, size);

	int has = has_alias(found, device_xml_aliases, alias);
	if (has < 0)
		return DOMAIN_UNKNOWN;
	return has == 0 ? outcome : check_attached(found, alias, detail, size);
}

enum domain_outcome domain_attach(struct domain *domain, const char *alias, const char *xml,
				  char *detail, size_t size)
{
	enum domain_outcome outcome = DOMAIN_RETRY; /* it may be defined yet */
	virDomainPtr found;

	*detail = 0;
	if (!connection_open(domain, detail, size))
		return DOMAIN_RETRY;
	found = domain_find(domain);
	if (!found) {
		describe_error(detail, size);
		return outcome;
	}
	outcome = attach_found(found, alias, xml, detail, size);
	virDomainFree(found);
	return outcome;
}

/* Where QEMU had the device no more at the request, libvirt forgets it and does not write that down
 * (qemuDomainDetachDeviceAlias() in its qemu_driver.c, 9.0 and 11.3). From its next start on it
 * would take it for the domain's again: refuse it to others, and reset it, whoever uses it, when
 * the domain ends. */
static void save_leave(virDomainPtr found, const char *alias)
{
	if (has_alias(found, device_xml_aliases, alias) == 0)
		(void) save_status(found);
}

/* What libvirt says of a device that is not there differs from version to version, so the domain's
 * own list decides. */
static enum domain_outcome detach_found(virDomainPtr found, const char *alias, char *detail,
					size_t size)
{
	if (virDomainDetachDeviceAlias(found, alias, VIR_DOMAIN_AFFECT_LIVE) == 0) {
		save_leave(found, alias);
		return DOMAIN_PENDING;
	}
	enum domain_outcome outcome = outcome_of_error(detail, size);

	if (virDomainIsActive(found) == 0 || has_alias(found, device_xml_aliases, alias) == 0) {
		*detail = 0;
		return DOMAIN_GONE;
	}
	/* QEMU's words for a guest that was asked before. */
	if (strstr(detail, "in the process of unplug") || strstr(detail, "guest is busy")) {
		*detail = 0;
		return DOMAIN_PENDING;
	}
	return outcome;
}

enum domain_outcome domain_detach(struct domain *domain, const char *alias, char *detail,
				  size_t size)
{
	enum domain_outcome outcome;
	virDomainPtr found;

	*detail = 0;
	if (!connection_open(domain, detail, size))
		return DOMAIN_RETRY;
	found = domain_find(domain);
	if (found)
		outcome = detach_found(found, alias, detail, size);
	else if (virGetLastErrorCode() == VIR_ERR_NO_DOMAIN)
		outcome = DOMAIN_GONE;
	else
		outcome = outcome_of_error(detail, size);
	if (found)
		virDomainFree(found);
	return outcome;
}
