/* Which sandbox a name means to whom (http-api.md 2.3, 3.8; W-46, W-74, S10), and which sandbox a retry finds
 * (I8, I31). */
#include "router/replay.h"
#include "router/sandbox_lookup.h"
#include "router/sandbox_view.h"
#include "tests/unit/router/fixture.h"

/* ---- a store of the Sandboxes of one test ---- */

struct shelf {
    struct store store; /* first */
    struct object *items[8];
    size_t count;
};

static struct shelf *shelf_of(struct store *s) {
    return (struct shelf *)(void *)s;
}

static struct object *get(struct store *s, enum kind kind, const char *namespace, const char *name) {
    struct shelf *shelf = shelf_of(s);
    ck_assert_int_eq(kind, KIND_SANDBOX);
    for (size_t i = 0; i < shelf->count; i++) {
        struct object *o = shelf->items[i];
        if (strcmp(o->namespace, namespace) == 0 && strcmp(o->name, name) == 0) return object_ref(o);
    }
    return NULL;
}

static struct object_list select_named(struct store *s, const char *name) {
    struct shelf *shelf = shelf_of(s);
    struct object_list out = {.items = xcalloc(8, sizeof(struct object *))};
    for (size_t i = 0; i < shelf->count; i++)
        if (!name || strcmp(shelf->items[i]->name, name) == 0)
            out.items[out.count++] = object_ref(shelf->items[i]);
    return out;
}

static struct object_list find(struct store *s, enum kind kind, const char *name) {
    ck_assert_int_eq(kind, KIND_SANDBOX);
    return select_named(s, name);
}

static struct object_list list(struct store *s, enum kind kind, const char *namespace) {
    ck_assert(kind == KIND_SANDBOX && !namespace);
    return select_named(s, NULL);
}

static const struct store_ops ops = {.get = get, .find = find, .list = list};

/* `shared`: NULL, or whom with, as {"identity", "level"}. */
static void put(struct shelf *shelf, const char *namespace, const char *owner, const char *shared) {
    cleanup_free char *text =
        xasprintf("{'metadata':{'namespace':'%s','name':'demo','uid':'uid-%s','resourceVersion':'1'},'spec':{"
                  "'createdBy':{'sub':'%s'},'sharing':{'users':[%s]}}}",
                  namespace, namespace, owner, shared ? shared : "");
    shelf->store.ops = &ops;
    shelf->items[shelf->count++] = object_new(KIND_SANDBOX, json_of(text), 1);
}

static void shelf_free(struct shelf *shelf) {
    for (size_t i = 0; i < shelf->count; i++)
        object_unref(shelf->items[i]);
}
#define cleanup_shelf __attribute__((cleanup(shelf_free)))

static struct identity person(const char *sub) {
    return (struct identity){.sub = (char *)(uintptr_t)sub, .email = (char *)(uintptr_t) ""};
}

#define VIEWER       "{'identity':'ana','level':'viewer'}"
#define COLLABORATOR "{'identity':'ana','level':'collaborator'}"

/* The namespace of what `who` gets, or the error's code. */
static const char *found(struct shelf *shelf, const struct identity *who, const char *namespace,
                         enum access_level least) {
    static char out[64];
    cleanup_error struct error err = {0};
    cleanup_object struct object *o =
        sandbox_lookup(&shelf->store, who, "default", namespace, "demo", least, &err);
    ck_assert(o || err.status == 404);
    snprintf(out, sizeof out, "%s", o ? o->namespace : err.code);
    return out;
}

