/* Every row of controller.md 2.2 and 21.2, and what happens when several things happen at once. */
#include "tests/unit/controller/harness.h"

#include "backend/lifecycle.h"
#include "common/secret.h"

/* ---- Creating ---------------------------------------------------------------------------------- */

START_TEST(create_to_running) {
    template("t", "{\"image\":{\"repository\":\"r:1\"},\"harness\":{\"agent\":{\"entrypoint\":[\"x\"]}}}");
    sandbox("box", FROM_TEMPLATE);
    eventually(there(KIND_POD, "box-pod") && phase_is("box", "Creating"));
    ck_assert(there(KIND_PERSISTENT_VOLUME_CLAIM, "box-workspace"));
    ck_assert(there(KIND_NETWORK_POLICY, "box-netpol"));
    ck_assert_str_eq(status("box", "podName"), "box-pod");
    ck_assert_str_eq(status("box", "pvcName"), "box-workspace");
    ck_assert_str_eq(status("box", "resolvedTemplate"), "t");
    ck_assert_str_ne(status("box", "templateResourceVersion"), "");
    eventually(there(KIND_SECRET, "box-runtime-token"));
    cleanup_object struct object *o = get(KIND_SANDBOX, "box");
    ck_assert_str_eq(json_string_value(json_array_get(json_at(o->json, "metadata.finalizers"), 0)),
                     "agenttier.io/sandbox-cleanup");
    ck_assert_ptr_nonnull(json_at(o->json, "status.resolvedAgentSpec.entrypoint"));
    ck_assert_str_eq(status("box", "startedAt"), "");

    pod_ready("box-pod");
    eventually(phase_is("box", "Running"));
    ck_assert_str_ne(status("box", "startedAt"), "");
    ck_assert_str_eq(status("box", "startedAt"), status("box", "lastActivityTimestamp"));
    ck_assert_str_eq(status("box", "message"), "");
    eventually(events_of("box", "Creating") == 1 && events_of("box", "Running") == 1);
}
END_TEST

START_TEST(W4_a_missing_template_is_waited_for) {
    sandbox("box", FROM_TEMPLATE);
    eventually(phase_is("box", "Error"));
    ck_assert(says("box", "Template resolution failed: "));
    ck_assert(says("box", "\"t\""));
    ck_assert(!there(KIND_POD, "box-pod"));
    eventually(events_of("box", "Error") == 1);
    template("t", "{}");
    eventually(there(KIND_POD, "box-pod") && phase_is("box", "Creating"));
    ck_assert_str_eq(status("box", "message"), "");
}
END_TEST

START_TEST(W4_an_apiserver_that_is_away_is_no_error) {
    faulty.away = true;
    sandbox("box", "");
    usleep(300000);
    ck_assert(phase_is("box", ""));
    faulty.away = false;
    eventually(there(KIND_POD, "box-pod") && phase_is("box", "Creating"));
    faulty.away = true;
    pod_ready("box-pod");
    usleep(SETTLE_US);
    ck_assert(phase_is("box", "Creating"));
    faulty.away = false;
    eventually(phase_is("box", "Running"));
    eventually(events_of("box", "Running") == 1);
    ck_assert_int_eq(events_of("box", "Error"), 0);
}
END_TEST

START_TEST(W4_a_stale_cache_makes_no_second_pod) {
    faulty.blind_pods = 6;
    sandbox("box", "");
    eventually(there(KIND_POD, "box-pod") && phase_is("box", "Creating"));
    pod_ready("box-pod");
    eventually(phase_is("box", "Running"));
    ck_assert_int_eq(events_of("box", "Error"), 0);
}
END_TEST

START_TEST(a_refused_pod_is_an_error_that_says_why) {
    faulty.refuse_pods = 1;
    sandbox("box", "");
    eventually(phase_is("box", "Error"));
    ck_assert_str_eq(status("box", "message"), "Pod creation failed: exceeded quota: pods");
    usleep(SETTLE_US);
    ck_assert(phase_is("box", "Error"));
    annotate("box", "resume");
    eventually(there(KIND_POD, "box-pod") && phase_is("box", "Creating") && !has_action("box"));
}
END_TEST

START_TEST(W9_obstacles_are_said) {
    sandbox("box", "");
    eventually(phase_is("box", "Creating"));
    patch_status(KIND_POD, "box-pod",
                 "{\"phase\":\"Pending\",\"containerStatuses\":[{\"name\":\"sandbox\",\"state\":{\"waiting\":"
                 "{\"reason\":\"ImagePullBackOff\",\"message\":\"no such image\"}}}]}");
    eventually(says("box", "ImagePullBackOff: no such image"));
    ck_assert(phase_is("box", "Creating"));
    patch_status(KIND_POD, "box-pod",
                 "{\"containerStatuses\":[{\"name\":\"sandbox\",\"state\":{\"waiting\":"
                 "{\"reason\":\"ContainerCreating\"}}}]}");
    eventually(*status("box", "message") == '\0');
    patch_status(KIND_POD, "box-pod",
                 "{\"containerStatuses\":[{\"name\":\"sandbox\",\"state\":{\"waiting\":"
                 "{\"reason\":\"InvalidImageName\",\"message\":\"bad\"}}}]}");
    eventually(phase_is("box", "Error"));
    ck_assert_str_eq(status("box", "message"), "Pod failed: InvalidImageName: bad");
    eventually(!there(KIND_POD, "box-pod"));
}
END_TEST

