/* Rules and config, and which is ahead: see edition.h. Called by the manager. */
#include "broker/edition.h"

#include "broker/log.h"

enum edition_age edition_compare(const struct edition *edition, const struct config *config,
				 property_fn property, void *from)
{
	const char *digest = property(from, "VHOTPLUG_CONFIG");

	if (!digest || streq(digest, config->digest))
		return EDITION_OURS;
	return edition->is_in_file && edition->is_in_file(edition->data, digest) ? EDITION_NEXT
										 : EDITION_OTHER;
}

void edition_tell(struct edition *edition, const struct config *config)
{
	if (!edition->is_told)
		log_warning("the rules in force are of another config than the broker's (%s): run "
			    "vhotplug-gen-rules, or vhotplug-mdev --all",
			    config->digest);
	edition->is_told = true;
}
