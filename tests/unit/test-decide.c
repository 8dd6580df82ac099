/* The one decision, as a table: a row for every cell that matters of device state × wish × VM state
 * × group × move × family × held. Nothing else is needed: decide is pure. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "broker/decide.h"

#define NOW 1000000
#define LATER 700 /* ms after NOW */

/* Facts about the device. */
#define GONE (1u << 0)        /* unplugged */
#define UNCLAIMED (1u << 1)   /* no rule wants it */
#define HELD (1u << 2)        /* was plugged in already */
#define ASKED (1u << 3)       /* the VMM has not answered yet */
#define REQUEST (1u << 4)     /* nor has the worker */
#define OPENED (1u << 5)      /* the worker has opened it */
#define SLOW (1u << 6)        /* the attempt began long ago */
#define GAVE_UP (1u << 7)     /* it will not heal by waiting */
#define NOT_YET (1u << 8)     /* it is to be tried LATER */
#define UNVERIFIED (1u << 9)  /* attached on record only */
#define LENT (1u << 10)       /* without a fence, and taken from the host before */
#define CHECK (1u << 11)      /* its VM says that it has it */
#define LOOKED (1u << 12)     /* at its IOMMU group */
#define DRIVER (1u << 13)     /* a host driver had it */
#define STRANGER (1u << 14)   /* one that no rule claims is in its IOMMU group */
#define ALONE (1u << 15)      /* pciIommuSkipIfShared */
#define FAMILY (1u << 16)     /* its family was in vm2 */
#define OF_GROUP (1u << 17)   /* OTHER is of its IOMMU group */
#define BEFORE (1u << 18)     /* OTHER's rule comes before its own */
#define OTHER_SLOW (1u << 19) /* OTHER's attempt began long ago */
#define OTHER_BACK (1u << 20) /* OTHER is being given back to the host */
#define COLD_IN_1 (1u << 21)  /* vm1 says that it has had it since its start */
#define COLD_IN_2 (1u << 22)  /* so says vm2 */
#define COLD (1u << 23)       /* it is where it is for that reason */
#define AWAY (1u << 24)       /* taken out by hand */
#define ASKS (1u << 25)       /* nobody has chosen one of its VMs */
#define CHOSEN_2 (1u << 26)   /* somebody has chosen vm2 */
#define BACK (1u << 27)       /* it has been given back to the host */
#define NOT_BACK (1u << 28)   /* that has failed, and is to be tried LATER */
#define AWAITED (1u << 29)    /* OTHER's VM is about to be started with it */
#define FENCED (1u << 30)     /* its rule keeps the host from it */
#define AHEAD (1u << 31)      /* made ready for its VM's start */
#define LEAVING (1ull << 32)  /* a former broker has asked for it */
#define KEPT (1ull << 33)     /* its VM keeps it until it ends */
#define BRIDGE (1ull << 34)   /* one with a driver of the host's is in its IOMMU group */

struct row {
	const char *what;
	const char *vms; /* vm1, vm2: u up, d down, p being asked, q asked again, - not there */
	enum device_state state;
	uint64_t facts;
	const char *wants, *in; /* NULL: vm1; nowhere */
	const char *from, *failed;
	enum device_kind kind;
	/* another PCI device */
	enum device_state other;
	const char *other_wants, *other_in;
	/* the decision */
	enum step step;
	const char *to, *says;
	uint64_t again;
};

#define USB(...)                                \
	{                                       \
		__VA_ARGS__, .kind = DEVICE_USB \
	}
#define PCI(...)                                \
	{                                       \
		__VA_ARGS__, .kind = DEVICE_PCI \
	}
#define EVDEV(...)                                \
	{                                         \
		__VA_ARGS__, .kind = DEVICE_EVDEV \
	}

