#include "router/policy.h"

#include "common/bytes.h"
#include "common/json.h"
#include "common/units.h"

#include <string.h>

struct policy policy_default(const struct backend *backend) {
    struct policy p = {0};
    if (backend->default_max_cpu[0]) p.max_cpu = backend->default_max_cpu;
    if (backend->default_max_memory[0]) p.max_memory = backend->default_max_memory;
    return p;
}

static void __attribute__((format(printf, 3, 4)))
violate(json_t *list, const char *code, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    json_t *message = json_vsprintf(fmt, args);
    va_end(args);
    /* json_vsprintf fails only for text that is not UTF-8, which JSON values never are. */
    if (!message) message = json_string("governance cap exceeded");
    json_array_append_new(list, json_pack("{s:s, s:o}", "code", code, "message", message));
}

/* The strings of a list as "a, b". Caller frees. */
static char *joined(const json_t *list) {
    struct buffer text = {0};
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item) {
        if (!json_is_string(item)) continue;
        if (text.len > 0) buffer_append_str(&text, ", ");
        buffer_append_str(&text, json_string_value(item));
    }
    buffer_cstr(&text);
    return buffer_steal(&text, NULL);
}

static bool listed(const json_t *list, const char *value, bool as_prefix) {
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item) {
        const char *entry = json_string_value(item);
        if (!entry || !entry[0]) continue;
        if (as_prefix ? strncmp(value, entry, strlen(entry)) == 0 : strcmp(value, entry) == 0) return true;
    }
    return false;
}

static void check_template(const struct policy *p, const json_t *spec, json_t *out) {
    const char *name = json_str_at(spec, "templateRef.name");
    if (json_array_size(p->allowed_templates) == 0 || !json_at(spec, "templateRef")) return;
    if (listed(p->allowed_templates, name, false)) return;
    cleanup_free char *allowed = joined(p->allowed_templates);
    violate(out, "template_not_allowed", "template \"%s\" is not permitted in this namespace (allowed: %s)",
            name, allowed);
}

static void check_image(const json_t *prefixes, const json_t *spec, bool agent, json_t *out) {
    const char *image = json_str_at(spec, "image.repository");
    if (json_array_size(prefixes) == 0 || !image[0] || listed(prefixes, image, true)) return;
    cleanup_free char *allowed = joined(prefixes);
    if (agent)
        violate(out, "agent_image_not_approved",
                "agent image \"%s\" is not in the approved-agent-images list (%s)", image, allowed);
    else
        violate(out, "image_registry_not_approved", "image \"%s\" is not in an approved registry (%s)", image,
                allowed);
}

static void check_counts(const struct policy *p, const struct policy_usage *u, bool agent, json_t *out) {
    if (p->max_sandboxes_total > 0 && u->total >= p->max_sandboxes_total)
        violate(out, "namespace_quota_exceeded", "namespace already has %lld sandboxes (max %lld)",
                (long long)u->total, (long long)p->max_sandboxes_total);
    if (p->max_sandboxes_per_user > 0 && u->of_user >= p->max_sandboxes_per_user)
        violate(out, "user_quota_exceeded", "user already owns %lld sandboxes in this namespace (max %lld)",
                (long long)u->of_user, (long long)p->max_sandboxes_per_user);
    if (agent && p->max_agent_sandboxes > 0 && u->agents >= p->max_agent_sandboxes)
        violate(out, "agent_sandbox_quota_exceeded",
                "namespace already has %lld agent-mode sandboxes (max %lld)", (long long)u->agents,
                (long long)p->max_agent_sandboxes);
}

json_t *policy_evaluate_counts(const struct policy *p, const struct policy_usage *usage, bool agent) {
    cleanup_json json_t *out = json_array();
    check_counts(p, usage, agent, out);
    return json_array_size(out) > 0 ? steal_ptr(out) : NULL;
}

/* The text of a quantity, which may be a number where others than we wrote it; "" when there is none. */
static const char *quantity_text(const json_t *value, char number[QUANTITY_TEXT_MAX]) {
    if (json_is_string(value)) return json_string_value(value);
    if (!json_is_number(value)) return "";
    if (json_is_integer(value))
        snprintf(number, QUANTITY_TEXT_MAX, "%lld", (long long)json_integer_value(value));
    else
        snprintf(number, QUANTITY_TEXT_MAX, "%.9f", json_real_value(value));
    return number;
}

