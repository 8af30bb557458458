/* Governance rules and their texts: http-api-extended.md 6.5. */
#include "router/policy.h"
#include "tests/unit/router/fixture.h"

static void check(const struct policy *policy, const char *spec_text, const struct policy_usage *usage,
                  enum policy_rules rules, const char *want) {
    cleanup_json json_t *spec = json_of(spec_text);
    cleanup_json json_t *got = policy_evaluate(policy, spec, usage, rules);
    if (!want)
        ck_assert_msg(got == NULL, "%s was refused", spec_text);
    else
        assert_json(got, want);
}

START_TEST(caps_on_cpu_and_memory) {
    struct policy p = {.max_cpu = "2", .max_memory = "4Gi"};
    static const char *const fine[] = {
        "{}",
        "{'resources':{}}",
        "{'resources':{'limits':{'cpu':'2'}}}",
        "{'resources':{'limits':{'cpu':'2000m','memory':'4096Mi'}}}",
        "{'resources':{'requests':{'cpu':'1'}}}",
        "{'resources':{'limits':{'cpu':'nonsense','nvidia.com/gpu':'64'}}}",
        "{'storage':{'size':'900Ti'},'timeout':'9000h0m0s'}",
    };
    for (size_t i = 0; i < sizeof fine / sizeof fine[0]; i++)
        check(&p, fine[i], NULL, POLICY_RULES_CREATE, NULL);
    check(&p, "{'resources':{'limits':{'cpu':'999'}}}", NULL, POLICY_RULES_CREATE,
          "[{'code':'cpu_limit_exceeded','message':'cpu limit 999 exceeds governance cap 2'}]");
    check(&p, "{'resources':{'limits':{'cpu':'2001m'}}}", NULL, POLICY_RULES_VALUES,
          "[{'code':'cpu_limit_exceeded','message':'cpu limit 2001m exceeds governance cap 2'}]");
    check(&p, "{'resources':{'requests':{'cpu':'3'}}}", NULL, POLICY_RULES_CREATE,
          "[{'code':'cpu_limit_exceeded','message':'cpu request 3 exceeds governance cap 2'}]");
    check(&p, "{'resources':{'limits':{'cpu':'3','memory':'5Gi'},'requests':{'cpu':'3'}}}", NULL,
          POLICY_RULES_CREATE,
          "[{'code':'cpu_limit_exceeded','message':'cpu limit 3 exceeds governance cap 2'},"
          "{'code':'memory_limit_exceeded','message':'memory limit 5Gi exceeds governance cap 4Gi'}]");
}
END_TEST

START_TEST(every_rule_in_order) {
    cleanup_json json_t *templates = json_of("['base','ml']");
    cleanup_json json_t *registries = json_of("['reg.example/','']");
    cleanup_json json_t *agents = json_of("['reg.example/agents/']");
    struct policy p = {.max_sandboxes_per_user = 2,
                       .max_sandboxes_total = 5,
                       .max_agent_sandboxes = 1,
                       .max_cpu = "1",
                       .max_memory = "1Gi",
                       .max_storage = "50Gi",
                       .max_timeout = "8h",
                       .max_idle_timeout = "1h",
                       .allowed_templates = templates,
                       .approved_registries = registries,
                       .allowed_agent_images = agents};
    struct policy_usage full = {.total = 5, .of_user = 2, .agents = 1}, free_ = {.total = 4, .of_user = 1};
    const char *greedy =
        "{'mode':'agent','templateRef':{'name':'other'},'image':{'repository':'evil.example/x'},"
        "'resources':{'limits':{'cpu':'2','memory':'2Gi'}},'storage':{'size':'80Gi'},"
        "'timeout':'24h0m0s','idleTimeout':'4h0m0s'}";
    check(
        &p, greedy, &full, POLICY_RULES_CREATE,
        "[{'code':'template_not_allowed','message':'template `other` is not permitted in this namespace "
        "(allowed: base, ml)'},"
        "{'code':'image_registry_not_approved','message':'image `evil.example/x` is not in an approved "
        "registry (reg.example/, )'},"
        "{'code':'namespace_quota_exceeded','message':'namespace already has 5 sandboxes (max 5)'},"
        "{'code':'user_quota_exceeded','message':'user already owns 2 sandboxes in this namespace (max 2)'},"
        "{'code':'agent_sandbox_quota_exceeded','message':'namespace already has 1 agent-mode sandboxes "
        "(max 1)'},"
        "{'code':'agent_image_not_approved','message':'agent image `evil.example/x` is not in the "
        "approved-agent-images list (reg.example/agents/)'},"
        "{'code':'cpu_limit_exceeded','message':'cpu limit 2 exceeds governance cap 1'},"
        "{'code':'memory_limit_exceeded','message':'memory limit 2Gi exceeds governance cap 1Gi'},"
        "{'code':'storage_limit_exceeded','message':'storage size 80Gi exceeds governance cap 50Gi'},"
        "{'code':'timeout_exceeded','message':'timeout 24h0m0s exceeds governance cap 8h'},"
        "{'code':'idle_timeout_exceeded','message':'idleTimeout 4h0m0s exceeds governance cap 1h'}]");
    check(&p, "{'mode':'agent','templateRef':{'name':'ml'},'image':{'repository':'reg.example/agents/a:1'}}",
          &free_, POLICY_RULES_CREATE, NULL);
    check(&p, "{'mode':'code','templateRef':{'name':'base'},'timeout':'8h0m0s','idleTimeout':'1h0m0s'}",
          &free_, POLICY_RULES_CREATE, NULL);
    /* A change of values is not stopped by quotas, templates or images. */
    check(&p, "{'mode':'agent','templateRef':{'name':'other'},'idleTimeout':'30m0s'}", &full,
          POLICY_RULES_VALUES, NULL);
    check(&p, "{'timeout':'0s'}", NULL, POLICY_RULES_VALUES,
          "[{'code':'timeout_exceeded','message':'timeout 0s exceeds governance cap 8h'}]");
}
END_TEST

