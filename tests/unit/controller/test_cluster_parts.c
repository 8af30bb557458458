/* The parts that speak to a cluster, without one: who leads, definitions, flags, and the script that starts
 * the runtime in a container. */
#include "common/bytes.h"
#include "common/json.h"
#include "controller/crds.h"
#include "controller/lease.h"
#include "controller/options.h"
#include "controller/sender.h"
#include "k8s/yaml_json.h"

#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>

static json_t *parse(const char *text) {
    struct error err = {0};
    json_t *value = json_parse(slice_of(text), &err);
    ck_assert_msg(value != NULL, "%s: %s", err.message, text);
    return value;
}

/* ---- the lease --------------------------------------------------------------------------------- */

static json_t *lease_of(const char *holder, const char *renewed) {
    return json_pack("{s:{s:s, s:i, s:s, s:i}}", "spec", "holderIdentity", holder, "leaseDurationSeconds", 15,
                     "renewTime", renewed, "leaseTransitions", 3);
}

START_TEST(lease_is_taken_only_after_its_time_by_the_own_clock) {
    struct lease_view view = {0};
    cleanup_json json_t *other = lease_of("other", "2020-01-01T00:00:00.000000Z"),
                        *renewed = lease_of("other", "2020-01-01T00:00:02.000000Z"),
                        *mine = lease_of("me", "x"), *nobodys = lease_of("", "x"),
                        *nonsense = parse("{\"spec\":7}");
    ck_assert_int_eq(lease_decide(&view, NULL, "me", 0), LEASE_CREATE);
    /* However old it says it is: it was first seen now. */
    ck_assert_int_eq(lease_decide(&view, other, "me", 1000), LEASE_WAIT);
    ck_assert_int_eq(lease_decide(&view, other, "me", 15000), LEASE_WAIT);
    ck_assert_int_eq(lease_decide(&view, renewed, "me", 15999), LEASE_WAIT);
    ck_assert_int_eq(lease_decide(&view, renewed, "me", 30998), LEASE_WAIT);
    ck_assert_int_eq(lease_decide(&view, renewed, "me", 30999), LEASE_TAKE);
    ck_assert_int_eq(lease_decide(&view, mine, "me", 31000), LEASE_RENEW);
    ck_assert_int_eq(lease_decide(&view, nobodys, "me", 31001), LEASE_TAKE);
    ck_assert_int_eq(lease_decide(&view, nonsense, "me", 31002), LEASE_TAKE);
}
END_TEST

START_TEST(lease_is_written_as_client_go_reads_it) {
    cleanup_json json_t *first = lease_write(NULL, "agenttier", "me", LEASE_CREATE);
    ck_assert_str_eq(json_str_at(first, "metadata.name"), "agenttier-controller-leader");
    ck_assert_str_eq(json_str_at(first, "spec.holderIdentity"), "me");
    ck_assert_int_eq(json_integer_value(json_at(first, "spec.leaseTransitions")), 0);
    const char *at = json_str_at(first, "spec.renewTime");
    ck_assert_uint_eq(strlen(at), strlen("2026-03-04T05:06:07.123456Z"));
    ck_assert_str_eq(at, json_str_at(first, "spec.acquireTime"));
    cleanup_json json_t *taken = NULL, *old = lease_of("other", "x");
    json_object_set_new(old, "metadata", json_pack("{s:s}", "resourceVersion", "7"));
    taken = lease_write(old, "agenttier", "me", LEASE_TAKE);
    ck_assert_str_eq(json_str_at(taken, "metadata.resourceVersion"), "7");
    ck_assert_int_eq(json_integer_value(json_at(taken, "spec.leaseTransitions")), 4);
    cleanup_json json_t *kept = lease_write(taken, "agenttier", "me", LEASE_RENEW);
    ck_assert_int_eq(json_integer_value(json_at(kept, "spec.leaseTransitions")), 4);
}
END_TEST

START_TEST(lease_that_is_not_renewed_is_lost_before_another_takes_it) {
    struct lease_view view = {.leading = true, .renewed_at = 1000};
    ck_assert(!lease_lost(&view, 10999));
    ck_assert(lease_lost(&view, 11000));
    ck_assert_int_lt(LEASE_RENEW_MS, LEASE_DURATION_MS);
    view.leading = false;
    ck_assert(!lease_lost(&view, 99999));
}
END_TEST

/* ---- definitions ------------------------------------------------------------------------------- */

START_TEST(definitions_are_embedded_and_typed) {
    int count = 0;
    for (const struct embedded_file *f = crd_files; f->name; f++, count++) {
        struct error err = {0};
        cleanup_json json_t *crd = crd_parse(f, &err);
        ck_assert_msg(crd != NULL, "%s", err.message);
        ck_assert_str_eq(json_str_at(crd, "kind"), "CustomResourceDefinition");
        const json_t *version = json_array_get(json_at(crd, "spec.versions"), 0);
        ck_assert(json_is_true(json_object_get(version, "served")));
        ck_assert_str_eq(json_str_at(version, "name"), "v1alpha1");
    }
    ck_assert_int_eq(count, 3);
}
END_TEST