START_TEST(W9_the_creation_has_a_deadline) {
    sandbox("box", "");
    eventually(phase_is("box", "Creating"));
    patch_status(KIND_POD, "box-pod",
                 "{\"phase\":\"Pending\",\"conditions\":[{\"type\":\"PodScheduled\",\"status\":\"False\","
                 "\"reason\":\"Unschedulable\",\"message\":\"0/1 nodes\"}]}");
    eventually(says("box", "Unschedulable"));
    stop_controller();
    creation_deadline_ms = 4000;
    start_controller();
    eventually(phase_is("box", "Error"));
    ck_assert_str_eq(status("box", "message"), "Pod failed: not ready after 4 s: Unschedulable: 0/1 nodes");
    eventually(!there(KIND_POD, "box-pod"));
}
END_TEST

START_TEST(a_pod_that_fails_while_creating) {
    sandbox("app", "");
    eventually(phase_is("app", "Creating") && *status("app", "podName"));
    pod_fails("app-pod", "Error", 7);
    eventually(phase_is("app", "Error"));
    ck_assert_str_eq(status("app", "message"), "Pod failed: Error: exit code 7");
    eventually(!there(KIND_POD, "app-pod") && events_of("app", "ApplicationError") == 1);
    sandbox("oom", "");
    eventually(phase_is("oom", "Creating") && *status("oom", "podName"));
    pod_fails("oom-pod", "OOMKilled", 137);
    eventually(phase_is("oom", "Error"));
    ck_assert(says("oom", "Pod failed (OOMKilled), waiting 20s before restart attempt 1/5"));
    ck_assert_int_eq(number("oom", "status.restartCount"), 1);
}
END_TEST

START_TEST(stop_while_creating) {
    sandbox("box", "");
    eventually(there(KIND_POD, "box-pod"));
    annotate("box", "stop");
    eventually(phase_is("box", "Stopped") && !has_action("box"));
    ck_assert_str_eq(status("box", "message"), "User requested stop");
    eventually(!there(KIND_POD, "box-pod"));
    ck_assert(there(KIND_PERSISTENT_VOLUME_CLAIM, "box-workspace"));
}
END_TEST

/* ---- Running ----------------------------------------------------------------------------------- */

START_TEST(stop_as_in_21_5) {
    running("box", "");
    annotate("box", "stop");
    eventually(phase_is("box", "Stopped") && !has_action("box") && !there(KIND_POD, "box-pod"));
    ck_assert_str_eq(status("box", "message"), "User requested stop");
    ck_assert_str_eq(status("box", "podName"), "");
    ck_assert_str_eq(status("box", "startedAt"), "");
    ck_assert_str_eq(status("box", "pvcName"), "box-workspace");
    ck_assert_str_ne(status("box", "lastActivityTimestamp"), "");
    ck_assert(there(KIND_PERSISTENT_VOLUME_CLAIM, "box-workspace"));
    ck_assert(there(KIND_NETWORK_POLICY, "box-netpol") && there(KIND_SECRET, "box-runtime-token"));
    eventually(events_of("box", "Stopped") == 1);
}
END_TEST

START_TEST(a_snapshot_is_taken_on_stop_where_it_is_asked_for) {
    template("t", "{\"storage\":{\"snapshotOnStop\":true}}");
    running("box", FROM_TEMPLATE);
    running("plain", "");
    running("mine",
            FROM_TEMPLATE ",\"storage\":{\"size\":\"1Gi\"}"); /* its own object replaces the template's */
    faulty.status_clashes = 9;
    annotate("box", "stop");
    eventually(phase_is("box", "Stopped") && events_of("box", "Snapshotted") == 1);
    annotate("plain", "stop");
    annotate("mine", "stop");
    eventually(phase_is("plain", "Stopped") && phase_is("mine", "Stopped"));
    cleanup_object_list struct object_list all = store->ops->list(store, KIND_VOLUME_SNAPSHOT, NULL);
    ck_assert_uint_eq(all.count, 1);
    ck_assert(strncmp(all.items[0]->name, "box-stopsnap-", 13) == 0);
    ck_assert_str_eq(json_str_at(all.items[0]->json, "spec.source.persistentVolumeClaimName"),
                     "box-workspace");
    must_remove(KIND_SANDBOX, "box");
    eventually(!there(KIND_SANDBOX, "box"));
    cleanup_object_list struct object_list left = store->ops->list(store, KIND_VOLUME_SNAPSHOT, NULL);
    ck_assert_uint_eq(left.count, 1);
}
END_TEST

START_TEST(W1_a_stop_among_other_writes_stays_a_stop) {
    running("box", "");
    faulty.status_clashes = 5;
    annotate("box", "stop");
    eventually(phase_is("box", "Stopped") && !there(KIND_POD, "box-pod"));
    usleep(SETTLE_US);
    ck_assert(phase_is("box", "Stopped"));
    eventually(events_of("box", "Stopped") == 1);
    ck_assert_int_eq(events_of("box", "AutoRestarted"), 0);
}
END_TEST

