#include "controller/options.h"

#include "common/bytes.h"
#include "common/units.h"

#include <stddef.h>
#include <unistd.h>

enum flag_type {
    FLAG_STRING,
    FLAG_BOOL,
    FLAG_COUNT,
    FLAG_LEVEL,
    FLAG_FORMAT,
    FLAG_OFF,    /* of the reference, for something that is not here: only its value for "off" is taken */
    FLAG_WITHOUT /* of the reference, without effect as what it belongs to is not here */
};

struct flag {
    const char *name;
    enum flag_type type;
    size_t offset;
    const char *env; /* gives the default, or NULL */
    const char *fallback;
    const char *argument; /* how --help names the value */
    const char *help;
};

#define AT(member) offsetof(struct options, member)
static const struct flag flags[] = {
    {"kubeconfig", FLAG_STRING, AT(kubeconfig), "KUBECONFIG", "", "FILE",
     "outside a cluster; empty = the pod's service account"},
    {"context", FLAG_STRING, AT(context), NULL, "", "NAME", "of the kubeconfig; empty = its current one"},
    {"namespace", FLAG_STRING, AT(namespace), "POD_NAMESPACE", "agenttier", "NS",
     "install namespace: the Router's pods are there, and the lease"},
    {"sandbox-namespace", FLAG_STRING, AT(sandbox_namespace), "SANDBOX_NAMESPACE", "default", "NS",
     "of the Router's new sandboxes; taken for the sake of the chart"},
    {"watch-namespaces", FLAG_STRING, AT(watch_namespaces), NULL, "", "NS,...",
     "serve the sandboxes of these namespaces only, 32 at most; empty = of all"},
    {"metrics-bind-address", FLAG_STRING, AT(metrics_address), NULL, ":8081", "[HOST]:PORT",
     "serves /metrics; 0 = not at all"},
    {"health-probe-bind-address", FLAG_STRING, AT(probe_address), NULL, ":8082", "[HOST]:PORT",
     "serves /healthz and /readyz; 0 = not at all"},
    {"leader-elect", FLAG_BOOL, AT(leader_elect), NULL, "false", NULL,
     "work only while holding the Lease agenttier-controller-leader: for several replicas"},
    {"max-concurrency", FLAG_COUNT, AT(max_concurrency), NULL, "10", "N", "sandboxes looked at in parallel"},
    {"default-image", FLAG_STRING, AT(default_image), NULL, "ghcr.io/agenttier/sandbox-general:latest",
     "IMAGE", "of sandboxes whose template names none"},
    {"default-storage-size", FLAG_STRING, AT(default_storage_size), NULL, "10Gi", "QUANTITY",
     "of workspaces whose size nobody says"},
    {"agent-memory-sidecar-image", FLAG_STRING, AT(memory_sidecar_image), NULL, "", "IMAGE",
     "memory sidecar of sandboxes in agent mode; empty = none"},
    {"runtime-delivery", FLAG_STRING, AT(delivery_name), NULL, "exec", "WAY",
     "how agenttier-runtime comes into pods: 'exec' = sent over pods/exec; 'image' = the image starts it, "
     "where "
     "the template says useHTTPExec; 'none'"},
    {"runtime", FLAG_STRING, AT(runtime_path), NULL, "", "FILE",
     "the program that is sent (default: agenttier-runtime beside this program)"},
    {"creation-deadline", FLAG_STRING, AT(deadline), NULL, "10m", "DURATION",
     "a pod that is not ready by then makes its sandbox an Error; 0 = never"},
    {"manage-crds", FLAG_BOOL, AT(manage_crds), NULL, "true", NULL,
     "apply the custom resource definitions at start, if this account may"},
    {"log-level", FLAG_LEVEL, AT(log_level), NULL, "info", "LEVEL", "debug, info, warn, error or off"},
    {"log-format", FLAG_FORMAT, AT(log_format), NULL, "", "FORMAT",
     "json or text (default json; text on a terminal)"},
    {"default-mount-path", FLAG_WITHOUT, 0, NULL, "", NULL, NULL},
    {"enable-webhook", FLAG_OFF, 0, NULL, "false", NULL, NULL},
    {"webhook-failure-policy", FLAG_WITHOUT, 0, NULL, "", NULL, NULL},
    {"backup-snapshots", FLAG_OFF, 0, NULL, "false", NULL, NULL},
    {"backup-interval", FLAG_WITHOUT, 0, NULL, "", NULL, NULL},
    {"backup-retention", FLAG_WITHOUT, 0, NULL, "", NULL, NULL},
    {"backup-snapshot-class", FLAG_WITHOUT, 0, NULL, "", NULL, NULL},
    {"webhook-delivery", FLAG_OFF, 0, NULL, "false", NULL, NULL},
    {"webhook-delivery-interval", FLAG_WITHOUT, 0, NULL, "", NULL, NULL},
};
#define FLAGS (sizeof flags / sizeof *flags)

