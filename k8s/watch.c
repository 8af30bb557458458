#include "k8s/watch_row.h"

#include "common/json.h"
#include "common/log.h"
#include "common/units.h"
#include "k8s/paths.h"
#include "k8s/resource_version.h"
#include "k8s/status.h"

#include <malloc.h>
#include <openssl/rand.h>
#include <stdatomic.h>
#include <stdio.h>

#define PAGE              "500"
#define MAX_BODY          (64 * 1024)       /* of a refusal */
#define MAX_EVENT         (8 * 1024 * 1024) /* an apiserver stores at most 1.5 MiB */
#define MAX_PAGE          (512L * 1024 * 1024)
#define MAX_ITEMS         1000000
#define LIST_TIMEOUT_MS   120000L
#define WATCH_SECONDS_MIN 300 /* how long a watch is asked for, and up to twice that */
#define DEFAULT_SILENCE   150000
#define STEADY_MS         5000 /* a watch that stood for so long was no failure */

int64_t watch_jittered(int64_t n) {
    uint32_t random = 0;
    RAND_bytes((unsigned char *)&random, sizeof random);
    return n / 2 + (int64_t)((double)random / UINT32_MAX * (double)(n - n / 2));
}

const char *watch_plural(const struct watch_row *row) {
    return resource_kinds[row->cache_row->watch.kind].plural;
}

static void heard(struct watch_row *row) {
    atomic_store_explicit(&row->heard, monotonic_ms(), memory_order_relaxed);
}

/* ---- objects ---- */

static bool take_item(void *ctx, struct slice text) {
    struct watch_row *row = ctx;
    json_error_t why;
    json_t *json = json_loadb(text.ptr, text.len, JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &why);
    struct object *o = json ? cache_read_item(row->thread->cache, row->cache_row, json) : NULL;
    if (!json) return false;
    if (!o) { /* one that is damaged must not hide all others */
        log_warn("an object without name, uid or resourceVersion is left out", "resource", watch_plural(row),
                 NULL);
        return true;
    }
    if (row->count == MAX_ITEMS) {
        object_unref(o);
        return false;
    }
    if (row->count == row->cap) {
        row->cap = row->cap ? row->cap * 2 : 512;
        row->items = xrealloc(row->items, row->cap * sizeof *row->items);
    }
    row->items[row->count++] = o;
    return true;
}

static void drop_list(struct watch_row *row) {
    for (size_t i = 0; i < row->count; i++)
        object_unref(row->items[i]);
    free(row->items);
    row->items = NULL;
    row->count = row->cap = 0;
    free(row->next_page);
    row->next_page = NULL;
}

/* ---- starting requests ---- */

static void make_path(const struct watch_row *row, struct buffer *path) {
    const struct k8s_watch *w = &row->cache_row->watch;
    k8s_path(w->kind, w->namespace, NULL, NULL, path);
    if (w->label_selector) k8s_path_query(path, "labelSelector", w->label_selector);
    if (w->field_selector) k8s_path_query(path, "fieldSelector", w->field_selector);
}

static size_t on_list_data(char *data, size_t size, size_t count, void *ctx);
static size_t on_watch_data(char *data, size_t size, size_t count, void *ctx);

static void begin(struct watch_row *row, struct buffer *path, enum watch_state state) {
    CURL *easy = row->transfer.easy;
    transfer_prepare(&row->transfer, k8s_client_config(row->thread->client), "GET", buffer_cstr(path), NULL);
    bool watch = state == ROW_WATCHING;
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, watch ? on_watch_data : on_list_data);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, row);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, row);
    if (!watch) curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, LIST_TIMEOUT_MS);
    if (!watch) curl_easy_setopt(easy, CURLOPT_MAXFILESIZE_LARGE, (curl_off_t)MAX_PAGE);
    error_clear(&row->failed);
    buffer_clear(&row->body);
    row->state = state;
    row->started = monotonic_ms();
    curl_multi_add_handle(row->thread->multi, easy);
}

