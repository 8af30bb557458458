/* Flags and environment of agenttier-controller (controller.md 1.1). One table says everything about a flag;
 * --help is printed from it. */
#pragma once

#include "common/error.h"
#include "common/flags.h"
#include "common/log.h"
#include "controller/settings.h"

#include <stdio.h>

struct options {
    const char *kubeconfig, *context;
    const char *namespace, *sandbox_namespace;
    const char *watch_namespaces; /* comma-separated; "" = all */
    const char *metrics_address, *probe_address;
    const char *default_image, *default_storage_size, *memory_sidecar_image;
    const char *runtime_path, *delivery_name;
    bool leader_elect, manage_crds;
    int max_concurrency;
    enum log_level log_level;
    enum log_format log_format;

    bool backup_snapshots;
    const char *backup_class; /* "" = the default one */
    int64_t backup_interval_ms, backup_retention_ms;

    int64_t creation_deadline_ms;
    enum runtime_delivery delivery; /* made of delivery_name */
};

/* The strings of `o` are those of argv, of the environment, or static. */
enum flags_result options_parse(int argc, char **argv, struct options *o, struct error *err);
void options_print_help(FILE *out);
