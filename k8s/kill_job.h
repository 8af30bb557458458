/* Ends the processes of a command in a pod by a second exec: TERM, 2 s, KILL to the whole tree, verified
 * (lessons I1, I2, I3). It lives by itself on the loop and is retried, because the reason for it may be
 * that the apiserver was away. */
#pragma once

#include "k8s/config.h"
#include "k8s/pod_place.h"

#include <stdbool.h>
#include <uv.h>

struct kill_job;
/* `gone`: nothing is left. Not called after kill_job_forget. */
typedef void kill_job_fn(void *ctx, bool gone);

/* `done` may be NULL. The job frees itself. */
struct kill_job *kill_job_start(struct k8s_config *config, uv_loop_t *loop, const struct pod_place *place,
                                long long pid, long long start_time, kill_job_fn *done, void *ctx);
void kill_job_forget(struct kill_job *job); /* it goes on; nobody is told */