static void start_page(struct watch_row *row) {
    cleanup_buffer struct buffer path = {0};
    make_path(row, &path);
    k8s_path_query(&path, "limit", PAGE);
    if (row->next_page) k8s_path_query(&path, "continue", row->next_page);
    if (!row->next_page) {
        drop_list(row);
        row->generation = cache_generation(row->thread->cache);
        atomic_fetch_add(&row->thread->lists, 1);
    }
    row->body.limit = MAX_BODY;
    list_reader_free(&row->reader);
    list_reader_init(&row->reader, take_item, row);
    begin(row, &path, ROW_LISTING);
}

static void start_watch(struct watch_row *row) {
    cleanup_buffer struct buffer path = {0};
    char seconds[24];
    snprintf(seconds, sizeof seconds, "%lld", (long long)watch_jittered(2 * WATCH_SECONDS_MIN));
    make_path(row, &path);
    k8s_path_query(&path, "watch", "true");
    k8s_path_query(&path, "allowWatchBookmarks", "true");
    k8s_path_query(&path, "resourceVersion", row->version);
    k8s_path_query(&path, "timeoutSeconds", seconds);
    row->body.limit = MAX_EVENT;
    atomic_fetch_add(&row->thread->watches, 1);
    begin(row, &path, ROW_WATCHING);
}

static void start(struct watch_row *row) {
    if (row->version)
        start_watch(row);
    else
        start_page(row);
}

void watch_forget_version(struct watch_row *row) {
    free(row->version);
    row->version = NULL;
}

static bool is_before(const char *version, const char *other) {
    int order;
    return resource_version_compare(version, other, &order) && order < 0;
}

static void go_on_from(struct watch_row *row, const char *version) {
    free(row->version);
    row->version = xstrdup(version);
    if (strlen(version) >= WATCH_VERSION_MAX) return;
    if (!row->newest[0] || is_before(row->newest, version)) strcpy(row->newest, version);
    if (row->cache_row->watch.kind == KIND_EVENT) return; /* events may have an etcd of their own */
    char *newest = row->thread->newest;
    if (!newest[0] || is_before(newest, version)) strcpy(newest, version);
}

/* ---- lists ---- */

static size_t on_list_data(char *data, size_t size, size_t count, void *ctx) {
    struct watch_row *row = ctx;
    size_t n = size * count;
    if (row->transfer.status != 200) { /* as much of it as fits */
        size_t room = row->body.limit - row->body.len;
        buffer_append(&row->body, data, n < room ? n : room);
        return n;
    }
    return list_reader_feed(&row->reader, slice_make(data, n), &row->failed) ? n : 0;
}

/* Ends what is under way, and lets go of what came of it. */
static void drop_transfer(struct watch_row *row) {
    if (row->state != ROW_WAITING) {
        curl_multi_remove_handle(row->thread->multi, row->transfer.easy);
        transfer_done(&row->transfer);
    }
    drop_list(row);
    list_reader_free(&row->reader);
    buffer_free(&row->body);
}

/* Ends what is under way, and lists soon. */
static void list_again(struct watch_row *row) {
    drop_transfer(row);
    watch_forget_version(row);
    atomic_store(&row->standing, false);
    row->state = ROW_WAITING;
    row->next_at = 0;
}

/* `row` was listed at `version`. True: that is before what it had heard of already, so that nothing that is
 * known is of use, and all rows are listed again. */
static bool went_back(struct watch_row *row, const char *version) {
    struct watch_thread *t = row->thread;
    bool back = is_before(version, row->newest), look = row->probes && is_before(version, row->probes);
    free(steal_ptr(row->probes));
    if (!back && !look) return false;
    if (back) {
        log_warn("the resourceVersions of the cluster went back, as after a restore from a backup; "
                 "reading everything anew",
                 "resource", watch_plural(row), "from", row->newest, "to", version, NULL);
        cache_distrust(t->cache);
        t->newest[0] = '\0';
    }
    for (size_t i = 0; i < t->count; i++) {
        struct watch_row *each = &t->rows[i];
        if (each == row && !back) continue;
        if (back) each->newest[0] = '\0';
        list_again(each);
    }
    return back;
}