START_TEST(W1_what_a_crash_left_of_a_stop_is_finished) {
    running("box", "");
    stop_controller();
    annotate("box", "stop");
    patch_status(KIND_SANDBOX, "box", "{\"phase\":\"Stopped\",\"podName\":null,\"startedAt\":null}");
    start_controller();
    eventually(!there(KIND_POD, "box-pod") && !has_action("box"));
    ck_assert(phase_is("box", "Stopped"));
}
END_TEST

START_TEST(O6_W3_resume_waits_for_the_old_pod) {
    running("box", "");
    char token[100];
    snprintf(token, sizeof token, "%s", text(KIND_SECRET, "box-runtime-token", "data.token"));
    hold(KIND_POD, "box-pod");
    char old[64];
    snprintf(old, sizeof old, "%s", text(KIND_POD, "box-pod", "metadata.uid"));
    annotate("box", "stop");
    eventually(phase_is("box", "Stopped") && is_going(KIND_POD, "box-pod"));
    patch_status(KIND_SANDBOX, "box", "{\"phase\":\"Creating\",\"message\":\"Resuming\"}");
    eventually(says("box", "Waiting for the previous pod to end"));
    usleep(SETTLE_US);
    ck_assert(phase_is("box", "Creating"));
    release(KIND_POD, "box-pod");
    eventually(there(KIND_POD, "box-pod") && *status("box", "podName"));
    ck_assert_str_ne(text(KIND_POD, "box-pod", "metadata.uid"), old);
    pod_ready("box-pod");
    eventually(phase_is("box", "Running"));
    ck_assert_str_eq(text(KIND_SECRET, "box-runtime-token", "data.token"), token);
    eventually(events_of("box", "Running") == 2);
    ck_assert_int_eq(events_of("box", "Error") + events_of("box", "AutoRestarted"), 0);
}
END_TEST

START_TEST(W23_resume_by_annotation) {
    running("box", "");
    annotate("box", "stop");
    eventually(phase_is("box", "Stopped"));
    annotate("box", "resume");
    eventually(there(KIND_POD, "box-pod") && phase_is("box", "Creating") && !has_action("box"));
}
END_TEST

START_TEST(W2_requests_that_change_nothing_are_cleared) {
    running("box", "");
    annotate("box", "resume");
    eventually(!has_action("box"));
    ck_assert(phase_is("box", "Running"));
    annotate("box", "stop");
    eventually(phase_is("box", "Stopped") && !has_action("box"));
    annotate("box", "stop");
    eventually(!has_action("box"));
    ck_assert(phase_is("box", "Stopped"));
}
END_TEST

START_TEST(a_pod_that_is_gone_is_restarted) {
    running("box", "");
    must_remove(KIND_POD, "box-pod");
    eventually(phase_is("box", "Error"));
    ck_assert_str_eq(status("box", "message"),
                     "Pod failed (Pod disappeared unexpectedly), waiting 20s before restart attempt 1/5");
    ck_assert_int_eq(number("box", "status.restartCount"), 1);
    ck_assert_str_eq(status("box", "podName"), "");
    eventually(events_of("box", "AutoRestarted") == 1);
    /* Somebody who does not wait. */
    patch_status(KIND_SANDBOX, "box", "{\"phase\":\"Creating\",\"message\":\"Resuming\"}");
    eventually(there(KIND_POD, "box-pod"));
    pod_ready("box-pod");
    eventually(phase_is("box", "Running"));
    ck_assert_int_eq(number("box", "status.restartCount"), 1);
}
END_TEST

/* The watch of pods can be behind the one of sandboxes, as after a change of leader. */
START_TEST(W10_a_pod_that_a_stale_cache_hides_has_not_disappeared) {
    running("box", "");
    faulty.blind_pods = 1000;
    faulty.away = true; /* and nobody can be asked */
    object_unref(
        must_patch(KIND_SANDBOX, STORE_MAIN, "box", "{\"metadata\":{\"annotations\":{\"x\":\"1\"}}}"));
    usleep(SETTLE_US);
    faulty.away = false;
    eventually(faulty.blind_pods == 0);
    usleep(SETTLE_US);
    ck_assert(phase_is("box", "Running") && there(KIND_POD, "box-pod"));
    ck_assert_int_eq(events_of("box", "AutoRestarted"), 0);
}
END_TEST

/* Its creation was answered to nobody, and the sandbox was stopped meanwhile. */
static void late_pod(const char *name) {
    cleanup_object struct object *o = get(KIND_SANDBOX, name);
    cleanup_free char *pod = name_of_pod(o);
    cleanup_json json_t *late = json_pack("{s:o, s:{}}", "metadata", metadata_of(o, pod), "spec");
    ck_assert(store->ops->create(store, KIND_POD, late, NULL, NULL));
    eventually(!there(KIND_POD, pod));
}

START_TEST(W1_a_pod_that_turns_up_late_is_removed) {
    running("box", "");
    annotate("box", "stop");
    eventually(phase_is("box", "Stopped") && !has_action("box") && !there(KIND_POD, "box-pod"));
    usleep(SETTLE_US);
    late_pod("box");
    ck_assert(phase_is("box", "Stopped"));
    running("ill", "");
    pod_fails("ill-pod", "Error", 1);
    eventually(phase_is("ill", "Error") && !there(KIND_POD, "ill-pod"));
    usleep(SETTLE_US);
    late_pod("ill");
    ck_assert(phase_is("ill", "Error"));
}
END_TEST

