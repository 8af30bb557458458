/* Policies as they are written, stored, merged and filled in: http-api-extended.md 6.1, 6.2, 6.6; W-32, W-87,
 * W-88. */
#include "router/policy_document.h"
#include "tests/unit/router/fixture.h"

static void parses(const char *body, const char *want) {
    cleanup_json json_t *given = json_of(body);
    cleanup_error struct error err = {0};
    cleanup_json json_t *got = policy_parse(given, &err);
    ck_assert_msg(got != NULL, "%s: %s", body, err.message);
    assert_json(got, want);
}

static void refused(const char *body, const char *field) {
    cleanup_json json_t *given = json_of(body);
    cleanup_error struct error err = {0};
    cleanup_json json_t *got = policy_parse(given, &err);
    ck_assert_msg(got == NULL, "%s was taken", body);
    assert_field_error(&err, field);
}

START_TEST(canonical_form) {
    parses("{}", "{}");
    parses("{'maxSandboxesPerUser':0,'maxCpu':'','maxTimeout':null,'allowedTemplates':[],'description':''}",
           "{}");
    parses("{'maxCpu':4,'maxMemory':1.5,'maxStorage':0}", "{'maxCpu':'4','maxMemory':'1.5'}");
    const char *whole =
        "{'maxSandboxesPerUser':2,'maxSandboxesTotal':5,'maxCpu':'1','maxMemory':'1Gi','maxStorage':'50Gi',"
        "'maxTimeout':'8h','maxIdleTimeout':'1h','allowedTemplates':['a','b'],'approvedRegistries':['r/'],"
        "'maxAgentSandboxes':1,'allowedAgentImages':['r/"
        "a'],'maxConcurrentInvokesPerSandbox':3,'description':'x'}";
    parses(whole, whole);
}
END_TEST

START_TEST(W87_what_is_refused) {
    refused("{'maxCpu':'lots'}", "maxCpu");
    refused("{'maxCpu':'0'}", "maxCpu");
    refused("{'maxMemory':'-1Gi'}", "maxMemory");
    refused("{'maxMemory':true}", "maxMemory");
    refused("{'maxTimeout':'0s'}", "maxTimeout");
    refused("{'maxTimeout':'1d'}", "maxTimeout");
    refused("{'maxSandboxesTotal':-1}", "maxSandboxesTotal");
    refused("{'maxSandboxesTotal':1.0}", "maxSandboxesTotal");
    refused("{'allowedTemplates':['a','']}", "allowedTemplates");
    refused("{'allowedTemplates':{}}", "allowedTemplates");
    refused("{'maxCPU':'1'}", "maxCPU");
    refused("{'anything':null}", "anything");
}
END_TEST

START_TEST(W87_what_was_last_good_stands_in) {
    enum policy_state state;
    cleanup_json json_t *none = policy_map_read("", NULL, &state, NULL);
    assert_json(none, "{}");
    ck_assert_int_eq(state, POLICY_SOUND);

    cleanup_json json_t *first = policy_map_read(
        "{\"a\":{\"maxCpu\":\"1\",\"maxSandboxesTotal\":-3,\"future\":[]},\"b\":{\"maxCpu\":\"lots\"}}", NULL,
        &state, NULL);
    assert_json(first, "{'a':{'maxCpu':'1'},'b':{}}");
    ck_assert_int_eq(state, POLICY_LOST);

    cleanup_error struct error problem = {0};
    cleanup_json json_t *second =
        policy_map_read("{\"a\":{\"maxCpu\":\"\\u0031x\",\"maxMemory\":\"1Gi\"},\"b\":{\"maxCpu\":\"2\"}}",
                        first, &state, &problem);
    assert_json(second, "{'a':{'maxCpu':'1','maxMemory':'1Gi'},'b':{'maxCpu':'2'}}");
    ck_assert_int_eq(state, POLICY_KEPT);
    ck_assert_ptr_nonnull(strstr(problem.message, "maxCpu"));

    cleanup_json json_t *third = policy_map_read("{\"a\":5}", second, &state, NULL);
    assert_json(third, "{'a':{'maxCpu':'1','maxMemory':'1Gi'}}");
    ck_assert_int_eq(state, POLICY_KEPT);
    cleanup_json json_t *fourth = policy_map_read("not JSON", third, &state, NULL);
    ck_assert(json_equal(third, fourth));
    ck_assert_int_eq(state, POLICY_KEPT);
    cleanup_json json_t *lost = policy_map_read("[]", NULL, &state, NULL);
    assert_json(lost, "{}");
    ck_assert_int_eq(state, POLICY_LOST);
}
END_TEST

