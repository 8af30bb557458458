/* VolumeSnapshots as they are made, recognised and shown: http-api.md 4.6, http-api-extended.md 5; W-85,
 * weaknesses 54, 57, 60. */
#include "router/snapshot.h"
#include "common/text.h"
#include "tests/unit/router/fixture.h"

#define SANDBOX                                                                                              \
    "{'metadata':{'name':'agent-7','namespace':'default','uid':'u-7','resourceVersion':'1',"                 \
    "'creationTimestamp':'2026-03-04T05:00:00Z'},'spec':{'createdBy':{'sub':'ana'}},"                        \
    "'status':{'pvcName':'agent-7-workspace'}}"

static struct object *object_from(enum kind kind, const char *text) {
    return object_new(kind, json_of(text), 0);
}

START_TEST(names_are_short_and_never_the_same) {
    char one[GENERATED_NAME_MAX + 1], two[GENERATED_NAME_MAX + 1];
    snapshot_generate_name("agent-7", "snap", 1772619900, NULL, one);
    snapshot_generate_name("agent-7", "snap", 1772619900, NULL, two);
    ck_assert(strncmp(one, "agent-7-snap-1772619900-", 24) == 0);
    ck_assert_uint_eq(strlen(one), 30);
    ck_assert_str_ne(one, two);
    static const char *const bases[] = {
        "a",
        "a23456789-123456789-123456789-123456789-123456789-123456789-123",
        "123456789012345678901234567890123456---------------------------",
        "a.b.c",
        "a.23456789.123456789.123456789.123456789.123456789.123456789.123456789.123456789.123456789",
    };
    for (size_t i = 0; i < sizeof bases / sizeof *bases; i++) {
        for (int key = 0; key < 2; key++) {
            snapshot_generate_name(bases[i], "restore", 9999999999, key ? "0123456789abcdef" : NULL, one);
            ck_assert_msg(dns_label_valid(slice_of(one)), "%s", one);
        }
        ck_assert(strstr(one, "-restore-0123456789ab") != NULL);
    }
}
END_TEST

START_TEST(labels_of_long_names_are_valid_and_differ) {
    char one[SNAPSHOT_LABEL_MAX + 1], two[SNAPSHOT_LABEL_MAX + 1];
    snapshot_label_value("short", one);
    ck_assert_str_eq(one, "short");
    char name[74];
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    snapshot_label_value(name, one);
    name[72] = 'y';
    snapshot_label_value(name, two);
    ck_assert_uint_eq(strlen(one), SNAPSHOT_LABEL_MAX);
    ck_assert_str_ne(one, two);
    name[63] = '\0';
    snapshot_label_value(name, two);
    ck_assert_str_eq(two, name);
}
END_TEST

START_TEST(what_is_made_is_what_the_contract_says) {
    cleanup_object struct object *sandbox = object_from(KIND_SANDBOX, SANDBOX);
    cleanup_json json_t *clone = snapshot_object(sandbox, "agent-7-snap-1", "fork", NULL, NULL);
    assert_json(clone, "{'apiVersion':'snapshot.storage.k8s.io/"
                       "v1','kind':'VolumeSnapshot','metadata':{'name':'agent-7-snap-1',"
                       "'namespace':'default','labels':{'agenttier.io/"
                       "source-sandbox':'agent-7','agenttier.io/clone-target':'fork',"
                       "'agenttier.io/source-uid':'u-7'},'annotations':{'agenttier.io/owner':'ana'}},"
                       "'spec':{'source':{'persistentVolumeClaimName':'agent-7-workspace'}}}");
    struct replay replay = {.key = "k", .digest = "d"};
    cleanup_json json_t *backup = snapshot_object(sandbox, "b-1", NULL, "fast", &replay);
    assert_json(backup, "{'apiVersion':'snapshot.storage.k8s.io/"
                        "v1','kind':'VolumeSnapshot','metadata':{'name':'b-1','namespace':'default',"
                        "'labels':{'agenttier.io/snapshot-kind':'scheduled-backup','agenttier.io/"
                        "source-pvc':'agent-7-workspace',"
                        "'agenttier.io/managed':'true','agenttier.io/"
                        "source-uid':'u-7'},'annotations':{'agenttier.io/owner':'ana',"
                        "'agenttier.io/idempotency-key':'k','agenttier.io/idempotency-digest':'d'}},"
                        "'spec':{'source':{'persistentVolumeClaimName':'agent-7-workspace'},'"
                        "volumeSnapshotClassName':'fast'}}");
    cleanup_json json_t *on_stop = snapshot_on_stop(sandbox, "agent-7-stopsnap-1");
    assert_json(on_stop, "{'apiVersion':'snapshot.storage.k8s.io/"
                         "v1','kind':'VolumeSnapshot','metadata':{'name':'agent-7-stopsnap-1',"
                         "'namespace':'default','labels':{'agenttier.io/sandbox':'agent-7',"
                         "'agenttier.io/snapshot-kind':'on-stop','agenttier.io/source-uid':'u-7'},"
                         "'annotations':{'agenttier.io/owner':'ana'}},"
                         "'spec':{'source':{'persistentVolumeClaimName':'agent-7-workspace'}}}");
}
END_TEST

