/* The pass: brings every marked device one step after the other from what is to what should be. */
#pragma once

#include "broker/registry.h"

/* Called once at the end of each pass of the loop, after intake has committed and handed out its
 * events, before the store writes: takes the marked devices in the order of their rules, asks what
 * is next (decide.h) and takes that step (handover.h), until none is marked. Tells the observer. */
void reconcile_pass(struct registry *registry);
