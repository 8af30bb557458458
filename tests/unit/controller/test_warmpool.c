/* The warm pool: filling, what of it fits a sandbox, handing over, and what happens at once (controller.md
 * 10, W11 to W16; http-api-extended.md, weaknesses 75 to 82). */
#include "tests/unit/controller/harness.h"

#include "controller/warmpool_item.h"

static void configure(const char *config) {
    cleanup_json json_t *data = json_pack("{s:{s:s}}", "data", WARMPOOL_DATA_KEY, config);
    if (exists(KIND_CONFIG_MAP, "agenttier", WARMPOOL_CONFIG_MAP)) {
        ck_assert(store->ops->patch(store, KIND_CONFIG_MAP, STORE_MAIN, "agenttier", WARMPOOL_CONFIG_MAP,
                                    data, NULL, NULL, NULL));
        return;
    }
    json_object_set_new(data, "metadata",
                        json_pack("{s:s, s:s}", "name", WARMPOOL_CONFIG_MAP, "namespace", "agenttier"));
    object_unref(must_create(KIND_CONFIG_MAP, json_incref(data)));
}
#define POOL_OF(count) "{\"pools\":[{\"template\":\"t\",\"desiredCount\":" #count "}]}"

static size_t pooled(void) {
    cleanup_object_list struct object_list all = store->ops->list(store, KIND_POD, "default");
    size_t n = 0;
    for (size_t i = 0; i < all.count; i++)
        n += warmpool_of(all.items[i]) != NULL;
    return n;
}

/* The name of the n-th pod of the pool; of 8 the newest are kept. */
static const char *pool_name(size_t n) {
    static char ring[8][100];
    static int at;
    char *out = ring[at++ % 8];
    out[0] = '\0';
    cleanup_object_list struct object_list all = store->ops->list(store, KIND_POD, "default");
    for (size_t i = 0; i < all.count; i++)
        if (warmpool_of(all.items[i]) && n-- == 0) snprintf(out, 100, "%s", all.items[i]->name);
    return out;
}

static void change_template(const char *spec) {
    cleanup_json json_t *patch = json_pack("{s:o}", "spec", parse(spec));
    ck_assert(store->ops->patch(store, KIND_CLUSTER_SANDBOX_TEMPLATE, STORE_MAIN, "", "t", patch, NULL, NULL,
                                NULL));
}

static const char *named(const char *pod, const char *what) {
    static char ring[8][140];
    static int at;
    char *out = ring[at++ % 8];
    snprintf(out, 140, "%s-%s", pod, what);
    return out;
}

static const char *owner(enum kind kind, const char *name) {
    static char uid[64];
    cleanup_object struct object *o = get(kind, name);
    snprintf(uid, sizeof uid, "%s", o ? owner_uid(o) : "");
    return uid;
}

static const char *uid_of(enum kind kind, const char *name) {
    return text(kind, name, "metadata.uid");
}

static bool is_denying(void) {
    cleanup_object struct object *o = get(KIND_NETWORK_POLICY, POOL_POLICY);
    return o && !json_at(o->json, "spec.ingress") && !json_at(o->json, "spec.egress") &&
           json_array_size(json_at(o->json, "spec.policyTypes")) == 2;
}

/* Waits for the pool's one pod and what belongs to it, and makes it ready; its name. */
static const char *gets_ready(void) {
    eventually(pooled() == 1 && there(KIND_SECRET, named(pool_name(0), "runtime-token")));
    const char *name = pool_name(0);
    pod_ready(name);
    return name;
}

/* A pool of one that is ready; its name. */
static const char *one_ready(void) {
    template("t", "{\"image\":{\"repository\":\"r:1\"},\"env\":[{\"name\":\"A\",\"value\":\"1\"}]}");
    configure(POOL_OF(1));
    return gets_ready();
}

static uint64_t conflicts(void) {
    cleanup_buffer struct buffer out = {0};
    controller_metrics(controller, &out);
    const char *at = strstr(buffer_cstr(&out), "\nagenttier_warmpool_claim_conflicts_total ");
    ck_assert_ptr_nonnull(at);
    return strtoull(at + strlen("\nagenttier_warmpool_claim_conflicts_total "), NULL, 10);
}

/* ---- filling ---- */

