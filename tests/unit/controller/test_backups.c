/* When a workspace is due for a backup, when a backup is old, what is made: controller.md 11.3; weaknesses
 * 59, 60. */
#include "common/json.h"
#include "common/units.h"
#include "controller/backups.h"

#include <check.h>

#define NOW 1772620000

static char *time_text(int64_t age) {
    static char texts[4][RFC3339_MAX];
    static int next;
    char *text = texts[next++ % 4];
    rfc3339_format((time_t)(NOW - age), text);
    return text;
}

static struct object *claim_of(const char *name, int64_t age, const char *phase, const char *more) {
    json_t *labels = json_loads(more, 0, NULL);
    ck_assert_ptr_nonnull(labels);
    return object_new(KIND_PERSISTENT_VOLUME_CLAIM,
                      json_pack("{s:{s:s, s:s, s:s, s:s, s:o}, s:{s:s}}", "metadata", "name", name,
                                "namespace", "default", "uid", "c", "creationTimestamp", time_text(age),
                                "labels", labels, "status", "phase", phase),
                      0);
}

static struct object *snapshot_of(const char *pvc, int64_t age) {
    char label[SNAPSHOT_LABEL_MAX + 1];
    snapshot_label_value(pvc, label);
    return object_new(KIND_VOLUME_SNAPSHOT,
                      json_pack("{s:{s:s, s:s, s:s, s:s, s:{s:s}}}", "metadata", "name", "s", "namespace",
                                "default", "uid", "s", "creationTimestamp", time_text(age), "labels",
                                "agenttier.io/source-pvc", label),
                      0);
}

#define MANAGED "{\"agenttier.io/managed\":\"true\"}"

START_TEST(a_claim_is_due_an_interval_after_its_newest_backup) {
    static const struct {
        int64_t claim_age, backup_age; /* backup_age < 0: none */
        const char *backup_of, *phase, *labels;
        bool due;
    } rows[] = {
        {7200, -1, "", "Bound", MANAGED, true},
        {3600, -1, "", "Bound", MANAGED, true},
        {3599, -1, "", "Bound", MANAGED, false},
        {99999, 3599, "w", "Bound", MANAGED, false},
        {99999, 3600, "w", "Bound", MANAGED, true},
        {99999, 10, "other", "Bound", MANAGED, true},
        {99999, -1, "", "Pending", MANAGED, false},
        {99999, -1, "", "Lost", MANAGED, false},
        {99999, -1, "", "Bound", "{}", false},
        {99999, -1, "", "Bound", "{\"agenttier.io/managed\":\"true\",\"agenttier.io/pooled\":\"true\"}",
         false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        cleanup_object struct object *claim = claim_of("w", rows[i].claim_age, rows[i].phase, rows[i].labels);
        cleanup_object struct object *one =
            rows[i].backup_age < 0 ? NULL : snapshot_of(rows[i].backup_of, rows[i].backup_age);
        cleanup_object struct object *older = snapshot_of("w", 90000);
        struct object *items[] = {older, one};
        struct object_list list = {.items = items, .count = one ? 2 : 1};
        ck_assert_msg(backup_due(claim, &list, NOW, 3600) == rows[i].due, "row %zu", i);
    }
}
END_TEST

START_TEST(long_names_find_their_backups) {
    char name[74];
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    cleanup_object struct object *claim = claim_of(name, 99999, "Bound", MANAGED);
    cleanup_object struct object *backup = snapshot_of(name, 10);
    struct object *items[] = {backup};
    struct object_list list = {.items = items, .count = 1};
    ck_assert(!backup_due(claim, &list, NOW, 3600));
    cleanup_json json_t *made = backup_build(claim, NULL, "n", "");
    const json_t *labels = json_at(made, "metadata.labels");
    ck_assert_str_eq(json_string_value(json_object_get(labels, "agenttier.io/source-pvc")),
                     json_string_value(json_object_get(json_at(backup->json, "metadata.labels"),
                                                       "agenttier.io/source-pvc")));
    ck_assert_ptr_null(json_at(made, "spec.volumeSnapshotClassName"));
}
END_TEST

START_TEST(backups_expire_by_their_own_time) {
    cleanup_object struct object *old = snapshot_of("w", 7200), *young = snapshot_of("w", 7199);
    ck_assert(backup_expired(old, NOW, 7200));
    ck_assert(!backup_expired(young, NOW, 7200));
    cleanup_object struct object *timeless =
        object_new(KIND_VOLUME_SNAPSHOT, json_pack("{s:{s:s, s:s}}", "metadata", "name", "s", "uid", "u"), 0);
    ck_assert(!backup_expired(timeless, NOW, 7200));
    cleanup_object struct object *going =
        object_new(KIND_VOLUME_SNAPSHOT,
                   json_pack("{s:{s:s, s:s, s:s, s:s}}", "metadata", "name", "s", "uid", "u",
                             "creationTimestamp", time_text(9999), "deletionTimestamp", time_text(1)),
                   0);
    ck_assert(!backup_expired(going, NOW, 7200));
}
END_TEST

int main(void) {
    Suite *suite = suite_create("backups");
    TCase *tc = tcase_create("backups");
    tcase_add_test(tc, a_claim_is_due_an_interval_after_its_newest_backup);
    tcase_add_test(tc, long_names_find_their_backups);
    tcase_add_test(tc, backups_expire_by_their_own_time);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
