/* One pass over one sandbox (controller.md 2.1, 21.2). */
#include "controller/inside.h"

#include "common/log.h"

#include <stdio.h>
#include <time.h>

#define BRING_AGAIN_MS 2000

int64_t after_write(enum write_result result) {
    return result == WRITE_FAILED ? PASS_FAILED : PASS_AGAIN;
}

static int64_t by_phase(struct pass *p) {
    if (*json_str_at(p->sandbox->json, "metadata.deletionTimestamp")) return phase_deleting(p);
    if (!sandbox_has_finalizer(p->sandbox)) {
        enum write_result r = sandbox_add_finalizer(p->c->store, p->who);
        if (r != WRITE_DONE) return after_write(r);
    }
    if (!*p->phase || strcmp(p->phase, "Creating") == 0) return phase_creating(p);
    if (strcmp(p->phase, "Running") == 0) return phase_running(p);
    if (strcmp(p->phase, "Stopped") == 0) return phase_stopped(p);
    if (strcmp(p->phase, "Error") == 0) return phase_error(p);
    log_warn("a sandbox is in an unknown phase", "sandbox", p->who.name, "phase", p->phase, NULL);
    return RESYNC_MS;
}

static uint64_t nanoseconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The memory of this sandbox: an earlier one of the same name left nothing that counts. */
static struct memory *memory_of(void **kept, const char *uid) {
    struct memory *m = *kept;
    if (!m) m = *kept = xcalloc(1, sizeof *m);
    if (strcmp(m->uid, uid) != 0) {
        *m = (struct memory){0};
        snprintf(m->uid, sizeof m->uid, "%s", uid);
    }
    return m;
}

int64_t reconcile(void *ctx, const char *key, void **kept) {
    struct controller *c = ctx;
    const char *slash = strchr(key, '/');
    cleanup_free char *namespace = slice_dup(slice_make(key, (size_t)(slash - key)));
    cleanup_object struct object *o = c->store->ops->get(c->store, KIND_SANDBOX, namespace, slash + 1);
    if (!o) return PASS_FORGET;
    uint64_t begun = nanoseconds();
    struct pass p = {.c = c,
                     .memory = memory_of(kept, o->uid),
                     .sandbox = o,
                     .who = {o->namespace, o->name, o->uid},
                     .phase = json_str_at(o->json, "status.phase")};
    int64_t next = by_phase(&p);
    if (p.bring_again && (next > BRING_AGAIN_MS || next == PASS_NONE)) next = BRING_AGAIN_MS;
    atomic_fetch_add(&c->passes, 1);
    atomic_fetch_add(&c->failed_passes, next == PASS_FAILED ? 1 : 0);
    atomic_fetch_add(&c->pass_ns, nanoseconds() - begun);
    return next;
}