START_TEST(definitions_are_replaced_when_they_differ) {
    cleanup_json json_t
        *wanted = parse("{\"metadata\":{\"name\":\"x\",\"labels\":{\"l\":\"1\"},\"annotations\":"
                        "{\"agenttier.io/crd-digest\":\"d1\"}},\"spec\":{\"group\":\"new\"}}"),
        *live =
            parse("{\"metadata\":{\"name\":\"x\",\"resourceVersion\":\"9\",\"managedFields\":[1],"
                  "\"annotations\":{\"theirs\":\"1\"}},\"spec\":{\"group\":\"old\",\"x\":1},\"status\":{}}");
    cleanup_json json_t *next = crd_replacement(wanted, live);
    ck_assert_str_eq(json_str_at(next, "metadata.resourceVersion"), "9");
    ck_assert_str_eq(json_str_at(next, "metadata.annotations.theirs"), "1");
    ck_assert_str_eq(json_str_at(next, "metadata.labels.l"), "1");
    ck_assert_str_eq(json_str_at(next, "spec.group"), "new");
    ck_assert_ptr_null(json_at(next, "spec.x"));
    ck_assert_ptr_null(json_at(next, "metadata.managedFields"));
    ck_assert_ptr_null(crd_replacement(wanted, next));
    cleanup_json json_t *
        served = parse(
           "{\"status\":{\"conditions\":[{\"type\":\"X\"},{\"type\":\"Established\",\"status\":\"True\"}]}}"),
       *refused = parse("{\"status\":{\"conditions\":[{\"type\":\"Established\",\"status\":\"False\"}]}}");
    ck_assert(crd_established(served) && !crd_established(refused) && !crd_established(live));
}
END_TEST

START_TEST(typed_yaml) {
    struct error err = {0};
    cleanup_json json_t *y = yaml_parse_typed(slice_of("a: true\nb: 'true'\nc: 12\nd: \"12\"\ne: 1.5\nf: "
                                                       "0x10\ng: -3\ni: 10Gi\nj: null\nk: 007\nl: False\n"),
                                              &err);
    ck_assert_msg(y != NULL, "%s", err.message);
    cleanup_json json_t *wanted =
        parse("{\"a\":true,\"b\":\"true\",\"c\":12,\"d\":\"12\",\"e\":1.5,\"f\":\"0x10\",\"g\":-3,"
              "\"i\":\"10Gi\",\"j\":null,\"k\":\"007\",\"l\":\"False\"}");
    ck_assert(json_equal(y, wanted));
}
END_TEST

/* ---- flags ------------------------------------------------------------------------------------- */

static enum flags_result flags(struct options *o, struct error *err, const char *a, const char *b) {
    char program[] = "agenttier-controller";
    char *argv[] = {program, (char *)a, (char *)b, NULL};
    return options_parse(a ? b ? 3 : 2 : 1, argv, o, err);
}

START_TEST(flags_have_the_contracts_defaults) {
    struct options o;
    struct error err = {0};
    unsetenv("POD_NAMESPACE");
    unsetenv("KUBECONFIG");
    ck_assert_int_eq(flags(&o, &err, NULL, NULL), FLAGS_RUN);
    ck_assert_str_eq(o.metrics_address, ":8081");
    ck_assert_str_eq(o.probe_address, ":8082");
    ck_assert_str_eq(o.default_storage_size, "10Gi");
    ck_assert_str_eq(o.namespace, "agenttier");
    ck_assert(!o.leader_elect && o.manage_crds);
    ck_assert_int_eq(o.max_concurrency, 10);
    ck_assert_int_eq(o.delivery, DELIVERY_EXEC);
    ck_assert_int_eq(o.creation_deadline_ms, 600000);
    setenv("POD_NAMESPACE", "mine", 1);
    ck_assert_int_eq(flags(&o, &err, "--leader-elect", "--manage-crds=false"), FLAGS_RUN);
    ck_assert_str_eq(o.namespace, "mine");
    ck_assert(o.leader_elect && !o.manage_crds);
    ck_assert_int_eq(flags(&o, &err, "--namespace", "other"), FLAGS_RUN);
    ck_assert_str_eq(o.namespace, "other");
    unsetenv("POD_NAMESPACE");
    ck_assert_int_eq(flags(&o, &err, "--creation-deadline=0", "--runtime-delivery=image"), FLAGS_RUN);
    ck_assert_int_eq(o.creation_deadline_ms, 0);
    ck_assert_int_eq(o.delivery, DELIVERY_IMAGE);
    ck_assert_int_eq(flags(&o, &err, "--help", NULL), FLAGS_HELP);
    ck_assert_int_eq(flags(&o, &err, "--version", NULL), FLAGS_VERSION);
}
END_TEST

START_TEST(wrong_flags_are_refused) {
    static const char *const wrong[] = {"--x",
                                        "x",
                                        "-",
                                        "--",
                                        "--max-concurrency=0",
                                        "--max-concurrency=-1",
                                        "--runtime-delivery=",
                                        "--log-level=loud",
                                        "--log-format=xml",
                                        "--enable-webhook",
                                        "--webhook-delivery=true",
                                        "--default-image=",
                                        "--context"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct options o;
        struct error err = {0};
        ck_assert_msg(flags(&o, &err, wrong[i], NULL) == FLAGS_ERROR, "%s", wrong[i]);
        ck_assert_str_ne(err.message, "");
    }
}
END_TEST

