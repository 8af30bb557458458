/* How long a list of many sandboxes takes from bytes to the cache, what it takes in memory, and what reads
 * cost then. Usage: bench_k8s_cache [COUNT] */
#include "common/json.h"
#include "k8s/cache.h"
#include "k8s/list_reader.h"

#include <malloc.h>
#include <stdio.h>
#include <time.h>

#define PIECE 16384 /* what libcurl hands over at once */

static struct cache cache;
static struct object **items;
static size_t count;

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double resident_mib(void) {
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f || fscanf(f, "%*d %ld", &pages) != 1) pages = 0;
    if (f) fclose(f);
    return (double)pages * (double)sysconf(_SC_PAGESIZE) / 1048576;
}

static bool take(void *ctx, struct slice text) {
    (void)ctx;
    json_t *json = json_loadb(text.ptr, text.len, JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, NULL);
    struct object *o = json ? cache_read(&cache, &cache.rows[0], json) : NULL;
    if (o) items[count++] = o;
    return o != NULL;
}

static void add_sandbox(struct buffer *out, int i) {
    static const char fields[] =
        "{\"f:spec\":{\".\":{},\"f:createdBy\":{\".\":{},\"f:email\":{},\"f:sub\":{}},"
        "\"f:idleTimeout\":{},\"f:mode\":{},\"f:templateRef\":{\".\":{},\"f:name\":{}}}}";
    buffer_printf(
        out,
        "%s{\"apiVersion\":\"agenttier.io/v1alpha1\",\"kind\":\"Sandbox\",\"metadata\":{\"name\":\"sb-%05d\","
        "\"namespace\":\"default\",\"uid\":\"aaff5cc3-b8be-4d66-b0ec-%012d\",\"resourceVersion\":\"%d\","
        "\"generation\":1,\"creationTimestamp\":\"2026-07-21T04:16:07Z\",\"finalizers\":"
        "[\"agenttier.io/sandbox-cleanup\"],\"managedFields\":[{\"manager\":\"agenttier-router\","
        "\"operation\":\"Update\",\"fieldsType\":\"FieldsV1\",\"fieldsV1\":%s},{\"manager\":\"c\","
        "\"fieldsV1\":%s}]},",
        i ? "," : "", i, i, 1000 + i, fields, fields);
    buffer_printf(
        out,
        "\"spec\":{\"mode\":\"code\",\"templateRef\":{\"name\":\"general-coding\",\"kind\":"
        "\"ClusterSandboxTemplate\"},\"timeout\":\"8h0m0s\",\"idleTimeout\":\"45m0s\",\"storage\":{\"size\":"
        "\"10Gi\",\"mountPath\":\"/"
        "workspace\"},\"createdBy\":{\"sub\":\"user-%d\",\"email\":\"u%d@example.org\"}},"
        "\"status\":{\"phase\":\"Running\",\"podName\":\"sb-%05d-pod\",\"pvcName\":\"sb-%05d-workspace\","
        "\"startedAt\":\"2026-07-21T04:16:07Z\",\"lastActivityTimestamp\":\"2026-07-21T05:%02d:%02dZ\","
        "\"conditions\":[{\"type\":\"Ready\",\"status\":\"True\",\"reason\":\"PodReady\","
        "\"lastTransitionTime\":"
        "\"2026-07-21T04:16:07Z\"}]}}",
        i % 50, i % 50, i, i, i / 60 % 60, i % 60);
}

int main(int argc, char **argv) {
    int total = argc > 1 ? atoi(argv[1]) : 10000;
    if (total < 1 || total > 1000000) return 2;
    const struct k8s_watch row = {.kind = KIND_SANDBOX};
    cache_init(&cache, &row, 1);
    struct buffer text = {0};
    buffer_append_str(&text,
                      "{\"kind\":\"SandboxList\",\"metadata\":{\"resourceVersion\":\"999999\"},\"items\":[");
    for (int i = 0; i < total; i++)
        add_sandbox(&text, i);
    buffer_append_str(&text, "]}");
    items = xcalloc((size_t)total, sizeof(struct object *));
    double memory = resident_mib(), start = seconds();
    struct list_reader reader;
    struct error err = {0};
    list_reader_init(&reader, take, NULL);
    for (size_t at = 0; at < text.len; at += PIECE)
        if (!list_reader_feed(
                &reader, slice_make(text.data + at, text.len - at < PIECE ? text.len - at : PIECE), &err))
            return fprintf(stderr, "%s\n", err.message), 1;
    json_t *head = list_reader_end(&reader, &err);
    if (!head || count != (size_t)total) return 1;
    cache_replace(&cache, &cache.rows[0], items, count, "999999", 0);
    double took = seconds() - start;
    printf("%d sandboxes, %.1f MB of JSON: %.0f ms, %.0f MB/s\n", total, (double)text.len / 1e6, took * 1000,
           (double)text.len / 1e6 / took);
    malloc_trim(0);
    printf("memory: %.1f MiB, %.0f bytes a sandbox\n", resident_mib() - memory,
           (resident_mib() - memory) * 1048576 / total);
    start = seconds();
    char name[32];
    for (int i = 0; i < 1000000; i++) {
        snprintf(name, sizeof name, "sb-%05d", i % total);
        object_unref(cache_get(&cache, KIND_SANDBOX, "default", name));
    }
    printf("get: %.0f ns\n", (seconds() - start) * 1000);
    start = seconds();
    for (int i = 0; i < 20; i++) {
        struct object_list all = cache_list(&cache, KIND_SANDBOX, NULL);
        object_list_free(&all);
    }
    printf("list: %.0f us\n", (seconds() - start) / 20 * 1e6);
    json_decref(head);
    list_reader_free(&reader);
    buffer_free(&text);
    cache_free(&cache);
    return 0;
}