START_TEST(whose_a_snapshot_is) {
    static const struct {
        const char *labels, *annotations, *made;
        enum snapshot_kind kind;
    } rows[] = {
        /* The reference's own: by labels, and not older than the sandbox (weakness 54). */
        {"'agenttier.io/source-pvc':'agent-7-workspace'", "", "2026-03-04T05:00:00Z", SNAPSHOT_BACKUP},
        {"'agenttier.io/source-sandbox':'agent-7'", "", "2026-03-05T00:00:00Z", SNAPSHOT_CLONE},
        {"'agenttier.io/source-pvc':'agent-7-workspace'", "", "2026-03-04T04:59:59Z", SNAPSHOT_FOREIGN},
        {"'agenttier.io/source-sandbox':'agent-7'", "", "", SNAPSHOT_FOREIGN},
        {"'agenttier.io/source-pvc':'agent-8-workspace'", "", "2026-03-05T00:00:00Z", SNAPSHOT_FOREIGN},
        {"'agenttier.io/source-sandbox':'agent-8'", "", "2026-03-05T00:00:00Z", SNAPSHOT_FOREIGN},
        {"'agenttier.io/sandbox':'agent-7','agenttier.io/snapshot-kind':'on-stop'", "",
         "2026-03-05T00:00:00Z", SNAPSHOT_STOP},
        {"'agenttier.io/sandbox':'agent-7','agenttier.io/snapshot-kind':'on-stop'", "",
         "2026-03-04T04:59:59Z", SNAPSHOT_FOREIGN},
        {"'agenttier.io/sandbox':'agent-8','agenttier.io/snapshot-kind':'on-stop'", "",
         "2026-03-05T00:00:00Z", SNAPSHOT_FOREIGN},
        {"'agenttier.io/sandbox':'agent-7'", "", "2026-03-05T00:00:00Z", SNAPSHOT_FOREIGN},
        {"'agenttier.io/source-pvc':''", "", "2026-03-05T00:00:00Z", SNAPSHOT_FOREIGN},
        /* Ours: of this very sandbox, or of an earlier one of the same owner. */
        {"'agenttier.io/source-pvc':'agent-7-workspace','agenttier.io/source-uid':'u-7'", "",
         "2020-01-01T00:00:00Z", SNAPSHOT_BACKUP},
        {"'agenttier.io/source-pvc':'agent-7-workspace','agenttier.io/source-uid':'u-6'",
         "'agenttier.io/owner':'ana'", "2020-01-01T00:00:00Z", SNAPSHOT_BACKUP},
        {"'agenttier.io/source-pvc':'agent-7-workspace','agenttier.io/source-uid':'u-6'",
         "'agenttier.io/owner':'bo'", "2030-01-01T00:00:00Z", SNAPSHOT_FOREIGN},
        {"'agenttier.io/source-pvc':'agent-7-workspace','agenttier.io/source-uid':'u-6'", "",
         "2030-01-01T00:00:00Z", SNAPSHOT_FOREIGN},
        {"'agenttier.io/sandbox':'agent-7','agenttier.io/snapshot-kind':'on-stop','agenttier.io/source-uid':"
         "'u-6'",
         "'agenttier.io/owner':'bo'", "2030-01-01T00:00:00Z", SNAPSHOT_FOREIGN},
        {"'agenttier.io/sandbox':'agent-7','agenttier.io/snapshot-kind':'on-stop','agenttier.io/source-uid':"
         "'u-6'",
         "'agenttier.io/owner':'ana'", "2020-01-01T00:00:00Z", SNAPSHOT_STOP},
        {"'agenttier.io/source-uid':'u-7'", "'agenttier.io/owner':'ana'", "2030-01-01T00:00:00Z",
         SNAPSHOT_FOREIGN},
    };
    cleanup_object struct object *sandbox = object_from(KIND_SANDBOX, SANDBOX);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        cleanup_free char *text = xasprintf("{'metadata':{'name':'s','namespace':'default','uid':'x','"
                                            "resourceVersion':'1','creationTimestamp':'%s',"
                                            "'labels':{%s},'annotations':{%s}}}",
                                            rows[i].made, rows[i].labels, rows[i].annotations);
        cleanup_object struct object *snapshot = object_from(KIND_VOLUME_SNAPSHOT, text);
        ck_assert_msg(snapshot_kind_of(snapshot, sandbox) == rows[i].kind, "row %zu", i);
    }
}
END_TEST