/* ---- the script -------------------------------------------------------------------------------- */

/* Runs it with a shell, as in a container; `input` is what is sent. Returns its exit status. */
static int run_script(const char *dir, const char *size, struct slice input, char *complaint, size_t room) {
    int in[2], out[2];
    ck_assert_int_eq(pipe(in), 0);
    ck_assert_int_eq(pipe(out), 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(in[0], 0);
        dup2(out[1], 1);
        dup2(out[1], 2);
        close(in[1]);
        close(out[0]);
        execl("/bin/sh", "/bin/sh", "-c", sender_script, "agenttier", dir, size, "1.2.3.4:9000", NULL);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    for (size_t at = 0; at < input.len;) {
        ssize_t n = write(in[1], input.ptr + at, input.len - at);
        if (n <= 0) break;
        at += (size_t)n;
    }
    close(in[1]);
    size_t got = 0;
    for (ssize_t n; got + 1 < room && (n = read(out[0], complaint + got, room - got - 1)) > 0;)
        got += (size_t)n;
    complaint[got] = '\0';
    close(out[0]);
    int status;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int try_script(const char *dir, const char *token, const char *program, size_t size, char *complaint,
                      size_t room) {
    cleanup_buffer struct buffer input = {0};
    buffer_printf(&input, "%s\n%s", token, program);
    char number[24];
    snprintf(number, sizeof number, "%zu", size);
    return run_script(dir, number, buffer_slice(&input), complaint, room);
}

START_TEST(script_puts_the_program_in_place_and_gives_it_the_token) {
    char dir[] = "/tmp/controller-script-XXXXXX", said[1000];
    ck_assert_ptr_nonnull(mkdtemp(dir));
    /* What stands for the runtime says what it was given. */
    static const char program[] =
        "#!/bin/sh\nread t; echo \"token=$t args=$* env=$AGENTTIER_RUNTIME_TOKEN\"\n";
    unsetenv("AGENTTIER_RUNTIME_TOKEN");
    ck_assert_int_eq(try_script(dir, "T-o_k$e'n", program, sizeof program - 1, said, sizeof said), 0);
    ck_assert_str_eq(said, "token=T-o_k$e'n args=--token-stdin --detach --listen-addr=1.2.3.4:9000 env=\n");
    cleanup_free char *rm = xasprintf("rm -rf '%s'", dir);
    ck_assert_int_eq(system(rm), 0);
}
END_TEST

START_TEST(script_starts_nothing_that_is_incomplete) {
    char dir[] = "/tmp/controller-script-XXXXXX", said[1000];
    ck_assert_ptr_nonnull(mkdtemp(dir));
    static const char program[] = "#!/bin/sh\necho started\n";
    ck_assert_int_eq(try_script(dir, "t", program, sizeof program + 100, said, sizeof said), 92);
    ck_assert_str_eq(said, "");
    ck_assert_int_eq(run_script(dir, "10", slice_make("", 0), said, sizeof said), 90);
    cleanup_free char *list = xasprintf("test -z \"$(ls '%s')\"; s=$?; rm -rf '%s'; exit $s", dir, dir);
    ck_assert_int_eq(system(list), 0);
    ck_assert_int_eq(try_script("/nonexistent", "t", program, sizeof program - 1, said, sizeof said), 91);
}
END_TEST

START_TEST(script_says_why_the_program_did_not_start) {
    char dir[] = "/tmp/controller-script-XXXXXX", said[1000];
    ck_assert_ptr_nonnull(mkdtemp(dir));
    static const char program[] = "#!/bin/sh\necho 'cannot listen' >&2; exit 7\n";
    ck_assert_int_eq(try_script(dir, "t", program, sizeof program - 1, said, sizeof said), 7);
    ck_assert_str_eq(said, "cannot listen\n");
    cleanup_free char *rm = xasprintf("rm -rf '%s'", dir);
    ck_assert_int_eq(system(rm), 0);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("cluster_parts");
    TCase *tc = tcase_create("cluster_parts");
    tcase_add_test(tc, lease_is_taken_only_after_its_time_by_the_own_clock);
    tcase_add_test(tc, lease_is_written_as_client_go_reads_it);
    tcase_add_test(tc, lease_that_is_not_renewed_is_lost_before_another_takes_it);
    tcase_add_test(tc, definitions_are_embedded_and_typed);
    tcase_add_test(tc, definitions_are_replaced_when_they_differ);
    tcase_add_test(tc, typed_yaml);
    tcase_add_test(tc, flags_have_the_contracts_defaults);
    tcase_add_test(tc, wrong_flags_are_refused);
    tcase_add_test(tc, script_puts_the_program_in_place_and_gives_it_the_token);
    tcase_add_test(tc, script_starts_nothing_that_is_incomplete);
    tcase_add_test(tc, script_says_why_the_program_did_not_start);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
