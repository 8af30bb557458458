/* See policy_document.h. One table says what each member is. */
#include "router/policy_document.h"

#include "common/json.h"
#include "common/units.h"

#include <string.h>

#define COUNT_MAX       1000000000
#define LIST_MAX        1000
#define ENTRY_MAX       512
#define DESCRIPTION_MAX 4096

#define DEFAULT_STORAGE "10Gi" /* what a sandbox gets that says nothing: controller.md 6 */
#define SMALL_CPU       "100m"
#define SMALL_MEMORY    "128Mi"

/* Each returns the canonical value, a new reference; JSON null for one that limits nothing; NULL with err. */
typedef json_t *read_fn(const json_t *value, const char *name, struct error *err);

static json_t *read_count(const json_t *value, const char *name, struct error *err) {
    json_int_t n = json_integer_value(value);
    if (!json_is_integer(value) || n < 0 || n > COUNT_MAX) {
        error_set_field(err, name, "must be a whole number from 0 (no limit) to %d", COUNT_MAX);
        return NULL;
    }
    return n == 0 ? json_null() : json_integer(n);
}

static json_t *read_quantity(const json_t *value, const char *name, struct error *err) {
    struct quantity q;
    char text[64];
    if (json_is_integer(value))
        snprintf(text, sizeof text, "%lld", (long long)json_integer_value(value));
    else if (json_is_real(value))
        snprintf(text, sizeof text, "%.9g", json_real_value(value));
    else if (json_is_string(value) && json_string_length(value) < sizeof text)
        snprintf(text, sizeof text, "%s", json_string_value(value));
    else
        snprintf(text, sizeof text, "?");
    if (text[0] == '\0' || (json_is_integer(value) && json_integer_value(value) == 0)) return json_null();
    if (quantity_parse(text, &q) && q.nano > 0) return json_string(text);
    error_set_field(err, name, "must be a quantity above zero, such as \"500m\" or \"4Gi\"");
    return NULL;
}

static json_t *read_duration(const json_t *value, const char *name, struct error *err) {
    int64_t ns;
    const char *text = json_string_value(value);
    if (text && !text[0]) return json_null();
    if (text && strlen(text) < 64 && duration_parse(text, &ns) && ns > 0) return json_string(text);
    error_set_field(err, name, "must be a duration above zero, such as \"90m\" or \"8h\"");
    return NULL;
}

static json_t *read_list(const json_t *value, const char *name, struct error *err) {
    size_t i, count = json_array_size(value);
    json_t *item;
    bool ok = json_is_array(value) && count <= LIST_MAX;
    json_array_foreach((json_t *)(uintptr_t)value, i, item) {
        size_t n = json_string_length(item);
        ok = ok && json_is_string(item) && n >= 1 && n <= ENTRY_MAX;
    }
    if (ok) return count == 0 ? json_null() : json_deep_copy(value);
    error_set_field(err, name, "must be a list of at most %d texts of 1 to %d characters", LIST_MAX,
                    ENTRY_MAX);
    return NULL;
}

static json_t *read_text(const json_t *value, const char *name, struct error *err) {
    if (json_is_string(value) && json_string_length(value) <= DESCRIPTION_MAX)
        return json_string_length(value) == 0 ? json_null() : json_deep_copy(value);
    error_set_field(err, name, "must be a text of at most %d bytes", DESCRIPTION_MAX);
    return NULL;
}

static const struct member {
    const char *name;
    read_fn *read;
} members[] = {
    {"maxSandboxesPerUser", read_count}, {"maxSandboxesTotal", read_count},
    {"maxCpu", read_quantity},           {"maxMemory", read_quantity},
    {"maxStorage", read_quantity},       {"maxTimeout", read_duration},
    {"maxIdleTimeout", read_duration},   {"allowedTemplates", read_list},
    {"approvedRegistries", read_list},   {"maxAgentSandboxes", read_count},
    {"allowedAgentImages", read_list},   {"maxConcurrentInvokesPerSandbox", read_count},
    {"description", read_text},
};
#define MEMBERS (sizeof members / sizeof members[0])

