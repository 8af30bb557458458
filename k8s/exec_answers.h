/* What the scripts of pods/exec answer (k8s/exec_scripts.h). It comes from inside a sandbox: nothing is
 * believed that was not checked here, as in backend/runtime_wire.h. Pure. */
#pragma once

#include "backend/access.h"

/* The code after "!", as an error of backend/access.h. */
void exec_refusal(const char *code, const char *path, struct error *err);
/* A script that ended with `exit_code` and these last words of its tools. */
void exec_complaint(struct slice words, int exit_code, const char *path, struct error *err);

/* "MODE SIZE MTIME REST": the head of a file; REST goes into its etag. */
bool exec_file(const char *line, struct access_head *out);

/* Names, attributes and targets, each list ended by an empty name. `listed`: children of `path`, as
 * {path, entries}; else the one entry of `path`, as for ACCESS_STAT. New reference; NULL: 502. */
json_t *exec_entries(struct slice answer, const char *path, bool listed, struct error *err);

/* "CODE TIMED_OUT KILLED MS SIZE SIZE" of a kept command, or "CODE" of another. */
struct exec_ended {
    int code;
    bool timed_out, killed;
    int64_t ms; /* -1: not told */
    uint64_t size[2];
};
bool exec_ended(const char *fields, struct exec_ended *out);
