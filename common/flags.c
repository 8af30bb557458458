#include "common/flags.h"

#include "common/bytes.h"
#include "common/log.h"
#include "common/units.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RATE_MOST 1e6

static bool wrong(struct error *err, const struct flag *f, const char *takes, const char *value) {
    error_set(err, 400, ERR_BAD_REQUEST, "--%s takes %s, not \"%s\"", f->name, takes, value);
    return false;
}

static bool parse_bool(const char *text, bool *out) {
    *out = strcmp(text, "true") == 0 || strcmp(text, "1") == 0;
    return *out || strcmp(text, "false") == 0 || strcmp(text, "0") == 0 || !*text;
}

static bool set_rate(const struct flag *f, const char *value, double *out, struct error *err) {
    char *end = NULL;
    double rate = *value ? strtod(value, &end) : 0;
    if (*value && (*end || !(rate >= 0 && rate <= RATE_MOST)))
        return wrong(err, f, "a number of requests a second", value);
    *out = rate;
    return true;
}

static bool set_count(const struct flag *f, const char *value, int *out, struct error *err) {
    uint64_t n = 0;
    if ((*value && !slice_parse_u64(slice_of(value), (uint64_t)f->most, &n)) || (int64_t)n < f->least) {
        char takes[64];
        snprintf(takes, sizeof takes, "a number from %lld to %lld", (long long)f->least, (long long)f->most);
        return wrong(err, f, takes, value);
    }
    *out = (int)n;
    return true;
}

static bool set_duration(const struct flag *f, const char *value, int64_t *out, struct error *err) {
    int64_t ns = 0;
    if (*value && (!duration_parse(value, &ns) || ns < f->least * 1000000))
        return wrong(err, f, "a duration such as 90s", value);
    *out = ns / 1000000;
    return true;
}

static bool set_log_level(const struct flag *f, const char *value, enum log_level *out, struct error *err) {
    static const char *const names[] = {"debug", "info", "warn", "error", "off"};
    for (int i = 0; i < 5; i++)
        if (strcmp(value, names[i]) == 0) return *out = (enum log_level)i, true;
    return wrong(err, f, "debug, info, warn, error or off", value);
}

static bool set_log_format(const struct flags *flags, const struct flag *f, const char *value,
                           enum log_format *out, struct error *err) {
    bool text = strcmp(value, "text") == 0;
    if (*value && !text && strcmp(value, "json") != 0) return wrong(err, f, "json or text", value);
    *out = text || (!*value && isatty(flags->log_fd)) ? LOG_FORMAT_TEXT : LOG_FORMAT_JSON;
    return true;
}

static bool set_flag(const struct flags *flags, const struct flag *f, const char *value, void *into,
                     struct error *err) {
    void *at = (char *)into + f->offset;
    bool on;
    bool may_be_empty = f->type == FLAG_LIST || (f->type == FLAG_STRING && !f->never_empty);
    if (!*value && !may_be_empty) value = f->fallback;
    switch (f->type) {
    case FLAG_STRING:
    case FLAG_LIST: *(const char **)at = value; return true;
    case FLAG_BOOL: return parse_bool(value, at) || wrong(err, f, "true or false", value);
    case FLAG_RATE: return set_rate(f, value, at, err);
    case FLAG_COUNT: return set_count(f, value, at, err);
    case FLAG_DURATION: return set_duration(f, value, at, err);
    case FLAG_LOG_LEVEL: return set_log_level(f, value, at, err);
    case FLAG_LOG_FORMAT: return set_log_format(flags, f, value, at, err);
    case FLAG_OFF:
        if (parse_bool(value, &on) && !on) return true;
        error_set(err, 400, ERR_BAD_REQUEST, "--%s is not supported by this program: leave it out", f->name);
        return false;
    case FLAG_WITHOUT: return true;
    }
    return false;
}

static bool set_defaults(const struct flags *flags, void *into, struct error *err) {
    for (size_t i = 0; i < flags->count; i++) {
        const struct flag *f = &flags->table[i];
        const char *value = f->env ? getenv(f->env) : NULL;
        if (set_flag(flags, f, value && *value ? value : f->fallback, into, err)) continue;
        error_wrap(err, "environment variable %s", f->env ? f->env : f->name);
        return false;
    }
    return true;
}

