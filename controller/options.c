#include "controller/options.h"

#include "common/units.h"

#include <string.h>
#include <unistd.h>

#define AT(member) offsetof(struct options, member)
static const struct flag table[] = {
    {"kubeconfig", FLAG_STRING, AT(kubeconfig), "KUBECONFIG", "", "FILE",
     .help = "outside a cluster; empty = the pod's service account"},
    {"context", FLAG_STRING, AT(context), NULL, "", "NAME",
     .help = "of the kubeconfig; empty = its current one"},
    {"namespace", FLAG_STRING, AT(namespace), "POD_NAMESPACE", "agenttier", "NS",
     .help = "install namespace: the Router's pods are there, and the lease"},
    {"sandbox-namespace", FLAG_STRING, AT(sandbox_namespace), "SANDBOX_NAMESPACE", "default", "NS",
     .help = "of the Router's new sandboxes: the warm pool and scheduled backups are there"},
    {"watch-namespaces", FLAG_STRING, AT(watch_namespaces), NULL, "", "NS,...",
     .help = "serve the sandboxes of these namespaces only, 32 at most; empty = of all"},
    {"metrics-bind-address", FLAG_STRING, AT(metrics_address), NULL, ":8081", "[HOST]:PORT",
     .help = "serves /metrics; 0 = not at all"},
    {"health-probe-bind-address", FLAG_STRING, AT(probe_address), NULL, ":8082", "[HOST]:PORT",
     .help = "serves /healthz and /readyz; 0 = not at all"},
    {"leader-elect", FLAG_BOOL, AT(leader_elect), NULL, "false", NULL,
     .help = "work only while holding the Lease agenttier-controller-leader: for several replicas"},
    {"max-concurrency", FLAG_COUNT, AT(max_concurrency), NULL, "10", "N",
     .help = "sandboxes looked at in parallel", .least = 1, .most = 256},
    {"default-image", FLAG_STRING, AT(default_image), NULL, "ghcr.io/agenttier/sandbox-general:latest",
     "IMAGE", .help = "of sandboxes whose template names none"},
    {"default-storage-size", FLAG_STRING, AT(default_storage_size), NULL, "10Gi", "QUANTITY",
     .help = "of workspaces whose size nobody says"},
    {"agent-memory-sidecar-image", FLAG_STRING, AT(memory_sidecar_image), NULL, "", "IMAGE",
     .help = "memory sidecar of sandboxes in agent mode; empty = none"},
    {"runtime-delivery", FLAG_STRING, AT(delivery_name), NULL, "exec", "WAY",
     .help = "how agenttier-runtime comes into pods: 'exec' = sent over pods/exec; 'image' = the image "
             "starts it, "
             "where "
             "the template says useHTTPExec; 'none'"},
    {"runtime", FLAG_STRING, AT(runtime_path), NULL, "", "FILE",
     .help = "the program that is sent (default: agenttier-runtime beside this program)"},
    {"creation-deadline", FLAG_DURATION, AT(creation_deadline_ms), NULL, "10m", "DURATION",
     .help = "a pod that is not ready by then makes its sandbox an Error; 0 = never"},
    {"manage-crds", FLAG_BOOL, AT(manage_crds), NULL, "true", NULL,
     .help = "apply the custom resource definitions at start, if this account may"},
    {"backup-snapshots", FLAG_BOOL, AT(backup_snapshots), NULL, "false", NULL,
     .help = "back the workspaces of --sandbox-namespace up by VolumeSnapshots, again and again"},
    {"backup-interval", FLAG_DURATION, AT(backup_interval_ms), NULL, "6h", "DURATION",
     .help = "between two backups of a workspace"},
    {"backup-retention", FLAG_DURATION, AT(backup_retention_ms), NULL, "336h", "DURATION",
     .help = "older backups are removed, also those that were asked for by the API, and what clones were "
             "made from"},
    {"backup-snapshot-class", FLAG_STRING, AT(backup_class), NULL, "", "NAME",
     .help = "VolumeSnapshotClass of the backups; empty = the cluster's default"},
    {"log-level", FLAG_LOG_LEVEL, AT(log_level), NULL, "info", "LEVEL",
     .help = "debug, info, warn, error or off"},
    {"log-format", FLAG_LOG_FORMAT, AT(log_format), NULL, "", "FORMAT",
     .help = "json or text (default json; text on a terminal)"},
    {"default-mount-path", FLAG_WITHOUT, 0, NULL, "", NULL, .help = NULL},
    {"enable-webhook", FLAG_OFF, 0, NULL, "false", NULL, .help = NULL},
    {"webhook-failure-policy", FLAG_WITHOUT, 0, NULL, "", NULL, .help = NULL},
    {"webhook-delivery", FLAG_OFF, 0, NULL, "false", NULL, .help = NULL},
    {"webhook-delivery-interval", FLAG_WITHOUT, 0, NULL, "", NULL, .help = NULL},
};

static struct flags all_flags(void) {
    return (struct flags){.table = table, .count = sizeof table / sizeof *table, .log_fd = STDERR_FILENO};
}

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
    const struct flags flags = all_flags();
    flags_print_help(&flags, out);
    fputs("Exit status: 0 after SIGTERM or SIGINT, 1 when it cannot run, 2 on wrong usage.\n", out);
}

static bool conclude(struct options *o, struct error *err) {
    static const char *const ways[] = {"exec", "image", "none"};
    int way = 0;
    while (way < 3 && strcmp(o->delivery_name, ways[way]) != 0)
        way++;
    o->delivery = (enum runtime_delivery)way;
    struct quantity size;
    if (way == 3)
        error_set(err, 400, ERR_BAD_REQUEST, "--runtime-delivery=%s is none of exec, image, none",
                  o->delivery_name);
    else if (!quantity_parse(o->default_storage_size, &size) || size.nano <= 0)
        error_set(err, 400, ERR_BAD_REQUEST, "--default-storage-size=%s is not a quantity such as 10Gi",
                  o->default_storage_size);
    else if (!*o->default_image || !*o->namespace)
        error_set(err, 400, ERR_BAD_REQUEST, "--default-image and --namespace must not be empty");
    else
        return true;
    return false;
}

enum flags_result options_parse(int argc, char **argv, struct options *o, struct error *err) {
    *o = (struct options){0};
    struct flags flags = all_flags(); /* none of these can be repeated: nothing to free */
    enum flags_result result = flags_parse(&flags, argc, argv, o, err);
    return result == FLAGS_RUN && !conclude(o, err) ? FLAGS_ERROR : result;
}