START_TEST(unreadable_caps_are_ignored) {
    struct policy p = {.max_cpu = "lots", .max_timeout = "1 day", .max_memory = ""};
    check(&p, "{'resources':{'limits':{'cpu':'999','memory':'1Ei'}},'timeout':'999h0m0s'}", NULL,
          POLICY_RULES_CREATE, NULL);
    struct backend backend = {.default_max_cpu = "4"};
    p = policy_default(&backend);
    ck_assert_str_eq(p.max_cpu, "4");
    ck_assert_ptr_null(p.max_memory);
}
END_TEST

START_TEST(the_error_carries_the_violations) {
    cleanup_error struct error err = {0};
    policy_error(&err, json_of("[{'code':'a','message':'one'},{'code':'b','message':'two'}]"));
    ck_assert_int_eq(err.status, 403);
    ck_assert_str_eq(err.code, "policy_violation");
    ck_assert_str_eq(err.message, "one; two");
    assert_json(err.details, "{'violations':[{'code':'a','message':'one'},{'code':'b','message':'two'}]}");
    policy_error(NULL, json_array());
}
END_TEST

/* http-api-extended.md 6.7: all that is asked for counts at once; reaching a cap exactly is allowed. */
START_TEST(batches) {
    static const struct {
        int64_t total, of_user, agents, count, new_agents;
        const char *want; /* codes */
    } rows[] = {
        {8, 3, 0, 2, 0, ""},
        {8, 2, 0, 3, 0, "namespace_quota_exceeded,"},
        {0, 3, 0, 3, 0, "user_quota_exceeded,"},
        {9, 5, 2, 2, 1, "namespace_quota_exceeded,user_quota_exceeded,agent_sandbox_quota_exceeded,"},
        {0, 0, 2, 1, 0, ""},
        {0, 0, 2, 1, 1, "agent_sandbox_quota_exceeded,"},
        {10, 5, 2, 0, 0, ""},
    };
    struct policy p = {.max_sandboxes_total = 10, .max_sandboxes_per_user = 5, .max_agent_sandboxes = 2};
    struct policy none = {0};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct policy_usage usage = {rows[i].total, rows[i].of_user, rows[i].agents};
        cleanup_json json_t *got = policy_evaluate_batch(&p, &usage, rows[i].count, rows[i].new_agents);
        cleanup_buffer struct buffer codes = {0};
        size_t j;
        json_t *violation;
        json_array_foreach(got, j, violation) buffer_printf(&codes, "%s,", json_str_at(violation, "code"));
        ck_assert_msg(strcmp(buffer_cstr(&codes), rows[i].want) == 0, "row %zu: %s", i, buffer_cstr(&codes));
        ck_assert_ptr_null(policy_evaluate_batch(&none, &usage, rows[i].count, rows[i].new_agents));
    }
    struct policy_usage nine = {9, 0, 0};
    cleanup_json json_t *got = policy_evaluate_batch(&p, &nine, 3, 0);
    assert_json(got, "[{'code':'namespace_quota_exceeded','message':"
                     "'namespace has 9 sandboxes; creating 3 more would exceed the max of 10'}]");
}
END_TEST

RUN_TESTS("policy", batches, caps_on_cpu_and_memory, every_rule_in_order, unreadable_caps_are_ignored,
          the_error_carries_the_violations)