static const struct flag *find_flag(const struct flags *flags, struct slice name) {
    for (size_t i = 0; i < flags->count; i++)
        if (slice_equal_str(name, flags->table[i].name)) return &flags->table[i];
    return NULL;
}

/* Another value of a flag that may be repeated. */
static bool append(struct flags *flags, const struct flag *f, const char *value, void *into,
                   struct error *err) {
    const char **at = (const char **)(void *)((char *)into + f->offset);
    size_t slot = 0;
    while (slot < FLAGS_JOINED_MAX && flags->joined[slot] && flags->joined[slot] != *at)
        slot++;
    if (slot == FLAGS_JOINED_MAX) {
        error_set(err, 400, ERR_BAD_REQUEST, "too many flags are repeated; join their values by commas");
        return false;
    }
    char *whole = xasprintf("%s,%s", *at, value);
    free(flags->joined[slot]);
    flags->joined[slot] = whole;
    *at = whole;
    return true;
}

static enum flags_result take_argument(struct flags *flags, int argc, char **argv, int *i, bool *given,
                                       void *into, struct error *err) {
    const char *argument = argv[*i];
    if (argument[0] != '-' || !argument[1]) {
        error_set(err, 400, ERR_BAD_REQUEST, "unexpected argument \"%s\"", argument);
        return FLAGS_ERROR;
    }
    const char *text = argument + (argument[1] == '-' ? 2 : 1);
    const char *equals = strchr(text, '=');
    struct slice name = equals ? slice_make(text, (size_t)(equals - text)) : slice_of(text);
    if (slice_equal_str(name, "help") || slice_equal_str(name, "h")) return FLAGS_HELP;
    if (slice_equal_str(name, "version")) return FLAGS_VERSION;
    const struct flag *f = find_flag(flags, name);
    if (!f) {
        error_set(err, 400, ERR_BAD_REQUEST, "unknown flag --%.*s; --help lists them", (int)name.len,
                  name.ptr);
        return FLAGS_ERROR;
    }
    const char *value = equals ? equals + 1 : NULL;
    if (!value && (f->type == FLAG_BOOL || f->type == FLAG_OFF)) value = "true";
    if (!value && *i + 1 < argc) value = argv[++*i];
    if (!value) {
        error_set(err, 400, ERR_BAD_REQUEST, "--%s needs a value", f->name);
        return FLAGS_ERROR;
    }
    bool again = f->type == FLAG_LIST && given[f - flags->table] && *value;
    given[f - flags->table] = true;
    bool ok = again ? append(flags, f, value, into, err) : set_flag(flags, f, value, into, err);
    return ok ? FLAGS_RUN : FLAGS_ERROR;
}

enum flags_result flags_parse(struct flags *flags, int argc, char **argv, void *into, struct error *err) {
    if (!set_defaults(flags, into, err)) return FLAGS_ERROR;
    bool *given = xcalloc(flags->count, sizeof *given);
    enum flags_result result = FLAGS_RUN;
    for (int i = 1; i < argc && result == FLAGS_RUN; i++)
        result = take_argument(flags, argc, argv, &i, given, into, err);
    free(given);
    return result;
}

void flags_print_help(const struct flags *flags, FILE *out) {
    for (size_t i = 0; i < flags->count; i++) {
        const struct flag *f = &flags->table[i];
        if (!f->help) continue;
        char left[80];
        snprintf(left, sizeof left, "--%s%s%s", f->name, f->argument ? "=" : "",
                 f->argument ? f->argument : "");
        fprintf(out, "  %-38s %s", left, f->help);
        if (*f->fallback && strcmp(f->fallback, "0") != 0) fprintf(out, " (default %s)", f->fallback);
        if (f->env) fprintf(out, " [%s]", f->env);
        fputc('\n', out);
    }
    fputs("  --version                              print version and exit\n"
          "  --help                                 print this and exit\n"
          "\n"
          "A flag wins over its environment variable, named in [brackets].\n",
          out);
}

void flags_free(struct flags *flags) {
    for (size_t i = 0; i < FLAGS_JOINED_MAX; i++)
        free(flags->joined[i]);
}