START_TEST(entries) {
    static const struct {
        const char *object, *entry;
    } rows[] = {
        {"{'metadata':{'name':'s','uid':'x','creationTimestamp':'2026-03-04T05:00:00Z'},"
         "'status':{'readyToUse':true,'creationTime':'2026-03-04T05:00:03.123456Z','restoreSize':'10Gi'}}",
         "{'name':'s','kind':'scheduled-backup','readyToUse':true,'createdAt':'2026-03-04T05:00:03Z','"
         "restoreSize':'10Gi'}"},
        {"{'metadata':{'name':'s','uid':'x','creationTimestamp':'2026-03-04T05:00:00Z'}}",
         "{'name':'s','kind':'scheduled-backup','readyToUse':false,'createdAt':'2026-03-04T05:00:00Z'}"},
        {"{'metadata':{'name':'s','uid':'x'},'status':{'readyToUse':'true','creationTime':5,'restoreSize':{}}"
         "}",
         "{'name':'s','kind':'scheduled-backup','readyToUse':false}"},
        {"{'metadata':{'name':'s','uid':'x'},'status':{'error':{'message':'no space'}}}",
         "{'name':'s','kind':'scheduled-backup','readyToUse':false,'error':'no space'}"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        cleanup_object struct object *snapshot = object_from(KIND_VOLUME_SNAPSHOT, rows[i].object);
        cleanup_json json_t *entry = snapshot_entry(snapshot, SNAPSHOT_BACKUP);
        assert_json(entry, rows[i].entry);
    }
    cleanup_object struct object *snapshot = object_from(KIND_VOLUME_SNAPSHOT, rows[1].object);
    cleanup_json json_t *entry = snapshot_entry(snapshot, SNAPSHOT_CLONE);
    ck_assert_str_eq(json_str_at(entry, "kind"), "clone");
    cleanup_json json_t *stop = snapshot_entry(snapshot, SNAPSHOT_STOP);
    ck_assert_str_eq(json_str_at(stop, "kind"), "on-stop");
}
END_TEST

START_TEST(failures_are_typed) {
    cleanup_error struct error err = {0};
    cleanup_object struct object *full = object_from(
        KIND_VOLUME_SNAPSHOT,
        "{'metadata':{'name':'s'},'status':{'error':{'code':'insufficient_storage','message':'full'}}}");
    ck_assert(snapshot_has_failed(full, &err));
    ck_assert_int_eq(err.status, 507);
    cleanup_object struct object *bad = object_from(
        KIND_VOLUME_SNAPSHOT, "{'metadata':{'name':'s'},'status':{'error':{'message':'driver says no'}}}");
    ck_assert(snapshot_has_failed(bad, &err));
    ck_assert_int_eq(err.status, 409);
    ck_assert_ptr_nonnull(strstr(err.message, "driver says no"));
    cleanup_object struct object *good =
        object_from(KIND_VOLUME_SNAPSHOT, "{'metadata':{'name':'s'},'status':{'readyToUse':true}}");
    ck_assert(!snapshot_has_failed(good, NULL));
}
END_TEST

RUN_TESTS("snapshot", names_are_short_and_never_the_same, labels_of_long_names_are_valid_and_differ,
          what_is_made_is_what_the_contract_says, whose_a_snapshot_is, entries, failures_are_typed)
