/* Matching a path against the table of routes. See route.h. */
#include "router/route.h"

#include "common/text.h"

const char *const action_group_names[GROUP_COUNT] = {
    [GROUP_RUN_COMMAND] = "run-command",
    [GROUP_FILES_READ] = "files:read",
    [GROUP_FILES_WRITE] = "files:write",
    [GROUP_PORTS] = "ports",
    [GROUP_AGENT_INVOKE] = "agent:invoke",
    [GROUP_AGENT_CONFIGURE] = "agent:configure",
    [GROUP_RESUME] = "resume",
    [GROUP_STOP] = "stop",
};

bool route_is_websocket(const struct route *route) {
    return strncmp(route->pattern, "/ws/", 4) == 0;
}

void route_params_free(struct route_params *p) {
    for (size_t i = 0; i < p->count; i++)
        free(p->value[i]);
    p->count = 0;
}

enum extent { ONE_SEGMENT, ONE_WITH_SLASHES, THE_REST };

/* {name}, {name+} or {name...} at `t`; `*close` is its end. */
static enum extent read_variable(const char *t, const char **close, struct slice *name) {
    *close = strchr(t, '}');
    size_t len = (size_t)(*close - t) - 1;
    enum extent extent = ONE_SEGMENT;
    if (len > 3 && memcmp(*close - 3, "...", 3) == 0) {
        extent = THE_REST;
        len -= 3;
    } else if (len > 1 && (*close)[-1] == '+') {
        extent = ONE_WITH_SLASHES;
        len -= 1;
    }
    *name = slice_make(t + 1, len);
    return extent;
}

/* Whether the path has the pattern's shape: most rows are told apart by this, without decoding anything. */
static bool has_shape(const char *pattern, struct slice path) {
    const char *p = path.ptr, *end = path.ptr + path.len;
    char last = pattern[strlen(pattern) - 1];
    if (last != '}' && (path.len == 0 || end[-1] != last)) return false; /* most rows, at once */
    for (const char *t = pattern; *t;) {
        if (*t != '{') {
            if (p == end || *p != *t) return false;
            p++, t++;
            continue;
        }
        const char *close;
        struct slice name;
        if (read_variable(t, &close, &name) == THE_REST) return true;
        const char *stop = memchr(p, '/', (size_t)(end - p));
        p = stop ? stop : end;
        t = close + 1;
    }
    return p == end;
}

/* Binds a variable to raw bytes; false when they do not decode, are empty, or hold a slash that they must
 * not. */
static bool bind(struct route_params *params, struct slice name, struct slice raw, enum extent extent) {
    cleanup_buffer struct buffer decoded = {0};
    if (params->count == ROUTE_MAX_PARAMS || !percent_decode(raw, &decoded)) return false;
    if (extent != THE_REST && decoded.len == 0) return false;
    if (extent == ONE_SEGMENT && memchr(decoded.data, '/', decoded.len)) return false;
    params->name[params->count] = name;
    params->value[params->count++] = buffer_steal(&decoded, NULL);
    return true;
}

static bool match_pattern(const char *pattern, struct slice path, struct route_params *params) {
    const char *p = path.ptr, *end = path.ptr + path.len;
    for (const char *t = pattern; *t;) {
        if (*t != '{') {
            if (p == end || *p != *t) return false;
            p++, t++;
            continue;
        }
        const char *close;
        struct slice name;
        enum extent extent = read_variable(t, &close, &name);
        const char *stop = extent == THE_REST ? end : memchr(p, '/', (size_t)(end - p));
        if (!stop) stop = end;
        if (!bind(params, name, slice_make(p, (size_t)(stop - p)), extent)) return false;
        p = stop;
        t = close + 1;
    }
    return p == end;
}

static void add_method(struct buffer *allow, const char *method) {
    if (allow->len > 0) buffer_append_str(allow, ", ");
    buffer_append_str(allow, method);
}

const struct route *route_match(const char *method, struct slice path, struct route_params *params,
                                struct buffer *allow) {
    bool head = strcmp(method, "HEAD") == 0;
    for (size_t i = 0; i < route_count; i++) {
        const struct route *r = &routes[i];
        if (!has_shape(r->pattern, path)) continue;
        if (!match_pattern(r->pattern, path, params)) {
            route_params_free(params);
            continue;
        }
        bool any = strcmp(r->method, "*") == 0 || route_is_websocket(r);
        if (any || strcmp(r->method, method) == 0 || (head && strcmp(r->method, "GET") == 0)) return r;
        route_params_free(params);
        add_method(allow, r->method);
        if (strcmp(r->method, "GET") == 0) add_method(allow, "HEAD");
    }
    return NULL;
}
