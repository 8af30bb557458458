/* Policies from clients and from the store: what is taken is canonical, evaluates and fills in to something
 * that itself passes; what is refused names a member. */
#include "common/json.h"
#include "router/policy_document.h"
#include "tests/fuzz/fuzz.h"

/* A spec that the policy filled in where it says nothing breaks no cap. */
static void fill_and_check(const json_t *policy) {
    struct policy p = policy_view(policy);
    cleanup_json json_t *spec = json_object(), *nothing = json_object();
    policy_fill(&p, nothing, spec);
    cleanup_json json_t *violations = policy_evaluate(&p, spec, NULL, POLICY_RULES_VALUES);
    MUST(violations == NULL);
    cleanup_json json_t *again = json_deep_copy(spec);
    policy_fill(&p, spec, again);
    MUST(json_equal(again, spec));
}

/* The value as a spec: whatever is in it, every rule ends, and each violation has its two texts. */
static void evaluate(const json_t *policy, const json_t *spec) {
    struct policy p = policy_view(policy);
    struct policy_usage usage = {.total = 3, .of_user = 2, .agents = 1};
    cleanup_json json_t *violations = policy_evaluate(&p, spec, &usage, POLICY_RULES_CREATE);
    size_t i;
    json_t *violation;
    json_array_foreach(violations, i, violation) {
        MUST(json_object_size(violation) == 2 && json_str_at(violation, "code")[0] &&
             json_str_at(violation, "message")[0]);
    }
    MUST(policy_invoke_cap(&p, 5) >= 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct slice bytes = slice_make((const char *)data, size);
    cleanup_error struct error err = {0};
    enum policy_state state;
    cleanup_free char *text = slice_dup(bytes);
    cleanup_json json_t *map = policy_map_read(text, NULL, &state, &err);
    MUST(json_is_object(map));
    MUST((state == POLICY_SOUND) == (err.status == 0));
    /* Broken after that, what was good holds on. */
    enum policy_state after;
    cleanup_json json_t *kept = policy_map_read("not JSON", map, &after, NULL);
    MUST(after == POLICY_KEPT && json_equal(kept, map));
    error_clear(&err);

    cleanup_json json_t *body = json_parse_object(bytes, &err);
    if (!body) return 0;
    cleanup_json json_t *policy = policy_parse(body, &err);
    if (!policy) {
        MUST(err.status == 400 && json_is_string(json_object_get(err.details, "field")));
    } else {
        cleanup_json json_t *again = policy_parse(policy, &err);
        MUST(again && json_equal(again, policy));
        cleanup_json json_t *read = policy_read(policy, NULL, &state, NULL);
        MUST(state == POLICY_SOUND && json_equal(read, policy));
        cleanup_json json_t *over = policy_overlay(policy, policy);
        MUST(json_equal(over, policy));
        fill_and_check(policy);
        evaluate(policy, body);
    }
    const char *scope;
    json_t *one;
    json_object_foreach(map, scope, one) {
        fill_and_check(one);
        evaluate(one, json_object_get(body, scope));
    }
    return 0;
}