START_TEST(W7_a_dead_pod_is_removed_and_does_not_stand_in_the_way) {
    running("box", "");
    hold(KIND_POD, "box-pod");
    pod_fails("box-pod", "OOMKilled", 137);
    eventually(phase_is("box", "Error") && is_going(KIND_POD, "box-pod"));
    patch_status(KIND_SANDBOX, "box", "{\"phase\":\"Creating\",\"message\":\"Resuming\"}");
    eventually(says("box", "Waiting for the previous pod"));
    release(KIND_POD, "box-pod");
    eventually(there(KIND_POD, "box-pod") && *status("box", "podName"));
    ck_assert_int_eq(number("box", "status.restartCount"), 1);
}
END_TEST

START_TEST(W7_a_dead_pod_of_before_counts_once) {
    running("box", "");
    stop_controller();
    pod_fails("box-pod", "Error", 1);
    patch_status(KIND_SANDBOX, "box", "{\"phase\":\"Creating\",\"podName\":null,\"message\":\"Resuming\"}");
    start_controller();
    eventually(there(KIND_POD, "box-pod") &&
               strcmp(text(KIND_POD, "box-pod", "status.phase"), "Failed") != 0);
    ck_assert_int_eq(events_of("box", "Error"), 0);
}
END_TEST

START_TEST(the_restart_budget_ends) {
    running("box", "");
    patch_status(KIND_SANDBOX, "box", "{\"restartCount\":4}");
    must_remove(KIND_POD, "box-pod");
    eventually(phase_is("box", "Error"));
    ck_assert_str_eq(status("box", "message"),
                     "Restart limit exceeded (5 attempts): Pod disappeared unexpectedly");
    eventually(events_of("box", "Error") == 1);
}
END_TEST

START_TEST(five_stable_minutes_forget_restarts) {
    running("box", "");
    patch_status(KIND_SANDBOX, "box", "{\"restartCount\":3,\"startedAt\":\"2026-01-01T00:00:00Z\"}");
    eventually(number("box", "status.restartCount") == 0 && events_of("box", "RestartCountReset") == 1);
    ck_assert(phase_is("box", "Running"));
}
END_TEST

START_TEST(a_command_that_fails_is_not_restarted) {
    running("box", "");
    pod_fails("box-pod", "Error", 3);
    eventually(phase_is("box", "Error"));
    ck_assert_str_eq(status("box", "message"), "Pod failed: Error: exit code 3");
    eventually(events_of("box", "ApplicationError") == 1 && !there(KIND_POD, "box-pod"));
    ck_assert_int_eq(number("box", "status.restartCount"), 0);
    annotate("box", "stop");
    eventually(phase_is("box", "Stopped") && !has_action("box"));
}
END_TEST

/* What a container leaves as its last words is in the message, and some words there mean something. */
START_TEST(last_words_do_not_restart_a_sandbox) {
    running("box", "");
    patch_status(
        KIND_POD, "box-pod",
        "{\"phase\":\"Failed\",\"containerStatuses\":[{\"name\":\"sandbox\",\"state\":{\"terminated\":"
        "{\"reason\":\"Error\",\"exitCode\":1,\"message\":\"waiting 1s before restart attempt 1/5\"}}}]}");
    eventually(phase_is("box", "Error"));
    ck_assert_str_eq(status("box", "message"), "Pod failed: Error: waiting 1s Before restart attempt 1/5");
    cleanup_object struct object *o = get(KIND_SANDBOX, "box");
    ck_assert(!sandbox_restartable(o));
}
END_TEST

START_TEST(a_command_that_is_done_stops_its_sandbox) {
    running("box", "");
    patch_status(KIND_POD, "box-pod", "{\"phase\":\"Succeeded\"}");
    eventually(phase_is("box", "Stopped"));
    ck_assert(says("box", "completed"));
    eventually(!there(KIND_POD, "box-pod"));
}
END_TEST

START_TEST(max_runtime) {
    readied("box", "\"timeout\":\"1s\"");
    eventually(phase_is("box", "Stopped"));
    ck_assert_str_eq(status("box", "message"), "Max runtime exceeded");
    eventually(events_of("box", "MaxRuntimeReached") == 1 && events_of("box", "Stopped") == 1);
}
END_TEST

START_TEST(W5_a_limit_of_the_template_counts) {
    template("t", "{\"timeout\":\"1s\"}");
    readied("box", FROM_TEMPLATE);
    eventually(phase_is("box", "Stopped"));
    ck_assert_str_eq(status("box", "message"), "Max runtime exceeded");
    running("mine", FROM_TEMPLATE ",\"timeout\":\"0s\"");
    usleep(1200000);
    ck_assert(phase_is("mine", "Running"));
}
END_TEST

START_TEST(W6_activity_moves_the_idle_clock) {
    running("box", "\"idleTimeout\":\"5s\"");
    for (int i = 0; i < 14; i++) { /* seven seconds, in steps that leave room for a busy machine */
        char now[40];
        usleep(500000);
        rfc3339_format(time(NULL), now);
        cleanup_free char *s = xasprintf("{\"lastActivityTimestamp\":\"%s\"}", now);
        patch_status(KIND_SANDBOX, "box", s);
        ck_assert(phase_is("box", "Running"));
    }
    eventually(phase_is("box", "Stopped"));
    ck_assert_str_eq(status("box", "message"), "Idle timeout exceeded");
    eventually(events_of("box", "IdleTimeout") == 1);
}
END_TEST