/* clang-format off */
static const struct row rows[] = {
	/* Nowhere: unwanted */
	USB("gone", "uu", DEVICE_WAITING, GONE, .step = STEP_DROP),
	USB("gone while refused", "uu", DEVICE_REFUSED, GONE | NOT_YET, .step = STEP_DROP),
	USB("gone after it failed", "uu", DEVICE_FAILED, GONE | GAVE_UP, .step = STEP_DROP),
	USB("gone while held", "uu", DEVICE_HELD, GONE | HELD, .step = STEP_DROP),
	USB("gone while its VM is down", "dd", DEVICE_WAITING, GONE, .step = STEP_DROP),
	USB("gone without a VM", "--", DEVICE_FAILED, GONE, .step = STEP_DROP),
	USB("unclaimed", "uu", DEVICE_WAITING, UNCLAIMED, .step = STEP_RETURN),
	USB("unclaimed while refused", "uu", DEVICE_REFUSED, UNCLAIMED | NOT_YET, .step = STEP_RETURN),
	USB("unclaimed after it failed", "du", DEVICE_FAILED, UNCLAIMED | GAVE_UP, .step = STEP_RETURN),
	USB("unclaimed while held", "uu", DEVICE_HELD, UNCLAIMED | HELD, .step = STEP_RETURN),
	USB("unclaimed at its fence", "uu", DEVICE_WAITING, UNCLAIMED | REQUEST, .step = STEP_REST),
	USB("claimed again on its way back", "uu", DEVICE_WAITING, REQUEST, .step = STEP_REST),
	USB("claimed again, given back before", "uu", DEVICE_WAITING, BACK | NOT_BACK, .step = STEP_OPEN, .to = "vm1"),
	USB("is the host's again", "uu", DEVICE_WAITING, UNCLAIMED | BACK, .step = STEP_DROP),
	USB("the host can't have it yet", "uu", DEVICE_WAITING, UNCLAIMED | NOT_BACK, .step = STEP_REST, .again = LATER),
	USB("gone before the host had it", "uu", DEVICE_WAITING, GONE | NOT_BACK | REQUEST, .step = STEP_DROP),
	EVDEV("an event node unclaimed", "uu", DEVICE_WAITING, UNCLAIMED, .step = STEP_RETURN),
	PCI("a card unclaimed", "uu", DEVICE_WAITING, UNCLAIMED, .step = STEP_RETURN),
	PCI("its group is in a VM", "uu", DEVICE_WAITING, UNCLAIMED | OF_GROUP, .other = DEVICE_ATTACHED, .other_wants = "vm1", .other_in = "vm1", .step = STEP_RETURN, .says = "0000:00:1f.1 of its IOMMU group is vm1's", .again = 2000),
	PCI("another group is in a VM", "uu", DEVICE_WAITING, UNCLAIMED, .other = DEVICE_ATTACHED, .other_wants = "vm1", .other_in = "vm1", .step = STEP_RETURN),
	PCI("its group is made ready for a VM", "du", DEVICE_WAITING, UNCLAIMED | OF_GROUP | AWAITED, .other = DEVICE_WAITING, .other_wants = "vm1", .step = STEP_RETURN, .says = "of its IOMMU group is", .again = 2000),
	PCI("of its group another one is refused", "du", DEVICE_WAITING, UNCLAIMED | OF_GROUP | AWAITED, .other = DEVICE_REFUSED, .other_wants = "vm1", .step = STEP_RETURN),
	PCI("so it was, and nobody wants it any more", "du", DEVICE_WAITING, UNCLAIMED | OF_GROUP | AWAITED, .other = DEVICE_WAITING, .other_wants = "", .step = STEP_RETURN),
	PCI("a card gone", "uu", DEVICE_WAITING, GONE, .step = STEP_DROP),
	EVDEV("an event node gone", "uu", DEVICE_WAITING, GONE, .step = STEP_DROP),

	/* Nowhere: held */
	USB("held", "uu", DEVICE_WAITING, HELD, .step = STEP_HOLD, .says = "attachConnected = no"),
	USB("held, its VM is down", "du", DEVICE_WAITING, HELD, .step = STEP_HOLD, .says = "plug it in again"),
	USB("held, no such VM", "--", DEVICE_WAITING, HELD, .step = STEP_HOLD, .says = "plugged in already"),
	PCI("a card held", "uu", DEVICE_WAITING, HELD, .step = STEP_HOLD, .says = "plugged in already"),
	USB("not held any more", "uu", DEVICE_HELD, 0, .step = STEP_OPEN, .to = "vm1"),
	USB("not held any more, its VM is down", "du", DEVICE_HELD, 0, .step = STEP_WAIT, .to = "vm1", .says = "vm1 is down"),

	/* Nowhere: the VM */
	USB("its VM is up", "uu", DEVICE_WAITING, 0, .step = STEP_OPEN, .to = "vm1"),
	USB("its VM is down", "du", DEVICE_WAITING, 0, .step = STEP_WAIT, .to = "vm1", .says = "vm1 is down"),
	USB("its VM is being asked", "pu", DEVICE_WAITING, 0, .step = STEP_WAIT, .to = "vm1", .says = "its VM is being asked"),
	USB("its VM is asked again", "qu", DEVICE_WAITING, 0, .step = STEP_WAIT, .to = "vm1", .says = "vm1 is down"),
	USB("its VM is not in the config", "-u", DEVICE_WAITING, 0, .step = STEP_FAIL, .says = "no VM \"vm1\""),
	USB("none of many", "--", DEVICE_WAITING, 0, .wants = "a-vm-of-a-long-name-1,a-vm-of-a-long-name-2,a-vm-of-a-long-name-3,a-vm-of-a-long-name-4", .step = STEP_FAIL, .says = "no VM \"a-vm"),
	USB("none is", "--", DEVICE_WAITING, 0, .wants = "vm1,vm2", .step = STEP_FAIL, .says = "no VM \"vm1,vm2\""),
	USB("a name that begins alike", "uu", DEVICE_WAITING, 0, .wants = "vm12,vm", .step = STEP_FAIL, .says = "run vhotplug-gen-rules"),
	USB("its VM is in the config again", "uu", DEVICE_FAILED, 0, .step = STEP_OPEN, .to = "vm1"),
	USB("first of two", "uu", DEVICE_WAITING, 0, .wants = "vm1,vm2", .step = STEP_OPEN, .to = "vm1"),
	USB("second of two", "du", DEVICE_WAITING, 0, .wants = "vm1,vm2", .step = STEP_OPEN, .to = "vm2"),
	USB("in the order of the wish", "uu", DEVICE_WAITING, 0, .wants = "vm2,vm1", .step = STEP_OPEN, .to = "vm2"),
	USB("the first may be up in a moment", "pu", DEVICE_WAITING, 0, .wants = "vm1,vm2", .step = STEP_WAIT, .to = "vm1", .says = "its VM is being asked"),
	USB("the first was not there a moment ago", "qu", DEVICE_WAITING, 0, .wants = "vm1,vm2", .step = STEP_OPEN, .to = "vm2"),
	USB("the first is not in the config", "-u", DEVICE_WAITING, 0, .wants = "vm1,vm2", .step = STEP_OPEN, .to = "vm2"),
	USB("both are down", "dd", DEVICE_WAITING, 0, .wants = "vm1,vm2", .step = STEP_WAIT, .to = "vm1", .says = "vm1 is down"),
	USB("the second is being asked", "dp", DEVICE_WAITING, 0, .wants = "vm1,vm2", .step = STEP_WAIT, .to = "vm2", .says = "its VM is being asked"),
	USB("the first is missing, the second down", "-d", DEVICE_WAITING, 0, .wants = "vm1,vm2", .step = STEP_WAIT, .to = "vm2", .says = "vm2 is down"),
	EVDEV("an event node", "uu", DEVICE_WAITING, 0, .step = STEP_OPEN, .to = "vm1"),
	EVDEV("an event node, its VM is down", "du", DEVICE_WAITING, 0, .step = STEP_WAIT, .to = "vm1", .says = "vm1 is down"),

	/* Nowhere: families */
	USB("its family was in vm2", "uu", DEVICE_WAITING, FAMILY, .wants = "vm1,vm2", .step = STEP_OPEN, .to = "vm2"),
	USB("its family was in vm2, which is down", "ud", DEVICE_WAITING, FAMILY, .wants = "vm1,vm2", .step = STEP_WAIT, .to = "vm2", .says = "vm2 is down"),
	USB("its family was in vm2, which is gone", "u-", DEVICE_WAITING, FAMILY, .wants = "vm1,vm2", .step = STEP_FAIL, .says = "no VM \"vm2\""),
	USB("its family is in its place", "uu", DEVICE_ATTACHED, FAMILY, .wants = "vm1,vm2", .in = "vm2", .step = STEP_REST),

	/* Nowhere: after something went wrong */
	USB("refused a moment ago", "uu", DEVICE_REFUSED, NOT_YET, .step = STEP_REST, .again = LATER),
	USB("refused, and it is time", "uu", DEVICE_REFUSED, 0, .step = STEP_OPEN, .to = "vm1"),
	USB("refused, its VM is down", "du", DEVICE_REFUSED, NOT_YET, .step = STEP_WAIT, .to = "vm1", .says = "vm1 is down"),
	USB("failed for good", "uu", DEVICE_FAILED, GAVE_UP, .step = STEP_REST),
	USB("failed for good, its VM is down", "du", DEVICE_FAILED, GAVE_UP, .step = STEP_WAIT, .to = "vm1", .says = "vm1 is down"),
	USB("failed for good, waiting since", "uu", DEVICE_WAITING, GAVE_UP, .step = STEP_REST),
	USB("backs off", "uu", DEVICE_WAITING, NOT_YET, .step = STEP_REST, .again = LATER),
	USB("backs off, no such VM any more", "-u", DEVICE_WAITING, NOT_YET, .step = STEP_FAIL, .says = "no VM"),
	USB("backs off, with another candidate", "du", DEVICE_WAITING, NOT_YET, .wants = "vm1,vm2", .step = STEP_REST, .again = LATER),
	PCI("a card backs off", "uu", DEVICE_WAITING, NOT_YET | LOOKED, .step = STEP_REST, .again = LATER),
	EVDEV("an event node backs off", "uu", DEVICE_WAITING, NOT_YET, .step = STEP_REST, .again = LATER),

	/* Moves */
	USB("moves on", "uu", DEVICE_WAITING, 0, .wants = "vm2", .from = "vm1", .step = STEP_OPEN, .to = "vm2"),
	USB("moves to one that is down", "ud", DEVICE_WAITING, 0, .wants = "vm2", .from = "vm1", .step = STEP_WAIT, .to = "vm2", .says = "vm2 is down"),
	USB("waits where it is to move to", "uu", DEVICE_WAITING, NOT_YET, .wants = "vm2", .from = "vm1", .step = STEP_REST, .again = LATER),
	USB("goes back", "uu", DEVICE_WAITING, 0, .wants = "vm2", .from = "vm1", .failed = "vm2", .step = STEP_OPEN, .to = "vm1"),
	USB("goes back after it was refused", "uu", DEVICE_REFUSED, 0, .wants = "vm2", .from = "vm1", .failed = "vm2", .step = STEP_OPEN, .to = "vm1"),
	USB("goes back after it failed", "uu", DEVICE_FAILED, 0, .wants = "vm2", .from = "vm1", .failed = "vm2", .step = STEP_OPEN, .to = "vm1"),
	USB("goes back to one that has ended", "du", DEVICE_WAITING, 0, .wants = "vm2", .from = "vm1", .failed = "vm2", .step = STEP_WAIT, .to = "vm1", .says = "vm1 is down"),
	USB("goes back to none", "-u", DEVICE_WAITING, 0, .wants = "vm2", .from = "vm1", .failed = "vm2", .step = STEP_FAIL, .says = "no VM"),
	USB("is back", "uu", DEVICE_ATTACHED, 0, .wants = "vm2", .in = "vm1", .from = "vm1", .failed = "vm2", .step = STEP_REST),
	USB("went elsewhere than back", "uu", DEVICE_ATTACHED, 0, .wants = "vm2", .in = "vm2", .from = "vm1", .failed = "vm2", .step = STEP_TAKE),
	USB("opens elsewhere than back", "uu", DEVICE_OPENING, REQUEST, .wants = "vm2", .in = "vm2", .from = "vm1", .failed = "vm2", .step = STEP_ABANDON),
	USB("is back, and may be tried again", "uu", DEVICE_ATTACHED, 0, .wants = "vm2", .in = "vm1", .from = "vm1", .step = STEP_TAKE),
	USB("is back, and unplugged", "uu", DEVICE_ATTACHED, GONE, .wants = "vm2", .in = "vm1", .from = "vm1", .failed = "vm2", .step = STEP_TAKE),
	USB("is back, and unclaimed", "uu", DEVICE_ATTACHED, UNCLAIMED, .wants = "vm2", .in = "vm1", .from = "vm1", .failed = "vm2", .step = STEP_TAKE),
	PCI("a card goes back", "uu", DEVICE_WAITING, LOOKED, .wants = "vm2", .from = "vm1", .failed = "vm2", .step = STEP_OPEN, .to = "vm1"),

	/* PCI: the group */
	PCI("a card is looked at first", "uu", DEVICE_WAITING, 0, .step = STEP_LOOK, .to = "vm1"),
	PCI("and then opened", "uu", DEVICE_WAITING, LOOKED, .step = STEP_OPEN, .to = "vm1"),
	PCI("a stranger in the group", "uu", DEVICE_WAITING, LOOKED | STRANGER, .step = STEP_REFUSE, .to = "vm1", .says = "IOMMU group 7 also holds 0000:00:1f.9"),
	PCI("a bridge to no bus of PCI's in the group", "uu", DEVICE_WAITING, LOOKED | BRIDGE, .step = STEP_REFUSE, .to = "vm1", .says = "holds the bridge 0000:00:1f.0 (LPC, lpc_ich), which is never given away; unbind it"),
	PCI("refused for the group, looks again", "uu", DEVICE_REFUSED, 0, .step = STEP_LOOK, .to = "vm1"),
	PCI("refused for the group a moment ago", "uu", DEVICE_REFUSED, NOT_YET, .step = STEP_REST, .again = LATER),
	PCI("a stranger, but the VM is down", "du", DEVICE_WAITING, LOOKED | STRANGER, .step = STEP_WAIT, .to = "vm1", .says = "vm1 is down"),
	PCI("the rest of the group waits as well", "uu", DEVICE_WAITING, LOOKED | OF_GROUP, .other = DEVICE_WAITING, .other_wants = "vm1", .step = STEP_OPEN, .to = "vm1"),
	PCI("the rest of the group is there", "uu", DEVICE_WAITING, LOOKED | OF_GROUP, .other = DEVICE_ATTACHED, .other_wants = "vm1", .other_in = "vm1", .step = STEP_OPEN, .to = "vm1"),
	PCI("the rest of the group goes elsewhere", "uu", DEVICE_WAITING, LOOKED | OF_GROUP, .other = DEVICE_WAITING, .other_wants = "vm2", .step = STEP_REFUSE, .to = "vm1", .says = "for vm2); say pciIommuAddAll"),
	PCI("the rest of the group is the host's", "uu", DEVICE_WAITING, LOOKED | OF_GROUP, .other = DEVICE_WAITING, .other_wants = "", .step = STEP_REFUSE, .to = "vm1", .says = "for the host"),
	PCI("alone, and it is", "uu", DEVICE_WAITING, LOOKED | ALONE, .step = STEP_OPEN, .to = "vm1"),
	PCI("alone, with a stranger", "uu", DEVICE_WAITING, LOOKED | ALONE | STRANGER, .step = STEP_REFUSE, .to = "vm1", .says = "left alone (pciIommuSkipIfShared): it shares IOMMU group 7"),
	PCI("alone, with one that goes along", "uu", DEVICE_WAITING, LOOKED | ALONE | OF_GROUP, .other = DEVICE_WAITING, .other_wants = "vm1", .step = STEP_REFUSE, .to = "vm1", .says = "left alone"),
	PCI("another card of another group", "uu", DEVICE_WAITING, LOOKED | ALONE, .other = DEVICE_WAITING, .other_wants = "vm2", .step = STEP_OPEN, .to = "vm1"),
	PCI("of two VMs the one that has the group", "uu", DEVICE_WAITING, LOOKED | OF_GROUP, .wants = "vm1,vm2", .other = DEVICE_ATTACHED, .other_wants = "vm1,vm2", .other_in = "vm2", .step = STEP_OPEN, .to = "vm2"),
	PCI("the one that gets the group", "uu", DEVICE_WAITING, LOOKED | OF_GROUP, .wants = "vm1,vm2", .other = DEVICE_ATTACHING, .other_wants = "vm1,vm2", .other_in = "vm2", .step = STEP_OPEN, .to = "vm2"),
	PCI("not the one that the group leaves", "uu", DEVICE_WAITING, LOOKED | OF_GROUP, .wants = "vm1,vm2", .other = DEVICE_DETACHING, .other_wants = "vm2", .other_in = "vm2", .step = STEP_REFUSE, .to = "vm1", .says = "also holds"),
	PCI("nor one it may not go to", "uu", DEVICE_WAITING, LOOKED | OF_GROUP, .wants = "vm1", .other = DEVICE_ATTACHED, .other_wants = "vm2", .other_in = "vm2", .step = STEP_REFUSE, .to = "vm1", .says = "also holds"),
	USB("a group is nothing to a stick", "uu", DEVICE_WAITING, STRANGER | OF_GROUP, .other = DEVICE_ATTACHED, .other_wants = "vm2", .other_in = "vm2", .step = STEP_OPEN, .to = "vm1"),

	/* PCI: the others first */
	PCI("the group has not left its VM", "uu", DEVICE_WAITING, LOOKED | OF_GROUP, .wants = "vm2", .other = DEVICE_RELEASING, .other_wants = "vm2", .other_in = "vm1", .step = STEP_WAIT, .to = "vm2", .says = "of its IOMMU group is still in vm1", .again = 2000),
	PCI("the group leaves its VM", "uu", DEVICE_WAITING, LOOKED | OF_GROUP, .wants = "vm2", .other = DEVICE_DETACHING, .other_wants = "vm2", .other_in = "vm1", .step = STEP_WAIT, .to = "vm2", .says = "still in vm1", .again = 2000),
	PCI("the group is being given back", "uu", DEVICE_WAITING, LOOKED | OF_GROUP | OTHER_BACK, .other = DEVICE_REFUSED, .other_wants = "vm1", .step = STEP_WAIT, .to = "vm1", .says = "0000:00:1f.1 of its IOMMU group is just being given back", .again = 2000),
	PCI("another group is being given back", "uu", DEVICE_WAITING, LOOKED | OTHER_BACK, .other = DEVICE_REFUSED, .other_wants = "vm1", .step = STEP_OPEN, .to = "vm1"),
	PCI("its rule comes later", "uu", DEVICE_WAITING, LOOKED | BEFORE, .other = DEVICE_OPENING, .other_wants = "vm1", .other_in = "vm1", .step = STEP_WAIT, .to = "vm1", .says = "its turn comes after 0000:00:1f.1", .again = 200),
	PCI("its rule comes later, the other attaches", "uu", DEVICE_WAITING, LOOKED | BEFORE, .other = DEVICE_ATTACHING, .other_wants = "vm1", .other_in = "vm1", .step = STEP_WAIT, .to = "vm1", .says = "its turn", .again = 200),
	PCI("the other is there", "uu", DEVICE_WAITING, LOOKED | BEFORE, .other = DEVICE_ATTACHED, .other_wants = "vm1", .other_in = "vm1", .step = STEP_OPEN, .to = "vm1"),
	PCI("the other is stuck", "uu", DEVICE_WAITING, LOOKED | BEFORE | OTHER_SLOW, .other = DEVICE_OPENING, .other_wants = "vm1", .other_in = "vm1", .step = STEP_OPEN, .to = "vm1"),
	PCI("the other waits, too", "uu", DEVICE_WAITING, LOOKED | BEFORE, .other = DEVICE_WAITING, .other_wants = "vm1", .step = STEP_OPEN, .to = "vm1"),
	PCI("its rule comes first", "uu", DEVICE_WAITING, LOOKED, .other = DEVICE_OPENING, .other_wants = "vm1", .other_in = "vm1", .step = STEP_OPEN, .to = "vm1"),
	PCI("the other goes elsewhere", "uu", DEVICE_WAITING, LOOKED | BEFORE, .other = DEVICE_OPENING, .other_wants = "vm2", .other_in = "vm2", .step = STEP_OPEN, .to = "vm1"),
	PCI("its group is being taken", "uu", DEVICE_WAITING, LOOKED | OF_GROUP, .other = DEVICE_OPENING, .other_wants = "vm1", .other_in = "vm1", .step = STEP_WAIT, .to = "vm1", .says = "its turn comes after", .again = 200),
	PCI("its group has been taken", "uu", DEVICE_WAITING, LOOKED | OF_GROUP, .other = DEVICE_ATTACHING, .other_wants = "vm1", .other_in = "vm1", .step = STEP_OPEN, .to = "vm1"),
	PCI("a VMM with a list does not mind", "uu", DEVICE_WAITING, LOOKED, .other = DEVICE_RELEASING, .other_wants = "", .other_in = "vm1", .step = STEP_OPEN, .to = "vm1"),
	USB("a stick waits for no card", "uu", DEVICE_WAITING, BEFORE, .other = DEVICE_OPENING, .other_wants = "vm1", .other_in = "vm1", .step = STEP_OPEN, .to = "vm1"),

	/* Opening */
	USB("opens", "uu", DEVICE_OPENING, REQUEST, .in = "vm1", .step = STEP_REST, .again = 3000),
	USB("is opened", "uu", DEVICE_OPENING, OPENED, .in = "vm1", .step = STEP_GIVE, .to = "vm1"),
	USB("is opened for one that has ended", "du", DEVICE_OPENING, OPENED, .in = "vm1", .step = STEP_END, .to = "vm1", .says = "vm1 is down"),
	USB("is opened for one that is asked anew", "pu", DEVICE_OPENING, OPENED, .in = "vm1", .step = STEP_END, .to = "vm1", .says = "its VM has ended"),
	USB("opens for one that has ended", "du", DEVICE_OPENING, REQUEST, .in = "vm1", .step = STEP_REST, .again = 3000),
	USB("opens, gone", "uu", DEVICE_OPENING, REQUEST | GONE, .in = "vm1", .step = STEP_ABANDON),
	USB("is opened, gone", "uu", DEVICE_OPENING, OPENED | GONE, .in = "vm1", .step = STEP_ABANDON),
	USB("opens, unclaimed", "uu", DEVICE_OPENING, REQUEST | UNCLAIMED, .in = "vm1", .step = STEP_ABANDON),
	USB("opens, and is to go elsewhere", "uu", DEVICE_OPENING, REQUEST, .wants = "vm2", .in = "vm1", .step = STEP_ABANDON),
	USB("opens on its way back", "uu", DEVICE_OPENING, REQUEST, .wants = "vm2", .in = "vm1", .from = "vm1", .failed = "vm2", .step = STEP_REST, .again = 3000),
	USB("opens for long", "uu", DEVICE_OPENING, REQUEST | SLOW, .in = "vm1", .step = STEP_TELL, .to = "vm1", .says = "the device does not respond"),
	PCI("its driver does not let go", "uu", DEVICE_OPENING, REQUEST | SLOW | DRIVER, .in = "vm1", .step = STEP_TELL, .to = "vm1", .says = "the host's driver e1000e to let go"),
	USB("opens for long, gone", "uu", DEVICE_OPENING, REQUEST | SLOW | GONE, .in = "vm1", .step = STEP_ABANDON),
	USB("is opened after long", "uu", DEVICE_OPENING, OPENED | SLOW, .in = "vm1", .step = STEP_GIVE, .to = "vm1"),

	/* Attaching */
	USB("the VMM is asked", "uu", DEVICE_ATTACHING, ASKED, .in = "vm1", .step = STEP_TELL, .says = "asking its VMM"),
	USB("the VMM does not answer", "qu", DEVICE_ATTACHING, ASKED, .in = "vm1", .step = STEP_TELL, .says = "vm1 is down"),
	USB("the VMM is asked, gone", "uu", DEVICE_ATTACHING, ASKED | GONE, .in = "vm1", .step = STEP_TELL, .says = "asking its VMM"),
	USB("the VMM is asked, unclaimed", "uu", DEVICE_ATTACHING, ASKED | UNCLAIMED, .in = "vm1", .step = STEP_TELL, .says = "asking its VMM"),
	USB("the VMM has it", "uu", DEVICE_ATTACHING, 0, .in = "vm1", .step = STEP_VERIFY),
	USB("the VMM has it, gone", "uu", DEVICE_ATTACHING, GONE, .in = "vm1", .step = STEP_VERIFY),
	USB("a host driver is told to let go", "uu", DEVICE_ATTACHING, REQUEST, .in = "vm1", .step = STEP_REST),
	USB("a host driver has not let go", "uu", DEVICE_ATTACHING, NOT_YET, .in = "vm1", .step = STEP_REST, .again = LATER),
	PCI("a card in the VMM", "uu", DEVICE_ATTACHING, 0, .in = "vm1", .step = STEP_VERIFY),
	PCI("the kernel is asked about a card", "uu", DEVICE_ATTACHING, REQUEST, .in = "vm1", .step = STEP_REST),

	/* Attached */
	USB("in its place", "uu", DEVICE_ATTACHED, 0, .in = "vm1", .step = STEP_REST),
	USB("in its place, the second of two", "uu", DEVICE_ATTACHED, 0, .wants = "vm1,vm2", .in = "vm2", .step = STEP_REST),
	USB("gone from its VM's host", "uu", DEVICE_ATTACHED, GONE, .in = "vm1", .step = STEP_TAKE),
	USB("unclaimed in its VM", "uu", DEVICE_ATTACHED, UNCLAIMED, .in = "vm1", .step = STEP_TAKE),
	USB("wanted elsewhere", "uu", DEVICE_ATTACHED, 0, .wants = "vm2", .in = "vm1", .step = STEP_TAKE),
	USB("wanted elsewhere, which is down", "ud", DEVICE_ATTACHED, 0, .wants = "vm2", .in = "vm1", .step = STEP_TAKE),
	USB("wanted nowhere we know", "u-", DEVICE_ATTACHED, 0, .wants = "vm2", .in = "vm1", .step = STEP_TAKE),
	USB("its VM has left the config", "-u", DEVICE_ATTACHED, 0, .in = "vm1", .step = STEP_TAKE),
	USB("its VM does not answer now", "qu", DEVICE_ATTACHED, 0, .in = "vm1", .step = STEP_REST),
	USB("on record only", "pu", DEVICE_ATTACHED, UNVERIFIED, .in = "vm1", .step = STEP_REST),
	USB("on record only, gone", "pu", DEVICE_ATTACHED, UNVERIFIED | GONE, .in = "vm1", .step = STEP_REST),
	USB("on record only, wanted elsewhere", "pu", DEVICE_ATTACHED, UNVERIFIED, .wants = "vm2", .in = "vm1", .step = STEP_REST),
	PCI("a former broker has asked for it", "uu", DEVICE_ATTACHED, LEAVING, .in = "vm1", .step = STEP_TAKE),
	PCI("so it has, and it is on record only", "pu", DEVICE_ATTACHED, LEAVING | UNVERIFIED, .in = "vm1", .step = STEP_REST),
	USB("it has not left at once", "uu", DEVICE_ATTACHED, GONE | NOT_YET, .in = "vm1", .step = STEP_REST, .again = LATER),
	USB("its VM says that it has it", "uu", DEVICE_ATTACHED, CHECK, .in = "vm1", .step = STEP_VERIFY),
	USB("its VM says so, gone", "uu", DEVICE_ATTACHED, CHECK | GONE, .in = "vm1", .step = STEP_TAKE),
	USB("it is looked at", "uu", DEVICE_ATTACHED, CHECK | REQUEST, .in = "vm1", .step = STEP_REST),
	USB("held means nothing there", "uu", DEVICE_ATTACHED, HELD, .in = "vm1", .step = STEP_REST),
	PCI("a card wanted elsewhere", "uu", DEVICE_ATTACHED, 0, .wants = "vm2", .in = "vm1", .step = STEP_TAKE),
	PCI("a card whose group is elsewhere", "uu", DEVICE_ATTACHED, OF_GROUP, .wants = "vm1,vm2", .in = "vm1", .other = DEVICE_ATTACHED, .other_wants = "vm2", .other_in = "vm2", .step = STEP_REST),

	/* What a VM has had since its start */
	USB("its VM has it", "uu", DEVICE_WAITING, COLD_IN_1, .step = STEP_ADOPT, .to = "vm1"),
	PCI("its VM has the card", "uu", DEVICE_WAITING, COLD_IN_1, .step = STEP_ADOPT, .to = "vm1"),
	EVDEV("its VM has the event node", "uu", DEVICE_WAITING, COLD_IN_1, .step = STEP_ADOPT, .to = "vm1"),
	USB("its VM has it, whatever has failed", "uu", DEVICE_FAILED, COLD_IN_1 | GAVE_UP, .step = STEP_ADOPT, .to = "vm1"),
	USB("its VM has it, and it was plugged in already", "uu", DEVICE_HELD, COLD_IN_1 | HELD, .step = STEP_ADOPT, .to = "vm1"),
	USB("its VM has it, the fence is on its way", "uu", DEVICE_WAITING, COLD_IN_1 | REQUEST, .step = STEP_REST),
	USB("its VM had it", "du", DEVICE_WAITING, COLD_IN_1, .step = STEP_WAIT, .to = "vm1", .says = "vm1 is down"),
	USB("the second of two has it, the first is down", "du", DEVICE_WAITING, COLD_IN_2, .wants = "vm1,vm2", .step = STEP_ADOPT, .to = "vm2"),
	USB("the second of two says so, the first is up", "uu", DEVICE_WAITING, COLD_IN_2, .wants = "vm1,vm2", .step = STEP_OPEN, .to = "vm1"),
	USB("one has it that it is not for", "uu", DEVICE_WAITING, COLD_IN_2, .step = STEP_OPEN, .to = "vm1"),
	USB("nobody has chosen, and one has it", "uu", DEVICE_CHOOSE, COLD_IN_2 | ASKS, .wants = "vm1,vm2", .step = STEP_ADOPT, .to = "vm2"),
	USB("somebody has chosen the other one", "uu", DEVICE_WAITING, COLD_IN_1 | CHOSEN_2, .wants = "vm1,vm2", .step = STEP_OPEN, .to = "vm2"),
	USB("taken out by hand, and there again", "uu", DEVICE_DETACHED, COLD_IN_1 | AWAY, .step = STEP_ADOPT, .to = "vm1"),
	USB("taken out by hand, where it was never to be", "uu", DEVICE_WAITING, COLD_IN_2 | AWAY, .step = STEP_KEEP_OUT, .says = "by hand"),
	USB("it may stay", "uu", DEVICE_ATTACHED, COLD_IN_1 | COLD, .in = "vm1", .step = STEP_REST),
	USB("it may stay in the second", "uu", DEVICE_ATTACHED, COLD_IN_2 | COLD, .wants = "vm1,vm2", .in = "vm2", .step = STEP_REST),
	USB("it may stay until somebody chooses", "uu", DEVICE_ATTACHED, COLD_IN_2 | COLD | ASKS, .wants = "vm1,vm2", .in = "vm2", .step = STEP_REST),
	USB("somebody has chosen another", "uu", DEVICE_ATTACHED, COLD_IN_1 | COLD | ASKS | CHOSEN_2, .wants = "vm1,vm2", .in = "vm1", .step = STEP_TAKE),
	USB("taken out by hand at its VM's start", "uu", DEVICE_ATTACHED, COLD_IN_1 | COLD | AWAY, .in = "vm1", .step = STEP_TAKE),
	USB("no rule wants it any more", "uu", DEVICE_ATTACHED, COLD_IN_1 | COLD | UNCLAIMED, .in = "vm1", .step = STEP_TAKE),
	PCI("the guest has let go of it", "uu", DEVICE_WAITING, COLD | LOOKED, .step = STEP_OPEN, .to = "vm1"),

	/* Detaching and releasing */
	USB("leaves", "uu", DEVICE_DETACHING, ASKED, .in = "vm1", .step = STEP_TELL, .says = "leaving vm1"),
	USB("leaves, and the VMM does not answer", "qu", DEVICE_DETACHING, ASKED, .in = "vm1", .step = STEP_TELL, .says = "vm1 is down"),
	USB("leaves, and is wanted again", "uu", DEVICE_DETACHING, ASKED, .in = "vm1", .step = STEP_TELL, .says = "leaving"),
	PCI("the guest is asked", "uu", DEVICE_RELEASING, ASKED, .in = "vm1", .step = STEP_REST),
	PCI("the guest is asked, the VMM is silent", "qu", DEVICE_RELEASING, ASKED, .in = "vm1", .step = STEP_TELL, .says = "vm1 is down"),
	PCI("the guest has its time", "uu", DEVICE_RELEASING, NOT_YET, .in = "vm1", .step = STEP_REST, .again = LATER),
	PCI("the guest is asked again", "uu", DEVICE_RELEASING, 0, .in = "vm1", .step = STEP_REPEAT),
	PCI("the kernel is asked whether it is out", "uu", DEVICE_RELEASING, REQUEST, .in = "vm1", .step = STEP_REST),
	EVDEV("an event node is asked for again", "uu", DEVICE_RELEASING, GONE, .in = "vm1", .step = STEP_REPEAT),
	PCI("its VM keeps it", "uu", DEVICE_RELEASING, KEPT | UNCLAIMED, .in = "vm1", .step = STEP_REST),
	PCI("its VM keeps it, of no use", "uu", DEVICE_RELEASING, KEPT, .in = "vm1", .step = STEP_REST),
	PCI("its VM keeps it from its start", "uu", DEVICE_RELEASING, KEPT | COLD | AWAY, .in = "vm1", .step = STEP_REST),
	PCI("so it does, and it is wanted there again", "uu", DEVICE_RELEASING, KEPT | COLD, .in = "vm1", .step = STEP_VERIFY),
	EVDEV("an event node that its VM keeps is gone", "uu", DEVICE_RELEASING, KEPT | COLD | GONE, .in = "vm1", .step = STEP_REPEAT),
};
/* clang-format on */