START_TEST(without_a_configuration_there_is_none) {
    template("t", "{}");
    usleep(SETTLE_US);
    ck_assert_int_eq(pooled(), 0);
    ck_assert(!there(KIND_NETWORK_POLICY, POOL_POLICY));
    configure("not JSON");
    usleep(SETTLE_US);
    ck_assert_int_eq(pooled(), 0);
}
END_TEST

START_TEST(W14_W16_O8_it_is_filled_at_once_with_pods_like_others) {
    template("t", "{\"image\":{\"repository\":\"r:1\"},\"storage\":{\"size\":\"3Gi\"},"
                  "\"resources\":{\"limits\":{\"cpu\":\"1\"}}}");
    configure(POOL_OF(3));
    eventually(pooled() == 3);
    ck_assert(is_denying());
    const char *name = pool_name(0);
    ck_assert_int_eq(strncmp(name, "pool-t-", 7), 0);
    eventually(there(KIND_SECRET, named(name, "runtime-token")));
    cleanup_object struct object *pod = get(KIND_POD, name),
                                 *claim = get(KIND_PERSISTENT_VOLUME_CLAIM, named(name, "pvc"));
    ck_assert_ptr_nonnull(claim);
    const json_t *main = json_array_get(json_at(pod->json, "spec.containers"), 0);
    ck_assert_str_eq(json_str_at(main, "image"), "r:1");
    ck_assert_str_eq(json_str_at(main, "resources.limits.cpu"), "1");
    ck_assert(json_is_true(json_at(main, "securityContext.readOnlyRootFilesystem")));
    ck_assert(json_is_false(json_at(pod->json, "spec.automountServiceAccountToken")));
    size_t i;
    json_t *variable;
    json_array_foreach(json_object_get(main, "env"), i, variable)
        ck_assert_str_ne(json_str_at(variable, "name"), "AGENTTIER_SANDBOX");
    /* The cluster's default class (O8), the template's size. */
    ck_assert_ptr_null(json_at(claim->json, "spec.storageClassName"));
    ck_assert_str_eq(json_str_at(claim->json, "spec.resources.requests.storage"), "3Gi");
    ck_assert(is_controlled_by(claim, pod->uid));
    /* Its runtime comes before anybody takes it. */
    pod_ready(name);
    eventually(brought.calls > 0);
    ck_assert_str_eq(brought.secret, named(name, "runtime-token"));
    ck_assert_str_eq(brought.owner, pod->uid);
}
END_TEST

START_TEST(it_follows_its_configuration) {
    template("t", "{}");
    configure(POOL_OF(3));
    eventually(pooled() == 3);
    pod_ready(pool_name(1));
    const char *ready = pool_name(1);
    configure(POOL_OF(1));
    eventually(pooled() == 1);
    ck_assert_str_eq(pool_name(0), ready);
    configure(
        "{\"pools\":[{\"template\":\"t\",\"desiredCount\":2},{\"template\":\"none\",\"desiredCount\":2}]}");
    eventually(pooled() == 2);
    configure("{\"pools\":[]}");
    eventually(pooled() == 0 && !there(KIND_NETWORK_POLICY, POOL_POLICY));
    cleanup_object_list struct object_list claims =
        store->ops->list(store, KIND_PERSISTENT_VOLUME_CLAIM, "default");
    ck_assert_int_eq(claims.count, 0);
    configure("{\"template\":\"t\",\"desiredCount\":1}");
    eventually(pooled() == 1);
    ck_assert(store->ops->remove(store, KIND_CONFIG_MAP, "agenttier", WARMPOOL_CONFIG_MAP, NULL, NULL));
    eventually(pooled() == 0);
}
END_TEST

START_TEST(it_follows_its_template) {
    cleanup_free char *old = xstrdup(one_ready());
    change_template("{\"description\":\"says nothing of pods\"}");
    usleep(SETTLE_US);
    ck_assert_str_eq(pool_name(0), old);
    change_template("{\"image\":{\"repository\":\"r:2\"}}");
    eventually(pooled() == 1 && strcmp(pool_name(0), old) != 0);
    ck_assert(!there(KIND_POD, old));
    cleanup_object struct object *pod = get(KIND_POD, pool_name(0));
    ck_assert_str_eq(json_str_at(json_array_get(json_at(pod->json, "spec.containers"), 0), "image"), "r:2");
    ck_assert(store->ops->remove(store, KIND_CLUSTER_SANDBOX_TEMPLATE, "", "t", NULL, NULL));
    eventually(pooled() == 0);
}
END_TEST

