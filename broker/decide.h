/* Which step is next for one device. Pure: it looks at facts and at the time it is told, at nothing
 * else, and changes nothing; asked again before anything has changed it answers the same, and after
 * the step it asks for something else, or for nothing.
 */
#pragma once

#include "broker/registry.h"

enum step {
	STEP_REST,     /* nothing, until it is marked or AGAIN_MS have passed */
	STEP_TELL,     /* say REASON, in the same state */
	STEP_RETURN,   /* no rule wants it, or it is held, or rests without a fence: give it back to
			* the host; not yet where there is a REASON */
	STEP_DROP,     /* it is the host's again, or unplugged: forget it */
	STEP_HOLD,     /* was plugged in already: leave it to the host */
	STEP_ASK,      /* several VMs may have it: wait until somebody chooses, as REASON says */
	STEP_KEEP_OUT, /* a person has taken it out, as REASON says */
	STEP_SUSPEND,  /* keep it out until resume */
	STEP_WAIT,     /* VM can't have it now, for REASON */
	STEP_FAIL,     /* there is no such VM, for REASON */
	STEP_LOOK,     /* at its IOMMU group */
	STEP_REFUSE,   /* its IOMMU group can't go to VM, for REASON */
	STEP_FENCE,    /* no VM has it: keep the host from it */
	STEP_ADOPT,    /* VM has had it since its start: it is attached */
	STEP_OPEN,     /* prepare it for VM */
	STEP_ABANDON,  /* don't wait for the worker any more: nobody wants it there */
	STEP_GIVE,     /* it is prepared: ask the VMM to take it */
	STEP_END,      /* it is prepared, and its VM can't have it any more, for REASON */
	STEP_VERIFY,   /* the VMM has it, or keeps it, and it is to be there: has the host let go
			* of it? */
	STEP_TAKE,     /* ask the VMM to let go of it */
	STEP_REPEAT,   /* ask again: the guest has not let go of it yet */
};

struct decision {
	enum step step;
	struct vm *vm; /* STEP_WAIT, STEP_REFUSE, STEP_ADOPT, STEP_OPEN: where it is to go */
	char reason[VMM_DETAIL_SIZE];
	uint64_t again_ms; /* time changes the answer after so many ms; 0: it does not */
};

/* NOW: ms, monotonic. */
struct decision decide(const struct registry *registry, const struct device *device, uint64_t now);

/* For the log and for tests. */
const char *decide_step_name(enum step step);