struct scene {
	struct registry registry;
	struct vm vms[2];
	struct device device, other;
};

static void set_vm(struct vm *vm, const char *name, char how)
{
	snprintf(vm->name, sizeof(vm->name), "%s", name);
	vm->state = how == 'u' ? VM_UP : how == 'p' || how == 'q' ? VM_PROBING : VM_DOWN;
	if (how == 'd' || how == 'q')
		snprintf(vm->reason, sizeof(vm->reason), "%s is down", name);
}

static struct vm *vm_called(struct scene *s, const char *name)
{
	return !name ? NULL : streq(name, "vm1") ? &s->vms[0] : &s->vms[1];
}

static void set_vms(struct scene *s, const char *how)
{
	struct vm **at = &s->registry.vms;

	for (size_t i = 0; i < 2; i++) {
		set_vm(&s->vms[i], i == 0 ? "vm1" : "vm2", how[i]);
		if (how[i] == '-')
			continue;
		*at = &s->vms[i];
		at = &s->vms[i].next;
	}
}

static void set_place(struct scene *s, struct device *d, const char *in)
{
	d->place.vm = vm_called(s, in);
	kept_set(&d->record.vm, in ? in : "");
}

static void set_attempt(struct device *d, uint64_t facts)
{
	struct device_attempt *attempt = &d->attempt;

	attempt->began = facts & SLOW ? NOW - 3000 : NOW;
	attempt->vmm_asked = facts & ASKED;
	attempt->request = facts & REQUEST ? 17 : 0;
	attempt->opened = facts & OPENED;
	attempt->gave_up = facts & GAVE_UP;
	attempt->not_before = facts & NOT_YET ? NOW + LATER : 0;
	attempt->back.is_done = facts & BACK;
	attempt->back.not_before = facts & NOT_BACK ? NOW + LATER : 0;
	attempt->check = facts & CHECK;
	attempt->taken = facts & LENT;
	attempt->is_ahead = facts & AHEAD;
	attempt->group.looked = facts & LOOKED;
	if (facts & STRANGER)
		kept_set(&attempt->group.strangers, "0000:00:1f.9 (Some card, snd_hda_intel)");
	if (facts & BRIDGE)
		kept_set(&attempt->group.bridge, "0000:00:1f.0 (LPC, lpc_ich)");
	if (facts & DRIVER)
		kept_set(&attempt->host_driver, "e1000e");
}

