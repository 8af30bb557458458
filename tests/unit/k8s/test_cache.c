/* The cache: whatever arrives in whatever order, it keeps the newest, and watchers see each change once. */
#include "common/json.h"
#include "k8s/cache.h"
#include "tests/unit/common/suite.h"

#include <stdio.h>

static struct cache cache;
static struct buffer seen; /* "+a/1 ~a/2 -a/2 " */

static void on_change(void *ctx, enum store_change change, struct object *o) {
    (void)ctx;
    static const char signs[] = "+~-";
    buffer_printf(&seen, "%c%s/%s ", signs[change], o->name, o->resource_version);
    cleanup_object struct object *now = cache_get(&cache, o->kind, o->namespace, o->name);
    ck_assert_msg((now == NULL) == (change == STORE_DELETED) || change == STORE_DELETED, "%s", o->name);
}

static void *handle;

static void setup(const char *labels) {
    const struct k8s_watch rows[] = {{.kind = KIND_SANDBOX, .label_selector = labels},
                                     {.kind = KIND_CONFIG_MAP, .namespace = "x"},
                                     {.kind = KIND_CONFIG_MAP, .namespace = "y"}};
    cache_init(&cache, rows, 3);
    handle = cache_watch(&cache, KIND_SANDBOX, on_change, NULL);
}

static void teardown(void) {
    cache_unwatch(&cache, handle);
    cache_free(&cache);
    buffer_free(&seen);
}

static json_t *json_of(const char *name, const char *uid, const char *version) {
    return json_pack("{s:{s:s, s:s, s:s, s:s, s:{s:s}}, s:{}}", "metadata", "name", name, "namespace", "d",
                     "uid", uid, "resourceVersion", version, "labels", "l", "1", "spec");
}

static void put(const char *name, const char *uid, const char *version) {
    cache_put(&cache, &cache.rows[0], cache_read(&cache, &cache.rows[0], json_of(name, uid, version)));
}

static void drop(const char *name, const char *uid, const char *version) {
    cache_remove(&cache, &cache.rows[0], cache_read(&cache, &cache.rows[0], json_of(name, uid, version)));
}

static void written(const char *name, const char *uid, const char *version, uint64_t generation) {
    cleanup_object struct object *o =
        cache_written(&cache, KIND_SANDBOX, json_of(name, uid, version), generation);
    ck_assert(o != NULL);
    ck_assert_str_eq(o->resource_version, version); /* the answer itself, whatever the cache has */
}

/* `list` is "name/uid/version name/uid/version". */
static void replace(const char *list, const char *version, uint64_t generation) {
    struct object **items = NULL;
    size_t count = 0;
    char name[32], uid[32], its[32];
    int used = 0;
    for (const char *p = list; sscanf(p, " %31[^/]/%31[^/]/%31[^ ]%n", name, uid, its, &used) == 3;
         p += used) {
        items = xrealloc(items, (count + 1) * sizeof *items);
        items[count++] = cache_read(&cache, &cache.rows[0], json_of(name, uid, its));
    }
    cache_replace(&cache, &cache.rows[0], items, count, version, generation);
}

static void assert_seen(const char *wanted) {
    ck_assert_str_eq(seen.len ? buffer_cstr(&seen) : "", wanted);
    buffer_clear(&seen);
}

static void assert_holds(const char *wanted) {
    cleanup_buffer struct buffer got = {0};
    cleanup_object_list struct object_list all = cache_list(&cache, KIND_SANDBOX, NULL);
    for (size_t i = 0; i < all.count; i++)
        buffer_printf(&got, "%s/%s/%s ", all.items[i]->name, all.items[i]->uid,
                      all.items[i]->resource_version);
    ck_assert_str_eq(got.len ? buffer_cstr(&got) : "", wanted);
}

START_TEST(a_write_is_not_undone_by_an_older_event) {
    setup(NULL);
    put("a", "u1", "10");
    written("a", "u1", "15", cache_generation(&cache));
    put("a", "u1", "12"); /* of before the write */
    put("a", "u1", "15"); /* the write's own event */
    assert_holds("a/u1/15 ");
    assert_seen("+a/10 ~a/15 ");
    put("a", "u1", "16");
    written("a", "u1", "14", 0); /* the answer of a write that was slow to arrive */
    assert_holds("a/u1/16 ");
    assert_seen("~a/16 ");
    teardown();
}
END_TEST