static void finish_list(struct watch_row *row, CURLcode code, long status) {
    cleanup_error struct error err = {0};
    cleanup_json json_t *list = NULL;
    const char *version = "", *more = "";
    bool failed = watch_find_failure(row, code, status, &err);
    if (!failed) {
        list = list_reader_end(&row->reader, &err);
        version = json_str_at(list, "metadata.resourceVersion");
        more = json_str_at(list, "metadata.continue");
        failed = list == NULL;
    }
    if (!failed && !version[0]) {
        error_set(&err, 502, "bad_answer", "a list of %s has no resourceVersion", watch_plural(row));
        failed = true;
    }
    list_reader_free(&row->reader);
    if (failed && (status == 404 || (status == 403 && !watch_is_doubted(status, &err))))
        atomic_store(&row->refused, true);
    if (failed) { /* also a page whose snapshot has expired: from the start */
        drop_list(row);
        watch_pause(row, &err);
        return;
    }
    heard(row);
    free(row->next_page);
    row->next_page = more[0] ? xstrdup(more) : NULL;
    if (row->next_page) {
        start_page(row);
        return;
    }
    row->state = ROW_WAITING;
    if (went_back(row, version)) return;
    go_on_from(row, version);
    cache_replace(row->thread->cache, row->cache_row, row->items, row->count, version, row->generation);
    row->items = NULL;
    row->count = row->cap = 0;
    atomic_store(&row->synced, true);
    malloc_trim(0); /* what parsing took is not needed again soon */
    start_watch(row);
}

/* ---- watches ---- */

static void set_version(struct watch_row *row, const json_t *object) {
    const char *version = json_str_at(object, "metadata.resourceVersion");
    if (version[0]) go_on_from(row, version);
}

static bool bad_event(struct watch_row *row, const char *why) {
    error_set(&row->failed, 502, "bad_answer", "a watch event %s", why);
    watch_forget_version(row);
    return false;
}

static bool error_event(struct watch_row *row, const json_t *status) {
    json_t *code = json_object_get(status, "code");
    long number = json_is_integer(code) ? (long)json_integer_value(code) : 500;
    k8s_status_error(number < 300 || number > 599 ? 500 : number, status, "watch", 0, &row->failed);
    watch_forget_version(row); /* 410, or worse: list again */
    return false;
}

static bool take_event(struct watch_row *row, struct slice line) {
    json_error_t why;
    cleanup_json json_t *event =
        json_loadb(line.ptr, line.len, JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &why);
    const char *type = json_str_at(event, "type");
    json_t *object = json_object_get(event, "object");
    if (!json_is_object(object)) return bad_event(row, "is not one");
    if (strcmp(type, "ERROR") == 0) return error_event(row, object);
    bool deleted = strcmp(type, "DELETED") == 0;
    if (!deleted && strcmp(type, "ADDED") != 0 && strcmp(type, "MODIFIED") != 0) {
        if (strcmp(type, "BOOKMARK") != 0) return bad_event(row, "is of an unknown type");
        set_version(row, object);
        return true;
    }
    set_version(row, object);
    struct object *o = cache_read(row->thread->cache, row->cache_row, json_incref(object));
    if (!o) return bad_event(row, "has an object without name, uid or resourceVersion");
    atomic_fetch_add_explicit(&row->thread->events, 1, memory_order_relaxed);
    if (deleted)
        cache_remove(row->thread->cache, row->cache_row, o);
    else
        cache_put(row->thread->cache, row->cache_row, o);
    return true;
}

static bool take_lines(struct watch_row *row, struct slice bytes) {
    while (bytes.len > 0) {
        const char *end = memchr(bytes.ptr, '\n', bytes.len);
        size_t n = end ? (size_t)(end - bytes.ptr) : bytes.len;
        struct slice line = slice_make(bytes.ptr, n);
        if (!end || row->body.len > 0) {
            if (!buffer_append(&row->body, bytes.ptr, n)) return bad_event(row, "is above 8 MiB");
            line = buffer_slice(&row->body);
        }
        if (!end) return true;
        if (slice_trim(line).len > 0 && !take_event(row, line)) return false;
        buffer_clear(&row->body);
        bytes.ptr += n + 1;
        bytes.len -= n + 1;
    }
    return true;
}