static struct cold cold = {.kernel_name = "0000:00:1f.0"};

static void set_cold(struct scene *s, const struct row *row)
{
	cold.kind = row->kind;
	for (size_t i = 0; i < 2; i++)
		if (row->facts & (i == 0 ? COLD_IN_1 : COLD_IN_2))
			s->vms[i].cold = (struct cold_list){&cold, 1};
	s->device.place.is_cold = row->facts & COLD;
	s->device.wish.away = row->facts & AWAY ? AWAY_DETACHED : AWAY_NOT;
	kept_set(&s->device.wish.chosen, row->facts & CHOSEN_2 ? "vm2" : "");
}

static void set_device(struct scene *s, const struct row *row)
{
	struct device *d = &s->device;
	struct device_move *move = &d->attempt.move;

	d->id.kind = row->kind;
	d->id.group = row->kind == DEVICE_PCI ? 7 : -1;
	kept_set(&d->id.kernel_name, "0000:00:1f.0");
	d->wish.present = !(row->facts & GONE);
	d->wish.held = row->facts & HELD;
	d->wish.fence = row->facts & FENCED;
	d->wish.unfenced = row->facts & LENT;
	d->wish.order = 5;
	d->wish.options = (row->facts & ALONE ? OPTION_IOMMU_SKIP_IF_SHARED : 0) |
			  (row->facts & ASKS ? OPTION_ASK : 0);
	kept_set(&d->wish.rule, row->facts & UNCLAIMED ? "" : "usb/g/r");
	kept_set(&d->wish.vms, row->facts & FAMILY ? "vm2" : row->wants ? row->wants : "vm1");
	kept_set(&d->record.reason, "as it was");
	d->record.state = row->state;
	set_place(s, d, row->in);
	d->place.unverified = row->facts & UNVERIFIED;
	d->place.was_leaving = row->facts & LEAVING;
	d->attempt.until_end = row->facts & KEPT;
	set_attempt(d, row->facts);
	kept_set(&move->from, row->from ? row->from : "");
	kept_set(&move->failed, row->failed ? row->failed : "");
}