START_TEST(the_dead_stay_dead) {
    setup(NULL);
    put("a", "u1", "10");
    cache_deleted(&cache, KIND_SANDBOX, "d", "a", "u1");
    put("a", "u1", "11"); /* events from before the delete */
    written("a", "u1", "12", 0);
    drop("a", "u1", "13");
    assert_holds("");
    assert_seen("+a/10 -a/10 ");
    replace("a/u1/11", "12", cache_generation(&cache)); /* a list from before the delete */
    assert_holds("");
    written("a", "u2", "14", cache_generation(&cache)); /* the name again */
    drop("a", "u1", "13");
    put("a", "u1", "12");
    assert_holds("a/u2/14 ");
    /* Created by us, and gone before our answer arrived. */
    uint64_t before = cache_generation(&cache);
    put("b", "u3", "20");
    drop("b", "u3", "21");
    written("b", "u3", "20", before);
    assert_holds("a/u2/14 ");
    /* Deleted without saying which; it must not hit another. */
    cache_deleted(&cache, KIND_SANDBOX, "d", "a", "u9");
    assert_holds("a/u2/14 ");
    cache_deleted(&cache, KIND_SANDBOX, "d", "a", "");
    assert_holds("");
    teardown();
}
END_TEST

START_TEST(a_name_that_is_used_again_is_a_deletion_and_an_addition) {
    setup(NULL);
    put("a", "u1", "10");
    put("a", "u2", "12");
    assert_seen("+a/10 -a/10 +a/12 ");
    put("a", "u1", "11");
    assert_holds("a/u2/12 ");
    drop("a", "u1", "11");
    assert_holds("a/u2/12 ");
    assert_seen("");
    teardown();
}
END_TEST

START_TEST(a_list_brings_what_was_missed) {
    setup(NULL);
    replace("b/u2/5 a/u1/4", "9", 0);
    assert_seen("+a/4 +b/5 ");
    replace("a/u1/4 b/u2/11 c/u3/10", "12", cache_generation(&cache));
    assert_seen("~b/11 +c/10 ");
    replace("b/u2/11 c/u4/13", "14", cache_generation(&cache));
    assert_holds("b/u2/11 c/u4/13 ");
    assert_seen("-a/4 -c/10 +c/13 ");
    replace("b/u2/11 b/u2/11", "15", cache_generation(&cache)); /* twice the same */
    assert_holds("b/u2/11 ");
    assert_seen("-c/13 ");
    replace("", "20", cache_generation(&cache));
    assert_holds("");
    assert_seen("-b/11 ");
    teardown();
}
END_TEST

START_TEST(what_is_written_while_a_list_is_on_its_way_stays) {
    setup(NULL);
    replace("a/u1/4", "5", 0);
    uint64_t began = cache_generation(&cache);
    written("new", "u2", "8", began);
    written("a", "u1", "9", began);
    replace("a/u1/4", "7", began); /* taken at 7 */
    assert_holds("a/u1/9 new/u2/8 ");
    replace("", "10", cache_generation(&cache)); /* a later one knows */
    assert_holds("");
    teardown();
}
END_TEST

START_TEST(versions_that_cannot_be_compared_count_by_arrival) {
    setup(NULL);
    put("a", "u1", "x1");
    put("a", "u1", "x0"); /* an event is newer than what was before it */
    assert_holds("a/u1/x0 ");
    uint64_t before = cache_generation(&cache);
    put("a", "u1", "x5");
    written("a", "u1", "x4", before); /* overtaken by an event: nobody knows, the watch will tell */
    assert_holds("a/u1/x5 ");
    written("a", "u1", "x6", cache_generation(&cache));
    assert_holds("a/u1/x6 ");
    before = cache_generation(&cache);
    written("n", "u2", "y1", before);
    replace("a/u1/x6", "z", before);
    assert_holds("a/u1/x6 n/u2/y1 ");
    teardown();
}
END_TEST

