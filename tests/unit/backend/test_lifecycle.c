/* The rules of a sandbox's life, and its conflict-safe writes, on the local store. */
#include "tests/unit/local/fixture.h"

#include "backend/lifecycle.h"
#include "common/units.h"

static struct object *sandbox(const char *metadata, const char *status) {
    object_unref(must_create(KIND_SANDBOX, make("default", "box", metadata, "")));
    return must_patch(KIND_SANDBOX, STORE_STATUS, "box", status);
}
static struct sandbox_ref ref_of(const struct object *o) {
    return (struct sandbox_ref){o->namespace, o->name, o->uid};
}

START_TEST(backoff_doubles) {
    static const int64_t expected[] = {10, 20, 40, 80, 160, 160};
    for (int i = 0; i < 6; i++)
        ck_assert_int_eq(sandbox_backoff_s(i), expected[i]);
    ck_assert_int_eq(sandbox_backoff_s(1000), 160);
}
END_TEST

START_TEST(restart_message_is_semantic) {
    char message[SANDBOX_MESSAGE_MAX];
    sandbox_restart_message(message, "OOMKilled", 1);
    ck_assert_str_eq(message, "Pod failed (OOMKilled), waiting 20s before restart attempt 1/5");
    cleanup_object struct object *o = sandbox("", "{\"status\":{\"phase\":\"Error\"}}");
    ck_assert(!sandbox_restartable(o));
    cleanup_free char *patch = xasprintf("{\"status\":{\"message\":\"%s\",\"restartCount\":1}}", message);
    cleanup_object struct object *again = must_patch(KIND_SANDBOX, STORE_STATUS, "box", patch);
    ck_assert(sandbox_restartable(again));
    cleanup_object struct object *spent =
        must_patch(KIND_SANDBOX, STORE_STATUS, "box", "{\"status\":{\"restartCount\":5}}");
    ck_assert(!sandbox_restartable(spent));
}
END_TEST

START_TEST(limits) {
    cleanup_json json_t *spec = parse("{\"timeout\":\"1m\",\"idleTimeout\":\"soon\"}");
    ck_assert_int_eq(sandbox_limit_ms(spec, "timeout"), 60000);
    ck_assert_int_eq(sandbox_limit_ms(spec, "idleTimeout"), 0);
    char now[40];
    cleanup_free char *status = xasprintf("{\"status\":{\"startedAt\":\"%s\"}}", sandbox_now(now));
    cleanup_object struct object *o = sandbox("", status);
    ck_assert_int_eq(sandbox_remaining_ms(o, "status.startedAt", 0), INT64_MAX);
    ck_assert_int_eq(sandbox_remaining_ms(o, "status.other", 5000), INT64_MAX);
    int64_t left = sandbox_remaining_ms(o, "status.startedAt", 60000);
    ck_assert_int_gt(left, 50000);
    ck_assert_int_le(left, 60000);
    ck_assert_int_eq(sandbox_remaining_ms(o, "status.startedAt", 1) <= 1, 1);
}
END_TEST

START_TEST(W1_a_status_is_written_only_in_the_phase_it_was_made_for) {
    cleanup_object struct object *o = sandbox("", "{\"status\":{\"phase\":\"Creating\"}}");
    ck_assert_int_eq(
        sandbox_write_status(store, ref_of(o), "Running", json_pack("{s:s}", "phase", "Stopped")),
        WRITE_STALE);
    ck_assert_int_eq(
        sandbox_write_status(store, ref_of(o), "Creating", json_pack("{s:s}", "phase", "Running")),
        WRITE_DONE);
    struct sandbox_ref other = {"default", "box", "another-uid"};
    ck_assert_int_eq(sandbox_write_status(store, other, NULL, json_pack("{s:s}", "phase", "Error")),
                     WRITE_STALE);
    cleanup_object struct object *now = store->ops->get(store, KIND_SANDBOX, "default", "box");
    ck_assert_str_eq(json_str_at(now->json, "status.phase"), "Running");
}
END_TEST

START_TEST(finalizer_and_action) {
    cleanup_object struct object *o =
        sandbox("\"finalizers\":[\"example.org/other\"],\"annotations\":{\"agenttier.io/"
                "action\":\"stop\",\"a\":\"b\"}",
                "{\"status\":{}}");
    ck_assert(sandbox_action_is(o, "stop"));
    ck_assert(!sandbox_has_finalizer(o));
    ck_assert_int_eq(sandbox_add_finalizer(store, ref_of(o)), WRITE_DONE);
    ck_assert_int_eq(sandbox_add_finalizer(store, ref_of(o)), WRITE_DONE);
    ck_assert_int_eq(sandbox_remove_action(store, ref_of(o), "resume"), WRITE_DONE);
    cleanup_object struct object *kept = store->ops->get(store, KIND_SANDBOX, "default", "box");
    ck_assert(sandbox_action_is(kept, "stop"));
    ck_assert_int_eq(sandbox_remove_action(store, ref_of(o), "stop"), WRITE_DONE);
    cleanup_object struct object *now = store->ops->get(store, KIND_SANDBOX, "default", "box");
    ck_assert(sandbox_has_finalizer(now));
    ck_assert_uint_eq(json_array_size(json_at(now->json, "metadata.finalizers")), 2);
    ck_assert_str_eq(sandbox_action(now), "");
    ck_assert_str_eq(json_str_at(now->json, "metadata.annotations.a"), "b");
    struct sandbox_ref other = {"default", "box", "another-uid"};
    ck_assert_int_eq(sandbox_remove_finalizer(store, other), WRITE_STALE);
    ck_assert_int_eq(sandbox_remove_finalizer(store, ref_of(o)), WRITE_DONE);
    cleanup_object struct object *last = store->ops->get(store, KIND_SANDBOX, "default", "box");
    ck_assert_uint_eq(json_array_size(json_at(last->json, "metadata.finalizers")), 1);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("lifecycle");
    TCase *tc = tcase_create("rules");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, backoff_doubles);
    tcase_add_test(tc, restart_message_is_semantic);
    tcase_add_test(tc, limits);
    tcase_add_test(tc, W1_a_status_is_written_only_in_the_phase_it_was_made_for);
    tcase_add_test(tc, finalizer_and_action);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