void options_print_help(FILE *out) {
    fputs(
        "Usage: agenttier-controller [FLAGS]\n"
        "\n"
        "Turns Sandbox resources of a Kubernetes cluster into pods, volumes and network policies, and keeps\n"
        "them so: starts, stops, resumes, restarts and removes. It runs beside agenttier-router.\n"
        "\n"
        "Try it from outside a cluster:\n"
        "  agenttier-controller --kubeconfig=$HOME/.kube/config\n"
        "  kubectl apply -f - <<'YAML'\n"
        "  apiVersion: agenttier.io/v1alpha1\n"
        "  kind: Sandbox\n"
        "  metadata: {name: scratch}\n"
        "  spec: {image: {repository: python:3.12-slim}}\n"
        "  YAML\n"
        "  kubectl get sandboxes.agenttier.io scratch --watch\n"
        "\n"
        "Flags (--name=value or --name value; an empty value means not set):\n",
        out);
    for (size_t i = 0; i < FLAGS; i++) {
        const struct flag *f = &flags[i];
        if (!f->help) continue;
        char left[80];
        snprintf(left, sizeof left, "--%s%s%s", f->name, f->argument ? "=" : "",
                 f->argument ? f->argument : "");
        fprintf(out, "  %-38s %s", left, f->help);
        if (*f->fallback) fprintf(out, " (default %s)", f->fallback);
        if (f->env) fprintf(out, " [%s]", f->env);
        fputc('\n', out);
    }
    fputs("  --version                              print version and exit\n"
          "  --help                                 print this and exit\n"
          "\n"
          "A flag wins over its environment variable, named in [brackets].\n"
          "Exit status: 0 after SIGTERM or SIGINT, 1 when it cannot run, 2 on wrong usage.\n",
          out);
}

static bool parse_bool(const char *text, bool *out) {
    *out = strcmp(text, "true") == 0 || strcmp(text, "1") == 0;
    return *out || strcmp(text, "false") == 0 || strcmp(text, "0") == 0;
}

static bool parse_level(const char *text, enum log_level *out) {
    static const char *const names[] = {"debug", "info", "warn", "error", "off"};
    for (int i = 0; i < 5; i++)
        if (strcmp(text, names[i]) == 0) return *out = (enum log_level)i, true;
    return false;
}

static bool parse_format(const char *text, enum log_format *out) {
    *out = strcmp(text, "text") == 0 || (!*text && isatty(STDERR_FILENO)) ? LOG_FORMAT_TEXT : LOG_FORMAT_JSON;
    return !*text || strcmp(text, "text") == 0 || strcmp(text, "json") == 0;
}

static bool set_flag(struct options *o, const struct flag *f, const char *value) {
    void *at = (char *)o + f->offset;
    bool ignored;
    uint64_t n;
    switch (f->type) {
    case FLAG_STRING: *(const char **)at = value; return true;
    case FLAG_BOOL: return parse_bool(value, at);
    case FLAG_COUNT:
        if (!slice_parse_u64(slice_of(value), 256, &n) || n == 0) return false;
        *(int *)at = (int)n;
        return true;
    case FLAG_LEVEL: return parse_level(value, at);
    case FLAG_FORMAT: return parse_format(value, at);
    case FLAG_OFF: return parse_bool(value, &ignored) && !ignored;
    case FLAG_WITHOUT: return true;
    }
    return false;
}