START_TEST(templates_that_need_more_than_a_pool_has_are_left_out) {
    static const char *const specs[] = {"{\"initScripts\":[\"true\"]}",
                                        "{\"initContainers\":[{\"name\":\"x\",\"image\":\"i\"}]}",
                                        "{\"env\":[{\"name\":\"WHO\",\"value\":\"$(AGENTTIER_SANDBOX)\"}]}"};
    configure("{\"pools\":[{\"template\":\"t0\",\"desiredCount\":1},{\"template\":\"t1\",\"desiredCount\":1},"
              "{\"template\":\"t2\",\"desiredCount\":1},{\"template\":\"fine\",\"desiredCount\":1}]}");
    char name[4] = "t0";
    for (size_t i = 0; i < 3; i++) {
        name[1] = (char)('0' + i);
        template(name, specs[i]);
    }
    template("fine", "{}");
    eventually(pooled() == 1);
    usleep(SETTLE_US);
    ck_assert_int_eq(pooled(), 1);
}
END_TEST

START_TEST(W16_a_pod_that_fails_is_replaced_after_a_pause) {
    cleanup_free char *name = xstrdup(one_ready());
    pod_fails(name, "Error", 1);
    eventually(!there(KIND_POD, name));
    usleep(SETTLE_US);
    ck_assert_int_eq(pooled(), 0); /* 10 s at the least */
    cleanup_buffer struct buffer out = {0};
    controller_metrics(controller, &out);
    ck_assert_ptr_nonnull(strstr(buffer_cstr(&out), "agenttier_controller_warmpool_pods_failed_total 1\n"));
}
END_TEST

START_TEST(one_that_is_gone_is_replaced_at_once) {
    cleanup_free char *name = xstrdup(one_ready());
    must_remove(KIND_POD, name);
    eventually(pooled() == 1 && strcmp(pool_name(0), name) != 0);
}
END_TEST

START_TEST(the_policy_is_kept) {
    one_ready();
    must_remove(KIND_NETWORK_POLICY, POOL_POLICY);
    eventually(there(KIND_NETWORK_POLICY, POOL_POLICY));
    object_unref(must_patch(KIND_NETWORK_POLICY, STORE_MAIN, POOL_POLICY, "{\"spec\":{\"ingress\":[{}]}}"));
    eventually(is_denying());
}
END_TEST

START_TEST(the_policy_stays_until_the_last_pod_is_gone) {
    cleanup_free char *name = xstrdup(one_ready());
    hold(KIND_POD, name);
    configure("{}");
    eventually(is_going(KIND_POD, name));
    usleep(SETTLE_US);
    ck_assert(is_denying());
    release(KIND_POD, name);
    eventually(!there(KIND_POD, name) && !there(KIND_NETWORK_POLICY, POOL_POLICY));
}
END_TEST

/* ---- taking ---- */