START_TEST(the_last_finalizer_ends_an_object) {
    setup(NULL);
    put("a", "u1", "10");
    json_t *going = json_of("a", "u1", "11");
    json_t *metadata = json_object_get(going, "metadata");
    json_object_set_new(metadata, "deletionTimestamp", json_string("2026-01-01T00:00:00Z"));
    json_object_set_new(metadata, "finalizers", json_pack("[s]", "f"));
    cleanup_json json_t *done = json_deep_copy(going);
    object_unref(cache_written(&cache, KIND_SANDBOX, going, 0));
    assert_holds("a/u1/11 ");
    json_object_set_new(json_object_get(done, "metadata"), "resourceVersion", json_string("12"));
    json_object_set_new(json_object_get(done, "metadata"), "finalizers", json_array());
    object_unref(cache_written(&cache, KIND_SANDBOX, json_deep_copy(done), 0));
    assert_holds("");
    assert_seen("+a/10 ~a/11 -a/12 ");
    teardown();
}
END_TEST

START_TEST(selectors_decide_where_a_written_object_is_kept) {
    setup("l=1");
    json_t *other = json_of("o", "u5", "5");
    json_object_set_new(json_object_get(json_object_get(other, "metadata"), "labels"), "l", json_string("2"));
    object_unref(cache_written(&cache, KIND_SANDBOX, other, 0));
    assert_holds("");
    put("a", "u1", "10");
    json_t *unlabelled = json_of("a", "u1", "11");
    json_object_del(json_object_get(unlabelled, "metadata"), "labels");
    object_unref(cache_written(&cache, KIND_SANDBOX, unlabelled, 0));
    assert_holds("");
    put("a", "u1", "12"); /* selected once more: it was not deleted */
    assert_holds("a/u1/12 ");
    drop("a", "u1", "13");
    put("a", "u1", "14");
    assert_holds("a/u1/14 ");
    teardown();
}
END_TEST

/* The answer to a write arrives after the event of the deletion that followed it: no event will come that
 * could take the object out again. */
START_TEST(a_late_answer_brings_nothing_back_that_a_selector_let_go) {
    setup("l=1");
    put("a", "u1", "10");
    uint64_t before = cache_generation(&cache);
    drop("a", "u1", "12"); /* deleted, or no longer selected: the event does not say */
    written("a", "u1", "11", before);
    assert_holds("");
    put("a", "u1", "14"); /* selected again */
    assert_holds("a/u1/14 ");
    replace("", "20", cache_generation(&cache)); /* a list that has it not */
    written("a", "u1", "15", before);
    put("a", "u1", "20");
    assert_holds("");
    put("a", "u1", "21");
    drop("a", "u1", "22");
    drop("a", "u1", "13"); /* of before: takes nothing back */
    written("a", "u1", "22", before);
    assert_holds("");
    teardown();
}
END_TEST

START_TEST(rows_of_one_kind_are_read_as_one) {
    setup(NULL);
    static const char *const namespaces[] = {"y", "x", "y", "x"};
    static const char *const names[] = {"b", "a", "a", "c"};
    for (size_t i = 0; i < 4; i++) {
        cleanup_json json_t *json = json_of(names[i], names[i], "5");
        json_object_set_new(json_object_get(json, "metadata"), "namespace", json_string(namespaces[i]));
        cleanup_object struct object *o = cache_written(&cache, KIND_CONFIG_MAP, json_incref(json), 0);
        ck_assert_str_eq(json_str_at(o->json, "kind"), "ConfigMap");
    }
    cleanup_object_list struct object_list all = cache_list(&cache, KIND_CONFIG_MAP, "");
    ck_assert_uint_eq(all.count, 4);
    cleanup_buffer struct buffer order = {0};
    for (size_t i = 0; i < all.count; i++)
        buffer_printf(&order, "%s/%s ", all.items[i]->namespace, all.items[i]->name);
    ck_assert_str_eq(buffer_cstr(&order), "x/a x/c y/a y/b ");
    cleanup_object_list struct object_list a = cache_find(&cache, KIND_CONFIG_MAP, "a");
    ck_assert_uint_eq(a.count, 2);
    cleanup_object struct object *one = cache_get(&cache, KIND_CONFIG_MAP, "y", "a");
    ck_assert(one != NULL);
    ck_assert(cache_get(&cache, KIND_SECRET, "y", "a") == NULL);
    ck_assert_uint_eq(cache_count(&cache, KIND_CONFIG_MAP), 4);
    /* An object of a namespace that nobody watches is answered, not kept. */
    json_t *elsewhere = json_of("z", "z", "5");
    cleanup_object struct object *z = cache_written(&cache, KIND_CONFIG_MAP, elsewhere, 0);
    ck_assert(z != NULL && cache_get(&cache, KIND_CONFIG_MAP, "d", "z") == NULL);
    teardown();
}
END_TEST

