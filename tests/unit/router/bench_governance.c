/* What a quota check costs with few and with 10,000 sandboxes, and what the history costs: `meson test
 * --benchmark`. A table, no verdict. */
#include "backend/history.h"
#include "common/json.h"
#include "common/units.h"
#include "local/local.h"
#include "router/quota.h"

#include <ftw.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>

#define SANDBOXES 10000
#define CHECKS    20000
#define PROMISES  500
#define ENTRIES   100000

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void report(const char *what, double from, int n) {
    double took = now_ms() - from;
    printf("%-52s %10.3f us each %12.0f /s\n", what, took * 1e3 / n, n / took * 1e3);
}

static int remove_entry(const char *path, const struct stat *st, int flag, struct FTW *ftw) {
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}

static bool fail(const struct error *err) {
    fprintf(stderr, "%s\n", err->message);
    return false;
}

/* What the check was before there were counters: a look at every sandbox of the namespace. */
static int64_t scan(struct store *store) {
    int64_t n = 0;
    cleanup_object_list struct object_list all = store->ops->list(store, KIND_SANDBOX, "team");
    for (size_t i = 0; i < all.count; i++)
        n += strcmp(json_str_at(all.items[i]->json, "spec.createdBy.sub"), "user-1") == 0;
    return n;
}

static bool fill(struct store *store, int from, int to, struct error *err) {
    for (int i = from; i < to; i++) {
        char name[32], user[32];
        snprintf(name, sizeof name, "box-%d", i);
        snprintf(user, sizeof user, "user-%d", i % 100);
        cleanup_json json_t *json =
            json_pack("{s:{s:s, s:s}, s:{s:s, s:{s:s}, s:{s:s, s:s}}}", "metadata", "name", name, "namespace",
                      "team", "spec", "mode", "code", "createdBy", "sub", user, "templateRef", "name", "t",
                      "kind", "ClusterSandboxTemplate");
        if (!store->ops->create(store, KIND_SANDBOX, json, NULL, err)) return fail(err);
    }
    return true;
}

static bool checks(struct store *store, struct quota *quota, int sandboxes, struct error *err) {
    char what[64], claim[QUOTA_CLAIM_LEN + 1];
    snprintf(what, sizeof what, "%d sandboxes: quota check", sandboxes);
    double from = now_ms();
    int64_t sum = 0;
    for (int i = 0; i < CHECKS; i++)
        sum += quota_usage(quota, "team", "user-1").total;
    report(what, from, CHECKS);
    if (sum != (int64_t)CHECKS * sandboxes) return false;
    snprintf(what, sizeof what, "%d sandboxes: the same by looking at each", sandboxes);
    from = now_ms();
    int n = sandboxes > 1000 ? 200 : CHECKS;
    for (int i = 0; i < n; i++)
        sum += scan(store);
    report(what, from, n);
    struct policy full = {.max_sandboxes_total = 1}, room = {.max_sandboxes_total = 1000000};
    snprintf(what, sizeof what, "%d sandboxes: refusal", sandboxes);
    from = now_ms();
    for (int i = 0; i < CHECKS; i++) {
        json_t *violations = NULL;
        if (quota_promise(quota, &full, "team", "user-1", false, claim, &violations, err)) return false;
        json_decref(violations);
    }
    report(what, from, CHECKS);
    snprintf(what, sizeof what, "%d sandboxes: place promised and given back", sandboxes);
    from = now_ms();
    for (int i = 0; i < PROMISES; i++) {
        json_t *violations = NULL;
        if (!quota_promise(quota, &room, "team", "user-1", false, claim, &violations, err)) return fail(err);
        quota_give_up(quota, "team", claim);
    }
    report(what, from, PROMISES);
    return true;
}