START_TEST(W10_readiness_that_is_lost_is_said) {
    running("box", "");
    patch_status(KIND_POD, "box-pod", "{\"conditions\":[{\"type\":\"Ready\",\"status\":\"False\"}]}");
    eventually(says("box", "not ready"));
    ck_assert(phase_is("box", "Running"));
    pod_ready("box-pod");
    eventually(*status("box", "message") == '\0');
}
END_TEST

START_TEST(W10_a_pod_on_its_way_out_is_a_failure) {
    running("box", "");
    hold(KIND_POD, "box-pod");
    must_remove(KIND_POD, "box-pod");
    eventually(phase_is("box", "Error"));
    ck_assert(says("box", "before restart attempt 1/5"));
}
END_TEST

static bool policy_admits(const char *name, int port) {
    cleanup_object struct object *o = get(KIND_NETWORK_POLICY, name);
    if (!o) return false;
    char wanted[64];
    snprintf(wanted, sizeof wanted, "{\"port\":%d,\"protocol\":\"TCP\"}", port);
    char *all = json_dumps(json_at(o->json, "spec.ingress"), JSON_COMPACT | JSON_SORT_KEYS);
    bool found = strstr(all, wanted) != NULL;
    free(all);
    return found;
}

START_TEST(W10_W19_the_policy_is_kept_while_running) {
    running("box", "");
    must_remove(KIND_NETWORK_POLICY, "box-netpol");
    eventually(there(KIND_NETWORK_POLICY, "box-netpol"));
    object_unref(must_patch(KIND_NETWORK_POLICY, STORE_MAIN, "box-netpol",
                            "{\"metadata\":{\"labels\":{\"mine\":\"1\"}},\"spec\":{\"ingress\":[{}]}}"));
    eventually(!policy_admits("box-netpol", 3000));
    patch_status(KIND_SANDBOX, "box", "{\"forwardedPorts\":[{\"port\":3000,\"previewUrl\":\"https://x/\"}]}");
    eventually(policy_admits("box-netpol", 3000));
    ck_assert_str_eq(text(KIND_NETWORK_POLICY, "box-netpol", "metadata.labels.mine"), "1");
    patch_status(KIND_SANDBOX, "box", "{\"forwardedPorts\":null}");
    eventually(!policy_admits("box-netpol", 3000));
}
END_TEST

/* ---- whose objects these are ------------------------------------------------------------------- */

START_TEST(O5_a_new_sandbox_never_gets_what_an_earlier_one_had) {
    running("box", "");
    char old_pod[64], old_claim[64], old_token[100];
    snprintf(old_pod, sizeof old_pod, "%s", text(KIND_POD, "box-pod", "metadata.uid"));
    snprintf(old_claim, sizeof old_claim, "%s",
             text(KIND_PERSISTENT_VOLUME_CLAIM, "box-workspace", "metadata.uid"));
    snprintf(old_token, sizeof old_token, "%s", text(KIND_SECRET, "box-runtime-token", "data.token"));
    hold(KIND_POD, "box-pod");
    hold(KIND_PERSISTENT_VOLUME_CLAIM, "box-workspace");
    must_remove(KIND_SANDBOX, "box");
    eventually(!there(KIND_SANDBOX, "box"));
    sandbox("box", "");
    eventually(says("box", "Waiting for PersistentVolumeClaim \"box-workspace\""));
    ck_assert(is_going(KIND_POD, "box-pod") && is_going(KIND_PERSISTENT_VOLUME_CLAIM, "box-workspace"));
    release(KIND_PERSISTENT_VOLUME_CLAIM, "box-workspace");
    eventually(says("box", "Waiting for Pod \"box-pod\""));
    pod_ready("box-pod"); /* what the old one says is nobody's concern */
    usleep(SETTLE_US);
    ck_assert(phase_is("box", "Creating"));
    release(KIND_POD, "box-pod");
    eventually(there(KIND_POD, "box-pod") && *status("box", "podName"));
    ck_assert_str_ne(text(KIND_POD, "box-pod", "metadata.uid"), old_pod);
    ck_assert_str_ne(text(KIND_PERSISTENT_VOLUME_CLAIM, "box-workspace", "metadata.uid"), old_claim);
    eventually(there(KIND_SECRET, "box-runtime-token"));
    ck_assert_str_ne(text(KIND_SECRET, "box-runtime-token", "data.token"), old_token);
}
END_TEST

START_TEST(a_pod_of_nobody_is_left_alone) {
    object_unref(must_create(KIND_POD, make("default", "box-pod", "", "\"spec\":{}")));
    sandbox("box", "");
    eventually(phase_is("box", "Error"));
    ck_assert_str_eq(
        status("box", "message"),
        "Pod creation failed: the Pod \"box-pod\" exists and belongs to nobody that AgentTier knows");
    ck_assert(there(KIND_POD, "box-pod"));
    must_remove(KIND_POD, "box-pod");
    annotate("box", "resume");
    eventually(phase_is("box", "Creating") && there(KIND_POD, "box-pod"));
}
END_TEST