START_TEST(W11_W15_a_sandbox_takes_one_with_all_that_it_has) {
    cleanup_free char *name = xstrdup(one_ready());
    cleanup_free char *token = xstrdup(text(KIND_SECRET, named(name, "runtime-token"), "data.token"));
    sandbox("box", FROM_TEMPLATE ",\"createdBy\":{\"email\":\"a@b\"}");
    eventually(phase_is("box", "Running"));
    ck_assert_str_eq(status("box", "podName"), name);
    ck_assert_str_eq(status("box", "pvcName"), named(name, "pvc"));
    ck_assert_str_eq(status("box", "resolvedTemplate"), "t");
    ck_assert(!there(KIND_POD, "box-pod") && !there(KIND_PERSISTENT_VOLUME_CLAIM, "box-workspace"));
    ck_assert_str_eq(text(KIND_SECRET, "box-runtime-token", "data.token"), token);
    ck_assert_str_eq(owner(KIND_POD, name), uid_of(KIND_SANDBOX, "box"));
    ck_assert_str_eq(owner(KIND_PERSISTENT_VOLUME_CLAIM, named(name, "pvc")), uid_of(KIND_SANDBOX, "box"));
    ck_assert_str_eq(owner(KIND_SECRET, "box-runtime-token"), uid_of(KIND_SANDBOX, "box"));
    ck_assert(there(KIND_NETWORK_POLICY, "box-netpol"));
    cleanup_object struct object *pod = get(KIND_POD, name),
                                 *claim = get(KIND_PERSISTENT_VOLUME_CLAIM, named(name, "pvc"));
    const json_t *labels = json_at(pod->json, "metadata.labels");
    cleanup_json json_t *wanted =
        json_pack("{s:s, s:s, s:s}", LABEL_SANDBOX, "box", LABEL_MANAGED, "true", LABEL_TEMPLATE, "t");
    ck_assert(json_equal(labels, wanted));
    ck_assert_str_eq(
        json_string_value(json_object_get(json_at(pod->json, "metadata.annotations"), ANNOTATION_EMAIL)),
        "a@b");
    json_object_del(wanted, LABEL_TEMPLATE);
    ck_assert(json_equal(json_at(claim->json, "metadata.labels"), wanted));
    eventually(events_of("box", "Running") == 1);
    /* And another one takes its place. */
    eventually(pooled() == 1 && strcmp(pool_name(0), name) != 0);
    ck_assert_int_eq(conflicts(), 0);

    /* Its files stay over stop and resume (W11), on a pod of its own (W12). */
    pod_ready(pool_name(0));
    annotate("box", "stop");
    eventually(phase_is("box", "Stopped") && !there(KIND_POD, name) && !has_action("box"));
    ck_assert(there(KIND_PERSISTENT_VOLUME_CLAIM, named(name, "pvc")));
    ck_assert(there(KIND_SECRET, "box-runtime-token"));
    annotate("box", "resume");
    eventually(there(KIND_POD, "box-pod"));
    pod_ready("box-pod");
    eventually(phase_is("box", "Running"));
    ck_assert_str_eq(status("box", "pvcName"), named(name, "pvc"));
    cleanup_object struct object *again = get(KIND_POD, "box-pod");
    cleanup_free char *used = pool_claim_name(again);
    ck_assert_str_eq(used, named(name, "pvc"));
    ck_assert_int_eq(pooled(), 1);
    must_remove(KIND_SANDBOX, "box");
    eventually(!there(KIND_SANDBOX, "box") && !there(KIND_PERSISTENT_VOLUME_CLAIM, named(name, "pvc")));
}
END_TEST

START_TEST(W13_only_what_is_the_same_is_taken) {
    static const char *const differ[] = {
        FROM_TEMPLATE ",\"image\":{\"repository\":\"r:2\"}",
        FROM_TEMPLATE ",\"env\":[{\"name\":\"B\",\"value\":\"1\"}]",
        FROM_TEMPLATE ",\"env\":[{\"name\":\"A\",\"value\":\"2\"}]",
        FROM_TEMPLATE ",\"resources\":{\"limits\":{\"cpu\":\"1\"}}",
        FROM_TEMPLATE ",\"storage\":{\"size\":\"1Gi\"}",
        FROM_TEMPLATE ",\"storage\":{\"storageClass\":\"fast\"}",
        FROM_TEMPLATE ",\"storage\":{\"mountPath\":\"/data\"}",
        FROM_TEMPLATE ",\"security\":{\"privileged\":true}",
        FROM_TEMPLATE ",\"runtimeClass\":\"gvisor\"",
        FROM_TEMPLATE ",\"serviceAccount\":\"sa\"",
        FROM_TEMPLATE ",\"credentials\":[{\"secretName\":\"s\",\"mountAs\":\"env\"}]",
        FROM_TEMPLATE ",\"sidecars\":[{\"name\":\"x\",\"image\":\"i\"}]",
        FROM_TEMPLATE ",\"cloneFromSnapshot\":\"snap\"",                 /* W12 */
        "\"templateRef\":{\"name\":\"t\",\"kind\":\"SandboxTemplate\"}", /* weakness 81 */
        "",
    };
    one_ready();
    object_unref(must_create(KIND_SANDBOX_TEMPLATE, make("default", "t", "",
                                                         "\"spec\":{\"image\":{\"repository\":"
                                                         "\"r:1\"},\"env\":[{\"name\":\"A\","
                                                         "\"value\":\"1\"}]}")));
    object_unref(must_create(KIND_VOLUME_SNAPSHOT, make("default", "snap", "", "\"spec\":{}")));
    patch_status(KIND_VOLUME_SNAPSHOT, "snap", "{\"readyToUse\":true,\"restoreSize\":\"1Gi\"}");
    for (size_t i = 0; i < sizeof differ / sizeof *differ; i++) {
        char name[16], pod[24];
        snprintf(name, sizeof name, "box%zu", i);
        snprintf(pod, sizeof pod, "%s-pod", name);
        sandbox(name, differ[i]);
        eventually(there(KIND_POD, pod));
        ck_assert_int_eq(pooled(), 1);
    }
    /* What says nothing of the pod is no difference. */
    sandbox("same",
            FROM_TEMPLATE ",\"timeout\":\"1h\",\"idleTimeout\":\"5m\",\"network\":{\"allowInternet\":true}");
    eventually(phase_is("same", "Running"));
    ck_assert(!there(KIND_POD, "same-pod"));
}
END_TEST