static void set_other(struct scene *s, const struct row *row)
{
	struct device *d = &s->other;

	d->id.kind = DEVICE_PCI;
	d->id.group = row->facts & OF_GROUP ? 7 : 8;
	kept_set(&d->id.kernel_name, "0000:00:1f.1");
	d->wish.present = true;
	d->wish.order = row->facts & BEFORE ? 4 : 6;
	d->wish.prepare = row->facts & AWAITED;
	d->attempt.back.is_asked = row->facts & OTHER_BACK;
	kept_set(&d->wish.rule, row->other_wants[0] ? "pci/g/r" : "");
	kept_set(&d->wish.vms, row->other_wants);
	d->record.state = row->other;
	d->attempt.began = row->facts & OTHER_SLOW ? NOW - 3001 : NOW;
	set_place(s, d, row->other_in);
	s->device.next = d;
}

static void set_scene(struct scene *s, const struct row *row)
{
	memset(s, 0, sizeof(*s));
	device_init(&s->device);
	device_init(&s->other);
	set_vms(s, row->vms);
	set_device(s, row);
	set_cold(s, row);
	if (row->other_wants)
		set_other(s, row);
	s->registry.devices = &s->device;
	s->registry.started = true;
}

static void test_rows(void **state)
{
	(void) state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		const struct row *row = &rows[i];
		struct scene s;

		set_scene(&s, row);
		struct decision d = decide(&s.registry, &s.device, NOW);
		if (d.step != row->step || (row->to && d.vm != vm_called(&s, row->to)) ||
		    (row->says && !strstr(d.reason, row->says)) || d.again_ms != row->again)
			fail_msg("%s: %s %s in %llu ms (%s), not %s %s in %llu ms (%s)", row->what,
				 decide_step_name(d.step), d.vm ? d.vm->name : "",
				 (unsigned long long) d.again_ms, d.reason,
				 decide_step_name(row->step), row->to ? row->to : "",
				 (unsigned long long) row->again, row->says ? row->says : "");
	}
	assert_true(ARRAY_SIZE(rows) >= 100);
}

