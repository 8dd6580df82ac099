/* Jobs of the worker (worker.h) for one device. */
#pragma once

#include "broker/registry.h"
#include "broker/worker.h"

/* Hands out JOB with OPTIONS (WORKER_FORCE …) for DEVICE. Returns 0, or -errno as worker_send. */
int job_send(struct registry *registry, const struct device *device, enum worker_job job,
	     unsigned options, uint64_t *ret_number) _must_check_;
/* What DEVICE's rule asks for, and its VM, and what the last look has found. */
unsigned job_options(const struct registry *registry, const struct device *device);
/* Hands out JOB with these. Its answer is waited for (attempt.request). */
int job_ask(struct registry *registry, struct device *device, enum worker_job job) _must_check_;

/* For a VM's backend: has anybody the IOMMU group of DEVICE open? LOOK->seen gets the answer.
 * Returns 0, or -errno as worker_send. */
int job_look(struct registry *registry, const struct device *device,
	     struct vm_look *look) _must_check_;
void job_forget_look(struct registry *registry, struct vm_look *look);
/* Is ANSWER that to one of them? Then it has been passed on. */
bool job_note_look(struct registry *registry, const struct worker_answer *answer);