static size_t on_watch_data(char *data, size_t size, size_t count, void *ctx) {
    struct watch_row *row = ctx;
    size_t n = size * count;
    if (row->transfer.status != 200) {
        size_t room = row->body.len < MAX_BODY ? MAX_BODY - row->body.len : 0;
        buffer_append(&row->body, data, n < room ? n : room);
        return n;
    }
    heard(row);
    return take_lines(row, slice_make(data, n)) ? n : 0;
}

static void finish_watch(struct watch_row *row, CURLcode code, long status) {
    cleanup_error struct error err = {0};
    bool failed = watch_find_failure(row, code, status, &err);
    bool passing = status == 401 || status == 429 || status >= 500 || watch_is_doubted(status, &err);
    if (status >= 400 && (!passing || status == 504 /* "too large resource version" */))
        watch_forget_version(row);
    bool steady = monotonic_ms() - row->started >= STEADY_MS;
    if (steady) watch_works(row);
    buffer_free(&row->body);
    if (!failed && steady) { /* its time was over: on at once */
        start(row);
        return;
    }
    atomic_store(&row->standing, false);
    if (!failed) error_set(&err, 503, ERR_UNAVAILABLE, "watch %s: it ended at once", watch_plural(row));
    watch_pause(row, &err);
}

/* Called in every round: whether a watch has been accepted, or has been silent for too long. */
static void look_at_watch(struct watch_row *row) {
    if (!atomic_load(&row->standing)) {
        /* The head of the answer comes at once, the first event maybe never. */
        if (row->transfer.status == 200) {
            heard(row);
            atomic_store(&row->standing, true);
            watch_works(row);
        }
    }
    /* An apiserver keeps no watch cache of events, and so sends no bookmarks: there silence says nothing, and
     * keepalive alone finds a dead connection. */
    if (row->cache_row->watch.kind == KIND_EVENT) return;
    int64_t quiet = monotonic_ms() - atomic_load(&row->heard);
    int64_t since_start = monotonic_ms() - row->started;
    if (quiet < row->thread->silence_ms || since_start < row->thread->silence_ms) return;
    curl_multi_remove_handle(row->thread->multi, row->transfer.easy);
    transfer_done(&row->transfer);
    atomic_store(&row->standing, false);
    buffer_free(&row->body);
    watch_forget_version(row); /* one from the future is answered with silence */
    cleanup_error struct error err = {0};
    error_set(&err, 503, ERR_UNAVAILABLE, "watch %s: nothing was heard for %lld s", watch_plural(row),
              (long long)quiet / 1000);
    watch_pause(row, &err);
}

/* ---- the thread ---- */

static void finish_requests(struct watch_thread *t) {
    CURLMsg *message;
    int left;
    while ((message = curl_multi_info_read(t->multi, &left)) != NULL) {
        if (message->msg != CURLMSG_DONE) continue;
        CURL *easy = message->easy_handle;
        CURLcode code = message->data.result;
        char *private = NULL;
        curl_easy_getinfo(easy, CURLINFO_PRIVATE, &private);
        struct watch_row *row = (struct watch_row *)(void *)private;
        long status = row->transfer.status;
        curl_multi_remove_handle(t->multi, easy);
        transfer_done(&row->transfer);
        if (row->state == ROW_LISTING)
            finish_list(row, code, status);
        else
            finish_watch(row, code, status);
    }
}