/* What has been told once is not told again: otherwise the pass would never end. */
static void test_told_once(void **state)
{
	size_t n = 0;

	(void) state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		const struct row *row = &rows[i];
		struct scene s;

		set_scene(&s, row);
		struct decision d = decide(&s.registry, &s.device, NOW), again;
		if (d.step != STEP_TELL && d.step != STEP_WAIT && d.step != STEP_HOLD &&
		    d.step != STEP_FAIL && !(d.step == STEP_RETURN && *d.reason))
			continue;
		kept_set(&s.device.record.reason, d.reason);
		s.device.attempt.back.is_done = d.step == STEP_HOLD;
		if (d.vm && d.step == STEP_WAIT)
			kept_set(&s.device.record.vm, d.vm->name);
		else if (d.step == STEP_FAIL)
			kept_set(&s.device.record.vm, s.device.wish.vms);
		if (d.step != STEP_TELL)
			s.device.record.state = d.step == STEP_HOLD   ? DEVICE_HELD
						: d.step == STEP_FAIL ? DEVICE_FAILED
								      : DEVICE_WAITING;
		again = decide(&s.registry, &s.device, NOW);
		if (again.step != STEP_REST || again.again_ms != d.again_ms)
			fail_msg("%s: %s (%s) again", row->what, decide_step_name(again.step),
				 again.reason);
		n++;
	}
	assert_true(n > 20);
}