static void whole_secret(void *ctx, enum store_change change, struct object *o) {
    (void)ctx;
    ck_assert(o->json != NULL);
    buffer_printf(&seen, "%c%s/%s ", "+~-"[change], json_str_at(o->json, "metadata.name"),
                  json_str_at(o->json, "metadata.resourceVersion"));
}

/* The index keeps Secrets as text; writes that say nothing new are not taken for objects without labels. */
START_TEST(packed_objects_are_whole_for_readers) {
    const struct k8s_watch rows[] = {{.kind = KIND_SECRET, .label_selector = "l=1"}};
    cache_init(&cache, rows, 1);
    handle = cache_watch(&cache, KIND_SECRET, whole_secret, NULL);
    struct object **items = xcalloc(2, sizeof *items);
    items[0] = cache_read_item(&cache, &cache.rows[0], json_of("a", "u1", "5"));
    items[1] = cache_read_item(&cache, &cache.rows[0], json_of("b", "u2", "5"));
    ck_assert(items[0]->json == NULL); /* a long list is not whole in memory at any time */
    cache_replace(&cache, &cache.rows[0], items, 2, "5", 0);
    for (int i = 0; i < 2; i++) {
        cleanup_object struct object *o = cache_written(
            &cache, KIND_SECRET, json_of("a", "u1", i == 0 ? "5" : "7"), cache_generation(&cache));
        ck_assert(o != NULL && o->json != NULL);
    }
    items = xcalloc(2, sizeof *items);
    items[0] = cache_read_item(&cache, &cache.rows[0], json_of("a", "u1", "7"));
    items[1] = cache_read_item(&cache, &cache.rows[0], json_of("b", "u2", "9"));
    ck_assert(items[0]->json == NULL && items[1]->json == NULL);
    cleanup_object struct object *read = cache_read(&cache, &cache.rows[0], json_of("a", "u1", "7"));
    ck_assert(read->json != NULL);
    cache_replace(&cache, &cache.rows[0], items, 2, "9", cache_generation(&cache));
    cleanup_object struct object *a = cache_get(&cache, KIND_SECRET, "d", "a");
    ck_assert_str_eq(json_str_at(a->json, "metadata.uid"), "u1");
    ck_assert_str_eq(json_str_at(a->json, "kind"), "Secret");
    cleanup_object_list struct object_list all = cache_list(&cache, KIND_SECRET, NULL),
                                           named = cache_find(&cache, KIND_SECRET, "b");
    ck_assert_uint_eq(all.count, 2);
    ck_assert(all.items[0]->json != NULL && named.count == 1 && named.items[0]->json != NULL);
    cache_deleted(&cache, KIND_SECRET, "d", "a", "");
    cache_remove(&cache, &cache.rows[0], cache_read(&cache, &cache.rows[0], json_of("b", "u2", "9")));
    ck_assert_uint_eq(cache_count(&cache, KIND_SECRET), 0);
    assert_seen("+a/5 +b/5 ~a/7 ~b/9 -a/7 -b/9 ");
    /* A watcher that comes late is told of what is there. */
    object_unref(cache_written(&cache, KIND_SECRET, json_of("c", "u3", "12"), cache_generation(&cache)));
    void *late = cache_watch(&cache, KIND_SECRET, whole_secret, NULL);
    cache_unwatch(&cache, late);
    assert_seen("+c/12 +c/12 ");
    teardown();
}
END_TEST

START_TEST(S23_objects_that_are_none) {
    setup(NULL);
    static const char *const texts[] = {
        "{}",
        "{\"metadata\":5}",
        "{\"metadata\":{\"name\":\"a\",\"uid\":\"u\",\"resourceVersion\":\"1\"}}",
        "{\"metadata\":{\"name\":\"a\",\"namespace\":\"d\",\"uid\":\"u\",\"resourceVersion\":1}}",
        "{\"metadata\":{\"name\":\"a\",\"namespace\":\"d\",\"resourceVersion\":\"1\"}}",
        "{\"metadata\":{\"name\":\"\",\"namespace\":\"d\",\"uid\":\"u\",\"resourceVersion\":\"1\"}}"};
    for (size_t i = 0; i < COUNT(texts); i++) {
        ck_assert(cache_read(&cache, &cache.rows[0], json_loads(texts[i], 0, NULL)) == NULL);
        ck_assert(cache_written(&cache, KIND_SANDBOX, json_loads(texts[i], 0, NULL), 0) == NULL);
    }
    /* One of another namespace than the row's. */
    ck_assert(cache_read(&cache, &cache.rows[1], json_of("a", "u", "1")) == NULL);
    teardown();
}
END_TEST

