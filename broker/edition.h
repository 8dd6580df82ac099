/* Which config has made udev's decision about a device: VHOTPLUG_CONFIG is that config's digest.
 * While a config is applied, udev goes by it before the broker does.
 */
#pragma once

#include "broker/loop.h"
#include "broker/udev.h"
#include "conf/config.h"

enum edition_age {
	EDITION_OURS,
	EDITION_NEXT,  /* the config file's, which the broker has not read yet */
	EDITION_OTHER, /* who knows whose */
};

struct edition {
	/* Whether DIGEST is that of the config file as it is now. NULL: there is no file. */
	bool (*is_in_file)(void *data, const char *digest);
	void *data;
	struct loop_timer limit; /* until the broker reads the file, if nobody tells it to */
	bool is_told;            /* people know of the present difference */
};

/* Whose the decision in FROM is, for a broker that goes by CONFIG. One that does not say is ours.
 */
enum edition_age edition_compare(const struct edition *edition, const struct config *config,
				 property_fn property, void *from);
/* Tells people that the rules in force are not CONFIG's, once until is_told is reset. */
void edition_tell(struct edition *edition, const struct config *config);