static void *follow(void *ctx) {
    struct watch_thread *t = ctx;
    while (!atomic_load(&t->stopping)) {
        /* First what came while this thread waited, or could not run: it ends no silence if nobody reads it.
         */
        int running;
        curl_multi_perform(t->multi, &running);
        finish_requests(t);
        int64_t now = monotonic_ms(), next = now + 1000;
        for (size_t i = 0; i < t->count; i++) {
            struct watch_row *row = &t->rows[i];
            if (row->state == ROW_WAITING && row->next_at <= now) start(row);
            if (row->state == ROW_WATCHING) look_at_watch(row);
            if (row->state == ROW_WAITING && row->next_at < next) next = row->next_at;
            if (row->state == ROW_WATCHING && !atomic_load(&row->standing) && now + 20 < next)
                next = now + 20;
        }
        int64_t wait = next - monotonic_ms();
        if (wait > 0) curl_multi_poll(t->multi, NULL, 0, (int)wait, NULL);
    }
    return NULL;
}

static void free_rows(struct watch_thread *t) {
    for (size_t i = 0; i < t->count; i++) {
        struct watch_row *row = &t->rows[i];
        drop_transfer(row);
        error_clear(&row->failed);
        watch_forget_version(row);
        free(row->probes);
        curl_easy_cleanup(row->transfer.easy);
    }
    curl_multi_cleanup(t->multi);
    pthread_mutex_destroy(&t->lock);
    free(t->rows);
    free(t->trouble);
    free(t);
}

struct watch_thread *watch_start(struct k8s_client *client, struct cache *cache, int64_t silence_ms,
                                 struct error *err) {
    struct watch_thread *t = xcalloc(1, sizeof *t);
    t->client = client;
    t->cache = cache;
    t->silence_ms = silence_ms > 0 ? silence_ms : DEFAULT_SILENCE;
    t->count = cache->count;
    t->rows = xcalloc(t->count ? t->count : 1, sizeof *t->rows);
    t->trouble = xcalloc(t->count ? t->count : 1, sizeof *t->trouble);
    t->multi = curl_multi_init();
    pthread_mutex_init(&t->lock, NULL);
    bool ok = t->multi != NULL;
    for (size_t i = 0; i < t->count; i++) {
        struct watch_row *row = &t->rows[i];
        row->thread = t;
        row->cache_row = &cache->rows[i];
        row->transfer.easy = curl_easy_init();
        row->heard = monotonic_ms();
        ok = ok && row->transfer.easy;
    }
    if (ok && pthread_create(&t->thread, NULL, follow, t) == 0) return t;
    error_set(err, 500, ERR_INTERNAL, "the thread that watches the Kubernetes API cannot start");
    free_rows(t);
    return NULL;
}

void watch_stop(struct watch_thread *t) {
    if (!t) return;
    atomic_store(&t->stopping, true);
    curl_multi_wakeup(t->multi);
    pthread_join(t->thread, NULL);
    free_rows(t);
}

static bool is_settled(const struct watch_row *row) {
    if (atomic_load_explicit(&row->synced, memory_order_acquire)) return true;
    return row->cache_row->watch.optional && atomic_load_explicit(&row->refused, memory_order_relaxed);
}

bool watch_ready(struct watch_thread *t, struct error *err) {
    for (size_t i = 0; i < t->count; i++) {
        struct watch_row *row = &t->rows[i];
        if (is_settled(row)) continue;
        pthread_mutex_lock(&t->lock);
        error_set(err, 503, ERR_UNAVAILABLE, "the %s of the cluster are not known yet%s%s", watch_plural(row),
                  t->trouble[i][0] ? ": " : "", t->trouble[i]);
        pthread_mutex_unlock(&t->lock);
        if (err) err->retry_after = 1;
        return false;
    }
    return true;
}

int64_t watch_age_ms(struct watch_thread *t) {
    int64_t now = monotonic_ms(), age = 0;
    for (size_t i = 0; i < t->count; i++) {
        struct watch_row *row = &t->rows[i];
        if (row->cache_row->watch.optional || atomic_load_explicit(&row->standing, memory_order_relaxed))
            continue;
        int64_t its = now - atomic_load_explicit(&row->heard, memory_order_relaxed);
        if (its > age) age = its;
    }
    return age;
}

struct watch_counts watch_counts(struct watch_thread *t) {
    return (struct watch_counts){atomic_load(&t->lists), atomic_load(&t->watches), atomic_load(&t->events),
                                 atomic_load(&t->failures)};
}