/* ---- threads ---- */

#define WRITERS 4
#define ROUNDS  400

static void *write_often(void *ctx) {
    int n = *(int *)ctx;
    char name[16], uid[32], version[16];
    for (int i = 0; i < ROUNDS; i++) {
        snprintf(name, sizeof name, "w%d", i % 7);
        snprintf(uid, sizeof uid, "u%d-%d", n, i);
        snprintf(version, sizeof version, "%d", 1000 + i * WRITERS + n);
        uint64_t generation = cache_generation(&cache);
        object_unref(cache_written(&cache, KIND_SANDBOX, json_of(name, uid, version), generation));
        if (i % 3 == 0) cache_deleted(&cache, KIND_SANDBOX, "d", name, uid);
        cleanup_object_list struct object_list all = cache_list(&cache, KIND_SANDBOX, NULL);
        for (size_t k = 1; k < all.count; k++)
            ck_assert(strcmp(all.items[k - 1]->name, all.items[k]->name) < 0);
    }
    return NULL;
}

static void count_change(void *ctx, enum store_change change, struct object *o) {
    (void)o;
    *(int *)ctx += change == STORE_ADDED ? 1 : change == STORE_DELETED ? -1 : 0;
}

START_TEST(a_history_that_went_back) {
    setup(NULL);
    put("a", "u1", "50");
    put("b", "u2", "51");
    put("c", "u3", "52");
    cache_deleted(&cache, KIND_SANDBOX, "d", "c", "u3");
    buffer_clear(&seen);
    cache_distrust(&cache);
    assert_holds("a/u1/50 b/u2/51 "); /* goes on to be read */
    uint64_t generation = cache_generation(&cache);
    written("b", "u2", "31", generation); /* meanwhile: newer, although its version is lower */
    written("n", "u9", "32", generation);
    assert_holds("a/u1/50 b/u2/31 n/u9/32 ");
    assert_seen("~b/31 +n/32 ");
    /* The list began before the writes; "c" was not deleted yet in that past, and "a" has a version that it
     * had once. */
    replace("a/u1/50 b/u2/20 c/u3/25", "30", generation);
    assert_holds("a/u1/50 b/u2/31 c/u3/25 n/u9/32 ");
    assert_seen("~a/50 +c/25 ");
    /* From now on versions count again. */
    put("c", "u3", "24");
    put("b", "u2", "30");
    replace("b/u2/33", "34", cache_generation(&cache));
    assert_holds("a/u1/50 b/u2/33 ");
    cache_distrust(&cache);
    replace("", "10", cache_generation(&cache));
    assert_holds("");
    teardown();
}
END_TEST

START_TEST(many_threads) {
    setup(NULL);
    buffer_clear(&seen);
    int balance = 0;
    void *counting = cache_watch(&cache, KIND_SANDBOX, count_change, &balance);
    pthread_t threads[WRITERS];
    int numbers[WRITERS];
    for (int i = 0; i < WRITERS; i++) {
        numbers[i] = i;
        ck_assert(pthread_create(&threads[i], NULL, write_often, &numbers[i]) == 0);
    }
    for (int i = 0; i < 50; i++)
        replace("w0/list/900", "901", 0);
    for (int i = 0; i < WRITERS; i++)
        pthread_join(threads[i], NULL);
    cache_unwatch(&cache, counting);
    ck_assert_int_eq(balance, (int)cache_count(&cache, KIND_SANDBOX));
    teardown();
}
END_TEST

RUN_SUITE("cache", a_write_is_not_undone_by_an_older_event, the_dead_stay_dead,
          a_name_that_is_used_again_is_a_deletion_and_an_addition, a_list_brings_what_was_missed,
          what_is_written_while_a_list_is_on_its_way_stays, versions_that_cannot_be_compared_count_by_arrival,
          the_last_finalizer_ends_an_object, selectors_decide_where_a_written_object_is_kept,
          rows_of_one_kind_are_read_as_one, a_late_answer_brings_nothing_back_that_a_selector_let_go,
          packed_objects_are_whole_for_readers, S23_objects_that_are_none, a_history_that_went_back,
          many_threads)