static const struct flag *find_flag(struct slice name) {
    for (size_t i = 0; i < FLAGS; i++)
        if (slice_equal_str(name, flags[i].name)) return &flags[i];
    return NULL;
}

static bool set_defaults(struct options *o, struct error *err) {
    for (size_t i = 0; i < FLAGS; i++) {
        const char *env = flags[i].env ? getenv(flags[i].env) : NULL;
        const char *value = env && *env ? env : flags[i].fallback;
        if (set_flag(o, &flags[i], value)) continue;
        error_set(err, 400, ERR_BAD_REQUEST, "%s=%s is not valid",
                  flags[i].env ? flags[i].env : flags[i].name, value);
        return false;
    }
    return true;
}

static bool bad_value(const struct flag *f, const char *value, struct error *err) {
    if (f->type == FLAG_OFF)
        error_set(err, 400, ERR_BAD_REQUEST, "--%s is not supported by this controller: leave it out",
                  f->name);
    else
        error_set(err, 400, ERR_BAD_REQUEST, "--%s=%s is not valid: see --help", f->name, value);
    return false;
}

static bool set_argument(struct options *o, int argc, char **argv, int *i, struct error *err) {
    const char *argument = argv[*i];
    const char *name = argument + (argument[0] == '-' && argument[1] == '-' ? 2 : argument[0] == '-' ? 1 : 0);
    const char *equals = strchr(name, '=');
    const struct flag *f = name == argument
                               ? NULL
                               : find_flag(slice_make(name, equals ? (size_t)(equals - name) : strlen(name)));
    if (!f) {
        error_set(err, 400, ERR_BAD_REQUEST, "unknown argument \"%s\": see --help", argument);
        return false;
    }
    bool bare = !equals && (f->type == FLAG_BOOL || f->type == FLAG_OFF);
    if (!equals && !bare && *i + 1 >= argc) {
        error_set(err, 400, ERR_BAD_REQUEST, "--%s needs a value", f->name);
        return false;
    }
    const char *value = bare ? "true" : equals ? equals + 1 : argv[++*i];
    if (!*value && f->type != FLAG_STRING) value = f->fallback;
    return set_flag(o, f, value) || bad_value(f, value, err);
}

static bool conclude(struct options *o, struct error *err) {
    static const char *const ways[] = {"exec", "image", "none"};
    int way = 0;
    while (way < 3 && strcmp(o->delivery_name, ways[way]) != 0)
        way++;
    o->delivery = (enum runtime_delivery)way;
    int64_t ns;
    struct quantity size;
    if (way == 3)
        error_set(err, 400, ERR_BAD_REQUEST, "--runtime-delivery=%s is none of exec, image, none",
                  o->delivery_name);
    else if (!duration_parse(*o->deadline ? o->deadline : "0", &ns) || ns < 0)
        error_set(err, 400, ERR_BAD_REQUEST, "--creation-deadline=%s is not a duration such as 10m",
                  o->deadline);
    else if (!quantity_parse(o->default_storage_size, &size) || size.nano <= 0)
        error_set(err, 400, ERR_BAD_REQUEST, "--default-storage-size=%s is not a quantity such as 10Gi",
                  o->default_storage_size);
    else if (!*o->default_image || !*o->namespace)
        error_set(err, 400, ERR_BAD_REQUEST, "--default-image and --namespace must not be empty");
    else
        return o->creation_deadline_ms = ns / 1000000, true;
    return false;
}

enum options_result options_parse(int argc, char **argv, struct options *o, struct error *err) {
    *o = (struct options){0};
    if (!set_defaults(o, err)) return OPTIONS_ERROR;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) return OPTIONS_HELP;
        if (strcmp(argv[i], "--version") == 0) return OPTIONS_VERSION;
        if (!set_argument(o, argc, argv, &i, err)) return OPTIONS_ERROR;
    }
    return conclude(o, err) ? OPTIONS_RUN : OPTIONS_ERROR;
}
