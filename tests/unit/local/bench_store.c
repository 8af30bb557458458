/* How long the store takes with 10,000 sandboxes: `meson test --benchmark`. A table, no verdict. */
#include "common/bytes.h"
#include "common/json.h"
#include "local/local.h"

#include <ftw.h>
#include <stdio.h>
#include <time.h>

#define OBJECTS 10000
#define GETS    1000000
#define LISTS   200
#define PATCHES 2000

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void report(const char *what, double from, int n) {
    double took = now_ms() - from;
    printf("%-28s %9.1f ms %12.3f us each %12.0f /s\n", what, took, took * 1e3 / n, n / took * 1e3);
}

static int remove_entry(const char *path, const struct stat *st, int flag, struct FTW *ftw) {
    return remove(path);
}

static bool fail(const struct error *err) {
    fprintf(stderr, "%s\n", err->message);
    return false;
}

static bool run(const char *dir) {
    struct error err = {0};
    struct store *store = local_store_open(dir, &err);
    if (store == NULL) return fail(&err);
    char name[32];
    double from = now_ms();
    for (int i = 0; i < OBJECTS; i++) {
        snprintf(name, sizeof(name), "box-%d", i * 7919 % OBJECTS);
        cleanup_json json_t *json = json_pack(
            "{s:{s:s,s:s,s:{s:s},s:[s]},s:{s:s,s:{s:s,s:s},s:{s:s,s:s}}}", "metadata", "name", name,
            "namespace", i % 2 ? "team-a" : "team-b", "labels", "team", "a", "finalizers",
            "agenttier.io/sandbox-cleanup", "spec", "mode", "code", "templateRef", "name", "general-coding",
            "kind", "ClusterSandboxTemplate", "createdBy", "sub", "idp|1", "email", "rosa@example.org");
        if (!store->ops->create(store, KIND_SANDBOX, json, NULL, &err)) return fail(&err);
    }
    report("create", from, OBJECTS);
    from = now_ms();
    for (int i = 0; i < PATCHES; i++) {
        snprintf(name, sizeof(name), "box-%d", i * 7919 % OBJECTS);
        cleanup_json json_t *patch = json_pack("{s:{s:i}}", "status", "restartCount", i + 1);
        if (!store->ops->patch(store, KIND_SANDBOX, STORE_STATUS, i % 2 ? "team-a" : "team-b", name, patch,
                               NULL, NULL, &err)) {
            return fail(&err);
        }
    }
    report("patch of status", from, PATCHES);
    from = now_ms();
    for (int i = 0; i < GETS; i++) {
        snprintf(name, sizeof(name), "box-%d", i % OBJECTS);
        object_unref(store->ops->get(store, KIND_SANDBOX, i % 2 ? "team-a" : "team-b", name));
    }
    report("get", from, GETS);
    from = now_ms();
    for (int i = 0; i < LISTS; i++) {
        cleanup_object_list struct object_list all = store->ops->list(store, KIND_SANDBOX, NULL);
        if (all.count != OBJECTS) return false;
    }
    report("list of all", from, LISTS);
    from = now_ms();
    local_store_close(store);
    store = local_store_open(dir, &err);
    if (store == NULL) return fail(&err);
    report("close and open", from, 1);
    local_store_close(store);
    return true;
}

int main(void) {
    char dir[] = "/tmp/store-bench-XXXXXX";
    if (mkdtemp(dir) == NULL) return 1;
    bool ok = run(dir);
    nftw(dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
    return ok ? 0 : 1;
}