static const struct member *find_member(const char *name) {
    for (size_t i = 0; i < MEMBERS; i++)
        if (strcmp(members[i].name, name) == 0) return &members[i];
    return NULL;
}

/* As find_member, in any case: to tell what was probably meant. */
static const char *similar_member(const char *name) {
    for (size_t i = 0; i < MEMBERS; i++)
        if (strcasecmp(members[i].name, name) == 0) return members[i].name;
    return NULL;
}

static void unknown_member(const char *name, struct error *err) {
    char field[128];
    const char *meant = similar_member(name);
    snprintf(field, sizeof field, "%.100s", name);
    if (meant)
        error_set_field(err, field, "is not a member of a policy; it is written %s", meant);
    else
        error_set_field(err, field, "is not a member of a policy");
}

json_t *policy_parse(const json_t *body, struct error *err) {
    cleanup_json json_t *out = json_object();
    const char *name;
    json_t *value;
    if (!json_is_object(body)) {
        error_set(err, 400, ERR_BAD_REQUEST, "a policy is a JSON object");
        return NULL;
    }
    json_object_foreach((json_t *)(uintptr_t)body, name, value) {
        const struct member *m = find_member(name);
        if (!m) {
            unknown_member(name, err);
            return NULL;
        }
        json_t *canonical = json_is_null(value) ? json_null() : m->read(value, name, err);
        if (!canonical) return NULL;
        if (json_is_null(canonical))
            json_decref(canonical);
        else
            json_object_set_new(out, name, canonical);
    }
    return steal_ptr(out);
}

static bool is_negative_count(const struct member *m, const json_t *value) {
    return m->read == read_count && json_is_integer(value) && json_integer_value(value) < 0;
}

static void worsen(enum policy_state *state, enum policy_state to) {
    if (to > *state) *state = to;
}

json_t *policy_read(const json_t *stored, const json_t *previous, enum policy_state *state,
                    struct error *problem) {
    *state = POLICY_SOUND;
    if (!json_is_object(stored)) {
        *state = previous ? POLICY_KEPT : POLICY_LOST;
        error_set(problem, 500, "policy_unreadable", "is not a JSON object");
        return previous ? json_deep_copy(previous) : json_object();
    }
    json_t *out = json_object();
    for (size_t i = 0; i < MEMBERS; i++) {
        const struct member *m = &members[i];
        const json_t *value = json_object_get(stored, m->name);
        if (!value || json_is_null(value) || is_negative_count(m, value)) continue;
        cleanup_error struct error refused = {0};
        json_t *canonical = m->read(value, m->name, &refused);
        if (!canonical) {
            const json_t *before = json_object_get(previous, m->name);
            worsen(state, before ? POLICY_KEPT : POLICY_LOST);
            if (before) json_object_set_new(out, m->name, json_deep_copy(before));
            if (problem && problem->status == 0) error_move(problem, &refused);
        } else if (json_is_null(canonical)) {
            json_decref(canonical);
        } else {
            json_object_set_new(out, m->name, canonical);
        }
    }
    return out;
}

json_t *policy_map_read(const char *text, const json_t *previous, enum policy_state *state,
                        struct error *problem) {
    *state = POLICY_SOUND;
    if (!text || !text[0]) return json_object();
    cleanup_json json_t *stored = json_parse_object(slice_of(text), problem);
    if (!stored) {
        *state = previous ? POLICY_KEPT : POLICY_LOST;
        return previous ? json_deep_copy(previous) : json_object();
    }
    json_t *out = json_object();
    const char *scope;
    json_t *value;
    json_object_foreach(stored, scope, value) {
        enum policy_state one;
        cleanup_error struct error wrong = {0};
        json_object_set_new(out, scope, policy_read(value, json_object_get(previous, scope), &one, &wrong));
        worsen(state, one);
        if (one == POLICY_SOUND || !problem || problem->status != 0) continue;
        error_move(problem, &wrong);
        error_wrap(problem, "policy of \"%.64s\"", scope);
    }
    return out;
}

json_t *policy_overlay(const json_t *base, const json_t *over) {
    json_t *out = json_is_object(base) ? json_deep_copy(base) : json_object();
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)over, name, value) {
        json_object_set_new(out, name, json_deep_copy(value));
    }
    return out;
}