START_TEST(W32_every_member_is_laid_over) {
    cleanup_json json_t *base =
        json_of("{'maxCpu':'2','allowedTemplates':['a'],'maxAgentSandboxes':5,'allowedAgentImages':['x'],"
                "'maxConcurrentInvokesPerSandbox':9,'description':'house'}");
    cleanup_json json_t *over =
        json_of("{'allowedTemplates':['b'],'maxAgentSandboxes':1,'allowedAgentImages':['y'],"
                "'maxConcurrentInvokesPerSandbox':2,'maxMemory':'1Gi'}");
    cleanup_json json_t *got = policy_overlay(base, over);
    assert_json(got,
                "{'maxCpu':'2','allowedTemplates':['b'],'maxAgentSandboxes':1,'allowedAgentImages':['y'],"
                "'maxConcurrentInvokesPerSandbox':2,'description':'house','maxMemory':'1Gi'}");
    cleanup_json json_t *same = policy_overlay(base, NULL), *only = policy_overlay(NULL, over),
                        *none = policy_overlay(NULL, NULL);
    ck_assert(json_equal(same, base));
    ck_assert(json_equal(only, over));
    assert_json(none, "{}");
    struct policy p = policy_view(got);
    ck_assert_int_eq(p.max_agent_sandboxes, 1);
    ck_assert_str_eq(p.max_memory, "1Gi");
    ck_assert_ptr_null(p.max_timeout);
    p = policy_view(NULL);
    ck_assert_ptr_null(p.max_cpu);
}
END_TEST

static void fills(const char *resolved_text, const char *spec_text, const char *want) {
    cleanup_json json_t *resolved = json_of(resolved_text), *spec = json_of(spec_text);
    struct policy p = {.max_cpu = "2",
                       .max_memory = "64Mi",
                       .max_storage = "50Gi",
                       .max_timeout = "90m",
                       .max_idle_timeout = "1h"};
    policy_fill(&p, resolved, spec);
    assert_json(spec, want);
}

START_TEST(W88_what_is_left_open_is_filled_in) {
    fills("{}", "{}",
          "{'timeout':'1h30m0s','idleTimeout':'1h0m0s','storage':{'size':'10Gi'},"
          "'resources':{'limits':{'cpu':'2','memory':'64Mi'},'requests':{'cpu':'100m','memory':'64Mi'}}}");
    const char *set = "{'timeout':'1h','idleTimeout':'5m','storage':{'size':'1Gi'},'resources':{'limits':{'"
                      "cpu':'1','memory':'1Mi'}}}";
    fills(set, "{}", "{}");
    fills("{'timeout':'1h','idleTimeout':'5m','storage':{'mountPath':'/w'},"
          "'resources':{'limits':{'cpu':'1','nvidia.com/gpu':'1'},'requests':{'memory':'32Mi'}}}",
          "{}",
          "{'storage':{'mountPath':'/w','size':'10Gi'},"
          "'resources':{'limits':{'cpu':'1','memory':'64Mi','nvidia.com/"
          "gpu':'1'},'requests':{'memory':'32Mi'}}}");
    struct policy none = {0};
    cleanup_json json_t *empty = json_object(), *spec = json_object();
    policy_fill(&none, empty, spec);
    assert_json(spec, "{}");
}
END_TEST

START_TEST(invoke_ceiling_6_6) {
    struct policy none = {0}, four = {.max_concurrent_invokes = 4}, negative = {.max_concurrent_invokes = -1};
    ck_assert_int_eq(policy_invoke_cap(&none, 0), 0);
    ck_assert_int_eq(policy_invoke_cap(&none, 9), 9);
    ck_assert_int_eq(policy_invoke_cap(&negative, 9), 9);
    ck_assert_int_eq(policy_invoke_cap(&four, 0), 4);
    ck_assert_int_eq(policy_invoke_cap(&four, 3), 3);
    ck_assert_int_eq(policy_invoke_cap(&four, 4), 4);
    ck_assert_int_eq(policy_invoke_cap(&four, 5), 4);
}
END_TEST

RUN_TESTS("policy_document", canonical_form, W87_what_is_refused, W87_what_was_last_good_stands_in,
          W32_every_member_is_laid_over, W88_what_is_left_open_is_filled_in, invoke_ceiling_6_6)