START_TEST(W12_who_has_a_workspace_keeps_it) {
    one_ready();
    object_unref(must_create(KIND_PERSISTENT_VOLUME_CLAIM,
                             make("default", "mine-workspace", "", "\"spec\":{\"mine\":1}")));
    sandbox("mine", FROM_TEMPLATE);
    eventually(there(KIND_POD, "mine-pod"));
    ck_assert_int_eq(pooled(), 1);
    /* In another namespace, too. */
    object_unref(must_create(KIND_SANDBOX, make("elsewhere", "far", "", "\"spec\":{" FROM_TEMPLATE "}")));
    eventually(exists(KIND_POD, "elsewhere", "far-pod"));
    ck_assert_int_eq(pooled(), 1);
}
END_TEST

START_TEST(two_sandboxes_and_one_pod) {
    cleanup_free char *name = xstrdup(one_ready());
    controller_lead(controller, false);
    for (int i = 0; i < 8; i++) {
        char box[16];
        snprintf(box, sizeof box, "box%d", i);
        sandbox(box, FROM_TEMPLATE);
    }
    controller_lead(controller, true);
    int warm = 0;
    for (int i = 0; i < 8; i++) {
        char box[16], pod[24];
        snprintf(box, sizeof box, "box%d", i);
        snprintf(pod, sizeof pod, "%s-pod", box);
        eventually(there(KIND_POD, pod) || phase_is(box, "Running"));
        warm += phase_is(box, "Running");
        if (phase_is(box, "Running")) ck_assert_str_eq(owner(KIND_POD, name), uid_of(KIND_SANDBOX, box));
    }
    ck_assert_int_eq(warm, 1);
}
END_TEST

START_TEST(a_conflict_is_counted_and_tried_again) {
    cleanup_free char *name = xstrdup(one_ready());
    faulty.pod_clashes = 2;
    sandbox("box", FROM_TEMPLATE);
    eventually(phase_is("box", "Running"));
    ck_assert_str_eq(status("box", "podName"), name);
    ck_assert_int_eq(conflicts(), 2);
    /* Three times, and then it starts like any other. */
    gets_ready();
    faulty.pod_clashes = 3;
    sandbox("cold", FROM_TEMPLATE);
    eventually(there(KIND_POD, "cold-pod"));
    ck_assert_int_eq(conflicts(), 5);
}
END_TEST

START_TEST(a_claim_whose_answer_is_lost_is_one) {
    cleanup_free char *name = xstrdup(one_ready());
    faulty.lost_answers = 1;
    sandbox("box", FROM_TEMPLATE);
    eventually(phase_is("box", "Running"));
    ck_assert_str_eq(status("box", "podName"), name);
    ck_assert(!there(KIND_POD, "box-pod"));
}
END_TEST