START_TEST(own_before_shared_then_home_then_the_only_one) {
    static const struct {
        const char *at_default, *default_shared, *elsewhere, *elsewhere_shared; /* owners, NULL: none there */
        const char *viewer, *owner; /* what ana gets, by least level */
    } rows[] = {
        {"ana", NULL, NULL, NULL, "default", "default"},
        {"bo", NULL, "ana", NULL, "team", "team"},
        /* bo's in the default namespace is shared with ana: hers is meant all the same */
        {"bo", COLLABORATOR, "ana", NULL, "team", "team"},
        {"bo", VIEWER, "bo", VIEWER, "default", "share_level_too_low"},
        {"bo", NULL, "bo", VIEWER, "team", "share_level_too_low"},
        {"bo", VIEWER, NULL, NULL, "default", "share_level_too_low"},
        {"bo", NULL, "bo", NULL, "sandbox_not_found", "sandbox_not_found"},
        {"ana", NULL, "ana", NULL, "default", "default"},
        {NULL, NULL, "ana", NULL, "team", "team"},
        {NULL, NULL, "bo", COLLABORATOR, "team", "share_level_too_low"},
    };
    struct identity ana = person("ana");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        cleanup_shelf struct shelf shelf = {.store.ops = &ops};
        if (rows[i].at_default) put(&shelf, "default", rows[i].at_default, rows[i].default_shared);
        if (rows[i].elsewhere) put(&shelf, "team", rows[i].elsewhere, rows[i].elsewhere_shared);
        const char *got = found(&shelf, &ana, NULL, ACCESS_LEVEL_VIEWER);
        ck_assert_msg(strcmp(got, rows[i].viewer) == 0, "row %zu: %s", i, got);
        got = found(&shelf, &ana, "", ACCESS_LEVEL_OWNER);
        ck_assert_msg(strcmp(got, rows[i].owner) == 0, "row %zu as owner: %s", i, got);
    }
}
END_TEST

START_TEST(several_are_ambiguous_until_one_is_named) {
    cleanup_shelf struct shelf shelf = {.store.ops = &ops};
    put(&shelf, "a", "ana", NULL);
    put(&shelf, "b", "ana", NULL);
    put(&shelf, "c", "bo", COLLABORATOR);
    struct identity ana = person("ana"), cy = person("cy"), root = person("root");
    root.is_admin = true;
    ck_assert_str_eq(found(&shelf, &ana, NULL, ACCESS_LEVEL_OWNER), "sandbox_ambiguous");
    ck_assert_str_eq(found(&shelf, &root, NULL, ACCESS_LEVEL_OWNER), "sandbox_ambiguous");
    ck_assert_str_eq(found(&shelf, &cy, NULL, ACCESS_LEVEL_VIEWER), "sandbox_not_found");
    ck_assert_str_eq(found(&shelf, &ana, "b", ACCESS_LEVEL_OWNER), "b");
    ck_assert_str_eq(found(&shelf, &ana, "c", ACCESS_LEVEL_COLLABORATOR), "c");
    ck_assert_str_eq(found(&shelf, &ana, "c", ACCESS_LEVEL_OWNER), "share_level_too_low");
    ck_assert_str_eq(found(&shelf, &ana, "d", ACCESS_LEVEL_VIEWER), "sandbox_not_found");
    ck_assert_str_eq(found(&shelf, &cy, "a", ACCESS_LEVEL_VIEWER), "sandbox_not_found");
    ck_assert_str_eq(found(&shelf, &root, "c", ACCESS_LEVEL_OWNER), "c");
}
END_TEST

START_TEST(a_scoped_key_means_its_own_and_no_share_counts) {
    cleanup_shelf struct shelf shelf = {.store.ops = &ops};
    put(&shelf, "default", "bo", COLLABORATOR);
    put(&shelf, "team", "ana", NULL);
    struct identity key = person("ana");
    key.sandbox_id = (char *)(uintptr_t) "demo";
    ck_assert_str_eq(found(&shelf, &key, NULL, ACCESS_LEVEL_VIEWER), "team");
    ck_assert_str_eq(found(&shelf, &key, "default", ACCESS_LEVEL_VIEWER), "sandbox_not_found");
    key.sandbox_namespace = (char *)(uintptr_t) "default";
    ck_assert_str_eq(found(&shelf, &key, NULL, ACCESS_LEVEL_VIEWER), "sandbox_not_found");
    key.sandbox_namespace = (char *)(uintptr_t) "team";
    key.sandbox_uid = (char *)(uintptr_t) "uid-team";
    ck_assert_str_eq(found(&shelf, &key, NULL, ACCESS_LEVEL_OWNER), "team");
    key.sandbox_uid = (char *)(uintptr_t) "of an earlier life";
    ck_assert_str_eq(found(&shelf, &key, NULL, ACCESS_LEVEL_VIEWER), "sandbox_not_found");
}
END_TEST