/* What the rules have set aside, and nobody is to get, is given back: once, and not before it is
 * known whether a VM has had it since its start. */
static void test_held_is_given_back(void **state)
{
	static const struct row held[] = {
		USB("fenced", "dd", DEVICE_WAITING, HELD | FENCED, .step = STEP_RETURN),
		USB("fenced, its VM is up", "uu", DEVICE_WAITING, HELD | FENCED,
		    .step = STEP_RETURN),
		USB("fenced, its VM is being asked", "pu", DEVICE_WAITING, HELD | FENCED,
		    .step = STEP_REST),
		USB("fenced, its VM does not answer", "qu", DEVICE_WAITING, HELD | FENCED,
		    .step = STEP_RETURN),
		USB("not fenced", "uu", DEVICE_WAITING, HELD, .step = STEP_REST),
		PCI("a card", "uu", DEVICE_WAITING, HELD, .step = STEP_RETURN),
		EVDEV("an event node", "uu", DEVICE_WAITING, HELD, .step = STEP_REST),
	};

	(void) state;
	for (size_t i = 0; i < ARRAY_SIZE(held); i++) {
		struct scene s;

		set_scene(&s, &held[i]);
		struct decision d = decide(&s.registry, &s.device, NOW);
		assert_int_equal(d.step, STEP_HOLD);
		kept_set(&s.device.record.reason, d.reason);
		s.device.record.state = DEVICE_HELD;
		d = decide(&s.registry, &s.device, NOW);
		if (d.step != held[i].step)
			fail_msg("%s: %s", held[i].what, decide_step_name(d.step));
		s.device.attempt.back.not_before = NOW + LATER;
		d = decide(&s.registry, &s.device, NOW);
		assert_int_equal(d.step, STEP_REST);
		assert_int_equal(d.again_ms, held[i].step == STEP_RETURN ? LATER : 0);
		s.device.attempt.back = (struct device_back){.is_done = true};
		assert_int_equal(decide(&s.registry, &s.device, NOW).step, STEP_REST);
	}
}

