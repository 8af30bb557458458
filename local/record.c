/* The engine's record of a sandbox, as a file. */
#include "local/record.h"

#include "common/json.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define RECORD_MAX 65536

static json_t *identity_json(struct process_id id) {
    return json_pack("{s:i, s:I}", "pid", (int)id.pid, "start", (json_int_t)id.start);
}

static struct process_id identity_of(const json_t *object) {
    return (struct process_id){.pid = (pid_t)json_integer_value(json_object_get(object, "pid")),
                               .start = (uint64_t)json_integer_value(json_object_get(object, "start"))};
}

static void from_json(const json_t *root, struct record *out) {
    snprintf(out->boot_id, sizeof out->boot_id, "%s", json_str_at(root, "bootId"));
    out->monitor = identity_of(json_object_get(root, "monitor"));
    out->init = identity_of(json_object_get(root, "init"));
    const json_t *uid = json_object_get(root, "hostUid");
    out->own_user = json_is_integer(uid);
    out->host_uid = (uid_t)json_integer_value(uid);
    out->initialized = json_is_true(json_object_get(root, "initialized"));
    snprintf(out->runtime, sizeof out->runtime, "%s", json_str_at(root, "runtime"));
    snprintf(out->etc, sizeof out->etc, "%s", json_str_at(root, "etc"));
    snprintf(out->image, sizeof out->image, "%s", json_str_at(root, "image"));
    snprintf(out->stopping, sizeof out->stopping, "%s", json_str_at(root, "stopping"));
    snprintf(out->snapshot, sizeof out->snapshot, "%s", json_str_at(root, "snapshot"));
    const json_t *groups = json_object_get(root, "cgroups");
    for (size_t i = 0; i < json_array_size(groups) && out->cgroup_count < CGROUP_MAX; i++) {
        const char *path = json_string_value(json_array_get(groups, i));
        if (path) out->cgroups[out->cgroup_count++] = xstrdup(path);
    }
}

/* The owner of the workspace is the truth about the user id when the file is gone. */
static void from_workspace(const char *dir, struct record *out) {
    cleanup_free char *path = xasprintf("%s/workspace", dir);
    struct stat st;
    if (stat(path, &st) != 0 || st.st_uid == geteuid()) return;
    out->own_user = true;
    out->host_uid = st.st_uid;
    out->initialized = true;
}

bool record_load(const char *dir, struct record *out, struct error *err) {
    *out = (struct record){0};
    cleanup_free char *path = xasprintf("%s/state.json", dir);
    cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno != ENOENT) {
        error_set_errno(err, errno, "opening %s", path);
        return false;
    }
    cleanup_buffer struct buffer text = {.limit = RECORD_MAX};
    char part[4096];
    ssize_t n = 0;
    while (fd >= 0 && (n = read(fd, part, sizeof part)) > 0)
        if (!buffer_append(&text, part, (size_t)n)) break;
    cleanup_json json_t *root = json_parse_object(buffer_slice(&text), NULL);
    if (root)
        from_json(root, out);
    else
        from_workspace(dir, out);
    return true;
}

bool record_save(const char *dir, const struct record *r, struct error *err) {
    cleanup_json json_t *groups = json_array();
    for (size_t i = 0; i < r->cgroup_count; i++)
        json_array_append_new(groups, json_string(r->cgroups[i]));
    cleanup_json json_t *root =
        json_pack("{s:s, s:o, s:o, s:b, s:s, s:s, s:s, s:s, s:s, s:O}", "bootId", r->boot_id, "monitor",
                  identity_json(r->monitor), "init", identity_json(r->init), "initialized", r->initialized,
                  "runtime", r->runtime, "etc", r->etc, "image", r->image, "stopping", r->stopping,
                  "snapshot", r->snapshot, "cgroups", groups);
    if (root && r->own_user) json_object_set_new(root, "hostUid", json_integer(r->host_uid));
    if (!root) {
        error_set(err, 500, ERR_INTERNAL, "the record of a sandbox cannot be written as JSON");
        return false;
    }
    size_t len;
    cleanup_free char *text = json_dump_line(root, &len);
    cleanup_free char *path = xasprintf("%s/state.json", dir), *fresh = xasprintf("%s/state.json.new", dir);
    cleanup_close int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 || write(fd, text, len) != (ssize_t)len || rename(fresh, path) != 0) {
        error_set_errno(err, errno, "writing %s", path);
        return false;
    }
    return true;
}

void record_clear(struct record *r) {
    for (size_t i = 0; i < r->cgroup_count; i++)
        free(r->cgroups[i]);
    *r = (struct record){0};
}

void record_set_cgroups(struct record *r, const struct cgroup_set *set) {
    for (size_t i = 0; i < r->cgroup_count; i++)
        free(r->cgroups[i]);
    r->cgroup_count = set->count;
    for (size_t i = 0; i < set->count; i++)
        r->cgroups[i] = xstrdup(set->paths[i]);
}