/* Whether the quantity at `path` of the spec is above the cap; `got` gets its text. */
static bool above(const json_t *spec, const char *path, const char *cap, char got[QUANTITY_TEXT_MAX]) {
    struct quantity value, most;
    char number[QUANTITY_TEXT_MAX];
    const char *text = quantity_text(json_at(spec, path), number);
    if (!cap || !cap[0] || !quantity_parse(cap, &most)) return false;
    if (!text[0] || !quantity_parse(text, &value) || quantity_compare(value, most) <= 0) return false;
    quantity_format(value, got);
    return true;
}

static void check_resource(const json_t *spec, const char *name, const char *cap, const char *code,
                           json_t *out) {
    char got[QUANTITY_TEXT_MAX], path[64];
    snprintf(path, sizeof path, "resources.limits.%s", name);
    if (above(spec, path, cap, got)) {
        violate(out, code, "%s limit %s exceeds governance cap %s", name, got, cap);
        return;
    }
    /* A request alone would pass the rule of the limits and still take more than the cap. */
    snprintf(path, sizeof path, "resources.requests.%s", name);
    if (above(spec, path, cap, got))
        violate(out, code, "%s request %s exceeds governance cap %s", name, got, cap);
}

static void check_duration(const json_t *spec, const char *name, const char *cap, const char *code,
                           json_t *out) {
    int64_t value, most;
    const char *text = json_str_at(spec, name);
    if (!cap || !cap[0] || !duration_parse(cap, &most)) return;
    if (!text[0] || !duration_parse(text, &value)) return;
    if (value != 0 && value <= most) return; /* 0 counts as infinite */
    char got[DURATION_TEXT_MAX];
    duration_format(value, got);
    violate(out, code, "%s %s exceeds governance cap %s", name, got, cap);
}

json_t *policy_evaluate(const struct policy *p, const json_t *spec, const struct policy_usage *usage,
                        enum policy_rules rules) {
    cleanup_json json_t *out = json_array();
    bool agent = strcmp(json_str_at(spec, "mode"), "agent") == 0;
    char got[QUANTITY_TEXT_MAX];
    if (rules == POLICY_RULES_CREATE) {
        check_template(p, spec, out);
        check_image(p->approved_registries, spec, false, out);
        if (usage) check_counts(p, usage, agent, out);
        if (agent) check_image(p->allowed_agent_images, spec, true, out);
    }
    check_resource(spec, "cpu", p->max_cpu, "cpu_limit_exceeded", out);
    check_resource(spec, "memory", p->max_memory, "memory_limit_exceeded", out);
    if (above(spec, "storage.size", p->max_storage, got))
        violate(out, "storage_limit_exceeded", "storage size %s exceeds governance cap %s", got,
                p->max_storage);
    check_duration(spec, "timeout", p->max_timeout, "timeout_exceeded", out);
    check_duration(spec, "idleTimeout", p->max_idle_timeout, "idle_timeout_exceeded", out);
    return json_array_size(out) > 0 ? steal_ptr(out) : NULL;
}

json_t *policy_evaluate_batch(const struct policy *p, const struct policy_usage *u, int64_t count,
                              int64_t agents) {
    cleanup_json json_t *out = json_array();
    if (p->max_sandboxes_total > 0 && u->total + count > p->max_sandboxes_total)
        violate(out, "namespace_quota_exceeded",
                "namespace has %lld sandboxes; creating %lld more would exceed the max of %lld",
                (long long)u->total, (long long)count, (long long)p->max_sandboxes_total);
    if (p->max_sandboxes_per_user > 0 && u->of_user + count > p->max_sandboxes_per_user)
        violate(out, "user_quota_exceeded",
                "user owns %lld sandboxes in this namespace; creating %lld more would exceed the max of %lld",
                (long long)u->of_user, (long long)count, (long long)p->max_sandboxes_per_user);
    if (agents > 0 && p->max_agent_sandboxes > 0 && u->agents + agents > p->max_agent_sandboxes)
        violate(out, "agent_sandbox_quota_exceeded",
                "namespace has %lld agent-mode sandboxes; creating %lld more would exceed the max of %lld",
                (long long)u->agents, (long long)agents, (long long)p->max_agent_sandboxes);
    return json_array_size(out) > 0 ? steal_ptr(out) : NULL;
}

void policy_error(struct error *err, json_t *violations) {
    cleanup_buffer struct buffer text = {0};
    size_t i;
    json_t *violation;
    json_array_foreach(violations, i, violation) {
        buffer_printf(&text, "%s%s", i > 0 ? "; " : "", json_str_at(violation, "message"));
    }
    error_set(err, 403, "policy_violation", "%s", buffer_cstr(&text));
    if (err)
        err->details = json_pack("{s:o}", "violations", violations);
    else
        json_decref(violations);
}
