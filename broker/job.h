/* Jobs of the worker (worker.h) for one device. */
#pragma once

#include "broker/registry.h"
#include "broker/worker.h"

/* Hands out JOB with OPTIONS (WORKER_FORCE …) for DEVICE. Returns 0, or -errno as worker_send. */
int job_send(struct registry *registry, const struct device *device, enum worker_job job,
	     unsigned options, uint64_t *ret_number) _must_check_;
/* The same with what DEVICE's rule asks for. Its answer is waited for (attempt.request). */
int job_ask(struct registry *registry, struct device *device, enum worker_job job) _must_check_;