static bool bench_quota(const char *dir) {
    struct error err = {0};
    struct store *store = local_store_open(dir, &err);
    if (!store) return fail(&err);
    struct quota *quota = quota_new(store, "agenttier");
    bool ok = fill(store, 0, 10, &err) && checks(store, quota, 10, &err) &&
              fill(store, 10, SANDBOXES, &err) && checks(store, quota, SANDBOXES, &err);
    quota_free(quota);
    double from = now_ms();
    quota = quota_new(store, "agenttier");
    report("counters of 10000 sandboxes built at the start", from, SANDBOXES);
    quota_free(quota);
    local_store_close(store);
    return ok;
}

static bool query(struct history *h, const char *what, struct history_filter filter) {
    double from = now_ms();
    int n = 50;
    size_t found = 0;
    for (int i = 0; i < n; i++) {
        char *cursor = NULL;
        cleanup_json json_t *page = history_query(h, &filter, &cursor, NULL);
        found = json_array_size(page);
        free(cursor);
    }
    report(what, from, n);
    return found > 0;
}

static bool bench_history(const char *dir) {
    struct error err = {0};
    cleanup_free char *path = xasprintf("%s/history.db", dir);
    struct history_options options = {.path = path};
    struct history *h = history_open(&options, &err);
    if (!h) return fail(&err);
    double from = now_ms();
    for (int i = 0; i < ENTRIES; i++) {
        char actor[32], sandbox[32], request[32];
        snprintf(actor, sizeof actor, "user-%d", i % 100);
        snprintf(sandbox, sizeof sandbox, "box-%d", i % 1000);
        snprintf(request, sizeof request, "%016x", (unsigned)i);
        struct history_entry e = {.sandbox = sandbox,
                                  .namespace = "team",
                                  .actor = actor,
                                  .email = "ana@example.org",
                                  .action = "exec",
                                  .resource = "sandbox",
                                  .outcome = i % 1000 ? "success" : "denied",
                                  .request_id = request,
                                  .source = "192.0.2.1",
                                  .details = "{\"operation\":\"execCommand\",\"credential\":\"api-key\"}",
                                  .status = 200};
        rfc3339_format_nanos((struct timespec){.tv_sec = 1700000000 + i / 10, .tv_nsec = i % 10}, e.ts);
        history_add(h, &e, HISTORY_PATIENT);
    }
    history_flush(h, 60000);
    report("100000 entries taken and on disk", from, ENTRIES);
    from = now_ms();
    for (int i = 0; i < 1000; i++) {
        struct history_entry e = {.ts = "2023-01-01T00:00:00.000000000Z", .actor = "x"};
        history_add(h, &e, HISTORY_FULL);
    }
    report("an entry taken (what an answer waits for)", from, 1000);
    history_flush(h, 60000);
    from = now_ms();
    for (int i = 0; i < 50; i++) {
        struct history_entry e = {.ts = "2023-01-01T00:00:00.000000000Z", .actor = "x"};
        history_add(h, &e, HISTORY_FULL);
        history_flush(h, 60000);
    }
    report("one entry alone, until it is on disk", from, 50);
    bool ok = query(h, "100000 entries: newest 100", (struct history_filter){.limit = 100}) &&
              query(h, "100000 entries: of a user, newest 100",
                    (struct history_filter){.limit = 100, .actor = "user-7"}) &&
              query(h, "100000 entries: of a sandbox, newest 100",
                    (struct history_filter){.limit = 100, .sandbox = "box-7"}) &&
              query(h, "100000 entries: by request id",
                    (struct history_filter){.limit = 100, .request_id = "00000000000000ff"}) &&
              query(h, "100000 entries: denied, newest 100 (no index)",
                    (struct history_filter){.limit = 100, .outcome = "denied"});
    history_close(h);
    struct stat st;
    if (stat(path, &st) == 0)
        printf("%-52s %10.0f bytes\n", "an entry on disk, indexes included", (double)st.st_size / ENTRIES);
    return ok;
}

int main(void) {
    char dir[] = "/tmp/governance-bench-XXXXXX";
    if (mkdtemp(dir) == NULL) return 1;
    bool ok = bench_quota(dir) && bench_history(dir);
    nftw(dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
    return ok ? 0 : 1;
}