START_TEST(a_claim_made_beforehand_is_used) {
    object_unref(must_create(KIND_PERSISTENT_VOLUME_CLAIM,
                             make("default", "box-workspace", "", "\"spec\":{\"mine\":1}")));
    running("box", "");
    ck_assert_str_eq(status("box", "pvcName"), "box-workspace");
    cleanup_object struct object *o = get(KIND_PERSISTENT_VOLUME_CLAIM, "box-workspace");
    ck_assert_ptr_nonnull(json_at(o->json, "spec.mine"));
    must_remove(KIND_SANDBOX, "box");
    eventually(!there(KIND_SANDBOX, "box"));
    ck_assert(there(KIND_PERSISTENT_VOLUME_CLAIM, "box-workspace"));
}
END_TEST

static const char *claim_of_pod(const char *pod) {
    static char name[100];
    cleanup_object struct object *o = get(KIND_POD, pod);
    snprintf(name, sizeof name, "%s",
             o ? json_str_at(json_array_get(json_at(o->json, "spec.volumes"), 0),
                             "persistentVolumeClaim.claimName")
               : "");
    return name;
}

START_TEST(W11_the_recorded_claim_always_wins) {
    object_unref(must_create(KIND_PERSISTENT_VOLUME_CLAIM, make("default", "pool-x-pvc", "", "\"spec\":{}")));
    running("box", "");
    annotate("box", "stop");
    eventually(phase_is("box", "Stopped") && !there(KIND_POD, "box-pod"));
    patch_status(KIND_SANDBOX, "box", "{\"pvcName\":\"pool-x-pvc\"}");
    annotate("box", "resume");
    eventually(there(KIND_POD, "box-pod") && *status("box", "podName"));
    ck_assert_str_eq(claim_of_pod("box-pod"), "pool-x-pvc");
    ck_assert_str_eq(status("box", "pvcName"), "pool-x-pvc");
}
END_TEST

START_TEST(a_lost_volume_is_said) {
    running("box", "");
    annotate("box", "stop");
    eventually(phase_is("box", "Stopped") && !there(KIND_POD, "box-pod"));
    must_remove(KIND_PERSISTENT_VOLUME_CLAIM, "box-workspace");
    annotate("box", "resume");
    eventually(there(KIND_PERSISTENT_VOLUME_CLAIM, "box-workspace") && events_of("box", "VolumeLost") == 1);
}
END_TEST

/* ---- deletion ---------------------------------------------------------------------------------- */

static void delete_and_look(const char *name) {
    char pod[64], claim[64], policy[64], token[64];
    snprintf(pod, sizeof pod, "%s-pod", name);
    snprintf(claim, sizeof claim, "%s-workspace", name);
    snprintf(policy, sizeof policy, "%s-netpol", name);
    snprintf(token, sizeof token, "%s-runtime-token", name);
    must_remove(KIND_SANDBOX, name);
    /* Who looks on may see it go before what it owns: the event comes after both. */
    eventually(events_of(name, "Deleted") == 1);
    ck_assert(!there(KIND_SANDBOX, name));
    ck_assert(!there(KIND_POD, pod) && !there(KIND_PERSISTENT_VOLUME_CLAIM, claim) &&
              !there(KIND_NETWORK_POLICY, policy) && !there(KIND_SECRET, token));
}

START_TEST(delete_in_every_phase) {
    sandbox("creating", "");
    eventually(there(KIND_POD, "creating-pod"));
    delete_and_look("creating");
    running("running", "");
    delete_and_look("running");
    running("stopped", "");
    annotate("stopped", "stop");
    eventually(phase_is("stopped", "Stopped"));
    delete_and_look("stopped");
    running("error", "");
    pod_fails("error-pod", "Error", 1);
    eventually(phase_is("error", "Error"));
    delete_and_look("error");
    sandbox("early", "");
    must_remove(KIND_SANDBOX, "early");
    eventually(!there(KIND_SANDBOX, "early"));
    usleep(SETTLE_US);
    eventually(!there(KIND_POD, "early-pod") && !there(KIND_PERSISTENT_VOLUME_CLAIM, "early-workspace"));
}
END_TEST

START_TEST(delete_removes_the_record_of_a_scoped_key) {
    running("box", "");
    cleanup_object struct object *o = get(KIND_SANDBOX, "box");
    cleanup_json json_t *metadata = metadata_of(o, "box-scoped-key");
    cleanup_json json_t *secret =
        json_pack("{s:O, s:{s:s}}", "metadata", metadata, "data", "key", "YXRrX3g="); /* atk_x */
    ck_assert(store->ops->create(store, KIND_SECRET, secret, NULL, NULL));
    char hex[SHA256_HEX_LEN + 1];
    sha256_hex(slice_of("atk_x"), hex);
    cleanup_free char *name = xasprintf("agenttier-apikey-%.40s", hex);
    cleanup_json json_t *record =
        json_pack("{s:{s:s, s:s}}", "metadata", "name", name, "namespace", "agenttier");
    ck_assert(store->ops->create(store, KIND_SECRET, record, NULL, NULL));
    faulty.secrets_away = 1; /* not to know is not to have none */
    must_remove(KIND_SANDBOX, "box");
    eventually(!there(KIND_SANDBOX, "box"));
    ck_assert(!exists(KIND_SECRET, "agenttier", name));
}
END_TEST