/* At every point between the claim and the status. */
START_TEST(W15_another_controller_finishes_what_one_began) {
    for (int point = 0; point < 3; point++) {
        char box[16];
        snprintf(box, sizeof box, "box%d", point);
        cleanup_free char *name = xstrdup(point == 0 ? one_ready() : gets_ready());
        if (point == 0) faulty.secrets_away = 1000000;
        if (point == 1) faulty.claims_away = 1000000;
        if (point == 2) faulty.status_clashes = 1000000;
        sandbox(box, FROM_TEMPLATE);
        eventually(*owner(KIND_POD, name));
        usleep(SETTLE_US);
        ck_assert(!phase_is(box, "Running"));
        stop_controller();
        faulty.secrets_away = faulty.claims_away = faulty.status_clashes = 0;
        start_controller();
        eventually(phase_is(box, "Running"));
        ck_assert_str_eq(status(box, "podName"), name);
        ck_assert_str_eq(status(box, "pvcName"), named(name, "pvc"));
        ck_assert_str_eq(text(KIND_SECRET, named(box, "runtime-token"), "data.token"),
                         text(KIND_SECRET, named(name, "runtime-token"), "data.token"));
    }
}
END_TEST

START_TEST(one_that_lacks_its_token_is_not_used) {
    cleanup_free char *name = xstrdup(one_ready());
    must_remove(KIND_SECRET, named(name, "runtime-token"));
    sandbox("box", FROM_TEMPLATE);
    eventually(there(KIND_POD, "box-pod"));
    ck_assert(!there(KIND_POD, name) && !there(KIND_PERSISTENT_VOLUME_CLAIM, named(name, "pvc")));
    pod_ready("box-pod");
    eventually(phase_is("box", "Running"));
}
END_TEST

START_TEST(a_claimed_pod_that_fails_is_a_failure_of_its_sandbox) {
    cleanup_free char *name = xstrdup(one_ready());
    sandbox("box", FROM_TEMPLATE);
    eventually(phase_is("box", "Running"));
    must_remove(KIND_POD, name);
    eventually(phase_is("box", "Error"));
    ck_assert(says("box", "Pod disappeared unexpectedly"));
    ck_assert_str_eq(status("box", "pvcName"), named(name, "pvc"));
}
END_TEST

START_TEST(who_does_not_lead_does_nothing) {
    template("t", "{}");
    controller_lead(controller, false);
    configure(POOL_OF(2));
    usleep(SETTLE_US);
    ck_assert_int_eq(pooled(), 0);
    controller_lead(controller, true);
    eventually(pooled() == 2);
    eventually(there(KIND_SECRET, named(pool_name(0), "runtime-token")) &&
               there(KIND_SECRET, named(pool_name(1), "runtime-token")));
    usleep(SETTLE_US);
    int writes = faulty.writes;
    usleep(SETTLE_US * 5);
    ck_assert_int_eq(faulty.writes, writes);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("warmpool");
    TCase *tc = tcase_create("warmpool");
    tcase_add_checked_fixture(tc, begin, end);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, without_a_configuration_there_is_none);
    tcase_add_test(tc, W14_W16_O8_it_is_filled_at_once_with_pods_like_others);
    tcase_add_test(tc, it_follows_its_configuration);
    tcase_add_test(tc, it_follows_its_template);
    tcase_add_test(tc, templates_that_need_more_than_a_pool_has_are_left_out);
    tcase_add_test(tc, W16_a_pod_that_fails_is_replaced_after_a_pause);
    tcase_add_test(tc, one_that_is_gone_is_replaced_at_once);
    tcase_add_test(tc, the_policy_is_kept);
    tcase_add_test(tc, the_policy_stays_until_the_last_pod_is_gone);
    tcase_add_test(tc, W11_W15_a_sandbox_takes_one_with_all_that_it_has);
    tcase_add_test(tc, W13_only_what_is_the_same_is_taken);
    tcase_add_test(tc, W12_who_has_a_workspace_keeps_it);
    tcase_add_test(tc, two_sandboxes_and_one_pod);
    tcase_add_test(tc, a_conflict_is_counted_and_tried_again);
    tcase_add_test(tc, a_claim_whose_answer_is_lost_is_one);
    tcase_add_test(tc, W15_another_controller_finishes_what_one_began);
    tcase_add_test(tc, one_that_lacks_its_token_is_not_used);
    tcase_add_test(tc, a_claimed_pod_that_fails_is_a_failure_of_its_sandbox);
    tcase_add_test(tc, who_does_not_lead_does_nothing);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
