#include "k8s/kill_job.h"

#include "common/log.h"
#include "k8s/exec_params.h"
#include "k8s/exec_scripts.h"
#include "k8s/pod_exec.h"

#define ATTEMPTS    4
#define AGAIN_MS    1000
#define PATIENCE_MS 20000

struct kill_job {
    struct k8s_config *config;
    uv_loop_t *loop;
    struct pod_place place;
    long long pid, start_time;
    kill_job_fn *done;
    void *ctx;
    struct pod_exec *exec;
    uv_timer_t timer;
    struct buffer input, answer;
    int attempts;
    bool over;
};

static void on_closed(uv_handle_t *handle) {
    struct kill_job *job = handle->data;
    buffer_free(&job->input);
    buffer_free(&job->answer);
    free(job);
}

static void finish(struct kill_job *job, bool gone) {
    if (job->over) return;
    job->over = true;
    pod_exec_close(steal_ptr(job->exec));
    if (!gone)
        log_warn("processes of a command may be left in a pod", "namespace", job->place.namespace, "pod",
                 job->place.pod, "pid", log_int(job->pid), NULL);
    if (job->done) job->done(job->ctx, gone);
    uv_close((uv_handle_t *)&job->timer, on_closed);
}

static void attempt(struct kill_job *job);

static void on_timer(uv_timer_t *timer) {
    struct kill_job *job = timer->data;
    if (job->exec)
        finish(job, false);
    else
        attempt(job);
}

static void again(struct kill_job *job, const struct error *err) {
    pod_exec_close(steal_ptr(job->exec));
    /* No pod, no processes. */
    if (err->status == 404)
        finish(job, true);
    else if (++job->attempts < ATTEMPTS)
        uv_timer_start(&job->timer, on_timer, AGAIN_MS * (uint64_t)job->attempts, 0);
    else
        finish(job, false);
}

static void send_input(void *ctx) {
    struct kill_job *job = ctx;
    if (job->input.len)
        buffer_consume(&job->input, pod_exec_write(job->exec, job->input.data, job->input.len));
    if (job->input.len == 0) pod_exec_finish(job->exec);
}

static void on_open(void *ctx, bool can_close_stdin) {
    (void)can_close_stdin;
    struct kill_job *job = ctx;
    buffer_clear(&job->input);
    buffer_clear(&job->answer);
    exec_param_number(&job->input, job->pid);
    exec_param_number(&job->input, job->start_time);
    send_input(job);
}

static void on_data(void *ctx, int channel, const char *data, size_t len) {
    struct kill_job *job = ctx;
    if (channel == 1) buffer_append(&job->answer, data, len);
}

static void on_end(void *ctx, const struct pod_exec_outcome *outcome) {
    struct kill_job *job = ctx;
    bool gone = outcome->exit_code == 0 && slice_equal_str(buffer_slice(&job->answer), "+gone\n");
    if (gone)
        finish(job, true);
    else
        again(job, &(struct error){0});
}

static void on_error(void *ctx, const struct error *err) {
    again(ctx, err);
}

static void attempt(struct kill_job *job) {
    static const struct pod_exec_events events = {.on_open = on_open,
                                                  .on_data = on_data,
                                                  .on_writable = send_input,
                                                  .on_end = on_end,
                                                  .on_error = on_error};
    const char *command[] = {"/bin/sh", "-c", exec_script_kill, NULL};
    struct pod_exec_request request = pod_exec_at(&job->place, command);
    cleanup_error struct error err = {0};
    uv_timer_start(&job->timer, on_timer, PATIENCE_MS, 0);
    job->exec = pod_exec_open(job->config, job->loop, &request, &events, job, &err);
    if (!job->exec) again(job, &err);
}

struct kill_job *kill_job_start(struct k8s_config *config, uv_loop_t *loop, const struct pod_place *place,
                                long long pid, long long start_time, kill_job_fn *done, void *ctx) {
    struct kill_job *job = xcalloc(1, sizeof *job);
    *job = (struct kill_job){.config = config,
                             .loop = loop,
                             .place = *place,
                             .pid = pid,
                             .start_time = start_time,
                             .done = done,
                             .ctx = ctx,
                             .answer = {.limit = 65536}};
    uv_timer_init(loop, &job->timer);
    job->timer.data = job;
    uv_timer_start(&job->timer, on_timer, 0, 0); /* from the loop, so that `done` never comes from here */
    return job;
}

void kill_job_forget(struct kill_job *job) {
    if (job) job->done = NULL;
}