/* ---- the runtime ------------------------------------------------------------------------------- */

START_TEST(the_runtime_is_brought_to_each_container_once_it_runs) {
    sandbox("box", "");
    eventually(there(KIND_POD, "box-pod"));
    usleep(SETTLE_US);
    ck_assert_int_eq(brought.calls, 0);
    patch_status(KIND_POD, "box-pod", "{\"phase\":\"Running\"," RUNS("c://1") "}");
    eventually(brought.calls > 0);
    ck_assert(there(KIND_SECRET, "box-runtime-token"));
    ck_assert_str_eq(brought.uid, text(KIND_POD, "box-pod", "metadata.uid"));
    object_unref(must_patch(KIND_POD, STORE_MAIN, "box-pod",
                            "{\"metadata\":{\"annotations\":{\"agenttier.io/runtime-ready\":\"c://1\"}}}"));
    pod_ready("box-pod");
    eventually(phase_is("box", "Running"));
    usleep(SETTLE_US);
    int so_far = brought.calls;
    controller_look_at(controller, "default", "box");
    usleep(SETTLE_US);
    ck_assert_int_eq(brought.calls, so_far);
    patch_status(KIND_POD, "box-pod", "{" RUNS("c://2") "}");
    eventually(brought.calls > so_far);
}
END_TEST

START_TEST(no_runtime_where_the_template_says_no) {
    template("t", "{\"harness\":{\"useHTTPExec\":false}}");
    running("box", FROM_TEMPLATE);
    usleep(SETTLE_US);
    ck_assert_int_eq(brought.calls, 0);
    ck_assert(!there(KIND_SECRET, "box-runtime-token"));
}
END_TEST

START_TEST(pods_of_the_reference_controller_are_left_as_they_are) {
    stop_controller();
    object_unref(
        must_create(KIND_SANDBOX, make("default", "box", "\"finalizers\":[\"agenttier.io/sandbox-cleanup\"]",
                                       "\"spec\":{}")));
    cleanup_object struct object *o = get(KIND_SANDBOX, "box");
    cleanup_json json_t *metadata = metadata_of(o, "pool-general-coding-0011223344556677");
    cleanup_json json_t *pod = json_pack("{s:O, s:{}}", "metadata", metadata, "spec");
    ck_assert(store->ops->create(store, KIND_POD, pod, NULL, NULL));
    pod_ready("pool-general-coding-0011223344556677");
    patch_status(
        KIND_SANDBOX, "box",
        "{\"phase\":\"Running\",\"podName\":\"pool-general-coding-0011223344556677\",\"pvcName\":\"x\","
        "\"startedAt\":\"2026-01-01T00:00:00Z\",\"lastActivityTimestamp\":\"2026-01-01T00:00:00Z\"}");
    start_controller();
    usleep(SETTLE_US);
    ck_assert(phase_is("box", "Running"));
    ck_assert_int_eq(brought.calls, 0);
    ck_assert(!there(KIND_POD, "box-pod"));
    annotate("box", "stop");
    eventually(phase_is("box", "Stopped") && !there(KIND_POD, "pool-general-coding-0011223344556677"));
}
END_TEST

/* ---- many at once ------------------------------------------------------------------------------ */

START_TEST(I31_fifty_sandboxes_in_parallel_under_a_storm_of_writes) {
    for (int i = 0; i < 50; i++) {
        char name[16];
        snprintf(name, sizeof name, "b%d", i);
        sandbox(name, "");
    }
    /* Others write to the same objects all the time. */
    int64_t deadline = monotonic_ms() + 2 * PATIENCE_MS;
    int done = 0;
    for (int round = 0; done < 50 && monotonic_ms() < deadline; round++) {
        done = 0;
        for (int i = 0; i < 50; i++) {
            char name[16], pod[24];
            snprintf(name, sizeof name, "b%d", i);
            snprintf(pod, sizeof pod, "b%d-pod", i);
            if (phase_is(name, "Running")) {
                done++;
                continue;
            }
            cleanup_free char *noise = xasprintf("{\"clonedFrom\":\"r%d\"}", round);
            patch_status(KIND_SANDBOX, name, noise);
            if (there(KIND_POD, pod) && !*text(KIND_POD, pod, "status.phase")) pod_ready(pod);
        }
    }
    ck_assert_int_eq(done, 50);
    cleanup_object_list struct object_list pods = store->ops->list(store, KIND_POD, NULL);
    ck_assert_uint_eq(pods.count, 50);
    for (int i = 0; i < 50; i++) {
        char name[16];
        snprintf(name, sizeof name, "b%d", i);
        must_remove(KIND_SANDBOX, name);
    }
    for (int i = 0; i < 50; i++) {
        char name[16];
        snprintf(name, sizeof name, "b%d", i);
        eventually(events_of(name, "Deleted") == 1);
        ck_assert(!there(KIND_SANDBOX, name));
        ck_assert_int_le(events_of(name, "Creating"), 1);
    }
    cleanup_object_list struct object_list left = store->ops->list(store, KIND_POD, NULL);
    ck_assert_uint_eq(left.count, 0);
}
END_TEST