/* What DEVICE of ROW is to do once people have been told what there is to tell. */
static struct decision decide_when_told(struct scene *s, const struct row *row)
{
	set_scene(s, row);
	struct decision d = decide(&s->registry, &s->device, NOW);
	if (!*d.reason)
		return d;
	kept_set(&s->device.record.reason, d.reason);
	if (d.step == STEP_WAIT)
		kept_set(&s->device.record.vm, d.vm->name);
	else if (d.step == STEP_FAIL)
		kept_set(&s->device.record.vm, s->device.wish.vms);
	return decide(&s->registry, &s->device, NOW);
}

/* Without a fence, what a VM has had, or could not take, is the host's again, unless it is about to
 * go to one. */
static void test_lent_is_given_back(void **state)
{
	static const struct row lent[] = {
		USB("its VM is down", "du", DEVICE_WAITING, LENT, .step = STEP_RETURN),
		USB("fenced", "du", DEVICE_WAITING, FENCED, .step = STEP_FENCE),
		USB("neither", "du", DEVICE_WAITING, 0, .step = STEP_REST),
		USB("its VM may be up in a moment", "pu", DEVICE_WAITING, LENT, .step = STEP_REST),
		USB("its VM does not answer", "qu", DEVICE_WAITING, LENT, .step = STEP_RETURN),
		USB("no such VM", "--", DEVICE_FAILED, LENT, .step = STEP_RETURN),
		USB("on its way", "du", DEVICE_WAITING, LENT | REQUEST, .step = STEP_REST),
		USB("that has failed", "du", DEVICE_WAITING, LENT | NOT_BACK, .step = STEP_REST,
		    .again = LATER),
		USB("failed for good", "uu", DEVICE_FAILED, LENT | GAVE_UP, .step = STEP_RETURN),
		USB("tried in a moment", "uu", DEVICE_WAITING, LENT | NOT_YET, .step = STEP_REST,
		    .again = LATER),
		USB("tried now", "uu", DEVICE_WAITING, LENT, .step = STEP_OPEN),
		USB("taken out by hand", "uu", DEVICE_DETACHED, LENT | AWAY, .step = STEP_RETURN),
		PCI("a card", "du", DEVICE_WAITING, LENT, .step = STEP_RETURN),
		PCI("its group is in a VM", "du", DEVICE_WAITING, LENT | OF_GROUP,
		    .other = DEVICE_ATTACHED, .other_wants = "vm2", .other_in = "vm2",
		    .step = STEP_REST),
		PCI("ready for its VM's start", "du", DEVICE_WAITING, LENT | AHEAD,
		    .step = STEP_REST),
		PCI("ready, and taken out by hand", "du", DEVICE_DETACHED, LENT | AHEAD | AWAY,
		    .step = STEP_RETURN),
	};

	(void) state;
	for (size_t i = 0; i < ARRAY_SIZE(lent); i++) {
		struct scene s;
		struct decision d = decide_when_told(&s, &lent[i]);

		if (d.step != lent[i].step || d.again_ms != lent[i].again)
			fail_msg("%s: %s in %llu ms", lent[i].what, decide_step_name(d.step),
				 (unsigned long long) d.again_ms);
		if (d.step != STEP_RETURN)
			continue;
		/* Its VM may start anew; what people have taken out is the host's at once. */
		s.device.attempt.started = NOW;
		d = decide(&s.registry, &s.device, NOW);
		assert_int_equal(d.step, lent[i].facts & AWAY ? STEP_RETURN : STEP_REST);
		assert_int_equal(d.again_ms, lent[i].facts & AWAY ? 0 : 5000);
	}
}

/* Whatever the facts: who is not wanted never gets further into a VM. */
static void test_unwanted_goes_nowhere(void **state)
{
	(void) state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		for (unsigned unwanted = GONE; unwanted <= UNCLAIMED; unwanted <<= 1) {
			struct row row = rows[i];
			struct scene s;

			row.facts |= unwanted;
			set_scene(&s, &row);
			struct decision d = decide(&s.registry, &s.device, NOW);
			if (d.step == STEP_OPEN || d.step == STEP_GIVE || d.step == STEP_LOOK ||
			    d.step == STEP_WAIT)
				fail_msg("%s, unwanted: %s", row.what, decide_step_name(d.step));
		}
}

/* Only one that is up is ever asked to take a device. */
static void test_only_to_one_that_is_up(void **state)
{
	static const char *const others[] = {"dd", "pp", "qq", "--"};

	(void) state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		for (size_t k = 0; k < ARRAY_SIZE(others); k++) {
			struct row row = rows[i];
			struct scene s;

			row.vms = others[k];
			set_scene(&s, &row);
			struct decision d = decide(&s.registry, &s.device, NOW);
			if (d.step == STEP_OPEN || d.step == STEP_GIVE)
				fail_msg("%s, VMs %s: %s", row.what, row.vms,
					 decide_step_name(d.step));
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rows),
		cmocka_unit_test(test_told_once),
		cmocka_unit_test(test_held_is_given_back),
		cmocka_unit_test(test_lent_is_given_back),
		cmocka_unit_test(test_unwanted_goes_nowhere),
		cmocka_unit_test(test_only_to_one_that_is_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