static const char *text_of(const json_t *policy, const char *name) {
    return json_string_value(json_object_get(policy, name));
}

static int64_t count_of(const json_t *policy, const char *name) {
    return json_integer_value(json_object_get(policy, name));
}

struct policy policy_view(const json_t *policy) {
    return (struct policy){
        .max_sandboxes_per_user = count_of(policy, "maxSandboxesPerUser"),
        .max_sandboxes_total = count_of(policy, "maxSandboxesTotal"),
        .max_agent_sandboxes = count_of(policy, "maxAgentSandboxes"),
        .max_concurrent_invokes = count_of(policy, "maxConcurrentInvokesPerSandbox"),
        .max_cpu = text_of(policy, "maxCpu"),
        .max_memory = text_of(policy, "maxMemory"),
        .max_storage = text_of(policy, "maxStorage"),
        .max_timeout = text_of(policy, "maxTimeout"),
        .max_idle_timeout = text_of(policy, "maxIdleTimeout"),
        .allowed_templates = json_object_get(policy, "allowedTemplates"),
        .approved_registries = json_object_get(policy, "approvedRegistries"),
        .allowed_agent_images = json_object_get(policy, "allowedAgentImages"),
    };
}

/* ---- what a spec leaves open ---- */

/* The object of that name in `object`, made when it is not there. */
static json_t *object_in(json_t *object, const char *name) {
    json_t *inner = json_object_get(object, name);
    if (json_is_object(inner)) return inner;
    inner = json_object();
    json_object_set_new(object, name, inner);
    return inner;
}

/* The smaller one of two quantities, `b` when one does not parse. */
static const char *smaller(const char *a, const char *b) {
    struct quantity x, y;
    return quantity_parse(a, &x) && quantity_parse(b, &y) && quantity_compare(x, y) < 0 ? a : b;
}

static void fill_duration(const char *name, const char *cap, const json_t *resolved, json_t *spec) {
    int64_t ns;
    if (!cap || !duration_parse(cap, &ns) || json_str_at(resolved, name)[0]) return;
    char text[DURATION_TEXT_MAX];
    duration_format(ns, text);
    json_object_set_new(spec, name, json_string(text));
}

static void fill_resource(const char *name, const char *cap, const char *small, const json_t *resolved,
                          json_t *spec) {
    const json_t *resources = json_object_get(resolved, "resources");
    if (!cap || json_object_get(json_object_get(resources, "limits"), name)) return;
    /* spec.resources replaces the template's as a whole: begin with what holds now. */
    if (!json_is_object(json_object_get(spec, "resources")) && json_is_object(resources))
        json_object_set_new(spec, "resources", json_deep_copy(resources));
    json_t *own = object_in(spec, "resources");
    json_object_set_new(object_in(own, "limits"), name, json_string(cap));
    json_t *requests = object_in(own, "requests");
    if (!json_object_get(requests, name))
        json_object_set_new(requests, name, json_string(smaller(cap, small)));
}

void policy_fill(const struct policy *p, const json_t *resolved, json_t *spec) {
    fill_duration("timeout", p->max_timeout, resolved, spec);
    fill_duration("idleTimeout", p->max_idle_timeout, resolved, spec);
    fill_resource("cpu", p->max_cpu, SMALL_CPU, resolved, spec);
    fill_resource("memory", p->max_memory, SMALL_MEMORY, resolved, spec);
    const json_t *storage = json_object_get(resolved, "storage");
    if (!p->max_storage || json_object_get(storage, "size")) return;
    if (!json_is_object(json_object_get(spec, "storage")) && json_is_object(storage))
        json_object_set_new(spec, "storage", json_deep_copy(storage));
    json_object_set_new(object_in(spec, "storage"), "size",
                        json_string(smaller(p->max_storage, DEFAULT_STORAGE)));
}

int64_t policy_invoke_cap(const struct policy *p, int64_t requested) {
    int64_t ceiling = p->max_concurrent_invokes;
    if (ceiling <= 0) return requested;
    return requested <= 0 || requested > ceiling ? ceiling : requested;
}