START_TEST(who_does_not_lead_writes_nothing) {
    controller_lead(controller, false);
    sandbox("box", "");
    usleep(SETTLE_US);
    ck_assert_int_eq(faulty.writes, 0);
    ck_assert(phase_is("box", ""));
    controller_lead(controller, true);
    eventually(there(KIND_POD, "box-pod"));
    controller_lead(controller, false);
    pod_ready("box-pod");
    usleep(SETTLE_US);
    ck_assert(phase_is("box", "Creating"));
    controller_lead(controller, true);
    eventually(phase_is("box", "Running"));
}
END_TEST

START_TEST(at_rest_nothing_is_written) {
    running("box", "");
    eventually(events_of("box", "Creating") == 1 && events_of("box", "Running") == 1);
    usleep(SETTLE_US * 3);
    int writes = faulty.writes;
    usleep(SETTLE_US * 5);
    ck_assert_int_eq(faulty.writes, writes);
}
END_TEST

START_TEST(metrics) {
    running("box", "");
    cleanup_buffer struct buffer out = {0};
    controller_metrics(controller, &out);
    ck_assert_ptr_nonnull(strstr(buffer_cstr(&out), "agenttier_controller_sandboxes{phase=\"Running\"} 1\n"));
    ck_assert_ptr_nonnull(strstr(buffer_cstr(&out), "agenttier_controller_pods_created_total 1\n"));
    ck_assert_ptr_nonnull(strstr(buffer_cstr(&out), "agenttier_controller_leader 1\n"));
}
END_TEST

int main(void) {
    Suite *suite = suite_create("reconcile");
    TCase *tc = tcase_create("reconcile");
    tcase_add_checked_fixture(tc, begin, end);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, create_to_running);
    tcase_add_test(tc, W4_a_missing_template_is_waited_for);
    tcase_add_test(tc, W4_an_apiserver_that_is_away_is_no_error);
    tcase_add_test(tc, W4_a_stale_cache_makes_no_second_pod);
    tcase_add_test(tc, a_refused_pod_is_an_error_that_says_why);
    tcase_add_test(tc, W9_obstacles_are_said);
    tcase_add_test(tc, W9_the_creation_has_a_deadline);
    tcase_add_test(tc, a_pod_that_fails_while_creating);
    tcase_add_test(tc, stop_while_creating);
    tcase_add_test(tc, stop_as_in_21_5);
    tcase_add_test(tc, a_snapshot_is_taken_on_stop_where_it_is_asked_for);
    tcase_add_test(tc, W1_a_stop_among_other_writes_stays_a_stop);
    tcase_add_test(tc, W1_what_a_crash_left_of_a_stop_is_finished);
    tcase_add_test(tc, O6_W3_resume_waits_for_the_old_pod);
    tcase_add_test(tc, W23_resume_by_annotation);
    tcase_add_test(tc, W2_requests_that_change_nothing_are_cleared);
    tcase_add_test(tc, a_pod_that_is_gone_is_restarted);
    tcase_add_test(tc, W10_a_pod_that_a_stale_cache_hides_has_not_disappeared);
    tcase_add_test(tc, W1_a_pod_that_turns_up_late_is_removed);
    tcase_add_test(tc, W7_a_dead_pod_is_removed_and_does_not_stand_in_the_way);
    tcase_add_test(tc, W7_a_dead_pod_of_before_counts_once);
    tcase_add_test(tc, the_restart_budget_ends);
    tcase_add_test(tc, five_stable_minutes_forget_restarts);
    tcase_add_test(tc, a_command_that_fails_is_not_restarted);
    tcase_add_test(tc, last_words_do_not_restart_a_sandbox);
    tcase_add_test(tc, a_command_that_is_done_stops_its_sandbox);
    tcase_add_test(tc, max_runtime);
    tcase_add_test(tc, W5_a_limit_of_the_template_counts);
    tcase_add_test(tc, W6_activity_moves_the_idle_clock);
    tcase_add_test(tc, W10_readiness_that_is_lost_is_said);
    tcase_add_test(tc, W10_a_pod_on_its_way_out_is_a_failure);
    tcase_add_test(tc, W10_W19_the_policy_is_kept_while_running);
    tcase_add_test(tc, O5_a_new_sandbox_never_gets_what_an_earlier_one_had);
    tcase_add_test(tc, a_pod_of_nobody_is_left_alone);
    tcase_add_test(tc, a_claim_made_beforehand_is_used);
    tcase_add_test(tc, W11_the_recorded_claim_always_wins);
    tcase_add_test(tc, a_lost_volume_is_said);
    tcase_add_test(tc, delete_in_every_phase);
    tcase_add_test(tc, delete_removes_the_record_of_a_scoped_key);
    tcase_add_test(tc, the_runtime_is_brought_to_each_container_once_it_runs);
    tcase_add_test(tc, no_runtime_where_the_template_says_no);
    tcase_add_test(tc, pods_of_the_reference_controller_are_left_as_they_are);
    tcase_add_test(tc, I31_fifty_sandboxes_in_parallel_under_a_storm_of_writes);
    tcase_add_test(tc, who_does_not_lead_writes_nothing);
    tcase_add_test(tc, at_rest_nothing_is_written);
    tcase_add_test(tc, metrics);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