/* ---- retries ---- */

static struct object *made_with(const struct replay *replay) {
    json_t *json =
        json_of("{'metadata':{'namespace':'default','name':'demo','uid':'u','resourceVersion':'1'}}");
    json_object_set_new(json_object_get(json, "metadata"), "annotations", replay_annotations(replay));
    return object_new(KIND_SANDBOX, json, 1);
}

START_TEST(retries_find_what_was_made) {
    struct replay one = {.key = "key", .digest = "d"}, whole = {.key = "key"}, other = {.key = "other"};
    memset(whole.digest, 'e', SHA256_HEX_LEN);
    memset(other.digest, 'e', SHA256_HEX_LEN);
    struct replay first = replay_part(&whole, 0), last = replay_part(&whole, 99);
    cleanup_object struct object *single = made_with(&one), *item = made_with(&first);
    cleanup_object struct object *plain = object_new(
        KIND_SANDBOX,
        json_of("{'metadata':{'namespace':'default','name':'demo','uid':'u','resourceVersion':'1'}}"), 1);
    ck_assert_int_eq(replay_match(single, &one), REPLAY_SAME);
    ck_assert_int_eq(replay_match(single, &whole), REPLAY_OTHER_BODY);
    ck_assert_int_eq(replay_match(single, &other), REPLAY_UNRELATED);
    ck_assert_int_eq(replay_match(item, &first), REPLAY_SAME);
    ck_assert_int_eq(replay_match(item, &last), REPLAY_OTHER_BODY);
    ck_assert_int_eq(replay_match(plain, &one), REPLAY_UNRELATED);
    ck_assert(replay_is_sibling(item, &whole) && replay_is_sibling(item, &last));
    ck_assert(!replay_is_sibling(item, &other) && !replay_is_sibling(single, &whole) &&
              !replay_is_sibling(plain, &whole));
    cleanup_shelf struct shelf shelf = {.store.ops = &ops};
    shelf.items[shelf.count++] = object_ref(plain);
    shelf.items[shelf.count++] = object_ref(item);
    cleanup_object struct object *found_item = replay_find(&shelf.store, &whole);
    ck_assert_ptr_eq(found_item, item);
    ck_assert_ptr_null(replay_find(&shelf.store, &other));
}
END_TEST

START_TEST(what_is_being_deleted_is_no_answer_to_a_retry) {
    struct replay one = {.key = "key", .digest = "d"};
    json_t *json = json_of("{'metadata':{'namespace':'default','name':'demo','uid':'u','resourceVersion':'1',"
                           "'deletionTimestamp':'2026-01-01T00:00:00Z'}}");
    json_object_set_new(json_object_get(json, "metadata"), "annotations", replay_annotations(&one));
    cleanup_object struct object *dying = object_new(KIND_SANDBOX, json, 1);
    ck_assert_int_eq(replay_match(dying, &one), REPLAY_UNRELATED);
    cleanup_shelf struct shelf shelf = {.store.ops = &ops};
    shelf.items[shelf.count++] = object_ref(dying);
    ck_assert_ptr_null(replay_find(&shelf.store, &one));
}
END_TEST

RUN_TESTS("sandbox-lookup", own_before_shared_then_home_then_the_only_one,
          several_are_ambiguous_until_one_is_named, a_scoped_key_means_its_own_and_no_share_counts,
          retries_find_what_was_made, what_is_being_deleted_is_no_answer_to_a_retry)
